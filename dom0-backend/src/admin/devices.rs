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

use serde_json::{Value, json};

use super::answer::Listing;
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
    /// What was counted: the head of the column, and the key for programs.
    counters: &'static [(&'static str, &'static str)],
    /// The columns in which `xl` shows devices of one guest.
    xl: &'static [(&'static str, &'static str)],
    /// The keys of the front end's directory in the last of these columns.
    rings: &'static [&'static str],
}

const DISK: Kind = Kind {
    name: "vbd",
    keys: &["dev", "params", "mode"],
    counters: &[
        ("reads", "reads"),
        ("KiB", "read_kib"),
        ("writes", "writes"),
        ("KiB", "written_kib"),
        ("flushes", "flushes"),
        ("errors", "errors"),
        ("rounds", "rounds"),
        ("grant calls", "grant_calls"),
        ("events", "events"),
    ],
    xl: &[
        ("Vdev", "vdev"),
        ("BE", "backend_domain"),
        ("handle", "handle"),
        ("state", "state"),
        ("evt-ch", "event_channel"),
        ("ring-ref", "ring_reference"),
        ("BE-path", "backend_path"),
    ],
    rings: &["ring-ref"],
};

const INTERFACE: Kind = Kind {
    name: "vif",
    keys: &["handle", "mac", "bridge", "vlan"],
    counters: &[
        ("rx packets", "rx_packets"),
        ("KiB", "rx_kib"),
        ("tx packets", "tx_packets"),
        ("KiB", "tx_kib"),
        ("dropped", "dropped"),
        ("errors", "errors"),
        ("spoofed", "spoofed"),
        ("tagged", "tagged"),
        ("rounds", "rounds"),
        ("events", "events"),
    ],
    xl: &[
        ("Idx", "index"),
        ("BE", "backend_domain"),
        ("Mac Addr.", "mac"),
        ("handle", "handle"),
        ("state", "state"),
        ("evt-ch", "event_channel"),
        ("tx-/rx-ring-ref", "ring_references"),
        ("BE-path", "backend_path"),
    ],
    rings: &["tx-ring-ref", "rx-ring-ref"],
};

/// A device by its guest and its number, and what was counted.
type Counted = ((DomainId, u32), Vec<u64>);

