//! Benchmarks: everything is measured, and twice the same.

use std::path::Path;

use tests::call::{self, status, text};
use tests::stock::Stock;
use tests::{Dom0, program};
use xtask::bench::{is_exact, profile, with_devices};
use xtask::build::{Images, Profiler};
use xtask::linux::Kernel;

/// The lines with figures of one run, as far as they are exact.
fn figures() -> Vec<String> {
    let machine =
        Dom0::new().own_words("noguest disk-timeout=0").with(|machine| with_devices(machine).processors(1));
    let report = machine.run(["bench micro"]);
    report.expect_success();
    let lines = report.output("bench micro").lines();
    lines.filter(|line| is_exact(line)).map(str::to_owned).collect()
}

#[test]
fn two_runs_agree() {
    let first = figures();
    for name in [
        "null hypercall",
        "event to self",
        "event to a blocked peer",
        "update_va_mapping",
        "mmu_update, 32",
        "pin an L1",
        "unpin an L1",
        "grant map and unmap",
        "grant copy of 4 KiB, without the copy loop",
        "domain create to first instruction",
        "read of 4 KiB, 1 at a time: dom0 ticks",
        "read of 4 KiB, 32 at a time: hypervisor ticks",
        "guest to guest: hypercalls",
        "guest to network: copies",
    ] {
        assert!(first.iter().any(|line| line.contains(name)), "{name} is missing:\n{}", first.join("\n"));
    }
    let second = figures();
    assert_eq!(first.len(), second.len());
    for (one, other) in first.iter().zip(&second) {
        let allowed = if depends_on_the_computer(one) { number(one) / 200 } else { 0 };
        assert!(number(one).abs_diff(number(other)) <= allowed, "{one}, and then {other}");
    }
}

/// A disk's answer comes when the computer underneath is done with it, and in a million instructions somebody else's
/// interrupt may come.
fn depends_on_the_computer(line: &str) -> bool {
    ["read of 4 KiB", "domain create", "creation of a domain"].iter().any(|kind| line.contains(kind))
}

/// What was counted, in a line such as `bench: 3801/1 read of 4 KiB`.
fn number(line: &str) -> u64 {
    let counted = line.split([' ', '/']).nth(1).and_then(|number| number.parse().ok());
    counted.unwrap_or_else(|| panic!("no number in {line}"))
}

#[test]
fn a_profile_adds_up_to_what_was_counted() {
    let (profiler, images) = (Profiler::from_environment().unwrap(), Images::from_environment().unwrap());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let scratch = program::scratch();
    let profile =
        profile(&profiler, &images, &scratch, "1,500 bytes, guest to network", (source, false)).unwrap();
    let table = &profile.table;
    for (kernel, ticks) in [("hypervisor", "hypervisor ticks"), ("domain 0", "dom0 ticks")] {
        let sum = table.lines().find_map(|line| line.trim().strip_suffix(kernel)?.trim().parse::<f64>().ok());
        let sum = sum.unwrap_or_else(|| panic!("no {kernel}:\n{table}"));
        let counted = profile.traffic.total(ticks) as f64 / profile.traffic.count as f64;
        // A profile is of one round, the shortest; counts are the least of many, for each party.
        assert!((sum - counted).abs() < counted / 20.0, "{kernel}: {sum} is not {counted}:\n{table}");
    }
    for function in ["dom0-backend/src/net/switch.rs", "hv-core/src/grant_table/copy.rs"] {
        assert!(table.contains(function), "no {function}:\n{table}");
    }
}

/// The kinds that `bench io` compares if it is given these words, and the page that it writes.
fn comparison(words: &[&str]) -> (Vec<serde_json::Value>, String) {
    let scratch = program::scratch();
    let page = scratch.join("report.html");
    let output = call::xtask().args(["bench", "io", "--json"]).args(words).arg("--html").arg(&page).output();
    let output = output.expect("cargo starts");
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text(&output.stdout)).expect("one JSON object");
    let page = std::fs::read_to_string(page).expect("a page was written");
    (report["workloads"].as_array().expect("a list").clone(), page)
}

