//! Memory for a disk's requests, which stays granted to the back end.
//!
//! A back end that keeps grants mapped (`feature-persistent`) reaches a page that it has seen once without asking the
//! hypervisor again. So a page is granted when it is first used, for as long as its buffer lives, and no byte is copied
//! on its way. In return the back end can read and change a buffer at any time: nobody gets a plain slice of it.
//!
//! ```text
//!   BufferPool ── take ──► DataBuffer ── grant ──► requests, one after the other
//!       ▲                      │
//!       └──────── drop ────────┘   unless all grants can be ended, which frees the pages
//! ```
//!
//! A grant cannot be ended while the back end has the page mapped, and it may have it mapped until the disk is
//! disconnected. That is why pages of a dropped buffer wait, with their grants, for the next buffer of that size.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::mem::ManuallyDrop;

use hypercall_abi::io::blkif::{BlkifRequestSegment, SECTOR_SIZE};
use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::operation::Span;
use crate::buffer::{BackEndMay, Grant, GrantTable, SharedBuffer};

/// Bytes that are copied into or out of a buffer at once.
const PIECE: usize = SECTOR_SIZE;

/// Segments for some pages of a buffer, in a page of their own.
struct Table<G: Grant> {
    span: Span,
    last: BlkifRequestSegment,
    page: SharedBuffer<G>,
}

/// Pages with what is granted of them, and to whom.
struct Memory<G: Grant> {
    pages: SharedBuffer<G>,
    tables: Vec<Table<G>>,
    peer: Option<DomainId>,
}

impl<G: Grant> Memory<G> {
    fn new(pages: usize) -> Result<Self, Errno> {
        Ok(Self { pages: SharedBuffer::new(pages)?, tables: Vec::new(), peer: None })
    }

    /// Ends all grants; returns whether that succeeded. Those that are left can be tried again.
    fn end_grants(&mut self) -> bool {
        self.tables.retain_mut(|table| !table.page.end_grants());
        self.pages.end_grants() && self.tables.is_empty()
    }

    /// Lets the back end at the first `pages` pages, as far as it has not got at them already.
    fn grant<T: GrantTable<Grant = G>>(&mut self, table: &T, pages: usize) -> Result<(), Errno> {
        if self.peer != Some(table.peer()) {
            if !self.end_grants() {
                return Err(Errno::EBUSY);
            }
            self.peer = Some(table.peer());
        }
        let granted = self.pages.grant(table, BackEndMay::Write, pages);
        if granted.is_err() {
            // Others can use what this request cannot.
            self.end_grants();
        }
        granted
    }

    fn segment(&self, page: usize, length: usize) -> BlkifRequestSegment {
        let bytes = (length - page * PAGE_SIZE).min(PAGE_SIZE);
        let last_sect = (bytes / SECTOR_SIZE - 1) as u8;
        BlkifRequestSegment {
            gref: self.pages.reference(page),
            first_sect: 0,
            last_sect,
            ..Default::default()
        }
    }

    /// A table of segments for a span. One that was made before is used again.
    fn table<T: GrantTable<Grant = G>>(
        &mut self,
        span: Span,
        length: usize,
        table: &T,
    ) -> Option<GrantReference> {
        let last = self.segment(span.end() - 1, length);
        let index = match self.tables.iter().position(|table| table.span.first_page == span.first_page) {
            Some(index) if self.tables[index].span == span && self.tables[index].last == last => {
                return Some(self.tables[index].page.reference(0));
            }
            Some(index) => index,
            None => {
                let mut page = SharedBuffer::new(1).ok()?;
                page.grant(table, BackEndMay::Write, 1).ok()?;
                self.tables.push(Table { span, last, page });
                self.tables.len() - 1
            }
        };
        for (place, page) in span.pages().enumerate() {
            let segment = self.segment(page, length);
            self.tables[index].page.copy_in(place * size_of_val(&segment), segment.as_bytes());
        }
        let table = &mut self.tables[index];
        (table.span, table.last) = (span, last);
        Some(table.page.reference(0))
    }
}

/// Pages of buffers that are not in use, but that a back end may still have mapped. Clones are the same pool.
#[expect(clippy::vec_box, reason = "buffers go with requests from list to list: a pointer moves")]
pub struct BufferPool<G: Grant>(Rc<RefCell<Vec<Box<Memory<G>>>>>);

impl<G: Grant> BufferPool<G> {
    /// An empty pool.
    pub fn new() -> Self {
        Self(Rc::default())
    }

