//! What commands print: listings in the columns that people and scripts know from `xl`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::domctl::*;
use hypercall_abi::sched::SHUTDOWN_CRASH;
use hypercall_abi::sysctl::{
    SysctlPhysinfo, XEN_SYSCTL_PHYSCAP_DIRECTIO, XEN_SYSCTL_PHYSCAP_HVM, XEN_SYSCTL_PHYSCAP_PV,
};

use crate::toolstack::control::Counter;

/// Pages in a MiB.
const PAGES_PER_MIB: u64 = (1 << 20) / PAGE_SIZE as u64;
const NANOSECONDS_PER_TENTH: u64 = 100_000_000;

/// The head of the list of domains.
pub const LIST_HEAD: &str = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n";

/// A line of the list of domains.
pub fn list_line(name: &str, info: &DomctlGetdomaininfo) -> String {
    let (id, memory) = (info.domain.0, info.tot_pages / PAGES_PER_MIB);
    let (vcpus, state) = (info.nr_online_vcpus, state_letters(info));
    let tenths = info.cpu_time / NANOSECONDS_PER_TENTH;
    let time = format!("{}.{}", tenths / 10, tenths % 10);
    format!("{name:<40} {id:>5} {memory:>5} {vcpus:>5}     {state}  {time:>8}\n")
}

/// Running, blocked, paused, shut down, crashed, dying: a letter each, or a dash.
pub fn state_letters(info: &DomctlGetdomaininfo) -> String {
    let letters = [
        ('r', info.flags & XEN_DOMINF_RUNNING != 0),
        ('b', info.flags & XEN_DOMINF_BLOCKED != 0),
        ('p', info.flags & XEN_DOMINF_PAUSED != 0),
        ('s', info.flags & XEN_DOMINF_SHUTDOWN != 0),
        ('c', info.shutdown_reason() == Some(SHUTDOWN_CRASH)),
        ('d', info.flags & XEN_DOMINF_DYING != 0),
    ];
    letters.map(|(letter, holds)| if holds { letter } else { '-' }).iter().collect()
}

/// What is known of the hypervisor.
pub struct Hypervisor {
    /// Its version.
    pub version: (u16, u16),
    /// What follows the version.
    pub extra: String,
}

/// What is known of dom0 itself.
pub struct Dom0 {
    /// Its memory in pages: all, and free.
    pub pages: (usize, usize),
    /// Its ports that are in use.
    pub ports: usize,
}

/// The description of machine and hypervisor.
pub fn machine(
    machine: &SysctlPhysinfo,
    hypervisor: &Hypervisor,
    dom0: &Dom0,
) -> Vec<(&'static str, String)> {
    let (major, minor) = hypervisor.version;
    let mib = |pages: usize| pages as u64 / PAGES_PER_MIB;
    Vec::from([
        ("nr_cpus", format!("{}", machine.nr_cpus)),
        ("max_cpu_id", format!("{}", machine.max_cpu_id)),
        ("nr_nodes", format!("{}", machine.nr_nodes)),
        ("cores_per_socket", format!("{}", machine.cores_per_socket)),
        ("threads_per_core", format!("{}", machine.threads_per_core)),
        ("cpu_mhz", format!("{}.{:03}", machine.cpu_khz / 1000, machine.cpu_khz % 1000)),
        ("virt_caps", capabilities(machine.capabilities)),
        ("total_memory", format!("{}", machine.total_pages / PAGES_PER_MIB)),
        ("free_memory", format!("{}", machine.free_pages / PAGES_PER_MIB)),
        // To the page, so that it can be seen whether all came back.
        ("free_pages", format!("{}", machine.free_pages)),
        ("outstanding_claims", format!("{}", machine.outstanding_pages / PAGES_PER_MIB)),
        // All processors are in the one pool.
        ("free_cpus", "0".into()),
        ("xen_major", format!("{major}")),
        ("xen_minor", format!("{minor}")),
        ("xen_extra", hypervisor.extra.clone()),
        ("xen_version", format!("{major}.{minor}{}", hypervisor.extra)),
        ("xen_scheduler", "credit2".into()),
        ("dom0_memory", format!("{}", mib(dom0.pages.0))),
        ("dom0_free_memory", format!("{}", mib(dom0.pages.1))),
        ("dom0_ports", format!("{}", dom0.ports)),
        ("toolstack", format!("weir-{}", env!("CARGO_PKG_VERSION"))),
    ])
}

