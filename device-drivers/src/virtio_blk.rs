//! The virtio disk (specification section 5.2).
//!
//! Each request has a page of its own for what the device reads and writes beside the data: header, status, and
//! the table of descriptors, so that a request of any length takes one place in the queue:
//!
//! ```text
//!   byte 0        16       64
//!   ┌─────────────┬────────┬────────┬────────┬───────────────────────────────┐
//!   │ type,sector │ status │ header │ status │ segment ─► ... ─► segment     │
//!   └─────────────┴────────┴────────┴────────┴───────────────────────────────┘
//!                          └── goes on with the first segment, and the last of them with the status
//! ```
//!
//! A device that does not know such tables gets the same chain in the queue itself; so does one that does, for a request
//! without segments. Segments that follow each other in memory are one to the device.

mod configuration;
#[cfg(test)]
mod tests;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;
use core::time::Duration;

use hypercall_abi::{Errno, PAGE_SIZE};
use pv_runtime::memory::{Page, SharedMemory};

use crate::disk::{
    BlockDevice, Completions, ErrorLog, Extent, Geometry, IoError, Operation, RoomList, Segment, SubmitError,
    Tick, Ticket, Watch, check, sector_count,
};
use crate::virtio::{
    Buffer, DESCRIPTOR_WORDS, DeviceFault, Doorbell, NotifyDevice, QueueFull, Registers, SetupError,
    Transport, Virtqueue, feature, write_in_table,
};
use configuration::read_geometry;

/// The queue that requests go through.
const REQUEST_QUEUE: u16 = 0;
/// Requests that the device holds at most, so that their pages stay within bounds.
const DEPTH_MAX: usize = 128;

/// Types of request.
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;

/// What the device writes as a request's status.
const STATUS_OK: u32 = 0;
const STATUS_UNSUPPORTED: u32 = 2;
/// What stands there before.
const STATUS_UNANSWERED: u32 = 0xff;

/// Places in a request's page, in words.
const HEADER_WORD: usize = 0;
const STATUS_WORD: usize = 4;
const TABLE_WORD: usize = 16;
/// Bytes of the header.
const HEADER_LENGTH: u32 = 16;
/// Places in its table.
const HEADER_DESCRIPTOR: u16 = 0;
const STATUS_DESCRIPTOR: u16 = 1;
const FIRST_SEGMENT: u16 = 2;
/// Segments that a request's table has room for beside header and status.
const TABLE_SEGMENTS: u16 = ((PAGE_SIZE / 4 - TABLE_WORD) / DESCRIPTOR_WORDS - 2) as u16;
/// Bytes of the text that identifies a disk.
const ID_LENGTH: u32 = 20;

/// Which interrupts the driver uses, by their entry in the device's table.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// For changes of the configuration.
    pub configuration: u16,
    /// For completed requests.
    pub requests: u16,
}

/// A disk.
#[derive(Debug)]
pub struct VirtioBlk<R> {
    transport: Transport<R>,
    vectors: Vectors,
    features: u64,
    geometry: Geometry,
    requests: RefCell<Requests>,
    room: RoomList,
    errors: ErrorLog,
    watch: Watch,
}

/// What is in flight, and where.
#[derive(Debug)]
struct Requests {
    queue: Virtqueue,
    doorbell: Doorbell,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    /// The chain being put together.
    chain: Vec<Buffer>,
    /// The most bytes of a segment.
    segment_size_max: u32,
    is_given_up: bool,
}

/// A request's page, and who waits for it.
#[derive(Debug)]
struct Slot {
    page: Page,
    address: u64,
    /// The request that is under way; `None` if the slot is free.
    request: Option<Request>,
}

/// A request under way.
#[derive(Debug)]
struct Request {
    ticket: Ticket,
    extent: Extent,
    begun: Tick,
}

/// A device that was brought up: the features agreed on, what the disk looks like and the most bytes of a segment, and the
/// way for requests.
type BroughtUp = (u64, (Geometry, u32), Virtqueue, Doorbell);

/// Brings a device up that was just reset.
fn bring_up<R: Registers>(transport: &Transport<R>, vectors: Vectors) -> Result<BroughtUp, SetupError> {
    let features = transport.negotiate(configuration::WANTED)?;
    let size = transport.queue_size(REQUEST_QUEUE)?;
    let segments_max = if uses_tables(features) { TABLE_SEGMENTS } else { size.saturating_sub(2) };
    let sizes = read_geometry(transport, features, segments_max)?;
    let mut queue = Virtqueue::new(size, features & feature::EVENT_INDEX != 0)?;
    transport.set_configuration_vector(vectors.configuration)?;
    let doorbell = transport.start_queue(REQUEST_QUEUE, size, queue.addresses(), vectors.requests)?;
    // Nothing can have been completed yet.
    let _ = queue.ask_for_interrupt(1);
    transport.finish();
    Ok((features, sizes, queue, doorbell))
}

