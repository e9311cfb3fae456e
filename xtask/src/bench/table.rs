//! How figures are shown: as tables for people, as one JSON object for programs.

use super::figures::{Figures, Single, Traffic};
use super::goals::{self, PACKETS_PER_HYPERCALL};

/// Bytes that the hypervisor's copy loop moves with one instruction.
const COPIED_PER_TICK: u64 = 8;

/// Tables.
pub fn text(figures: &Figures) -> String {
    let mut text = format!("{:<52} {:>9} {:>7} {:>9}\n", "instructions of", "Weir", "goal", "Xen 4.17");
    for single in &figures.singles {
        text += &single_line(single);
    }
    for traffic in &figures.traffic {
        text += &traffic_lines(traffic);
    }
    text
}

fn single_line(Single { name, ticks }: &Single) -> String {
    let reference = goals::of_single(name);
    let shown = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let goal = reference.goal.map_or(String::new(), |goal| format!("<={goal}"));
    let verdict = verdict(reference.goal.map(|goal| *ticks <= goal));
    let line = format!("{name:<52} {ticks:>9} {goal:>7} {:>9}{verdict}", shown(reference.xen));
    line.trim_end().to_owned() + "\n"
}

/// What is said of a goal, if there is one.
pub(super) fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(false) => "  missed",
        Some(true) => "  met",
        None => "",
    }
}

/// A kind of traffic: what one request or packet takes.
fn traffic_lines(traffic: &Traffic) -> String {
    let mut text = format!("\neach {} (of {} counted)\n", traffic.name, traffic.count);
    for (what, total) in &traffic.totals {
        text += &format!("  {what:<50} {:>9}\n", each(*total, traffic.count));
    }
    let goal = goals::of_traffic(&traffic.name);
    let shown = goal.map_or(String::new(), |goal| format!("<={goal}"));
    let met = goal.map(|goal| work(traffic) <= goal * traffic.count);
    let what = "dom0 and hypervisor, without the copy loop";
    let line = format!("  {what:<50} {:>9} {shown:>7}{}", each(work(traffic), traffic.count), verdict(met));
    text += &(line.trim_end().to_owned() + "\n");
    if traffic.name.starts_with("packet") {
        let met = traffic.total("hypercalls") * PACKETS_PER_HYPERCALL <= traffic.count;
        let (what, most) = ("hypercalls of all parties", format!("1/{PACKETS_PER_HYPERCALL}"));
        let each = each(traffic.total("hypercalls"), traffic.count);
        text += &format!("  {what:<50} {each:>9} {most:>7}{}\n", verdict(Some(met)));
    }
    text
}

/// What dom0 and the hypervisor do for all of it, but for copying itself.
fn work(traffic: &Traffic) -> u64 {
    let loops = traffic.total("bytes copied") / COPIED_PER_TICK;
    (traffic.total("dom0 ticks") + traffic.total("hypervisor ticks")).saturating_sub(loops)
}

/// A share, with two places after the point unless it is whole.
pub(super) fn each(total: u64, count: u64) -> String {
    let count = count.max(1);
    match total % count {
        0 => (total / count).to_string(),
        _ => format!("{:.2}", total as f64 / count as f64),
    }
}

/// One JSON object.
pub fn json(figures: &Figures) -> String {
    let singles: Vec<_> = figures.singles.iter().map(single_json).collect();
    let traffic: Vec<_> = figures.traffic.iter().map(traffic_json).collect();
    format!("{{\"figures\":[{}],\"traffic\":[{}]}}", singles.join(","), traffic.join(","))
}

fn single_json(Single { name, ticks }: &Single) -> String {
    let reference = goals::of_single(name);
    let number = |number: Option<u64>| number.map_or("null".to_owned(), |number| number.to_string());
    let (goal, xen) = (number(reference.goal), number(reference.xen));
    format!("{{\"name\":{},\"instructions\":{ticks},\"goal\":{goal},\"xen_4_17\":{xen}}}", string(name))
}

fn traffic_json(traffic: &Traffic) -> String {
    let totals: Vec<_> =
        traffic.totals.iter().map(|(what, total)| format!("{}:{total}", string(what))).collect();
    let goal = goals::of_traffic(&traffic.name).map_or("null".to_owned(), |goal| goal.to_string());
    format!(
        "{{\"name\":{},\"count\":{},\"goal\":{goal},\"work\":{},\"totals\":{{{}}}}}",
        string(&traffic.name),
        traffic.count,
        work(traffic),
        totals.join(",")
    )
}

/// A JSON string; names are plain text, so that only quotes and backslashes matter.
pub(super) fn string(text: &str) -> String {
    let plain: String = text.chars().filter(|character| !character.is_control()).collect();
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let lines = [
            "bench: 86 null hypercall (xen_version)",
            "bench: 700 event to a blocked peer, until its upcall",
            "bench: 50000/128 packet of 1,500 bytes, guest to guest: dom0 ticks",
            "bench: 10000/128 packet of 1,500 bytes, guest to guest: hypervisor ticks",
            "bench: 20480/128 packet of 1,500 bytes, guest to guest: bytes copied",
            "bench: 9/128 packet of 1,500 bytes, guest to guest: hypercalls",
        ];
        Figures::read(&lines.map(str::to_owned)).unwrap()
    }

    #[test]
    fn goals_stand_beside_figures() {
        let text = text(&figures());
        let line = |start: &str| text.lines().find(|line| line.trim().starts_with(start)).unwrap().to_owned();
        assert!(line("null").ends_with("86   <=100       279  met"), "{text}");
        assert!(line("event to a").trim_end().ends_with("missed"), "{text}");
        assert!(line("dom0 and hypervisor").ends_with("448.75   <=450  met"), "{text}");
        assert!(line("hypercalls of all").ends_with("0.07    1/16  missed"), "{text}");
    }

    #[test]
    fn json_has_names_numbers_and_goals() {
        let json = json(&figures());
        assert!(json.starts_with(
            "{\"figures\":[{\"name\":\"null hypercall (xen_version)\",\"instructions\":86,\"goal\":100,\"xen_4_17\":279},"
        ));
        assert!(json.contains("\"count\":128,\"goal\":450,\"work\":57440,\"totals\":{\"dom0 ticks\":50000,"));
        assert!(json.ends_with("\"hypercalls\":9}}]}"));
        assert_eq!(string("a\"\\\n"), "\"a\\\"\\\\\"");
    }
}
