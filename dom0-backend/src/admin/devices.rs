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
use super::listing::DOM0;
use crate::backend::Amounts;
use crate::block::VbdReport;
use crate::net::{CardReport, VifReport};
use crate::store::Nodes;
use crate::toolstack::{Guest, SWITCH};

/// What the back ends tell of devices that are connected.
pub trait DeviceReports {
    /// The guests' disks.
    fn disks(&self) -> Vec<VbdReport>;
    /// The guests' network interfaces.
    fn interfaces(&self) -> Vec<VifReport>;
    /// The machine's own interface, if there is one.
    fn card(&self) -> Option<CardReport>;
}

/// A kind of device, as it is listed.
struct Kind {
    /// Its name in the store.
    name: &'static str,
    /// What of the back end's directory is shown.
    keys: &'static [&'static str],
    /// What was counted: the head of the column, and the key for programs.
    counters: &'static [(&'static str, &'static str)],
    /// What one request or packet cost, likewise.
    each: [(&'static str, &'static str); 2],
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
    ],
    each: [("ticks each", "ticks_per_request"), ("calls each", "hypercalls_per_request")],
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
    ],
    each: [("ticks each", "ticks_per_packet"), ("calls each", "hypercalls_per_packet")],
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

/// What serving a device cost: heads and keys.
const COSTS: [(&str, &str); 10] = [
    ("rounds", "rounds"),
    ("calls", "hypercalls"),
    ("", "grant_calls"),
    ("maps", "grant_maps"),
    ("copies", "copies"),
    ("bytes copied", "bytes_copied"),
    ("sent", "events"),
    ("taken", "events_received"),
    ("ticks", "ticks"),
    ("in grants", "grant_ticks"),
];

/// A device by its guest and its number, what was counted, what serving it cost, and how many requests or packets share
/// that.
struct Counted {
    place: (DomainId, u32),
    values: Vec<Option<u64>>,
    cost: Amounts,
    count: u64,
}

impl Counted {
    /// The cells of a row.
    fn cells(&self) -> impl Iterator<Item = Value> + use<'_> {
        let cost = &self.cost;
        let costs = [
            cost.rounds,
            cost.hypercalls(),
            cost.grant_calls,
            cost.grant_maps,
            cost.copies,
            cost.bytes_copied,
            cost.events_sent,
            cost.events_received,
            cost.ticks,
            cost.grant_ticks,
        ];
        let each = [json!(whole_share(cost.ticks, self.count)), json!(share(cost.hypercalls(), self.count))];
        self.values.iter().copied().chain(costs.map(Some)).map(|value| json!(value)).chain(each)
    }
}

/// What each of `count` has of a total, to the nearest; none if there are none.
pub(super) fn whole_share(total: u64, count: u64) -> Option<u64> {
    (total + count / 2).checked_div(count)
}

/// The same with two places behind the point, as a text, for it is exact so.
pub(super) fn share(total: u64, count: u64) -> Option<String> {
    let hundredths = whole_share(total * 100, count)?;
    Some(format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

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
        ];
        Counted {
            place: (report.guest, report.number),
            values: values.map(Some).to_vec(),
            cost: counters.cost.get(),
            count: counters.requests(),
        }
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
        ];
        Counted {
            place: (report.guest, report.number),
            values: values.map(Some).to_vec(),
            cost: counters.cost.get(),
            count: counters.packets(),
        }
    };
    let interfaces: Vec<_> = reports.interfaces().into_iter().map(counted).collect();
    let mut listing = list(&INTERFACE, nodes, guests, &interfaces);
    if let Some(card) = reports.card() {
        listing.push(card_row(&card));
    }
    listing
}