/// Names and values, a line each.
pub fn rows(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(name, value)| format!("{name:<23}: {value}\n")).collect()
}

fn capabilities(bits: u32) -> String {
    let known = [
        (XEN_SYSCTL_PHYSCAP_PV, "pv"),
        (XEN_SYSCTL_PHYSCAP_HVM, "hvm"),
        (XEN_SYSCTL_PHYSCAP_DIRECTIO, "directio"),
    ];
    let names: Vec<_> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    names.join(" ")
}

/// The hypervisor's counters. Two words are one value, the low one first; more are listed one by one.
pub fn counters(counters: &[Counter]) -> String {
    let value = |counter: &Counter| match counter.values.as_slice() {
        [low, high] => format!("{}", u64::from(*high) << 32 | u64::from(*low)),
        values => values.iter().map(|value| format!("{value}")).collect::<Vec<_>>().join(" "),
    };
    counters.iter().map(|counter| format!("{:<32} {:>16}\n", counter.name, value(counter))).collect()
}

/// A table whose columns are as wide as need be. The first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypercall_abi::DomainId;

    #[test]
    fn the_list_has_xls_columns() {
        let info = DomctlGetdomaininfo {
            domain: DomainId(3),
            flags: XEN_DOMINF_BLOCKED,
            tot_pages: 64 * 256,
            nr_online_vcpus: 1,
            cpu_time: 12_345_000_000,
            ..Default::default()
        };
        assert_eq!(
            list_line("guest", &info),
            "guest                                        3    64     1     -b----      12.3\n"
        );
    }

    #[test]
    fn states_are_letters() {
        let letters = |flags| state_letters(&DomctlGetdomaininfo { flags, ..Default::default() });
        assert_eq!(letters(XEN_DOMINF_RUNNING), "r-----");
        assert_eq!(letters(XEN_DOMINF_PAUSED | XEN_DOMINF_BLOCKED), "-bp---");
        assert_eq!(letters(XEN_DOMINF_SHUTDOWN | SHUTDOWN_CRASH << XEN_DOMINF_SHUTDOWNSHIFT), "---sc-");
        assert_eq!(letters(XEN_DOMINF_DYING), "-----d");
    }

    #[test]
    fn two_words_are_one_value() {
        let counter = |name: &str, values: &[u32]| Counter { name: name.into(), values: values.to_vec() };
        let text = counters(&[counter("a", &[1, 2]), counter("b", &[5]), counter("c", &[1, 2, 3])]);
        let values: Vec<_> = text.lines().map(|line| line[32..].trim()).collect();
        assert_eq!(values, ["8589934593", "5", "1 2 3"]);
    }

    #[test]
    fn tables_line_up() {
        let rows = [["Name", "X"], ["longer", "1"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "Name    X\nlonger  1\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn the_machine_is_described_line_by_line() {
        let machine_info =
            SysctlPhysinfo { nr_cpus: 2, total_pages: 512 * 256, cpu_khz: 1_000_500, ..Default::default() };
        let hypervisor = Hypervisor { version: (4, 17), extra: "-x".into() };
        let text = rows(&machine(&machine_info, &hypervisor, &Dom0 { pages: (256 * 64, 256), ports: 7 }));
        for line in [
            "nr_cpus                : 2",
            "total_memory           : 512",
            "cpu_mhz                : 1000.500",
            "xen_version            : 4.17-x",
            "dom0_free_memory       : 1",
            "dom0_ports             : 7",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }
}