    /// A buffer of as many pages as `bytes` need, at least one, with anything in it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there are not that many pages in a row.
    pub fn take(&self, bytes: usize) -> Result<DataBuffer<G>, Errno> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1);
        let waiting = self.0.borrow().iter().rposition(|memory| memory.pages.pages() == pages);
        let memory = match waiting {
            Some(index) => self.0.borrow_mut().swap_remove(index),
            None => {
                self.sweep();
                Box::new(Memory::new(pages)?)
            }
        };
        Ok(DataBuffer { memory: Some(memory), pool: self.clone() })
    }

    /// Frees what no back end has mapped any more.
    pub fn sweep(&self) {
        self.0.borrow_mut().retain_mut(|memory| !memory.end_grants());
    }
}

impl<G: Grant> Clone for BufferPool<G> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<G: Grant> Default for BufferPool<G> {
    fn default() -> Self {
        Self::new()
    }
}

/// Memory for requests to a disk, one at a time.
pub struct DataBuffer<G: Grant> {
    /// There until the buffer is dropped.
    memory: Option<Box<Memory<G>>>,
    pool: BufferPool<G>,
}

impl<G: Grant> DataBuffer<G> {
    fn memory(&self) -> &Memory<G> {
        self.memory.as_ref().expect("only a buffer that was dropped has no memory")
    }

    fn memory_mut(&mut self) -> &mut Memory<G> {
        self.memory.as_mut().expect("only a buffer that was dropped has no memory")
    }

    /// Bytes that it has room for.
    pub fn size(&self) -> usize {
        self.memory().pages.pages() * PAGE_SIZE
    }

    /// The machine frame of a page.
    ///
    /// # Panics
    ///
    /// If the buffer has fewer pages.
    pub fn machine_frame(&self, page: usize) -> MachineFrame {
        self.memory().pages.machine_frame(page)
    }

    /// Has `make` fill the first `length` bytes, a piece of whole sectors at a time.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than `length`.
    pub fn fill_with(&mut self, length: usize, mut make: impl FnMut(&mut [u8])) {
        let mut piece = [0; PIECE];
        for offset in (0..length).step_by(PIECE) {
            let piece = &mut piece[..(length - offset).min(PIECE)];
            make(piece);
            self.memory().pages.copy_in(offset, piece);
        }
    }

    /// Shows `visit` a copy of the first `length` bytes, a piece of whole sectors at a time.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than `length`.
    pub fn visit(&self, length: usize, mut visit: impl FnMut(&[u8])) {
        let mut piece = [0; PIECE];
        for offset in (0..length).step_by(PIECE) {
            let piece = &mut piece[..(length - offset).min(PIECE)];
            self.memory().pages.copy_out(offset, piece);
            visit(piece);
        }
    }

    /// Lets the back end at the first `pages` pages, as far as it has not got at them already.
    pub(super) fn grant<T: GrantTable<Grant = G>>(&mut self, table: &T, pages: usize) -> Result<(), Errno> {
        self.memory_mut().grant(table, pages)
    }

    /// The segments for pages that are granted, of a request of `length` bytes: one a page.
    pub(super) fn segments(
        &self,
        span: Span,
        length: usize,
    ) -> impl Iterator<Item = BlkifRequestSegment> + '_ {
        let memory = self.memory();
        span.pages().map(move |page| memory.segment(page, length))
    }

    /// A page that holds these segments, at most as many as fit; `None` if none can be had.
    pub(super) fn table<T: GrantTable<Grant = G>>(
        &mut self,
        span: Span,
        length: usize,
        table: &T,
    ) -> Option<GrantReference> {
        self.memory_mut().table(span, length, table)
    }
}

impl<G: Grant> Drop for DataBuffer<G> {
    fn drop(&mut self) {
        if let Some(mut memory) = self.memory.take()
            && !memory.end_grants()
        {
            self.pool.0.borrow_mut().push(memory);
        }
    }
}

impl<G: Grant> fmt::Debug for DataBuffer<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DataBuffer({} bytes)", self.size())
    }
}

/// A buffer that a device of this domain's own may be reading or writing. Dropped in that state its pages are lost,
/// since nobody could say when the device will be done with them.
pub(super) struct LentBuffer<G: Grant>(ManuallyDrop<DataBuffer<G>>);

impl<G: Grant> LentBuffer<G> {
    /// Lends a buffer to a device.
    pub(super) fn new(buffer: DataBuffer<G>) -> Self {
        Self(ManuallyDrop::new(buffer))
    }

    /// The machine frame of a page.
    ///
    /// # Panics
    ///
    /// If the buffer has fewer pages.
    pub(super) fn machine_frame(&self, page: usize) -> MachineFrame {
        self.0.machine_frame(page)
    }

