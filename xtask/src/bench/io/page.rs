//! The comparison as one HTML file that needs nothing else: a plot for each kind of request, and the numbers below.
//!
//! A bar is what all parties together need for one request, in pieces for each party; bars of one plot have one scale.

use std::fmt::Write;

use super::report::{self, EVENTS, PARTIES};
use super::workload::Workload;
use super::{Column, measured};
use crate::bench::figures::Traffic;
use crate::bench::table::each;

/// Colours of the parties, in their order; told apart also by those who see few colours.
const COLOURS: [&str; 3] = ["#4477aa", "#ccbb44", "#ee6677"];
/// Sizes in the plots' own units.
const WIDTH: u64 = 640;
const LABEL: u64 = 90;
const NUMBER: u64 = 170;
const BAR: u64 = 22;
const GAP: u64 = 8;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:56em;margin:2em auto;padding:0 1em;color:#222}\
    h2{margin-top:2em;font-size:1.1em}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
    th,td{padding:.1em .8em;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}\
    svg{display:block;width:100%;height:auto;font:13px system-ui,sans-serif}.key span{display:inline-block;width:1em;height:1em;\
    vertical-align:-.15em;margin:0 .3em 0 1em}.missed{color:#b22}.met{color:#272}\
    @media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}th,td{border-color:#444}svg text{fill:#ddd}}";

/// The whole file.
pub fn html(columns: &[Column]) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let title = "What the proxy costs";
    let _ = writeln!(page, "<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>");
    page += "<p>Instructions of one request, packet or TCP segment, counted by the machine's instruction counter while somebody was busy. The \
        same guest kernel does the same in each row; <em>native</em> has no hypervisor under it. What this \
        cannot show: caches, the TLB, and what the device itself does.</p>\n<p class=\"key\">";
    for ((_, party), colour) in PARTIES.iter().zip(COLOURS) {
        let _ = write!(page, "<span style=\"background:{colour}\"></span>{party}");
    }
    page += "</p>\n";
    for workload in measured(columns) {
        let _ = writeln!(page, "<h2>{}{}</h2>", escaped(workload.name), goal(columns, workload));
        page += &plot(columns, workload);
        page += &numbers(columns, workload);
    }
    page + "</body></html>\n"
}

/// What is said of a goal, if there is one.
fn goal(columns: &[Column], workload: &Workload) -> String {
    let Some((goal, is_met)) = report::goal(columns, workload) else { return String::new() };
    let (class, words) = if is_met { ("met", "met") } else { ("missed", "missed") };
    format!(" <small class=\"{class}\">goal: proxy ≤ {} times native, {words}</small>", report::times(goal))
}

fn plot(columns: &[Column], workload: &Workload) -> String {
    let bars: Vec<_> = columns.iter().filter_map(|column| Some((column, column.of(workload)?))).collect();
    let most = bars.iter().map(|(_, traffic)| per_request(traffic)).fold(1.0, f64::max);
    let height = bars.len() as u64 * (BAR + GAP);
    let mut plot = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for (row, (column, traffic)) in (0..).zip(&bars) {
        let (top, middle) = (row * (BAR + GAP), row * (BAR + GAP) + BAR * 7 / 10);
        let _ = write!(plot, "<text x=\"0\" y=\"{middle}\">{}</text>", escaped(column.name));
        let mut start = LABEL as f64;
        for ((counted, party), colour) in PARTIES.iter().zip(COLOURS) {
            let share = traffic.total(counted) as f64 / traffic.count.max(1) as f64;
            let width = share / most * (WIDTH - LABEL - NUMBER) as f64;
            let _ = write!(
                plot,
                "<rect x=\"{start:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\">\
                 <title>{party}: {share:.0}</title></rect>"
            );
            start += width;
        }
        let ratio = report::percent(columns, column, workload).map_or(String::new(), report::times);
        let total = each(report::all(traffic), traffic.count);
        let at = start + GAP as f64;
        let _ = write!(plot, "<text x=\"{at:.1}\" y=\"{middle}\">{total} (×{ratio})</text>");
    }
    plot + "</svg>\n"
}

fn per_request(traffic: &Traffic) -> f64 {
    report::all(traffic) as f64 / traffic.count.max(1) as f64
}

/// A table of what was counted besides instructions, if there is anything.
fn numbers(columns: &[Column], workload: &Workload) -> String {
    let of = |column: &Column, event: &str| column.of(workload).map_or(0, |traffic| traffic.total(event));
    let shown = EVENTS.iter().filter(|event| columns.iter().any(|column| of(column, event) > 0));
    let rows: String = shown
        .map(|event| {
            let cell = |column: &Column| {
                let traffic = column.of(workload);
                traffic.map_or(String::new(), |traffic| each(traffic.total(event), traffic.count))
            };
            let cells: String = columns.iter().map(|column| format!("<td>{}</td>", cell(column))).collect();
            format!("<tr><td>{event}</td>{cells}</tr>")
        })
        .collect();
    let heads: String = columns.iter().map(|column| format!("<th>{}</th>", escaped(column.name))).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("<table><tr><th></th>{heads}</tr>{rows}</table>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::columns;
    use super::super::workload::WORKLOADS;
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_has_every_kind() {
        let page = html(&columns());
        assert!(!page.contains("http") && !page.contains("<script") && !page.contains("src="));
        assert_eq!(page.matches("<svg").count(), WORKLOADS.len());
        assert_eq!(page.matches("<rect").count(), WORKLOADS.len() * columns().len() * PARTIES.len());
        assert!(page.contains("goal: proxy ≤ 2.00 times native, met"), "{page}");
        assert!(page.contains("2000 (×2.00)"), "{page}");
    }
}
