//! The lists of guests' devices: what the store says of them, and what the back ends counted.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;

use hypercall_abi::DomainId;
use hypercall_abi::io::xenbus::XenbusState;
use pv_runtime::xenbus::domain_path;

use crate::block::VbdReport;
use crate::net::VifReport;
use crate::store::Nodes;
use crate::toolstack::Guest;

/// What the back ends tell of devices that are connected.
pub trait DeviceReports {
    /// The guests' disks.
    fn disks(&self) -> Vec<VbdReport>;
    /// The guests' network interfaces.
    fn interfaces(&self) -> Vec<VifReport>;
}

/// A kind of device, as it is listed.
struct Kind {
    /// Its name in the store.
    name: &'static str,
    /// What of the back end's directory is shown.
    keys: &'static [&'static str],
    /// What was counted.
    counters: &'static [&'static str],
}

const DISK: Kind = Kind {
    name: "vbd",
    keys: &["dev", "params", "mode"],
    counters: &["reads", "KiB", "writes", "KiB", "flushes", "errors", "rounds", "grant calls", "events"],
};

const INTERFACE: Kind = Kind {
    name: "vif",
    keys: &["handle", "mac", "bridge"],
    counters: &["rx packets", "KiB", "tx packets", "KiB", "dropped", "errors", "rounds", "events"],
};

/// A device by its guest and its number, and what was counted.
type Counted = ((DomainId, u32), Vec<u64>);

/// The list of disks, with its head.
pub fn disks(nodes: &mut Nodes<'_>, guests: &[Rc<Guest>], reports: &dyn DeviceReports) -> Vec<Vec<String>> {
    let counted = |report: VbdReport| {
        let counters = &report.counters;
        let values = [
            counters.reads.get(),
            kibibytes(&counters.bytes_read),
            counters.writes.get(),
            kibibytes(&counters.bytes_written),
            counters.flushes.get(),
            counters.errors.get(),
            counters.rounds.get(),
            counters.grant_calls.get(),
            counters.notifications.get(),
        ];
        ((report.guest, report.number), values.to_vec())
    };
    list(&DISK, nodes, guests, &reports.disks().into_iter().map(counted).collect::<Vec<_>>())
}

/// The list of network interfaces, with its head.
pub fn interfaces(
    nodes: &mut Nodes<'_>,
    guests: &[Rc<Guest>],
    reports: &dyn DeviceReports,
) -> Vec<Vec<String>> {
    let counted = |report: VifReport| {
        let counters = &report.counters;
        let values = [
            counters.rx_packets.get(),
            kibibytes(&counters.rx_bytes),
            counters.tx_packets.get(),
            kibibytes(&counters.tx_bytes),
            counters.rx_dropped.get(),
            counters.rx_errors.get() + counters.tx_errors.get(),
            counters.rounds.get(),
            counters.notifications.get(),
        ];
        ((report.guest, report.number), values.to_vec())
    };
    list(&INTERFACE, nodes, guests, &reports.interfaces().into_iter().map(counted).collect::<Vec<_>>())
}

fn kibibytes(bytes: &Cell<u64>) -> u64 {
    bytes.get() / 1024
}

fn list(kind: &Kind, nodes: &mut Nodes<'_>, guests: &[Rc<Guest>], counted: &[Counted]) -> Vec<Vec<String>> {
    let head = ["Guest", "ID"].iter().chain(kind.keys).chain(&["back end", "front end"]).chain(kind.counters);
    let mut rows = Vec::from([head.map(|word| (*word).to_owned()).collect::<Vec<_>>()]);
    for guest in guests {
        let directory = format!("{}/backend/{}/{}", domain_path(DomainId::ZERO), kind.name, guest.domain);
        for number in nodes.list(&directory).unwrap_or_default() {
            let mut row = Vec::from([guest.name().to_owned(), guest.domain.to_string()]);
            describe(nodes, &format!("{directory}/{number}"), kind, &mut row);
            let place = number.parse().ok().map(|number| (guest.domain, number));
            let values = counted.iter().find(|(known, _)| Some(*known) == place);
            row.extend(values.iter().flat_map(|(_, values)| values.iter().map(u64::to_string)));
            rows.push(row);
        }
    }
    rows
}

