//! Connecting a vbd, and the task that keeps its ring going.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem;

use hypercall_abi::GrantReference;
use hypercall_abi::io::blkif::{SECTOR_SIZE, VDISK_READONLY, key};
use hypercall_abi::io::protocols::XEN_IO_PROTO_ABI_X86_64;
use hypercall_abi::io::ring::XEN_PAGE_SIZE;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{select, yield_now};
use pv_runtime::xenbus::{Device, StoreError, Transaction, XenbusState};

use super::disk::{Disk, Shared};
use super::queue::{BlockQueue, FlushBy, Limits};
use super::request::{BlockError, Geometry, Outcome};
use crate::buffer::{BackEndMay, GrantsTo, PrivateBuffer};
use crate::fault::Fault;
use crate::lifecycle::{ConnectError, Driver, wait_until_connected};

/// The largest ring that is asked for, as a power of two of pages: 256 requests.
const LARGEST_RING_ORDER: u32 = 3;

/// Connects a [`Disk`] to the back ends of a vbd, one after the other.
pub struct VbdDriver {
    disk: Rc<Shared>,
    /// The device's number, as it stands in its path.
    handle: u16,
    channel: Option<EventChannel>,
}

impl VbdDriver {
    /// A driver for a disk.
    pub fn new(disk: &Disk, handle: u16) -> Self {
        Self { disk: Rc::clone(&disk.0), handle, channel: None }
    }

    /// Takes answers, and puts new requests on the ring if they are `accepted`. Returns whether to wait for an
    /// event.
    fn turn(&mut self, accepted: bool) -> Result<bool, Fault> {
        let mut queue = self.disk.queue.borrow_mut();
        let (Some(queue), Some(channel)) = (queue.as_mut(), &self.channel) else { return Ok(true) };
        queue.reap()?;
        if accepted {
            self.disk.submitted.borrow_mut().drain(..).for_each(|request| queue.push(request));
            if queue.submit().needed()
                && let Err(errno) = channel.notify()
            {
                log::debug!("the disk's back end cannot be notified: {errno}");
            }
        }
        Ok(queue.ask_for_event()?.may_wait())
    }

    /// Waits for answers or for new requests.
    async fn wait(&self) {
        match &self.channel {
            Some(channel) => _ = select(channel.wait(), self.disk.poke.wait()).await,
            None => self.disk.poke.wait().await,
        }
    }
}

/// What the back end must know.
struct Published {
    ring: Vec<GrantReference>,
    channel: EventChannel,
}

impl Published {
    /// A ring of one page is published in the way that every back end knows.
    async fn write(&self, device: &Device, transaction: &Transaction) -> Result<(), StoreError> {
        if let [page] = self.ring[..] {
            transaction.write(&device.key(key::RING_REF), format!("{page}")).await?;
        } else {
            let order = self.ring.len().ilog2();
            transaction.write(&device.key(key::RING_PAGE_ORDER), format!("{order}")).await?;
            for (number, page) in self.ring.iter().enumerate() {
                let key = format!("{}{number}", key::RING_REF_PREFIX);
                transaction.write(&device.key(&key), format!("{page}")).await?;
            }
        }
        let port = self.channel.port();
        transaction.write(&device.key(key::EVENT_CHANNEL), format!("{port}")).await?;
        transaction.write(&device.key(key::FEATURE_PERSISTENT), "1").await?;
        transaction.write(&device.key(key::PROTOCOL), XEN_IO_PROTO_ABI_X86_64).await
    }
}

impl Driver for VbdDriver {
    async fn connect(&mut self, device: &Device) -> Result<(), ConnectError> {
        let table = GrantsTo(device.peer());
        let order = device.read_peer(key::MAX_RING_PAGE_ORDER).await?.unwrap_or(0).min(LARGEST_RING_ORDER);
        let length = XEN_PAGE_SIZE << order;
        let pages = PrivateBuffer::with_size(length)?.share(&table, BackEndMay::Write, length)?;
        let channel = EventChannel::alloc_unbound(device.peer())?;
        let published = Published { ring: pages.references().collect(), channel };
        let mut queue = BlockQueue::new(pages, table)?;
        device.store().transaction(async |transaction| published.write(device, transaction).await).await?;
        device.switch_state(XenbusState::Initialised).await?;
        wait_until_connected(device).await?;
        queue.set_limits(limits(device, self.handle).await?);
        let geometry = geometry(device).await?;
        device.switch_state(XenbusState::Connected).await?;
        self.channel = Some(published.channel);
        self.disk.queue.replace(Some(queue));
        self.disk.geometry.set(Some(geometry));
        self.disk.changed.ring();
        Ok(())
    }

    async fn serve(&mut self) -> Fault {
        loop {
            match self.turn(true) {
                Err(fault) => return fault,
                Ok(false) => yield_now().await,
                Ok(true) => self.wait().await,
            }
        }
    }

    async fn drain(&mut self) {
        while let Ok(may_wait) = self.turn(false) {
            if self.disk.queue.borrow().as_ref().is_none_or(BlockQueue::is_answered) {
                return;
            }
            if may_wait {
                self.wait().await;
            }
        }
    }

    fn disconnect(&mut self) {
        self.channel = None;
        let Some(queue) = self.disk.queue.take() else { return };
        let mut submitted = self.disk.submitted.borrow_mut();
        let newer = mem::take(&mut *submitted);
        *submitted = queue.into_requests().chain(newer).collect();
        self.disk.buffers.sweep();
    }

    fn give_up(&mut self) {
        self.disk.is_gone.set(true);
        for request in self.disk.submitted.take() {
            request.completion.set(Outcome { buffer: request.buffer, result: Err(BlockError::Gone) });
        }
        self.disk.changed.ring();
    }
}

/// Reads what requests may ask of a connected back end.
async fn limits(device: &Device, handle: u16) -> Result<Limits, StoreError> {
    let is_set = async |key| device.read_peer::<u32>(key).await.map(|value| value.unwrap_or(0) != 0);
    let flush = if is_set(key::FEATURE_FLUSH_CACHE).await? {
        FlushBy::Flush
    } else if is_set(key::FEATURE_BARRIER).await? {
        FlushBy::Barrier
    } else {
        FlushBy::Nothing
    };
    let indirect_segments = device.read_peer(key::FEATURE_MAX_INDIRECT_SEGMENTS).await?.unwrap_or(0);
    Ok(Limits { handle, indirect_segments, flush })
}

/// Reads what disk a connected back end has.
///
/// `sectors` is taken to count 512 bytes, as Linux counts it. A back end that keeps to the protocol has sectors
/// of that size anyway, unless the front end asks for others.
async fn geometry(device: &Device) -> Result<Geometry, ConnectError> {
    let sectors = device.read_peer(key::SECTORS).await?.ok_or(ConnectError::Unsuitable(key::SECTORS))?;
    let sector_size: u32 = device.read_peer(key::SECTOR_SIZE).await?.unwrap_or(SECTOR_SIZE as u32);
    if !sector_size.is_power_of_two() || !(SECTOR_SIZE as u32..=XEN_PAGE_SIZE as u32).contains(&sector_size) {
        return Err(ConnectError::Unsuitable("a usable sector size"));
    }
    let info = device.read_peer(key::INFO).await?.unwrap_or(0);
    Ok(Geometry { sectors, sector_size, read_only: info & VDISK_READONLY != 0 })
}