/// What is said of a kind in the column of this name; null if it is not there.
fn column(workload: &serde_json::Value, name: &str) -> serde_json::Value {
    let columns = workload["columns"].as_array().expect("a list");
    columns.iter().find(|column| column["name"] == name).cloned().unwrap_or_default()
}

fn total(column: &serde_json::Value, what: &str) -> u64 {
    column["totals"][what].as_u64().unwrap_or_default()
}

#[test]
fn a_disk_behind_the_proxy_is_compared_with_the_same_kernel_on_the_bare_machine() {
    let (workloads, page) = comparison(&["--only", "KiB", "--only", "MiB"]);
    assert_eq!(page.matches("</svg>").count(), 7);
    assert_eq!(workloads.len(), 7, "{workloads:?}");
    for workload in workloads {
        let [proxy, direct, native] = ["proxy", "direct", "native"].map(|name| column(&workload, name));
        let ticks = |column: &serde_json::Value| column["instructions"].as_u64().unwrap_or_default();
        assert!(0 < ticks(&native) && ticks(&native) < ticks(&proxy), "{workload}");
        // Not by much more than the native column, and nothing of domain 0's driver.
        assert!(ticks(&direct) < 2 * ticks(&native) && direct["totals"]["grant maps"] == 0, "{workload}");
        assert!(
            native["totals"]["dom0 ticks"].is_null() && proxy["totals"]["dom0 ticks"].is_u64(),
            "{workload}"
        );
    }
}

#[test]
fn a_network_behind_the_proxy_is_compared_with_the_same_kernel_on_the_bare_machine() {
    let (workloads, page) = comparison(&["--only", "1,500-byte", "--only", "TCP"]);
    assert_eq!(page.matches("</svg>").count(), 7);
    assert_eq!(workloads.len(), 7, "{workloads:?}");
    for workload in workloads {
        let [proxy, direct, native] = ["proxy", "direct", "native"].map(|name| column(&workload, name));
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
        // All that is sent is copied once, but for what goes by another guest's pages.
        let payload = number(&workload["bytes"]) * number(&workload["depth"]);
        assert!(total(&proxy, "bytes copied") >= payload, "{workload}");
        assert!(total(&proxy, "dom0 ticks") > 0 && total(&proxy, "hypervisor ticks") > 0, "{workload}");
        if workload["name"] == "1,500-byte packets, guest to guest" {
            assert!(direct.is_null() && native.is_null(), "{workload}");
            continue;
        }
        // Domain 0 has no part in it. A round may take a wait less than an empty one.
        assert!(total(&direct, "copies") == 0 && total(&direct, "notifications") == 0, "{workload}");
        let [direct, native] = [direct, native].map(|column| number(&column["instructions"]));
        assert!(0 < native && direct.abs_diff(native) < native / 2, "{workload}");
    }
}

/// The instructions that one column of `bench guest --json` has for something.
fn instructions(column: &str, name: &str) -> u64 {
    let start = format!("{{\"name\":\"{name}\",\"instructions\":");
    let number = column.split_once(&start).and_then(|(_, rest)| rest.split_once('}')?.0.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {column}"))
}

#[test]
fn a_stock_linux_is_measured_on_the_bare_machine_and_on_weir() {
    if Stock::find(Kernel::Cloud61).is_none() {
        return;
    }
    let output = call::xtask().args(["bench", "guest", "--json"]).output().expect("cargo starts");
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    let json = text(&output.stdout);
    let (bare, weir) = json.split_once("{\"name\":\"Weir\"").unwrap_or_else(|| panic!("{json}"));
    assert!(bare.starts_with("{\"columns\":[{\"name\":\"bare\""), "{json}");
    for name in ["null system call (getppid)", "fork, exit and wait", "boot to user space"] {
        let (alone, guest) = (instructions(bare, name), instructions(weir, name));
        assert!(0 < alone && alone < guest && guest < 10 * alone, "{name}: {alone} and {guest}");
    }
    assert!((1..1000).contains(&instructions(weir, "null hypercall (xen_version)")), "{json}");
    assert!(instructions(weir, "grant copy of 4 KiB") > 512, "{json}");
    assert!(weir.contains("\"bytes_per_frame\":24"), "{json}");
}