#[inline]
const fn uses_tables(features: u64) -> bool {
    features & feature::INDIRECT_DESCRIPTORS != 0
}

impl<R: Registers> VirtioBlk<R> {
    /// Starts the device, which is called `name` in the log and may take so long for a request.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn start(
        transport: Transport<R>,
        vectors: Vectors,
        name: String,
        patience: Duration,
    ) -> Result<Self, SetupError> {
        let (features, (geometry, segment_size_max), queue, doorbell) = bring_up(&transport, vectors)?;
        let requests = Requests {
            queue,
            doorbell,
            slots: Vec::new(),
            free_slots: Vec::new(),
            chain: Vec::with_capacity(usize::from(geometry.segments_max) + 2),
            segment_size_max,
            is_given_up: false,
        };
        let (requests, room) = (RefCell::new(requests), RoomList::default());
        let (errors, watch) = (ErrorLog::new(name), Watch::new(patience));
        Ok(Self { transport, vectors, features, geometry, requests, room, errors, watch })
    }

    /// Takes completions and reports them. To be called at each of the device's interrupts for requests.
    pub fn take_completions(&self) {
        if self.requests.borrow().is_given_up {
            return;
        }
        loop {
            let fault = self.requests.borrow_mut().take_completions(&self.errors).err();
            if let Some(fault) = fault {
                log::error!("{}: given up: {fault}", self.errors.device());
                self.give_up();
                break;
            }
            if !self.requests.borrow_mut().queue.ask_for_interrupt(1) {
                break;
            }
        }
        self.room.ring_all();
    }

    /// Looks what became of the device. To be called at each of its interrupts for changes.
    pub fn check_health(&self) {
        if self.transport.needs_reset() {
            self.start_anew("it says that it cannot go on");
        }
    }

    /// Looks after it: if it does not answer a request, it is reset, all that it has fails, and it is started anew.
    /// Returns when it is given up.
    pub async fn look_after(&self) {
        while !self.requests.borrow().is_given_up {
            let is_idle = self.in_flight() == 0;
            self.watch.next(is_idle).await;
            // An interrupt that was lost is no trouble.
            self.take_completions();
            let overdue = self.requests.borrow().overdue(&self.watch);
            if let Some(extent) = overdue {
                self.start_anew(format_args!("it does not answer a {extent}"));
            }
        }
    }

    /// Ends its use: the device is reset, what is under way fails, and what comes is refused.
    ///
    /// # Errors
    ///
    /// [`SetupError::Stuck`] if it does not stop. What is under way stays so for ever, for it may still use the memory.
    pub fn shut_down(&self) -> Result<(), SetupError> {
        self.requests.borrow_mut().is_given_up = true;
        let stopped = self.stop(IoError::Gone);
        self.room.ring_all();
        stopped
    }

    fn give_up(&self) {
        if let Err(error) = self.shut_down() {
            log::error!("{}: it cannot be stopped, its requests are lost: {error}", self.errors.device());
        }
    }

    /// Stops the device and fails everything. If it cannot be stopped, its requests stay in flight for ever,
    /// for it may still write where they said.
    fn stop(&self, error: IoError) -> Result<(), SetupError> {
        self.transport.reset()?;
        self.requests.borrow_mut().fail_all(error);
        Ok(())
    }

    fn start_anew(&self, trouble: impl fmt::Display) {
        let name = self.errors.device();
        log::error!("{name}: {trouble}: it is reset, and all that it has fails");
        match self.stop(IoError::Device).and_then(|()| self.bring_up_again()) {
            Ok(()) => log::warn!("{name}: it runs again"),
            Err(error) => {
                log::error!("{name}: given up: {error}");
                self.give_up();
            }
        }
        self.room.ring_all();
    }

    fn bring_up_again(&self) -> Result<(), SetupError> {
        self.transport.begin_anew()?;
        let (features, (geometry, segment_size_max), queue, doorbell) =
            bring_up(&self.transport, self.vectors)?;
        let mut requests = self.requests.borrow_mut();
        (requests.queue, requests.doorbell) = (queue, doorbell);
        // Its users go by what it was.
        let is_the_same = (features, geometry, segment_size_max)
            == (self.features, self.geometry, requests.segment_size_max);
        if is_the_same { Ok(()) } else { Err(SetupError::BadConfiguration) }
    }

    /// The text that identifies the disk, which whoever made it chose. Empty if the device has none.
    ///
    /// # Errors
    ///
    /// [`IoError`].
    pub async fn identify(&self) -> Result<String, IoError> {
        let page = Page::new().map_err(|_| IoError::Device)?;
        let segment = Segment { address: page.machine_frame().physical_address(), length: ID_LENGTH };
        let completions = Rc::new(Completions::default());
        let ticket = Ticket { completions: Rc::clone(&completions), token: 0 };
        // Like a read, but of the identity. The page is lost if the future is dropped half-way.
        let page = ManuallyDrop::new(page);
        let extent = Extent { operation: Operation::Read, first_sector: 0, sectors: 0 };
        let request = Request { ticket, extent, begun: self.watch.begin() };
        let submitted =
            self.requests.borrow_mut().submit(TYPE_GET_ID, &[segment], request, uses_tables(self.features));
        submitted.map_err(|_| IoError::Device)?;
        self.kick();
        completions.wait().await;
        let page = ManuallyDrop::into_inner(page);
        let mut outcomes = Vec::new();
        completions.take_all(&mut outcomes);
        outcomes.pop().map_or(Err(IoError::Device), |outcome| outcome.result)?;
        let mut text = [0; ID_LENGTH as usize];
        page.copy_out(0, &mut text);
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u16 {
        self.requests.borrow().queue.in_flight()
    }
}

