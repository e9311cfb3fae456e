//! Benchmarks: everything is measured, and twice the same.

use tests::Dom0;
use xtask::bench::{is_exact, with_devices};

/// The lines with figures of one run, as far as they are exact.
fn figures() -> Vec<String> {
    let report = Dom0::new().with(with_devices).run(["bench micro"]);
    report.expect_success();
    let lines = report.output("bench micro").lines();
    lines.filter(|line| is_exact(line)).map(str::to_owned).collect()
}

#[test]
fn two_runs_agree_to_the_instruction() {
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
    assert_eq!(first, figures());
}
