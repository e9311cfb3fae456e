#![expect(unsafe_code, reason = "lends pages as plain slices while nobody else can reach them")]
//! Pages that are either ours alone or shared with a back end, never both.
//!
//! A payload is written and read as a plain slice while it is [`PrivateBuffer`], and handed over as
//! [`SharedBuffer`]. Changing from one to the other is a write into the grant table, so no payload need be
//! copied just because the back end cannot be trusted:
//!
//! ```text
//!                    share: one grant a page
//!   PrivateBuffer ──────────────────────────────▶ SharedBuffer
//!    a plain slice ◀────────────────────────────── copied out of, nothing else
//!                    reclaim: grants end; refused while the back end still has hold of a page
//! ```
//!
//! A shared buffer that is dropped while the back end has hold of a page is lost for good: such a page is never
//! used for anything else. Whoever wants it back keeps the buffer and tries again.

use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::slice;
use core::sync::atomic::AtomicU32;

use hypercall_abi::{DomainId, Errno, GrantReference, MachineFrame, PAGE_SIZE};
use pv_runtime::grant;
use pv_runtime::memory::{PageRun, SharedMemory};

/// What a back end may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEndMay {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// A grant table, as far as one back end is concerned.
pub trait GrantTable {
    /// A grant given to the back end.
    type Grant: Grant;

    /// The domain that the back end is in.
    fn peer(&self) -> DomainId;

    /// Lets the back end at one of our pages.
    ///
    /// # Errors
    ///
    /// If the table is full.
    fn grant(&self, frame: MachineFrame, access: BackEndMay) -> Result<Self::Grant, Errno>;
}

/// A page that a back end may get at.
pub trait Grant: Sized {
    /// What the back end names it by.
    fn reference(&self) -> GrantReference;

    /// Ends it.
    ///
    /// # Errors
    ///
    /// The grant itself, if the back end has hold of the page.
    fn end(self) -> Result<(), Self>;
}

/// The domain's own grant table, for the back end in the domain of this number.
#[derive(Clone, Copy, Debug)]
pub struct GrantsTo(pub DomainId);

impl GrantTable for GrantsTo {
    type Grant = grant::Grant;

    fn peer(&self) -> DomainId {
        self.0
    }

    fn grant(&self, frame: MachineFrame, access: BackEndMay) -> Result<grant::Grant, Errno> {
        let access = match access {
            BackEndMay::Read => grant::GrantAccess::ReadOnly,
            BackEndMay::Write => grant::GrantAccess::ReadWrite,
        };
        grant::grant_access(self.0, frame, access)
    }
}

impl Grant for grant::Grant {
    fn reference(&self) -> GrantReference {
        self.reference()
    }

    fn end(self) -> Result<(), Self> {
        self.end()
    }
}

/// Pages and their grants. `grants` is empty or has one grant for each of the first pages.
struct Buffer<G: Grant> {
    pages: ManuallyDrop<PageRun>,
    grants: Vec<G>,
}

impl<G: Grant> Buffer<G> {
    /// Ends all grants; returns whether that succeeded. Those that are left can be tried again.
    fn end_grants(&mut self) -> bool {
        while let Some(grant) = self.grants.pop() {
            if let Err(grant) = grant.end() {
                self.grants.push(grant);
                return false;
            }
        }
        true
    }
}

impl<G: Grant> Drop for Buffer<G> {
    fn drop(&mut self) {
        if self.end_grants() {
            // SAFETY: this is the only place that drops the pages, and the field is not used again.
            unsafe { ManuallyDrop::drop(&mut self.pages) };
        } else {
            log::error!("{} pages are lost: the back end has hold of them", self.pages.pages());
        }
    }
}

/// Pages that nobody else can reach. They follow each other and can be used as one slice of bytes.
pub struct PrivateBuffer<G: Grant>(Buffer<G>);

impl<G: Grant> PrivateBuffer<G> {
    /// Takes `pages` free pages, filled with zeroes.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there are not that many in a row, `EINVAL` if none is asked for.
    pub fn new(pages: usize) -> Result<Self, Errno> {
        Ok(Self(Buffer { pages: ManuallyDrop::new(PageRun::new(pages)?), grants: Vec::with_capacity(pages) }))
    }

    /// Takes as many free pages as `bytes` need, at least one.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_size(bytes: usize) -> Result<Self, Errno> {
        Self::new(bytes.div_ceil(PAGE_SIZE).max(1))
    }

    /// Lets the back end at the pages that hold the first `length` bytes.
    ///
    /// # Errors
    ///
    /// [`NotShared`] if the grant table is full.
    ///
    /// # Panics
    ///
    /// If the buffer is shorter than `length`.
    pub fn share<T: GrantTable<Grant = G>>(
        self,
        table: &T,
        access: BackEndMay,
        length: usize,
    ) -> Result<SharedBuffer<G>, NotShared<G>> {
        let mut shared = SharedBuffer(self.0);
        match shared.grant(table, access, length.div_ceil(PAGE_SIZE)) {
            Ok(()) => Ok(shared),
            Err(errno) => Err(NotShared { buffer: shared.reclaim().ok(), errno }),
        }
    }
}