impl<R: Registers> BlockDevice for VirtioBlk<R> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(
        &self,
        operation: Operation,
        first_sector: u64,
        segments: &[Segment],
        ticket: Ticket,
    ) -> Result<(), SubmitError> {
        check(&self.geometry, operation, first_sector, segments).map_err(SubmitError::Refused)?;
        let kind = match operation {
            Operation::Read => TYPE_IN,
            Operation::Write => TYPE_OUT,
            Operation::Flush if self.geometry.has_cache => TYPE_FLUSH,
            Operation::Flush => {
                ticket.complete(Ok(()));
                return Ok(());
            }
        };
        let mut requests = self.requests.borrow_mut();
        if requests.is_given_up {
            return Err(SubmitError::Refused(IoError::Gone));
        }
        let extent = Extent { operation, first_sector, sectors: sector_count(segments) };
        let request = Request { ticket, extent, begun: self.watch.begin() };
        requests.submit(kind, segments, request, uses_tables(self.features)).map_err(|request| {
            self.room.add(&request.ticket.completions);
            SubmitError::Full
        })
    }

    fn kick(&self) {
        let mut requests = self.requests.borrow_mut();
        if requests.queue.publish() == NotifyDevice::Yes {
            self.transport.ring(requests.doorbell);
        }
    }
}

impl Requests {
    /// Puts a request into the queue, or gives it back if there is no room.
    fn submit(
        &mut self,
        kind: u32,
        segments: &[Segment],
        request: Request,
        uses_tables: bool,
    ) -> Result<(), Request> {
        let Ok(token) = self.free_slot() else { return Err(request) };
        let slot = &mut self.slots[token as usize];
        let sector = if kind == TYPE_FLUSH { 0 } else { request.extent.first_sector };
        slot.write_request(kind, sector);
        let added = if uses_tables && !segments.is_empty() {
            let count = slot.write_table(kind, segments, self.segment_size_max);
            self.queue.add_indirect(slot.address + (TABLE_WORD * 4) as u64, count, token)
        } else {
            slot.build_chain(kind, segments, self.segment_size_max, &mut self.chain);
            self.queue.add(&self.chain, token)
        };
        match added {
            Ok(()) => slot.request = Some(request),
            Err(QueueFull) => {
                self.free_slots.push(token);
                return Err(request);
            }
        }
        Ok(())
    }

    /// The number of a slot that is not in use, made if need be and allowed.
    fn free_slot(&mut self) -> Result<u32, Errno> {
        if let Some(token) = self.free_slots.pop() {
            return Ok(token);
        }
        if self.slots.len() >= DEPTH_MAX {
            return Err(Errno::EAGAIN);
        }
        let page = Page::new()?;
        let address = page.machine_frame().physical_address();
        let slot = Slot { page, address, request: None };
        slot.write_ends();
        self.slots.push(slot);
        Ok(self.slots.len() as u32 - 1)
    }

