//! The interfaces' back end in the store: what is offered to a front end, and how its rings are taken up.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::pending;
use core::time::Duration;

use hypercall_abi::io::netif::key;
use hypercall_abi::{DomainId, GrantReference, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{
    Either4, JoinHandle, Notify, Signal, now, select4, sleep_until, spawn, yield_now,
};
use pv_runtime::grant::{GrantAccess, GrantMapping, map};
use pv_runtime::xenbus::Device;
use ring::BackRing;

use super::counters::{SwitchCounters, VifCounters};
use super::ethernet::{MacAddress, Vlan};
use super::interface::Interface;
use super::mac_table::PortId;
use super::moderation::Moderation;
use super::offload::Capabilities;
use super::switch::{Platform, Switch};
use super::tx::TxFault;
use super::vif::{self, Admission, FrontEnd};
use crate::backend::{BackEnd, ConnectError, Connection};

/// The back end's keys for the virtual network of an interface, and whether the guest may only send from its address;
/// unless that is 0, so it is.
const VLAN: &str = "vlan";
const ANTI_SPOOFING: &str = "antispoof";

/// What a front end is told that we can do. Checksums over IPv4 need not be mentioned.
const OFFERS: [(&str, u32); 7] = [
    (key::FEATURE_RX_COPY, 1),
    (key::FEATURE_SG, 1),
    (key::FEATURE_GSO_TCPV4, 1),
    (key::FEATURE_GSO_TCPV6, 1),
    (key::FEATURE_IPV6_CSUM_OFFLOAD, 1),
    (key::FEATURE_SPLIT_EVENT_CHANNELS, 1),
    (key::FEATURE_MULTICAST_CONTROL, 0),
];

/// A guest's interface, for those who watch.
#[derive(Clone, Debug)]
pub struct VifReport {
    /// The guest.
    pub guest: DomainId,
    /// The interface's number in the guest.
    pub number: u32,
    /// Its port at the switch.
    pub port: PortId,
    /// What it did since the guest connected.
    pub counters: Rc<VifCounters>,
}

/// The machine's own interface, for those who watch.
#[derive(Clone, Debug)]
pub struct CardReport {
    /// Its address.
    pub address: MacAddress,
    /// Whether it has a link.
    pub has_link: bool,
    /// What it and the switch did.
    pub counters: Rc<SwitchCounters>,
}

type Connected = Rc<RefCell<BTreeMap<(DomainId, u32), (PortId, Rc<VifCounters>)>>>;

/// The back end for all guests' interfaces at one switch.
pub struct NetworkBackEnd<P: Platform> {
    switch: Rc<RefCell<Switch<P>>>,
    connected: Connected,
}

impl<P: Platform> NetworkBackEnd<P> {
    /// A back end for this switch.
    pub fn new(switch: Rc<RefCell<Switch<P>>>) -> Self {
        Self { switch, connected: Rc::default() }
    }

    /// The switch.
    pub fn switch(&self) -> &Rc<RefCell<Switch<P>>> {
        &self.switch
    }

    /// The interfaces that guests are connected to.
    pub fn report(&self) -> Vec<VifReport> {
        let connected = self.connected.borrow();
        let entries = connected.iter().map(|(place, (port, counters))| VifReport {
            guest: place.0,
            number: place.1,
            port: *port,
            counters: Rc::clone(counters),
        });
        entries.collect()
    }

    /// The machine's own interface, if there is one.
    pub fn card(&self) -> Option<CardReport> {
        let switch = self.switch.borrow();
        let address = switch.interface()?.address();
        Some(CardReport { address, has_link: switch.has_link(), counters: Rc::clone(switch.counters()) })
    }
}

/// Everything that a front end says.
struct Wishes {
    tx_ring: GrantReference,
    rx_ring: GrantReference,
    tx_port: Port,
    rx_port: Option<Port>,
    front_end: FrontEnd,
}

impl Wishes {
    async fn read(device: &Device) -> Result<Self, ConnectError> {
        if device.read_peer::<u32>(key::MULTI_QUEUE_NUM_QUEUES).await?.unwrap_or(1) > 1 {
            return Err(ConnectError::NotOffered("several queues"));
        }
        if !flag(device, key::REQUEST_RX_COPY).await? {
            return Err(ConnectError::NotOffered("packets in pages of ours"));
        }
        let (tx_port, rx_port) = Self::read_ports(device).await?;
        Ok(Self {
            tx_ring: GrantReference(required(device, key::TX_RING_REF).await?),
            rx_ring: GrantReference(required(device, key::RX_RING_REF).await?),
            tx_port,
            rx_port,
            front_end: Self::read_front_end(device).await?,
        })
    }

    /// The event channels: one for both rings, or one each.
    async fn read_ports(device: &Device) -> Result<(Port, Option<Port>), ConnectError> {
        if let Some(shared) = device.read_peer(key::EVENT_CHANNEL).await? {
            return Ok((Port(shared), None));
        }
        let tx = required(device, key::EVENT_CHANNEL_TX).await?;
        let rx = required(device, key::EVENT_CHANNEL_RX).await?;
        Ok((Port(tx), Some(Port(rx))))
    }

    async fn read_front_end(device: &Device) -> Result<FrontEnd, ConnectError> {
        let capabilities = Capabilities {
            scatter: flag(device, key::FEATURE_SG).await?,
            checksum_v4: !flag(device, key::FEATURE_NO_CSUM_OFFLOAD).await?,
            checksum_v6: flag(device, key::FEATURE_IPV6_CSUM_OFFLOAD).await?,
            segmentation_v4: flag(device, key::FEATURE_GSO_TCPV4).await?,
            segmentation_v6: flag(device, key::FEATURE_GSO_TCPV6).await?,
        };
        let notifies_rx = flag(device, key::FEATURE_RX_NOTIFY).await?;
        Ok(FrontEnd { capabilities: capabilities.consistent(), notifies_rx })
    }
}

/// What the toolstack says of what the guest may send. Without a word of it nothing goes out: the address is read
/// from the device itself, and must be there.
async fn read_admission(device: &Device) -> Result<Admission, ConnectError> {
    let address: Option<MacAddress> = device.read_own(key::MAC).await?;
    let is_strict = device.read_own::<u32>(ANTI_SPOOFING).await? != Some(0);
    let vlan = match device.read_own::<u16>(VLAN).await? {
        None => Vlan::UNTAGGED,
        Some(number) => Vlan::new(number).ok_or(ConnectError::NoSource(format!("VLAN {number}")))?,
    };
    if is_strict && address.is_none() {
        return Err(ConnectError::NoSource("address of the interface".into()));
    }
    Ok(Admission { vlan, source: address.filter(|_| is_strict) })
}

/// Whether the front end says something; not if it does not mention it.
async fn flag(device: &Device, key: &'static str) -> Result<bool, ConnectError> {
    Ok(device.read_peer::<u32>(key).await?.unwrap_or(0) != 0)
}

/// A number that the front end must say.
async fn required(device: &Device, key: &'static str) -> Result<u32, ConnectError> {
    device.read_peer(key).await?.ok_or(ConnectError::Missing(key))
}

impl<P> BackEnd for NetworkBackEnd<P>
where
    P: Platform<Ring = GrantMapping, Channel = Rc<EventChannel>> + 'static,
{
    const KIND: &'static str = "vif";
    type Connection = VifConnection<P>;

    async fn offer(&self, device: &Device) -> Result<(), ConnectError> {
        for (key, value) in OFFERS {
            device.store().write(&device.key(key), format!("{value}")).await?;
        }
        Ok(())
    }

    async fn connect(&self, device: &Device) -> Result<VifConnection<P>, ConnectError> {
        let wishes = Wishes::read(device).await?;
        let admission = read_admission(device).await?;
        let guest = device.peer();
        let tx = BackRing::attach(map(guest, wishes.tx_ring, GrantAccess::ReadWrite)?)?;
        let rx = BackRing::attach(map(guest, wishes.rx_ring, GrantAccess::ReadWrite)?)?;
        let bind = |port| EventChannel::bind_interdomain(guest, port).map(Rc::new);
        let tx_channel = bind(wishes.tx_port)?;
        let rx_channel = wishes.rx_port.map(bind).transpose()?;
        let (bell, counters) = (Rc::<Notify>::default(), Rc::<VifCounters>::default());
        let connection = vif::Connection {
            guest,
            front_end: wishes.front_end,
            admission,
            tx,
            rx,
            tx_channel: Rc::clone(&tx_channel),
            rx_channel: rx_channel.clone(),
            bell: Rc::clone(&bell),
            counters: Rc::clone(&counters),
        };
        let port = self.switch.borrow_mut().add_guest(connection).map_err(|_| ConnectError::Full)?;
        let state = Rc::<Shared>::default();
        let task = VifTask {
            switch: Rc::clone(&self.switch),
            port,
            tx_channel,
            rx_channel,
            bell: Rc::clone(&bell),
            state: Rc::clone(&state),
            counters: Rc::clone(&counters),
        };
        let place = (guest, number_of(device));
        self.connected.borrow_mut().insert(place, (port, counters));
        Ok(VifConnection {
            switch: Rc::clone(&self.switch),
            port,
            bell,
            task: spawn(task.serve()),
            state,
            place,
            connected: Rc::clone(&self.connected),
        })
    }
}

/// The interface's number, which is the last part of its path.
fn number_of(device: &Device) -> u32 {
    let last = device.directory().rsplit('/').next();
    last.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// What a connection's task and its owner tell each other.
#[derive(Default)]
struct Shared {
    is_ending: Cell<bool>,
    failure: Signal<String>,
}

/// A guest's interface that is connected.
pub struct VifConnection<P: Platform> {
    switch: Rc<RefCell<Switch<P>>>,
    port: PortId,
    bell: Rc<Notify>,
    task: JoinHandle<()>,
    state: Rc<Shared>,
    place: (DomainId, u32),
    connected: Connected,
}

impl<P: Platform> Connection for VifConnection<P> {
    async fn failed(&self) -> String {
        self.state.failure.take().await
    }

    async fn close(self) {
        self.state.is_ending.set(true);
        self.bell.ring();
        self.task.join().await;
        let removed = self.switch.borrow_mut().remove_guest(self.port);
        // Unmaps the rings and closes the event channels, with the switch free.
        drop(removed);
        let counters = self.connected.borrow_mut().remove(&self.place);
        log::debug!("interface {} of domain {}: {counters:?}", self.place.1, self.place.0);
        log::debug!("switch: {:?}", self.switch.borrow().counters());
    }
}

/// The task of a connection.
struct VifTask<P: Platform> {
    switch: Rc<RefCell<Switch<P>>>,
    port: PortId,
    tx_channel: Rc<EventChannel>,
    rx_channel: Option<Rc<EventChannel>>,
    bell: Rc<Notify>,
    state: Rc<Shared>,
    counters: Rc<VifCounters>,
}

impl<P: Platform> VifTask<P> {
    async fn serve(self) {
        let mut moderation = Moderation::default();
        while !self.state.is_ending.get() {
            match self.round(&mut moderation) {
                Ok(None) => yield_now().await,
                Ok(Some(deadline)) => self.wait(deadline).await,
                Err(fault) => return self.state.failure.set(format!("{fault}")),
            }
        }
    }

    /// Does a round, and says until when to wait at most; `None` if there is more to do at once.
    fn round(&self, moderation: &mut Moderation) -> Result<Option<Option<Duration>>, TxFault> {
        let start = now();
        let mut switch = self.switch.borrow_mut();
        let round = self.counters.cost.of_round(|| switch.serve_guest(self.port, start))?;
        let wish = moderation.after_round(round.taken, start, now());
        if switch.ask_for_packets(self.port, wish.count)? {
            return Ok(None);
        }
        let deadlines = [round.deadline, wish.deadline].into_iter().flatten();
        Ok(Some(deadlines.min()))
    }

    /// Waits until the guest or somebody else has something for the interface, or the time has come.
    async fn wait(&self, deadline: Option<Duration>) {
        let rx_event = async {
            match &self.rx_channel {
                Some(channel) => channel.wait().await,
                None => pending().await,
            }
        };
        let time = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        if let Either4::First(()) | Either4::Second(()) =
            select4(self.tx_channel.wait(), rx_event, self.bell.wait(), time).await
        {
            self.counters.cost.note_event();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_service::StoreService;
    use pv_runtime::executor::testing;

    const BACK: &str = "/local/domain/0/backend/vif/7/0";
    const FRONT: &str = "/local/domain/7/device/vif/0";

    /// What a stock Linux guest writes.
    const LINUX: [(&str, &str); 10] = [
        ("tx-ring-ref", "8"),
        ("rx-ring-ref", "9"),
        ("event-channel-tx", "15"),
        ("event-channel-rx", "16"),
        ("request-rx-copy", "1"),
        ("feature-rx-notify", "1"),
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
    ];

    async fn wishes(entries: &[(&str, &str)], without: &[&str]) -> Result<Wishes, ConnectError> {
        let store = StoreService::new().connect();
        for (name, value) in entries.iter().filter(|(name, _)| !without.contains(name)) {
            store.write(&format!("{FRONT}/{name}"), value).await.expect("the store takes it");
        }
        Wishes::read(&Device::new(store, BACK.into(), FRONT.into(), DomainId(7))).await
    }

    #[test]
    fn a_linux_front_end_can_do_everything() {
        testing::run(async {
            let wishes = wishes(&LINUX, &[]).await.expect("complete");
            assert_eq!((wishes.tx_ring, wishes.rx_ring), (GrantReference(8), GrantReference(9)));
            assert_eq!((wishes.tx_port, wishes.rx_port), (Port(15), Some(Port(16))));
            let FrontEnd { capabilities, notifies_rx } = wishes.front_end;
            assert!(notifies_rx && capabilities.scatter && capabilities.any_checksum());
            assert!(capabilities.segmentation_v4 && capabilities.segmentation_v6);
        });
    }

    #[test]
    fn a_plain_front_end_can_do_what_need_not_be_mentioned() {
        testing::run(async {
            let plain = [
                ("tx-ring-ref", "8"),
                ("rx-ring-ref", "9"),
                ("event-channel", "3"),
                ("request-rx-copy", "1"),
                ("feature-gso-tcpv4", "1"),
            ];
            let wishes = wishes(&plain, &[]).await.expect("complete");
            assert_eq!((wishes.tx_port, wishes.rx_port), (Port(3), None));
            let only = Capabilities { checksum_v4: true, ..Capabilities::default() };
            assert_eq!(wishes.front_end, FrontEnd { capabilities: only, notifies_rx: false });
        });
    }

    async fn admission(entries: &[(&str, &str)]) -> Result<Admission, ConnectError> {
        let store = StoreService::new().connect();
        for (name, value) in entries {
            store.write(&format!("{BACK}/{name}"), value).await.expect("the store takes it");
        }
        // What the guest says of it does not count.
        store.write(&format!("{FRONT}/mac"), "00:16:3e:00:00:66").await.expect("the store takes it");
        read_admission(&Device::new(store, BACK.into(), FRONT.into(), DomainId(7))).await
    }

    #[test]
    fn what_a_guest_may_send_is_for_the_toolstack_to_say() {
        testing::run(async {
            let mac = ("mac", "00:16:3e:00:00:01");
            let source = Some(MacAddress::new([0, 0x16, 0x3e, 0, 0, 1]));
            let vlan = Vlan::UNTAGGED;
            assert_eq!(admission(&[mac]).await, Ok(Admission { vlan, source }));
            assert_eq!(
                admission(&[mac, ("vlan", "7"), ("antispoof", "1")]).await,
                Ok(Admission { vlan: Vlan::new(7).expect("a network"), source })
            );
            assert_eq!(admission(&[mac, ("antispoof", "0")]).await, Ok(Admission { vlan, source: None }));
            assert!(admission(&[]).await.is_err());
            for (name, value) in
                [("vlan", "0"), ("vlan", "4095"), ("vlan", "x"), ("mac", "x"), ("antispoof", "x")]
            {
                assert!(admission(&[mac, (name, value)]).await.is_err(), "{name}={value}");
            }
        });
    }

    #[test]
    fn what_is_missing_is_named() {
        testing::run(async {
            for name in ["tx-ring-ref", "rx-ring-ref", "event-channel-tx", "event-channel-rx"] {
                let outcome = wishes(&LINUX, &[name]).await.err();
                assert_eq!(outcome, Some(ConnectError::Missing(name)));
            }
            let flipping = wishes(&LINUX, &["request-rx-copy"]).await.err();
            assert!(matches!(flipping, Some(ConnectError::NotOffered(_))));
        });
    }

    #[test]
    fn several_queues_and_nonsense_are_refused() {
        testing::run(async {
            for (name, value) in
                [("multi-queue-num-queues", "2"), ("tx-ring-ref", "many"), ("feature-sg", "-1")]
            {
                let entries = [&LINUX[..], &[(name, value)]].concat();
                assert!(wishes(&entries, &[]).await.is_err(), "{name}={value}");
            }
        });
    }
}