/// The machine's own interface, which is domain 0's. Serving it is taking what comes in to its receivers; what guests send
/// there is theirs.
fn card_row(card: &CardReport) -> Vec<Value> {
    let counters = &card.counters;
    let mut values = [None; INTERFACE.counters.len()];
    let dropped = counters.dropped.get() + counters.unlinked.get();
    (values[0], values[2], values[4]) =
        (Some(counters.received.get()), Some(counters.sent.get()), Some(dropped));
    let place = (DomainId::ZERO, 0);
    let counted =
        Counted { place, values: values.to_vec(), cost: counters.cost.get(), count: counters.received.get() };
    let address = json!(card.address.to_string());
    let link = if card.has_link { "link" } else { "no link" };
    let described =
        [json!(DOM0), json!(0), Value::Null, address, json!(SWITCH), json!(""), json!(link), Value::Null];
    described.into_iter().chain(counted.cells()).collect()
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
    let costs = columns.len();
    columns.extend(COSTS.iter().chain(&kind.each));
    let mut listing = Listing::new(&columns);
    // The guest, its number and the device's.
    listing.split(costs, 3);
    for (guest, number, back) in devices(kind, nodes, guests) {
        let mut row = Vec::from([json!(guest.name()), json!(guest.domain.0)]);
        describe(nodes, &back, kind, &mut row);
        let place = number.parse().ok().map(|number| (guest.domain, number));
        let counted = counted.iter().find(|counted| Some(counted.place) == place);
        row.extend(counted.iter().flat_map(|counted| counted.cells()));
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
    use crate::net::{MacAddress, SwitchCounters};
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

        fn card(&self) -> Option<CardReport> {
            None
        }
    }

    struct OneDisk;

    impl DeviceReports for OneDisk {
        fn disks(&self) -> Vec<VbdReport> {
            let counters = Rc::new(BlockCounters::default());
            counters.reads.set(3);
            counters.bytes_read.set(12288);
            counters.cost.of_round(|| ());
            Vec::from([VbdReport { guest: DomainId(4), number: 51712, counters }])
        }

        fn interfaces(&self) -> Vec<VifReport> {
            Vec::new()
        }

        fn card(&self) -> Option<CardReport> {
            let counters = Rc::new(SwitchCounters::default());
            counters.received.set(5);
            counters.dropped.set(1);
            counters.unlinked.set(2);
            Some(CardReport { address: MacAddress::new([2, 0, 0, 0, 0, 9]), has_link: false, counters })
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
        let answer = listing.answer();
        assert!(answer.text.contains("\n\nGuest  ID  dev   rounds  calls"), "{}", answer.text);
        let object = &answer.json[0];
        assert_eq!((&object["rounds"], &object["hypercalls_per_request"]), (&json!(1), &json!("0.00")));
        assert!(object["ticks_per_request"].is_u64() && object["grant_calls"] == 0, "{object}");
        assert_eq!(
            (&object["dev"], &object["read_kib"], &object["id"]),
            (&json!("xvda"), &json!(12), &json!(4))
        );
    }

    #[test]
    fn what_each_costs_is_rounded_and_of_none_there_is_nothing() {
        assert_eq!((whole_share(7, 2), whole_share(7, 3), whole_share(7, 0)), (Some(4), Some(2), None));
        assert_eq!((share(1, 16).as_deref(), share(5, 2).as_deref()), (Some("0.06"), Some("2.50")));
        assert_eq!(share(1, 0), None);
    }

    #[test]
    fn the_machines_own_interface_is_listed_last() {
        let listing = store().nodes(|nodes| interfaces(nodes, &[guest()], &OneDisk));
        let card = &listing.answer().json[0];
        assert_eq!((&card["guest"], &card["mac"]), (&json!("Domain-0"), &json!("02:00:00:00:00:09")));
        assert_eq!((&card["rx_packets"], &card["rx_kib"]), (&json!(5), &Value::Null));
        assert_eq!((&card["backend_state"], &card["dropped"]), (&json!("no link"), &json!(3)));
        assert_eq!(card["ticks_per_packet"], json!(0));
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
