//! The disks' back end in the store: what is offered to a front end, and how a ring is taken up.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hypercall_abi::io::blkif::{VDISK_READONLY, key};
use hypercall_abi::io::protocols::XEN_IO_PROTO_ABI_X86_64;
use hypercall_abi::{DomainId, Errno, GrantReference, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{Either, JoinHandle, Signal, select, spawn, yield_now};
use pv_runtime::grant::{CopyBatch, DeviceBatch, GrantAccess, GrantMapping, map_pages};
use pv_runtime::xenbus::Device;
use ring::{BackRing, Corrupt};

use super::counters::BlockCounters;
use super::data_path::{CopyPath, DataPath, DirectPath};
use super::device::{BlockDevice, Completions, Geometry, SECTOR_SIZE};
use super::image::Images;
use super::kept::Budget;
use super::range::DiskRange;
use super::request::Rules;
use super::vbd::{INDIRECT_SEGMENTS_MAX, Vbd};
use crate::backend::{BackEnd, ConnectError, Connection};
use crate::toolstack::Target;

/// Base-two logarithm of the most pages that a ring may have.
const RING_PAGE_ORDER_MAX: u32 = 2;
/// Grants that are kept mapped of all guests at most: a quarter of those that a domain can have mapped.
const KEPT_MAX: usize = 16_384;
/// The bytes in a front end's sectors, whatever the disk has.
const FRONT_SECTOR_SIZE: u32 = SECTOR_SIZE;

/// A guest's disk, for those who watch.
#[derive(Clone, Debug)]
pub struct VbdReport {
    /// The guest.
    pub guest: DomainId,
    /// The device's number in the guest.
    pub number: u32,
    /// What it did since the guest connected.
    pub counters: Rc<BlockCounters>,
}

/// Disks that are connected, by guest and number, with what they did.
type Connected = BTreeMap<(DomainId, u32), Rc<BlockCounters>>;

/// The back end for all guests' disks.
pub struct BlockBackEnd {
    disks: BTreeMap<String, Rc<dyn BlockDevice>>,
    images: Rc<Images>,
    /// Whether devices can be let at guests' pages.
    is_direct: bool,
    /// How many more grants of guests may be kept mapped.
    budget: Budget,
    connected: Rc<RefCell<Connected>>,
}

impl BlockBackEnd {
    /// A back end that serves these disks by their names, and files by their paths. Where the hypervisor cannot let devices at guests'
    /// pages, data is copied.
    pub fn new(disks: impl IntoIterator<Item = (String, Rc<dyn BlockDevice>)>, images: Rc<Images>) -> Self {
        let is_direct = DirectPath::is_possible(DomainId::ZERO).unwrap_or_else(|errno| {
            log::warn!("whether devices reach guests' pages cannot be tried: {errno}");
            false
        });
        if !is_direct {
            log::info!("devices do not reach guests' pages: disk data is copied");
        }
        let (disks, budget) = (disks.into_iter().collect(), Budget::new(KEPT_MAX));
        Self { disks, images, is_direct, budget, connected: Rc::default() }
    }

    /// The disks that guests are connected to.
    pub fn report(&self) -> Vec<VbdReport> {
        let connected = self.connected.borrow();
        let report = |(&(guest, number), counters): (&(DomainId, u32), &Rc<BlockCounters>)| VbdReport {
            guest,
            number,
            counters: Rc::clone(counters),
        };
        connected.iter().map(report).collect()
    }

    /// The disk that the toolstack wants a device to be, and whether the guest may write.
    async fn source(&self, device: &Device) -> Result<(Rc<dyn BlockDevice>, Rules), ConnectError> {
        let params: String = device.read_own(key::PARAMS).await?.unwrap_or_default();
        let mode: String = device.read_own(key::MODE).await?.unwrap_or_default();
        let disk = self.find(&params).ok_or(ConnectError::NoSource(params))?;
        let mut geometry = disk.geometry();
        geometry.is_read_only |= !mode.starts_with('w');
        let indirect_segments_max = geometry.segments_max.min(INDIRECT_SEGMENTS_MAX);
        Ok((disk, Rules { geometry, indirect_segments_max }))
    }

    fn find(&self, params: &str) -> Option<Rc<dyn BlockDevice>> {
        let target = match params.parse().ok()? {
            Target::Part(part) => part,
            Target::File(path) => return self.images.find(&path).map(|image| image as Rc<dyn BlockDevice>),
        };
        let disk = self.disks.get(&target.disk)?;
        if target.first_sector == 0 && target.sectors.is_none() {
            return Some(Rc::clone(disk));
        }
        let rest = disk.geometry().sectors.checked_sub(target.first_sector)?;
        let range = DiskRange::new(Rc::clone(disk), target.first_sector, target.sectors.unwrap_or(rest));
        range.ok().map(|range| Rc::new(range) as Rc<dyn BlockDevice>)
    }
}

/// What a front end is told of its disk, and whether grants can be kept.
fn offers(rules: &Rules, keeps_grants: bool) -> [(&'static str, u64); 9] {
    let Geometry { sectors, logical_block_size, physical_block_size, is_read_only, has_cache, .. } =
        rules.geometry;
    let per_block = u64::from(logical_block_size / FRONT_SECTOR_SIZE).max(1);
    [
        (key::MAX_RING_PAGE_ORDER, RING_PAGE_ORDER_MAX.into()),
        (key::FEATURE_MAX_INDIRECT_SEGMENTS, rules.indirect_segments_max.into()),
        (key::FEATURE_FLUSH_CACHE, has_cache.into()),
        (key::FEATURE_BARRIER, has_cache.into()),
        (key::FEATURE_PERSISTENT, keeps_grants.into()),
        (key::INFO, if is_read_only { VDISK_READONLY.into() } else { 0 }),
        // In sectors of 512 bytes, as front ends read it, but in whole blocks.
        (key::SECTORS, sectors / per_block * per_block),
        (key::SECTOR_SIZE, logical_block_size.into()),
        (key::PHYSICAL_SECTOR_SIZE, physical_block_size.into()),
    ]
}

impl BackEnd for BlockBackEnd {
    const KIND: &'static str = "vbd";
    type Connection = VbdConnection;

    async fn offer(&self, device: &Device) -> Result<(), ConnectError> {
        let (_, rules) = self.source(device).await?;
        for (key, value) in offers(&rules, self.is_direct) {
            device.store().write(&device.key(key), value.to_string()).await?;
        }
        Ok(())
    }

    async fn connect(&self, device: &Device) -> Result<VbdConnection, ConnectError> {
        let (disk, rules) = self.source(device).await?;
        let front = FrontEnd::read(device).await?;
        let guest = device.peer();
        let memory = map_pages(guest, &front.ring, GrantAccess::ReadWrite)?;
        let ring = BackRing::attach(memory)?;
        let channel = EventChannel::bind_interdomain(guest, front.port)?;
        let counters = Rc::<BlockCounters>::default();
        let made = (guest, ring, disk, rules, &counters);
        let (completions, task, state) = if self.is_direct {
            let path =
                DirectPath::new(CopyBatch::new(), DeviceBatch::new(), front.keeps_grants, &self.budget);
            start(made, path, channel)?
        } else {
            start(made, CopyPath::new(CopyBatch::new()), channel)?
        };
        let place = (guest, number_of(device));
        self.connected.borrow_mut().insert(place, counters);
        Ok(VbdConnection { completions, task, state, place, connected: Rc::clone(&self.connected) })
    }
}

/// The device's number, which is the last part of its path.
fn number_of(device: &Device) -> u32 {
    let last = device.directory().rsplit('/').next();
    last.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// What a front end says of its ring.
struct FrontEnd {
    ring: Vec<GrantReference>,
    port: Port,
    /// It uses the same grants again and again.
    keeps_grants: bool,
}

impl FrontEnd {
    async fn read(device: &Device) -> Result<Self, ConnectError> {
        let protocol: Option<String> = device.read_peer(key::PROTOCOL).await?;
        if protocol.is_some_and(|protocol| protocol != XEN_IO_PROTO_ABI_X86_64) {
            return Err(ConnectError::NotOffered("another protocol"));
        }
        if device.read_peer::<u32>(key::MULTI_QUEUE_NUM_QUEUES).await?.unwrap_or(1) > 1 {
            return Err(ConnectError::NotOffered("several queues"));
        }
        let port = device.read_peer(key::EVENT_CHANNEL).await?;
        let port = Port(port.ok_or(ConnectError::Missing(key::EVENT_CHANNEL))?);
        let keeps_grants = device.read_peer::<u32>(key::FEATURE_PERSISTENT).await?.unwrap_or(0) != 0;
        Ok(Self { ring: Self::read_ring(device).await?, port, keeps_grants })
    }

    /// The grants of the ring's pages. One page may be called `ring-ref` or `ring-ref0`.
    async fn read_ring(device: &Device) -> Result<Vec<GrantReference>, ConnectError> {
        let order: u32 = device.read_peer(key::RING_PAGE_ORDER).await?.unwrap_or(0);
        if order > RING_PAGE_ORDER_MAX {
            return Err(ConnectError::NotOffered("a ring of so many pages"));
        }
        if order == 0
            && let Some(only) = device.read_peer(key::RING_REF).await?
        {
            return Ok(Vec::from([GrantReference(only)]));
        }
        let mut ring = Vec::new();
        for page in 0..1 << order {
            let reference = device.read_peer(&format!("{}{page}", key::RING_REF_PREFIX)).await?;
            ring.push(GrantReference(reference.ok_or(ConnectError::Missing(key::RING_REF))?));
        }
        Ok(ring)
    }
}

/// What a connection's task and its owner tell each other.
#[derive(Default)]
struct Shared {
    /// The connection is to end.
    is_ending: Cell<bool>,
    /// Why there is no going on.
    failure: Signal<String>,
}

/// A guest's disk that is connected.
pub struct VbdConnection {
    completions: Rc<Completions>,
    task: JoinHandle<()>,
    state: Rc<Shared>,
    place: (DomainId, u32),
    connected: Rc<RefCell<Connected>>,
}

impl Connection for VbdConnection {
    async fn failed(&self) -> String {
        self.state.failure.take().await
    }

    /// Waits for what the disk still has of the guest's pages; then the guest gets everything back.
    async fn close(self) {
        self.state.is_ending.set(true);
        self.completions.ring();
        self.task.join().await;
        let counters = self.connected.borrow_mut().remove(&self.place);
        log::debug!("disk {} of domain {}: {counters:?}", self.place.1, self.place.0);
    }
}

/// What a connection is made of, whatever its data path.
type Made<'a> =
    (DomainId, BackRing<ring::Blkif, GrantMapping>, Rc<dyn BlockDevice>, Rules, &'a Rc<BlockCounters>);

/// What a connection keeps of its task: how to ring it, the task, and what both look at.
type Started = (Rc<Completions>, JoinHandle<()>, Rc<Shared>);

/// Starts the task of a connection.
fn start<D: DataPath + 'static>(
    (guest, ring, disk, rules, counters): Made<'_>,
    path: D,
    channel: EventChannel,
) -> Result<Started, Errno> {
    let vbd = Vbd::new(guest, ring, path, disk, rules, Rc::clone(counters))?;
    let (completions, state) = (Rc::clone(vbd.completions()), Rc::<Shared>::default());
    let task = spawn(serve(vbd, channel, Rc::clone(&state), Rc::clone(counters)));
    Ok((completions, task, state))
}

/// Does rounds until the connection is to end or the guest breaks its ring, and then takes everything back.
async fn serve<D: DataPath>(
    mut vbd: Vbd<GrantMapping, D>,
    channel: EventChannel,
    state: Rc<Shared>,
    counters: Rc<BlockCounters>,
) {
    let completions = Rc::clone(vbd.completions());
    while !state.is_ending.get() {
        match counters.cost.of_round(|| round(&mut vbd, &channel)) {
            Ok(true) => yield_now().await,
            Ok(false) => {
                if let Either::First(()) = select(channel.wait(), completions.wait()).await {
                    counters.cost.note_event();
                }
            }
            Err(corrupt) => {
                state.failure.set(format!("{corrupt}"));
                break;
            }
        }
    }
    while !vbd.wind_down() {
        completions.wait().await;
    }
}

/// Does a round, and sends the event that it calls for. Says whether there is more to do at once.
fn round<D: DataPath>(vbd: &mut Vbd<GrantMapping, D>, channel: &EventChannel) -> Result<bool, Corrupt> {
    let round = vbd.round()?;
    if round.notify.needed() {
        // Fails only if the guest closed its end, and then it misses nothing.
        let _ = channel.notify();
    }
    Ok(round.has_more)
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeDisk;
    use super::super::image::{ImageDisk, Piece};
    use super::*;
    use crate::store_service::StoreService;
    use pv_runtime::executor::testing;
    use pv_runtime::xenbus::Store;

    const BACK: &str = "/local/domain/0/backend/vbd/7/51712";
    const FRONT: &str = "/local/domain/7/device/vbd/51712";

    fn back_end() -> BlockBackEnd {
        let disk: Rc<dyn BlockDevice> = Rc::new(FakeDisk::new(4096));
        let images = Rc::<Images>::default();
        let pieces = [(64, 8), (16, 16)].map(|(first_sector, sectors)| Piece { first_sector, sectors });
        images.put("images/a".into(), ImageDisk::new(Rc::clone(&disk), &pieces).expect("on the disk"));
        BlockBackEnd::new([(String::from("disk0"), disk)], images)
    }

    async fn device(store: &Store, entries: &[(&str, &str)]) -> Device {
        for (path, value) in entries {
            store.write(path, value).await.expect("the store takes it");
        }
        Device::new(store.clone(), BACK.into(), FRONT.into(), DomainId(7))
    }

    #[test]
    fn a_front_end_is_told_what_its_disk_can_do() {
        testing::run(async {
            let store = StoreService::new().connect();
            let params = format!("{BACK}/params");
            let mode = format!("{BACK}/mode");
            let device = device(&store, &[(&params, "disk0@512+1M"), (&mode, "r")]).await;
            back_end().offer(&device).await.expect("the disk is there");
            let value = async |key| device.read_own::<u64>(key).await.expect("the store answers");
            assert_eq!(value("sectors").await, Some(2048));
            assert_eq!(value("sector-size").await, Some(512));
            assert_eq!(value("physical-sector-size").await, Some(4096));
            assert_eq!(value("info").await, Some(4));
            assert_eq!(value("feature-flush-cache").await, Some(1));
            assert_eq!(value("feature-max-indirect-segments").await, Some(64));
            assert_eq!(value("max-ring-page-order").await, Some(2));
        });
    }

    #[test]
    fn a_file_is_a_disk() {
        testing::run(async {
            let store = StoreService::new().connect();
            let (params, mode) = (format!("{BACK}/params"), format!("{BACK}/mode"));
            let device = device(&store, &[(&params, "/images/a"), (&mode, "w")]).await;
            back_end().offer(&device).await.expect("the file is there");
            assert_eq!(device.read_own::<u64>("sectors").await.expect("the store answers"), Some(24));
        });
    }

    #[test]
    fn a_disk_that_is_not_there_is_not_offered() {
        testing::run(async {
            let store = StoreService::new().connect();
            let params = format!("{BACK}/params");
            for target in ["disk1", "disk0@2M", "disk0@1M+2M", "", "nonsense@", "/images/b"] {
                let device = device(&store, &[(&params, target)]).await;
                let outcome = back_end().offer(&device).await;
                assert_eq!(outcome, Err(ConnectError::NoSource(target.into())), "{target}");
            }
        });
    }

    #[test]
    fn rings_of_one_and_of_several_pages_are_read() {
        testing::run(async {
            let store = StoreService::new().connect();
            let key = |name: &str| format!("{FRONT}/{name}");
            let device = device(&store, &[(&key("ring-ref"), "8"), (&key("event-channel"), "5")]).await;
            let front = FrontEnd::read(&device).await.expect("complete");
            assert_eq!((front.ring.as_slice(), front.port), (&[GrantReference(8)][..], Port(5)));
            store.write(&key("ring-page-order"), "1").await.expect("the store takes it");
            assert_eq!(FrontEnd::read(&device).await.err(), Some(ConnectError::Missing("ring-ref")));
            for (name, value) in [("ring-ref0", "9"), ("ring-ref1", "10")] {
                store.write(&key(name), value).await.expect("the store takes it");
            }
            let front = FrontEnd::read(&device).await.expect("complete");
            assert_eq!(front.ring, [GrantReference(9), GrantReference(10)]);
        });
    }

    #[test]
    fn front_ends_that_want_more_than_was_offered_are_refused() {
        testing::run(async {
            let wishes =
                [("ring-page-order", "3"), ("multi-queue-num-queues", "2"), ("protocol", "x86_32-abi")];
            for (name, value) in wishes {
                let store = StoreService::new().connect();
                let key = |name: &str| format!("{FRONT}/{name}");
                let entries = [(&*key("ring-ref"), "8"), (&*key("event-channel"), "5"), (&*key(name), value)];
                let device = device(&store, &entries).await;
                let outcome = FrontEnd::read(&device).await.err();
                assert!(matches!(outcome, Some(ConnectError::NotOffered(_))), "{name}");
            }
        });
    }
}
