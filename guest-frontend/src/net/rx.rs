//! Packets in: empty pages posted, and packets put together from what came back in them.
//!
//! A packet that fills a part of one page is lent from that page, after its grant has ended. A packet of
//! several pages, or a very small one, is copied out into one private area instead, and the pages go straight
//! back to the back end.

use alloc::vec::Vec;
use core::ops::Range;

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::netif::{
    NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NetifExtraInfo,
    NetifRxRequest, NetifRxResponse, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_EXTRA_TYPE_NONE,
};
use ring::{AreaTooSmall, FinalCheck, FrontRing, NetifRx, NotifyPeer};

use super::checksum;
use crate::buffer::{BackEndMay, GrantTable, PrivateBuffer, SharedBuffer};
use crate::fault::Fault;

/// The largest packet that is put together: the largest IP packet, with Ethernet header and a tag.
const LARGEST_PACKET: usize = 65535 + 14 + 4;
/// The most parts of a packet: its pages, each possibly begun late and ended early once.
const MOST_PARTS: usize = 20;
/// Copying a packet up to this size costs less than ending and renewing a grant.
const WORTH_COPYING: usize = 256;

/// What went through a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxCounters {
    /// Packets received whole.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were too large, damaged on the way, or reported as failed.
    pub dropped: u64,
    /// Times the back end was notified of posted pages.
    pub notifications: u64,
}

/// A packet that was received, until it is given back with [`RxQueue::recycle`].
pub struct Received<T: GrantTable>(Place<T>);

/// Where a packet lies.
enum Place<T: GrantTable> {
    /// In its page.
    Page(PrivateBuffer<T::Grant>, Range<usize>),
    /// At the start of the queue's own area.
    Copied(usize),
}

/// One part of a packet.
struct Part<T: GrantTable> {
    page: SharedBuffer<T::Grant>,
    offset: usize,
    length: usize,
}

/// A packet of which not all parts may have come.
struct Assembly<T: GrantTable> {
    parts: Vec<Part<T>>,
    length: usize,
    /// Flags of the first part.
    first_flags: u16,
    /// Whether a first part came.
    begun: bool,
    /// The next slot is extra information.
    extra_next: bool,
    /// Another part follows after that.
    more_data: bool,
    /// The packet is to be dropped when it is complete.
    failed: bool,
}

impl<T: GrantTable> Default for Assembly<T> {
    fn default() -> Self {
        Self {
            parts: Vec::with_capacity(MOST_PARTS),
            length: 0,
            first_flags: 0,
            begun: false,
            extra_next: false,
            more_data: false,
            failed: false,
        }
    }
}

impl<T: GrantTable> Assembly<T> {
    fn is_complete(&self) -> bool {
        self.begun && !self.extra_next && !self.more_data
    }

    /// Notes a slot of extra information. None of its kinds matters to a receiver: the segment size of a
    /// large packet says how it might be cut again, and a hash saves work that is not done here.
    fn add_extra(&mut self, extra: NetifExtraInfo) -> Result<(), Fault> {
        if !(XEN_NETIF_EXTRA_TYPE_NONE + 1..XEN_NETIF_EXTRA_TYPE_MAX).contains(&extra.kind) {
            return Err(Fault::UnknownExtra(extra.kind));
        }
        self.extra_next = extra.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
        Ok(())
    }

    /// Notes a part. Gives its page back if the part is not worth keeping.
    fn add_part(
        &mut self,
        response: NetifRxResponse,
        page: SharedBuffer<T::Grant>,
    ) -> Result<Option<SharedBuffer<T::Grant>>, Fault> {
        let has_extra = response.flags & NETRXF_EXTRA_INFO != 0;
        if has_extra && self.begun {
            return Err(Fault::MisplacedExtra);
        }
        if !self.begun {
            self.first_flags = response.flags;
        }
        self.begun = true;
        self.extra_next = has_extra;
        self.more_data = response.flags & NETRXF_MORE_DATA != 0;
        let Ok(length) = usize::try_from(response.status) else {
            self.failed = true;
            return Ok(Some(page));
        };
        let offset = usize::from(response.offset);
        if offset + length > PAGE_SIZE {
            return Err(Fault::OutsidePage { offset: response.offset, length: response.status });
        }
        self.length += length;
        self.failed |= self.length > LARGEST_PACKET || self.parts.len() == MOST_PARTS;
        if self.failed {
            return Ok(Some(page));
        }
        self.parts.push(Part { page, offset, length });
        Ok(None)
    }
}

/// The front half of the receive ring.
pub struct RxQueue<T: GrantTable> {
    ring: FrontRing<NetifRx, SharedBuffer<T::Grant>>,
    table: T,
    /// For each slot, the page that is posted in it.
    posted: Vec<Option<SharedBuffer<T::Grant>>>,
    /// Pages to be posted that are shared already.
    shared: Vec<SharedBuffer<T::Grant>>,
    /// Pages to be posted that are private.
    private: Vec<PrivateBuffer<T::Grant>>,
    assembly: Assembly<T>,
    /// Where packets are copied to.
    area: Vec<u8>,
    counters: RxCounters,
}

impl<T: GrantTable> RxQueue<T> {
    /// Makes a ring in a page that is shared for writing. Nothing is posted yet.
    ///
    /// # Errors
    ///
    /// If the page holds no ring.
    pub fn new(page: SharedBuffer<T::Grant>, table: T) -> Result<Self, AreaTooSmall> {
        let ring = FrontRing::new(page)?;
        let posted = (0..ring.capacity()).map(|_| None).collect();
        Ok(Self {
            ring,
            table,
            posted,
            shared: Vec::new(),
            private: Vec::new(),
            assembly: Assembly::default(),
            area: Vec::new(),
            counters: RxCounters::default(),
        })
    }

