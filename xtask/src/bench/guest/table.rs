//! How the columns are shown: as a table for people, as one JSON object for programs.

use super::Column;
use crate::bench::table::{string, verdict};

/// The most bytes that should be kept for each frame of memory.
const METADATA_GOAL: u64 = 24;

/// A table with a row for each figure that any column has. Where there is another hypervisor, the goal is not to need
/// more than it does.
pub fn text(columns: &[Column]) -> String {
    let mut text = format!("{:<52}", "instructions of a stock Linux");
    for column in columns {
        text += &format!(" {:>13}", column.name);
    }
    text += "\n";
    for name in names(columns) {
        text += &row(name, columns, |column| column.figure(name));
    }
    text += "\nbytes of the hypervisor's memory\n";
    text += &row("for the guest, beside its own memory", columns, |column| column.memory);
    text += &row("for each frame of memory", columns, |column| column.metadata);
    if let Some(bytes) = columns.iter().find_map(|column| column.metadata) {
        text += &format!("  (goal: at most {METADATA_GOAL}{})\n", verdict(Some(bytes <= METADATA_GOAL)));
    }
    text
}

/// The figures' names, those first that come first.
fn names(columns: &[Column]) -> Vec<&str> {
    let mut names = Vec::new();
    for figure in columns.iter().flat_map(|column| &column.figures) {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    names
}

fn row(name: &str, columns: &[Column], figure: impl Fn(&Column) -> Option<u64>) -> String {
    let mut line = format!("{name:<52}");
    for column in columns {
        let shown = figure(column).map_or(String::new(), |number| number.to_string());
        line += &format!(" {shown:>13}");
    }
    let met = match columns {
        [_, weir, xen] => figure(weir).zip(figure(xen)).map(|(weir, xen)| weir <= xen),
        _ => None,
    };
    line += verdict(met);
    line.trim_end().to_owned() + "\n"
}

/// One JSON object.
pub fn json(columns: &[Column]) -> String {
    let columns: Vec<_> = columns.iter().map(column_json).collect();
    format!("{{\"columns\":[{}]}}", columns.join(","))
}

fn column_json(column: &Column) -> String {
    let figures = column
        .figures
        .iter()
        .map(|figure| format!("{{\"name\":{},\"instructions\":{}}}", string(&figure.name), figure.ticks));
    let number = |number: Option<u64>| number.map_or("null".to_owned(), |number| number.to_string());
    format!(
        "{{\"name\":{},\"bytes_for_guest\":{},\"bytes_per_frame\":{},\"figures\":[{}]}}",
        string(column.name),
        number(column.memory),
        number(column.metadata),
        figures.collect::<Vec<_>>().join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Single;

    fn column(name: &'static str, figures: &[(&str, u64)], memory: Option<u64>) -> Column {
        let figures = figures.iter().map(|(name, ticks)| Single { name: (*name).to_owned(), ticks: *ticks });
        Column { name, figures: figures.collect(), memory, metadata: memory.map(|_| 24) }
    }

    fn columns() -> [Column; 3] {
        [
            column("bare", &[("fork", 100)], None),
            column("Weir", &[("fork", 300), ("pin", 9)], Some(5000)),
            column("Xen", &[("fork", 299), ("pin", 9)], Some(6000)),
        ]
    }

    #[test]
    fn the_goal_is_what_the_other_hypervisor_needs() {
        let text = text(&columns());
        let line = |start: &str| text.lines().find(|line| line.trim().starts_with(start)).unwrap().to_owned();
        assert!(line("fork").ends_with("100           300           299  missed"), "{text}");
        assert!(line("pin").ends_with("9             9  met"), "{text}");
        assert!(line("for the guest").ends_with("5000          6000  met"), "{text}");
        assert!(line("(goal").ends_with("at most 24  met)"), "{text}");
    }

    #[test]
    fn without_another_hypervisor_there_is_no_goal() {
        assert!(!text(&columns()[..2]).contains("missed"));
    }

    #[test]
    fn json_has_a_column_for_each_machine() {
        let json = json(&columns());
        assert!(json.starts_with(
            "{\"columns\":[{\"name\":\"bare\",\"bytes_for_guest\":null,\"bytes_per_frame\":null,\
             \"figures\":[{\"name\":\"fork\",\"instructions\":100}]},"
        ));
        assert!(json.ends_with("{\"name\":\"pin\",\"instructions\":9}]}]}"));
    }
}
