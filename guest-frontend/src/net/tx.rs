//! Packets out: buffers to fill, requests that name them, and the buffers back.
//!
//! A packet is a run of pages, one slot a page. All memory the queue ever uses is bounded by two pools of
//! buffers, of one page and of many: a back end that never answers, or answers but keeps hold of the pages,
//! runs the pools dry and nothing else.

use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::netif::{
    NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED, NETTXF_EXTRA_INFO,
    NETTXF_MORE_DATA, NetifExtraGso, NetifExtraInfo, NetifTxRequest, NetifTxResponse,
    XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_GSO_TYPE_TCPV4,
};
use ring::{AreaTooSmall, FinalCheck, FrontRing, NetifTx, NotifyPeer};

use crate::buffer::{BackEndMay, GrantTable, PrivateBuffer, SharedBuffer};
use crate::fault::Fault;

/// Pages of a buffer for large packets: enough for the largest that a request can describe.
pub const LARGE_BUFFER_PAGES: usize = 16;
/// Slots of the largest packet: its pages, and extra information.
const MOST_SLOTS: u32 = LARGE_BUFFER_PAGES as u32 + 1;
/// How many buffers of each size there are at most.
const MOST_SMALL_BUFFERS: usize = 256;
const MOST_LARGE_BUFFERS: usize = 12;

/// What the back end is to do to a packet before it goes on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Fill in the TCP checksum, which holds the sum of the pseudo header.
    pub checksum: bool,
    /// Cut the packet into segments with this many bytes of payload. Only with `checksum`.
    pub segment_size: Option<u16>,
}

/// What went through a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxCounters {
    /// Packets handed to the back end.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that the back end did not send, or that could not be handed over.
    pub dropped: u64,
    /// Times the back end was notified.
    pub notifications: u64,
}

/// Buffers of one size.
struct Pool<T: GrantTable> {
    buffers: Vec<PrivateBuffer<T::Grant>>,
    /// How many buffers there are, here or under way.
    made: usize,
    most: usize,
    pages: usize,
}

impl<T: GrantTable> Pool<T> {
    fn new(pages: usize, most: usize) -> Self {
        Self { buffers: Vec::new(), made: 0, most, pages }
    }

    /// Makes sure that there is a buffer to take, if that is possible.
    fn prepare(&mut self) -> bool {
        if self.buffers.is_empty()
            && self.made < self.most
            && let Ok(buffer) = PrivateBuffer::new(self.pages)
        {
            self.made += 1;
            self.buffers.push(buffer);
        }
        !self.buffers.is_empty()
    }
}

/// A packet that the back end has not answered for completely.
struct Flight<T: GrantTable> {
    buffer: SharedBuffer<T::Grant>,
    /// Slots without an answer.
    slots: u16,
    /// Whether any slot was answered with an error.
    failed: bool,
}

/// The front half of the transmit ring.
pub struct TxQueue<T: GrantTable> {
    ring: FrontRing<NetifTx, SharedBuffer<T::Grant>>,
    table: T,
    small: Pool<T>,
    large: Pool<T>,
    free_ids: Vec<u16>,
    /// For each id in use, the id of the first slot of its packet.
    first_id: Vec<Option<u16>>,
    /// For each id that is a packet's first, the packet.
    flights: Vec<Option<Flight<T>>>,
    /// Slots of extra information that were not answered.
    extras_under_way: u32,
    /// Buffers that were answered for, but that the back end still has hold of.
    held: Vec<SharedBuffer<T::Grant>>,
    counters: TxCounters,
}

impl<T: GrantTable> TxQueue<T> {
    /// Makes a ring in a page that is shared for writing.
    ///
    /// # Errors
    ///
    /// If the page holds no ring.
    pub fn new(page: SharedBuffer<T::Grant>, table: T) -> Result<Self, AreaTooSmall> {
        let ring = FrontRing::new(page)?;
        let capacity = ring.capacity() as u16;
        Ok(Self {
            ring,
            table,
            small: Pool::new(1, MOST_SMALL_BUFFERS),
            large: Pool::new(LARGE_BUFFER_PAGES, MOST_LARGE_BUFFERS),
            free_ids: (0..capacity).rev().collect(),
            first_id: vec![None; capacity.into()],
            flights: (0..capacity).map(|_| None).collect(),
            extras_under_way: 0,
            held: Vec::new(),
            counters: TxCounters::default(),
        })
    }

    /// Makes sure that a packet of any size can be sent: of one page, or `large` too.
    pub fn has_room(&mut self, large: bool) -> bool {
        let slots = if large { MOST_SLOTS } else { 1 };
        self.ring.free_requests() >= slots && self.small.prepare() && (!large || self.large.prepare())
    }

    /// A buffer for a packet of `length` bytes, to be filled and sent.
    pub fn take_buffer(&mut self, length: usize) -> Option<PrivateBuffer<T::Grant>> {
        let pool = if length <= PAGE_SIZE { &mut self.small } else { &mut self.large };
        if length > pool.pages * PAGE_SIZE || !pool.prepare() {
            return None;
        }
        pool.buffers.pop()
    }

    /// Puts a buffer back that is not to be sent, or was.
    fn put_back(&mut self, buffer: PrivateBuffer<T::Grant>) {
        let pool = if buffer.len() == PAGE_SIZE { &mut self.small } else { &mut self.large };
        pool.buffers.push(buffer);
    }