/// What the store says of a device whose back end has this directory.
fn describe(nodes: &mut Nodes<'_>, back: &str, kind: &Kind, row: &mut Vec<String>) {
    let mut read = |path: &str| {
        let value = nodes.read(path).unwrap_or_default();
        value.escape_ascii().to_string()
    };
    let front = read(&format!("{back}/frontend"));
    row.extend(kind.keys.iter().map(|key| read(&format!("{back}/{key}"))));
    row.extend([back, &front].map(|half| state_name(&read(&format!("{half}/state"))).to_owned()));
}

/// A state's name for its number in the store.
fn state_name(number: &str) -> &'static str {
    match number.trim().parse().ok().and_then(XenbusState::from_number) {
        Some(XenbusState::Initialising) => "initialising",
        Some(XenbusState::InitWait) => "waiting",
        Some(XenbusState::Initialised) => "initialised",
        Some(XenbusState::Connected) => "connected",
        Some(XenbusState::Closing) => "closing",
        Some(XenbusState::Closed) => "closed",
        Some(XenbusState::Reconfiguring) => "reconfiguring",
        Some(XenbusState::Reconfigured) => "reconfigured",
        Some(XenbusState::Unknown) | None => "unknown",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::block::BlockCounters;
    use crate::store::{Limits, Server};
    use crate::toolstack::{GuestConfiguration, Handle, Stage};
    use core::time::Duration;
    use pv_runtime::executor::Signal;

    /// Back ends with nothing connected.
    pub struct NoReports;

    impl DeviceReports for NoReports {
        fn disks(&self) -> Vec<VbdReport> {
            Vec::new()
        }

        fn interfaces(&self) -> Vec<VifReport> {
            Vec::new()
        }
    }

    struct OneDisk;

    impl DeviceReports for OneDisk {
        fn disks(&self) -> Vec<VbdReport> {
            let counters = Rc::new(BlockCounters::default());
            counters.reads.set(3);
            counters.bytes_read.set(12288);
            Vec::from([VbdReport { guest: DomainId(4), number: 51712, counters }])
        }

        fn interfaces(&self) -> Vec<VifReport> {
            Vec::new()
        }
    }

    fn guest() -> Rc<Guest> {
        Rc::new(Guest {
            domain: DomainId(4),
            handle: Handle::DOM0,
            configuration: GuestConfiguration::new("web").unwrap(),
            made_at: Duration::ZERO,
            stage: Cell::new(Stage::Alive),
            is_paused: Cell::new(false),
            fate: Signal::new(),
        })
    }

    fn store() -> Server {
        let mut server = Server::new(Limits::default());
        let back = "/local/domain/0/backend/vbd/4/51712";
        let front = "/local/domain/4/device/vbd/51712";
        for (path, value) in [
            (format!("{back}/dev"), "xvda"),
            (format!("{back}/params"), "disk0"),
            (format!("{back}/mode"), "w"),
            (format!("{back}/state"), "4"),
            (format!("{back}/frontend"), front),
            (format!("{front}/state"), "\x1b[2J"),
        ] {
            server.write(&path, value).unwrap();
        }
        server
    }

    #[test]
    fn a_connected_disk_shows_its_counters() {
        let rows = store().nodes(|nodes| disks(nodes, &[guest()], &OneDisk));
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1][..7], ["web", "4", "xvda", "disk0", "w", "connected", "unknown"]);
        assert_eq!(rows[1][7..10], ["3", "12", "0"]);
        assert_eq!(rows[0].len(), rows[1].len());
    }

    #[test]
    fn a_disk_that_is_not_connected_has_none() {
        let rows = store().nodes(|nodes| disks(nodes, &[guest()], &NoReports));
        assert_eq!(rows[1].len(), 7);
        let rows = store().nodes(|nodes| interfaces(nodes, &[guest()], &NoReports));
        assert_eq!(rows.len(), 1, "only the head");
    }
}
