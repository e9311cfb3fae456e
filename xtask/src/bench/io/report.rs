//! How the comparison is shown: a table for people, one JSON object for programs.

use super::workload::Workload;
use super::{Column, measured};
use crate::bench::figures::Traffic;
use crate::bench::table::{each, string, verdict};

/// The parties' ticks, as they are counted and as they are shown.
pub(super) const PARTIES: [(&str, &str); 3] =
    [("guest ticks", "guest"), ("hypervisor ticks", "hypervisor"), ("dom0 ticks", "dom0")];
/// What is counted besides, as far as the table shows it.
pub(super) const EVENTS: [&str; 8] = [
    "hypercalls",
    "notifications",
    "device interrupts",
    "copies",
    "bytes copied",
    "grant maps",
    "address-space switches",
    "TLB flushes",
];
/// The column with which the others are compared.
const BASE: &str = "native";

/// Instructions of all parties together.
pub(super) fn all(traffic: &Traffic) -> u64 {
    PARTIES.iter().map(|(counted, _)| traffic.total(counted)).sum()
}

/// How many hundredths of the base a column is.
pub(super) fn percent(columns: &[Column], column: &Column, workload: &Workload) -> Option<u64> {
    let base = columns.iter().find(|column| column.name == BASE)?.of(workload)?;
    let (base, other) = (all(base).max(1), all(column.of(workload)?));
    Some((other * 100 + base / 2) / base)
}

pub(super) fn times(percent: u64) -> String {
    format!("{}.{:02}", percent / 100, percent % 100)
}

/// The table.
pub fn text(columns: &[Column]) -> String {
    let mut text = String::new();
    for workload in measured(columns) {
        text += &format!("\n{} (instructions of each)\n", workload.name);
        text += &header(columns);
        for (counted, shown) in PARTIES {
            text += &line(columns, workload, shown, |traffic| traffic.total(counted));
        }
        text += &line(columns, workload, "all", all);
        text += &ratios(columns, workload);
        for event in EVENTS {
            if columns.iter().any(|column| column.of(workload).is_some_and(|kind| kind.total(event) > 0)) {
                text += &line(columns, workload, event, |traffic| traffic.total(event));
            }
        }
    }
    text.trim_start().to_owned()
}

fn header(columns: &[Column]) -> String {
    let names: String = columns.iter().map(|column| format!("{:>12}", column.name)).collect();
    format!("  {:<24}{names}\n", "")
}

fn line(columns: &[Column], workload: &Workload, what: &str, value: impl Fn(&Traffic) -> u64) -> String {
    let shown = |column: &Column| {
        let traffic = column.of(workload);
        traffic.map_or(String::new(), |traffic| each(value(traffic), traffic.count))
    };
    let values: String = columns.iter().map(|column| format!("{:>12}", shown(column))).collect();
    format!("  {what:<24}{values}\n")
}

fn ratios(columns: &[Column], workload: &Workload) -> String {
    let shown = |column: &Column| percent(columns, column, workload).map_or(String::new(), times);
    let values: String = columns.iter().map(|column| format!("{:>12}", shown(column))).collect();
    let goal = goal(columns, workload);
    let shown = goal.map_or(String::new(), |(goal, _)| format!("   goal <={}", times(goal)));
    let met = verdict(goal.map(|(_, is_met)| is_met));
    format!("  {:<24}{values}{shown}{met}\n", format!("times {BASE}"))
}

/// The goal for the first column, if there is one, and whether it is met.
pub(super) fn goal(columns: &[Column], workload: &Workload) -> Option<(u64, bool)> {
    let (goal, first) = (workload.goal_percent?, columns.first()?);
    Some((goal, percent(columns, first, workload)? <= goal))
}

/// One JSON object.
pub fn json(columns: &[Column]) -> String {
    let workloads: Vec<_> = measured(columns).map(|workload| workload_json(columns, workload)).collect();
    format!("{{\"workloads\":[{}]}}\n", workloads.join(","))
}

fn workload_json(columns: &[Column], workload: &Workload) -> String {
    let goal = workload.goal_percent.map_or("null".to_owned(), times);
    let columns: Vec<_> =
        columns.iter().filter_map(|column| column_json(columns, column, workload)).collect();
    format!(
        "{{\"name\":{},\"bytes\":{},\"depth\":{},\"goal\":{goal},\"columns\":[{}]}}",
        string(workload.name),
        workload.bytes,
        workload.depth,
        columns.join(",")
    )
}

fn column_json(columns: &[Column], column: &Column, workload: &Workload) -> Option<String> {
    let traffic = column.of(workload)?;
    let totals: Vec<_> =
        traffic.totals.iter().map(|(what, total)| format!("{}:{total}", string(what))).collect();
    Some(format!(
        "{{\"name\":{},\"count\":{},\"instructions\":{},\"times_native\":{},\"totals\":{{{}}}}}",
        string(column.name),
        traffic.count,
        all(traffic),
        percent(columns, column, workload).map_or("null".to_owned(), times),
        totals.join(",")
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::workload::WORKLOADS;
    use super::*;

    fn column(name: &'static str, ticks: [u64; 3]) -> Column {
        let traffic = |workload: &Workload| {
            let parties =
                PARTIES.iter().zip(ticks).map(|((counted, _), ticks)| ((*counted).to_owned(), ticks));
            Traffic { name: workload.words(), count: u64::from(workload.depth), totals: parties.collect() }
        };
        Column { name, traffic: WORKLOADS.iter().map(traffic).collect() }
    }

    pub fn columns() -> [Column; 2] {
        [column("proxy", [1000, 400, 600]), column("native", [1000, 0, 0])]
    }

    #[test]
    fn the_table_has_shares_sums_and_ratios() {
        let text = text(&columns());
        let one = text.split("\n\n").next().unwrap();
        for line in [
            "guest                           1000        1000",
            "dom0                             600           0",
        ] {
            assert!(one.contains(line), "{one}");
        }
        assert!(one.contains("times native                    2.00        1.00   goal <=2.00  met"), "{one}");
        assert!(text.contains("goal <=1.30  missed"), "{text}");
    }

    #[test]
    fn json_has_every_column_of_every_kind() {
        let json = json(&columns());
        assert!(json.starts_with(
            "{\"workloads\":[{\"name\":\"4 KiB random read\",\"bytes\":4096,\"depth\":1,\"goal\":2.00,"
        ));
        assert!(
            json.contains("{\"name\":\"proxy\",\"count\":32,\"instructions\":2000,\"times_native\":2.00,")
        );
        assert_eq!(json.matches("\"name\":\"native\"").count(), WORKLOADS.len());
    }
}