    /// Takes the buffer back, once the device is done with it.
    pub(super) fn give_back(self) -> DataBuffer<G> {
        ManuallyDrop::into_inner(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeGrant, FakeGrants};

    const PAGES: usize = 3;
    const SIZE: usize = PAGES * PAGE_SIZE;
    const ALL: Span = Span { first_page: 0, pages: PAGES };

    fn buffer() -> (BufferPool<FakeGrant>, DataBuffer<FakeGrant>) {
        let pool = BufferPool::new();
        let buffer = pool.take(SIZE).expect("a host has memory");
        (pool, buffer)
    }

    fn references(buffer: &DataBuffer<FakeGrant>) -> Vec<GrantReference> {
        buffer.segments(ALL, SIZE).map(|segment| segment.gref).collect()
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let (_pool, mut buffer) = buffer();
        let mut next = 0_u32;
        let length = SIZE - SECTOR_SIZE / 2;
        buffer.fill_with(length, |piece| {
            next += 1;
            piece.fill(next as u8);
        });
        let mut seen = Vec::new();
        buffer.visit(length, |piece| seen.extend_from_slice(piece));
        assert_eq!(seen.len(), length);
        assert!(seen.chunks(SECTOR_SIZE).zip(1_u32..).all(|(piece, number)| piece[0] == number as u8));
    }

    #[test]
    fn pages_are_granted_once_and_to_one_back_end() {
        let (grants, others) = (FakeGrants::default(), FakeGrants::default());
        let (_pool, mut buffer) = buffer();
        buffer.grant(&grants, 1).expect("there is room");
        buffer.grant(&grants, PAGES).expect("there is room");
        let first = references(&buffer);
        assert!(buffer.table(ALL, SIZE, &grants).is_some());
        buffer.grant(&grants, PAGES).expect("nothing is to be done");
        assert_eq!((references(&buffer), grants.count()), (first.clone(), PAGES + 1));
        grants.hold(first[0], true);
        assert_eq!(buffer.grant(&others, PAGES), Err(Errno::EBUSY), "another has hold of it");
        grants.hold(first[0], false);
        buffer.grant(&others, PAGES).expect("nobody has");
        assert_eq!((grants.count(), others.count()), (0, PAGES));
    }

    #[test]
    fn a_table_is_written_once_and_again_when_it_must_be_another() {
        let grants = FakeGrants::default();
        let (_pool, mut buffer) = buffer();
        buffer.grant(&grants, PAGES).expect("there is room");
        let last_sectors = |buffer: &mut DataBuffer<FakeGrant>, pages, length| {
            let span = Span { first_page: 0, pages };
            let table = buffer.table(span, length, &grants).expect("there is room");
            let bytes = grants.read(table, 0, PAGES * 8);
            (table, [5, 13, 21].map(|at| bytes[at]))
        };
        let (table, full) = last_sectors(&mut buffer, 3, SIZE);
        assert_eq!(full, [7, 7, 7]);
        assert_eq!(last_sectors(&mut buffer, 3, SIZE - SECTOR_SIZE), (table, [7, 7, 6]));
        grants.write(table, 0, &[0xee; 24]);
        let unchanged = last_sectors(&mut buffer, 3, SIZE - SECTOR_SIZE);
        assert_eq!(unchanged, (table, [0xee; 3]), "the back end harms itself");
        assert_eq!(last_sectors(&mut buffer, 2, SIZE), (table, [7, 7, 0xee]));
    }

    #[test]
    fn pages_that_a_back_end_has_mapped_wait_for_the_next_buffer() {
        let grants = FakeGrants::default();
        let (pool, mut buffer) = buffer();
        buffer.grant(&grants, PAGES).expect("there is room");
        let (references, frame) = (references(&buffer), buffer.machine_frame(0));
        grants.hold(references[1], true);
        drop(buffer);
        let other = pool.take(PAGE_SIZE).expect("a host has memory");
        assert_ne!(other.machine_frame(0), frame);
        let mut again = pool.take(SIZE).expect("it waits");
        assert_eq!(again.machine_frame(0), frame);
        again.grant(&grants, PAGES).expect("there is room");
        assert_eq!(self::references(&again)[1], references[1]);
        drop(again);
        grants.hold(references[1], false);
        pool.sweep();
        assert_eq!((grants.count(), pool.0.borrow().len()), (0, 0));
    }

    #[test]
    fn pages_that_nobody_has_mapped_are_freed_with_the_buffer() {
        let grants = FakeGrants::default();
        let (pool, mut buffer) = buffer();
        buffer.grant(&grants, PAGES).expect("there is room");
        assert!(buffer.table(ALL, SIZE, &grants).is_some());
        drop(buffer);
        assert_eq!((grants.count(), pool.0.borrow().len()), (0, 0));
    }
}