/// The grant table had no room for a buffer.
pub struct NotShared<G: Grant> {
    /// The buffer, unless the back end guessed the reference of a page meanwhile.
    pub buffer: Option<PrivateBuffer<G>>,
    /// What the table said.
    pub errno: Errno,
}

impl<G: Grant> fmt::Debug for NotShared<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NotShared({})", self.errno)
    }
}

impl<G: Grant> Deref for PrivateBuffer<G> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY:
        // 1. The pages are mapped and initialised, from `as_ptr` on, for as long as `self.0.pages` lives.
        // 2. Nobody changes them meanwhile: a private buffer has no grants (`share` consumes it, `reclaim`
        //    makes one only when all have ended), and the pages are reached through this type alone.
        unsafe { slice::from_raw_parts(self.0.pages.as_ptr(), self.0.pages.size()) }
    }
}

impl<G: Grant> DerefMut for PrivateBuffer<G> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; the exclusive borrow of the only owner makes the slice exclusive.
        unsafe { slice::from_raw_parts_mut(self.0.pages.as_ptr(), self.0.pages.size()) }
    }
}

impl<G: Grant> fmt::Debug for PrivateBuffer<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrivateBuffer({} pages)", self.0.pages.pages())
    }
}

/// Pages that a back end may get at.
pub struct SharedBuffer<G: Grant>(Buffer<G>);

impl<G: Grant> SharedBuffer<G> {
    /// Takes `pages` free pages, none of which is shared yet.
    ///
    /// # Errors
    ///
    /// As for [`PrivateBuffer::new`].
    pub fn new(pages: usize) -> Result<Self, Errno> {
        PrivateBuffer::new(pages).map(|buffer| Self(buffer.0))
    }

    /// Lets the back end at the first `pages` pages, as far as they are not shared already.
    ///
    /// # Errors
    ///
    /// If the grant table is full.
    ///
    /// # Panics
    ///
    /// If there are fewer pages.
    #[inline]
    pub fn grant<T: GrantTable<Grant = G>>(
        &mut self,
        table: &T,
        access: BackEndMay,
        pages: usize,
    ) -> Result<(), Errno> {
        for page in self.0.grants.len()..pages {
            self.0.grants.push(table.grant(self.0.pages.machine_frame(page), access)?);
        }
        Ok(())
    }

    /// Ends all grants; returns whether that succeeded. Those that are left can be tried again.
    pub fn end_grants(&mut self) -> bool {
        self.0.end_grants()
    }

    /// How many pages there are, shared or not.
    pub fn pages(&self) -> usize {
        self.0.pages.pages()
    }

    /// The machine frame of a page.
    ///
    /// # Panics
    ///
    /// If there are fewer pages.
    pub fn machine_frame(&self, page: usize) -> MachineFrame {
        self.0.pages.machine_frame(page)
    }

    /// The grant references of the shared pages, in order.
    pub fn references(&self) -> impl ExactSizeIterator<Item = GrantReference> + '_ {
        self.0.grants.iter().map(Grant::reference)
    }

    /// The grant reference of a page.
    ///
    /// # Panics
    ///
    /// If that page is not shared.
    pub fn reference(&self, page: usize) -> GrantReference {
        self.0.grants[page].reference()
    }

    /// Copies bytes out, from `offset` on. The back end may be changing them.
    ///
    /// # Panics
    ///
    /// If there are fewer bytes.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        self.0.pages.copy_out(offset, into);
    }

    /// Copies bytes in, from `offset` on. The back end may change them at once.
    ///
    /// # Panics
    ///
    /// If there are fewer bytes.
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        self.0.pages.copy_in(offset, from);
    }

    /// Takes the pages back.
    ///
    /// # Errors
    ///
    /// The buffer, still shared, if the back end has hold of a page. Single pages of it may have been taken
    /// back, so a buffer of several pages is then good for nothing but another try.
    pub fn reclaim(mut self) -> Result<PrivateBuffer<G>, Self> {
        if self.0.end_grants() { Ok(PrivateBuffer(self.0)) } else { Err(self) }
    }
}

impl<G: Grant> AsRef<[AtomicU32]> for SharedBuffer<G> {
    fn as_ref(&self) -> &[AtomicU32] {
        self.0.pages.words()
    }
}

impl<G: Grant> fmt::Debug for SharedBuffer<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SharedBuffer({} pages)", self.0.pages.pages())
    }
}