    /// Posts pages in all free slots, as far as there is memory, and says whether the back end waits for them.
    pub fn post(&mut self) -> NotifyPeer {
        while self.ring.free_requests() > 0
            && let Some(page) = self.empty_page()
        {
            let slot = self.ring.next_request_slot();
            let request = NetifRxRequest { id: slot as u16, gref: page.reference(0), ..Default::default() };
            if self.ring.push_request(&request).is_err() {
                self.shared.push(page);
                break;
            }
            self.posted[slot as usize] = Some(page);
        }
        let notify = self.ring.commit_requests();
        self.counters.notifications += u64::from(notify.needed());
        notify
    }

    /// A page that the back end may write to.
    fn empty_page(&mut self) -> Option<SharedBuffer<T::Grant>> {
        if let Some(page) = self.shared.pop() {
            return Some(page);
        }
        let page = match self.private.pop() {
            Some(page) => page,
            None => PrivateBuffer::new(1).ok()?,
        };
        page.share(&self.table, BackEndMay::Write, PAGE_SIZE)
            .map_err(|failure| self.private.extend(failure.buffer))
            .ok()
    }

    /// Takes the next whole packet, if there is one.
    ///
    /// # Errors
    ///
    /// If the back end did what no honest one does.
    pub fn receive(&mut self) -> Result<Option<Received<T>>, Fault> {
        loop {
            let slot = self.ring.next_response_slot();
            let Some(response) = self.ring.take_response()? else { return Ok(None) };
            let unknown = Fault::UnknownId(slot.into());
            let page = self.posted[slot as usize].take().ok_or(unknown)?;
            self.add(slot, response, page)?;
            if self.assembly.is_complete()
                && let Some(packet) = self.finish()
            {
                return Ok(Some(packet));
            }
        }
    }

    /// Adds a slot to the packet that is being put together.
    fn add(
        &mut self,
        slot: u32,
        response: NetifRxResponse,
        page: SharedBuffer<T::Grant>,
    ) -> Result<(), Fault> {
        if self.assembly.extra_next {
            self.shared.push(page);
            return self.assembly.add_extra(response.as_extra_info());
        }
        if u32::from(response.id) != slot {
            return Err(Fault::WrongSlot { id: response.id, slot });
        }
        self.shared.extend(self.assembly.add_part(response, page)?);
        Ok(())
    }

    /// Makes the complete packet one slice, unless it is to be dropped.
    fn finish(&mut self) -> Option<Received<T>> {
        let assembly = &mut self.assembly;
        let (failed, length, flags) = (assembly.failed, assembly.length, assembly.first_flags);
        let mut parts = core::mem::take(&mut assembly.parts);
        *assembly = Assembly { parts: Vec::new(), ..Assembly::default() };
        let packet = if failed { None } else { Some(Received(self.place(&mut parts, length))) };
        self.shared.extend(parts.drain(..).map(|part| part.page));
        self.assembly.parts = parts;
        let packet = packet.and_then(|packet| self.accept(packet, flags));
        let counters = &mut self.counters;
        match packet {
            Some(_) => {
                (counters.packets, counters.bytes) = (counters.packets + 1, counters.bytes + length as u64)
            }
            None => counters.dropped += 1,
        }
        packet
    }

    /// Lends a packet from its only page, or copies it. Pages not needed for it stay among the parts.
    fn place(&mut self, parts: &mut Vec<Part<T>>, length: usize) -> Place<T> {
        if parts.len() == 1
            && length > WORTH_COPYING
            && let Some(Part { page, offset, length }) = parts.pop()
        {
            match page.reclaim() {
                Ok(page) => return Place::Page(page, offset..offset + length),
                // The back end answered, yet still has hold of the page. It may keep it and get it posted.
                Err(page) => parts.push(Part { page, offset, length }),
            }
        }
        if self.area.len() < length {
            self.area.resize(length, 0);
        }
        let mut end = 0;
        for part in parts.iter() {
            part.page.copy_out(part.offset, &mut self.area[end..end + part.length]);
            end += part.length;
        }
        Place::Copied(length)
    }

    /// Passes a packet on if its checksum is right or need not be looked at.
    fn accept(&mut self, packet: Received<T>, flags: u16) -> Option<Received<T>> {
        let need_not_check = flags & (NETRXF_DATA_VALIDATED | NETRXF_CSUM_BLANK) != 0;
        if need_not_check || checksum::is_right(self.bytes(&packet)) {
            return Some(packet);
        }
        self.recycle(packet);
        None
    }

    /// The bytes of a packet, from the Ethernet header on.
    pub fn bytes<'a>(&'a self, packet: &'a Received<T>) -> &'a [u8] {
        match &packet.0 {
            Place::Page(page, range) => &page[range.clone()],
            Place::Copied(length) => &self.area[..*length],
        }
    }

    /// Takes back the page that a packet lay in.
    pub fn recycle(&mut self, packet: Received<T>) {
        if let Place::Page(page, _) = packet.0 {
            self.private.push(page);
        }
    }

    /// Asks for an event at the next packet, and says whether to wait for it.
    ///
    /// # Errors
    ///
    /// If the back end did what no honest one does.
    pub fn ask_for_event(&mut self) -> Result<FinalCheck, Fault> {
        Ok(self.ring.final_check_for_responses()?)
    }

    /// What went through so far.
    pub fn counters(&self) -> RxCounters {
        self.counters
    }
}