    /// Takes what the queue has and reports it.
    fn take_completions(&mut self, errors: &ErrorLog) -> Result<(), DeviceFault> {
        while let Some(used) = self.queue.take_used()? {
            // The queue gives back only tokens that it was given.
            let slot = &mut self.slots[used.token as usize];
            let result = slot.result();
            let request = slot.request.take();
            self.free_slots.push(used.token);
            if let Some(request) = request {
                if let Err(error) = result {
                    errors.note(&request.extent, error);
                }
                request.ticket.complete(result);
            }
        }
        Ok(())
    }

    fn fail_all(&mut self, error: IoError) {
        for (token, slot) in (0..).zip(&mut self.slots) {
            if let Some(request) = slot.request.take() {
                self.free_slots.push(token);
                request.ticket.complete(Err(error));
            }
        }
    }

    /// A request that has been under way for too long.
    fn overdue(&self, watch: &Watch) -> Option<Extent> {
        let mut requests = self.slots.iter().filter_map(|slot| slot.request.as_ref());
        requests.find(|request| watch.is_overdue(request.begun)).map(|request| request.extent)
    }
}

/// Splits off the first segments as one, as far as they follow each other in memory and have no more than `longest` bytes.
#[inline]
fn split_run(segments: &[Segment], longest: u32) -> Option<(Segment, &[Segment])> {
    let (first, mut rest) = segments.split_first()?;
    let mut run = *first;
    while let Some((next, behind)) = rest.split_first()
        && next.address == run.address + u64::from(run.length)
        && run.length.saturating_add(next.length) <= longest
    {
        run.length += next.length;
        rest = behind;
    }
    Some((run, rest))
}

/// A segment of a request of this type, for the device.
#[inline]
const fn buffer_of(kind: u32, segment: &Segment) -> Buffer {
    Buffer { address: segment.address, length: segment.length, is_written: kind != TYPE_OUT }
}

impl Slot {
    fn write_request(&self, kind: u32, sector: u64) {
        let words = self.page.words();
        let header = [kind, 0, sector as u32, (sector >> 32) as u32];
        for (word, value) in words[HEADER_WORD..].iter().zip(header) {
            word.store(value, Ordering::Relaxed);
        }
        words[STATUS_WORD].store(STATUS_UNANSWERED, Ordering::Relaxed);
    }

    /// What stands in every chain: the header first, the status last.
    const fn ends(&self) -> [Buffer; 2] {
        let header = self.address + (HEADER_WORD * 4) as u64;
        let status = self.address + (STATUS_WORD * 4) as u64;
        [
            Buffer { address: header, length: HEADER_LENGTH, is_written: false },
            Buffer { address: status, length: 1, is_written: true },
        ]
    }

    fn build_chain(&self, kind: u32, mut segments: &[Segment], longest: u32, chain: &mut Vec<Buffer>) {
        let [header, status] = self.ends();
        chain.clear();
        chain.push(header);
        while let Some((run, rest)) = split_run(segments, longest) {
            chain.push(buffer_of(kind, &run));
            segments = rest;
        }
        chain.push(status);
    }

    /// Writes what is the same in the table for every request with segments.
    fn write_ends(&self) {
        let (table, [header, status]) = (&self.page.words()[TABLE_WORD..], self.ends());
        write_in_table(table, HEADER_DESCRIPTOR, &header, Some(FIRST_SEGMENT));
        write_in_table(table, STATUS_DESCRIPTOR, &status, None);
    }

    /// Writes the table for a request, and says how many descriptors it has.
    fn write_table(&self, kind: u32, mut segments: &[Segment], longest: u32) -> u16 {
        let table = &self.page.words()[TABLE_WORD..];
        let mut end = FIRST_SEGMENT;
        while let Some((run, rest)) = split_run(segments, longest) {
            let next = if rest.is_empty() { STATUS_DESCRIPTOR } else { end + 1 };
            write_in_table(table, end, &buffer_of(kind, &run), Some(next));
            end += 1;
            segments = rest;
        }
        end
    }

    /// What the device wrote as the request's status.
    fn result(&self) -> Result<(), IoError> {
        match self.page.words()[STATUS_WORD].load(Ordering::Relaxed) & 0xff {
            STATUS_OK => Ok(()),
            STATUS_UNSUPPORTED => Err(IoError::Unsupported),
            _ => Err(IoError::Device),
        }
    }
}