    /// Sends the first `length` bytes of a buffer from [`take_buffer`](Self::take_buffer), at the next
    /// [`commit`](Self::commit). A packet for which there is no room is dropped.
    pub fn send(&mut self, buffer: PrivateBuffer<T::Grant>, length: usize, offload: Offload) {
        let pages = length.div_ceil(PAGE_SIZE) as u32;
        let slots = pages + u32::from(offload.segment_size.is_some());
        if pages == 0 || slots > self.ring.free_requests() {
            self.counters.dropped += 1;
            return self.put_back(buffer);
        }
        match buffer.share(&self.table, BackEndMay::Read, length) {
            Ok(buffer) => self.push(buffer, length, offload),
            Err(failure) => {
                self.counters.dropped += 1;
                if let Some(buffer) = failure.buffer {
                    self.put_back(buffer);
                }
            }
        }
    }

    /// Pushes the slots of a packet. There is room for them.
    fn push(&mut self, buffer: SharedBuffer<T::Grant>, length: usize, offload: Offload) {
        let mut first = None;
        let pages = buffer.references().len();
        for (page, gref) in buffer.references().enumerate() {
            let Some(id) = self.free_ids.pop() else { break };
            let is_first = page == 0;
            let first_id = *first.get_or_insert(id);
            self.first_id[usize::from(id)] = Some(first_id);
            let size = if is_first { length } else { (length - page * PAGE_SIZE).min(PAGE_SIZE) };
            let more = if page + 1 < pages { NETTXF_MORE_DATA } else { 0 };
            let flags = more | if is_first { first_flags(offload) } else { 0 };
            push_slot(&mut self.ring, &NetifTxRequest { gref, offset: 0, flags, id, size: size as u16 });
            if is_first && let Some(size) = offload.segment_size {
                push_slot(&mut self.ring, &segmentation(size).into());
                self.extras_under_way += 1;
            }
        }
        let Some(first) = first else { return };
        self.flights[usize::from(first)] = Some(Flight { buffer, slots: pages as u16, failed: false });
        self.counters.packets += 1;
        self.counters.bytes += length as u64;
    }

    /// Shows all packets sent to the back end, and says whether it waits for an event.
    pub fn commit(&mut self) -> NotifyPeer {
        let notify = self.ring.commit_requests();
        self.counters.notifications += u64::from(notify.needed());
        notify
    }

    /// Takes the back end's answers, and the buffers back.
    ///
    /// # Errors
    ///
    /// If the back end did what no honest one does.
    pub fn reap(&mut self) -> Result<(), Fault> {
        while let Some(response) = self.ring.take_response()? {
            self.finish_slot(response)?;
        }
        for buffer in core::mem::take(&mut self.held) {
            self.retire(buffer);
        }
        Ok(())
    }

    fn finish_slot(&mut self, response: NetifTxResponse) -> Result<(), Fault> {
        if response.status == NETIF_RSP_NULL {
            self.extras_under_way = self.extras_under_way.checked_sub(1).ok_or(Fault::NoSuchExtra)?;
            return Ok(());
        }
        let id = response.id;
        let unknown = Fault::UnknownId(id.into());
        let first = self.first_id.get_mut(usize::from(id)).and_then(Option::take).ok_or(unknown)?;
        self.free_ids.push(id);
        let place = &mut self.flights[usize::from(first)];
        let flight = place.as_mut().ok_or(unknown)?;
        flight.slots -= 1;
        flight.failed |= response.status != NETIF_RSP_OKAY;
        if flight.slots == 0
            && let Some(flight) = place.take()
        {
            self.counters.dropped += u64::from(flight.failed);
            self.retire(flight.buffer);
        }
        Ok(())
    }

    /// Takes a buffer back, now or at the next [`reap`](Self::reap).
    fn retire(&mut self, buffer: SharedBuffer<T::Grant>) {
        match buffer.reclaim() {
            Ok(buffer) => self.put_back(buffer),
            Err(buffer) => self.held.push(buffer),
        }
    }

    /// Asks for an event once half of the packets under way are answered, and says whether to wait for it.
    /// Only a sender that lacks room need ask: answers can wait otherwise.
    ///
    /// # Errors
    ///
    /// If the back end did what no honest one does.
    pub fn ask_for_room(&mut self) -> Result<FinalCheck, Fault> {
        Ok(self.ring.final_check_for_many_responses(self.ring.unanswered_requests() / 2)?)
    }

    /// What went through so far.
    pub fn counters(&self) -> TxCounters {
        self.counters
    }
}

/// Pushes a slot for which [`TxQueue::send`] found room.
fn push_slot<M: ring::RingMemory>(ring: &mut FrontRing<NetifTx, M>, request: &NetifTxRequest) {
    let pushed = ring.push_request(request);
    debug_assert!(pushed.is_ok(), "room was counted before");
}

/// The flags of a packet's first slot, but for `NETTXF_MORE_DATA`.
fn first_flags(offload: Offload) -> u16 {
    let checksum = if offload.checksum { NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED } else { 0 };
    let extra = if offload.segment_size.is_some() { NETTXF_EXTRA_INFO } else { 0 };
    checksum | extra
}

/// The slot that asks for segments of `size` bytes.
fn segmentation(size: u16) -> NetifExtraInfo {
    let gso = NetifExtraGso {
        kind: XEN_NETIF_EXTRA_TYPE_GSO,
        size,
        gso_type: XEN_NETIF_GSO_TYPE_TCPV4,
        ..NetifExtraGso::default()
    };
    gso.into()
}