/// The list of disks.
pub fn disks(nodes: &mut Nodes<'_>, guests: &[Rc<Guest>], reports: &dyn DeviceReports) -> Listing {
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

/// The list of network interfaces.
pub fn interfaces(nodes: &mut Nodes<'_>, guests: &[Rc<Guest>], reports: &dyn DeviceReports) -> Listing {
    let counted = |report: VifReport| {
        let counters = &report.counters;
        let values = [
            counters.rx_packets.get(),
            kibibytes(&counters.rx_bytes),
            counters.tx_packets.get(),
            kibibytes(&counters.tx_bytes),
            counters.rx_dropped.get(),
            counters.rx_errors.get() + counters.tx_errors.get(),
            counters.spoofed.get(),
            counters.tagged.get(),
            counters.rounds.get(),
            counters.notifications.get(),
        ];
        ((report.guest, report.number), values.to_vec())
    };
    list(&INTERFACE, nodes, guests, &reports.interfaces().into_iter().map(counted).collect::<Vec<_>>())
}

/// The disks of some guests, as `xl` shows them.
pub fn disks_as_xl(nodes: &mut Nodes<'_>, guests: &[Rc<Guest>], _reports: &dyn DeviceReports) -> Listing {
    list_as_xl(&DISK, nodes, guests)
}

/// The network interfaces of some guests, as `xl` shows them.
pub fn interfaces_as_xl(
    nodes: &mut Nodes<'_>,
    guests: &[Rc<Guest>],
    _reports: &dyn DeviceReports,
) -> Listing {
    list_as_xl(&INTERFACE, nodes, guests)
}

fn kibibytes(bytes: &Cell<u64>) -> u64 {
    bytes.get() / 1024
}

fn list(kind: &Kind, nodes: &mut Nodes<'_>, guests: &[Rc<Guest>], counted: &[Counted]) -> Listing {
    let mut columns = Vec::from([("Guest", "guest"), ("ID", "id")]);
    columns.extend(kind.keys.iter().map(|key| (*key, *key)));
    columns.extend([("back end", "backend_state"), ("front end", "frontend_state")]);
    columns.extend(kind.counters);
    let mut listing = Listing::new(&columns);
    for (guest, number, back) in devices(kind, nodes, guests) {
        let mut row = Vec::from([json!(guest.name()), json!(guest.domain.0)]);
        describe(nodes, &back, kind, &mut row);
        let place = number.parse().ok().map(|number| (guest.domain, number));
        let values = counted.iter().find(|(known, _)| Some(*known) == place);
        row.extend(values.iter().flat_map(|(_, values)| values.iter().map(|value| json!(value))));
        listing.push(row);
    }
    listing
}

/// The devices of guests: each guest, the device's number, and the back end's directory.
fn devices(kind: &Kind, nodes: &mut Nodes<'_>, guests: &[Rc<Guest>]) -> Vec<(Rc<Guest>, String, String)> {
    let mut found = Vec::new();
    for guest in guests {
        let directory = format!("{}/backend/{}/{}", domain_path(DomainId::ZERO), kind.name, guest.domain);
        for number in nodes.list(&directory).unwrap_or_default() {
            let back = format!("{directory}/{number}");
            found.push((Rc::clone(guest), number, back));
        }
    }
    found
}

fn list_as_xl(kind: &Kind, nodes: &mut Nodes<'_>, guests: &[Rc<Guest>]) -> Listing {
    let mut listing = Listing::new(kind.xl);
    for (guest, number, back) in devices(kind, nodes, guests) {
        let front = format!("{}/device/{}/{number}", domain_path(guest.domain), kind.name);
        let mut read = |path: String| nodes.read(&path).map(|value| value.escape_ascii().to_string()).ok();
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let device = number_of(&back);
        let mut row = Vec::from([json!(device), json!(0)]);
        if kind.name == INTERFACE.name {
            row.push(json!(read(format!("{back}/mac"))));
        }
        row.push(json!(guest.domain.0));
        row.push(json!(number(read(format!("{front}/state")))));
        row.push(json!(number(read(format!("{front}/event-channel")))));
        let rings =
            kind.rings.iter().map(|key| read(format!("{front}/{key}")).unwrap_or_else(|| "-".to_owned()));
        row.push(json!(rings.collect::<Vec<_>>().join("/")));
        row.push(json!(back));
        listing.push(row);
    }
    listing
}

/// The number at the end of a device's directory.
fn number_of(directory: &str) -> Option<u32> {
    directory.rsplit('/').next()?.parse().ok()
}

/// What the store says of a device whose back end has this directory.
fn describe(nodes: &mut Nodes<'_>, back: &str, kind: &Kind, row: &mut Vec<Value>) {
    let mut read = |path: &str| {
        let value = nodes.read(path).unwrap_or_default();
        value.escape_ascii().to_string()
    };
    let front = read(&format!("{back}/frontend"));
    row.extend(kind.keys.iter().map(|key| json!(read(&format!("{back}/{key}")))));
    row.extend([back, &front].map(|half| json!(state_name(&read(&format!("{half}/state"))))));
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
    use crate::toolstack::{GuestConfiguration, Handle};
    use core::time::Duration;

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
        let configuration = GuestConfiguration::new("web").unwrap();
        Rc::new(Guest::new(DomainId(4), Handle::DOM0, configuration, Duration::ZERO))
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
        let listing = store().nodes(|nodes| disks(nodes, &[guest()], &OneDisk));
        let rows = listing.cells();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1][..7], ["web", "4", "xvda", "disk0", "w", "connected", "unknown"]);
        assert_eq!(rows[1][7..10], ["3", "12", "0"]);
        assert_eq!(rows[0].len(), rows[1].len());
        let object = &listing.answer().json[0];
        assert_eq!(
            (&object["dev"], &object["read_kib"], &object["id"]),
            (&json!("xvda"), &json!(12), &json!(4))
        );
    }

    #[test]
    fn a_disk_that_is_not_connected_has_none() {
        let listing = store().nodes(|nodes| disks(nodes, &[guest()], &NoReports));
        assert_eq!(listing.cells()[1].len(), 7);
        assert!(store().nodes(|nodes| interfaces(nodes, &[guest()], &NoReports)).is_empty());
    }

    #[test]
    fn one_guests_disks_are_shown_in_xls_columns() {
        let mut store = store();
        let front = "/local/domain/4/device/vbd/51712";
        for (key, value) in [("state", "4"), ("event-channel", "9"), ("ring-ref", "8")] {
            store.write(&format!("{front}/{key}"), value).unwrap();
        }
        let listing = store.nodes(|nodes| disks_as_xl(nodes, &[guest()], &NoReports));
        let back = "/local/domain/0/backend/vbd/4/51712";
        assert_eq!(listing.cells()[1], ["51712", "0", "4", "4", "9", "8", back]);
        assert_eq!(listing.cells()[0].len(), 7);
    }
}
