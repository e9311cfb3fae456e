//! What a domain has of the machine's memory, and the books about it.

use super::{FrameList, info};
use crate::lock::{Mutex, MutexGuard};
use crate::{
    arch,
    domain::{self, Domain},
    page_table::Tables,
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hypercall_abi::{Errno, MachineFrame};

/// Set in [`DomainMemory::foreign_mappings`] once the domain has run: no more of them.
const SEALED: u32 = 1 << 31;

/// The frames that a domain owns, on two lists.
pub(super) struct OwnedFrames {
    /// Those it possesses.
    pub possessed: FrameList,
    /// Those it does not possess but that are used: given up while still mapped, or shared by the hypervisor.
    pub lingering: FrameList,
}

/// A domain's memory: how much, which frames, and the lock around its page tables.
pub struct DomainMemory {
    total: AtomicU64,
    maximum: AtomicU64,
    pub(crate) claimed: AtomicU64,
    frames: Mutex<OwnedFrames>,
    tables: Mutex<Tables>,
    has_stale_mappings: AtomicBool,
    foreign_mappings: AtomicU32,
}

impl DomainMemory {
    /// Memory of a domain that has none and may have `maximum` frames.
    pub const fn new(maximum: u64) -> Self {
        Self {
            total: AtomicU64::new(0),
            maximum: AtomicU64::new(maximum),
            claimed: AtomicU64::new(0),
            frames: Mutex::new(OwnedFrames { possessed: FrameList::new(), lingering: FrameList::new() }),
            tables: Mutex::new(Tables::new()),
            has_stale_mappings: AtomicBool::new(false),
            foreign_mappings: AtomicU32::new(0),
        }
    }

    /// Frames that count towards the maximum.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Most frames it may have.
    pub fn maximum(&self) -> u64 {
        self.maximum.load(Ordering::Relaxed)
    }

    /// Sets the most frames it may have; what it has already stays.
    pub fn set_maximum(&self, frames: u64) {
        self.maximum.store(frames, Ordering::Relaxed);
    }

    /// Calls `visit` for each frame it possesses, under the lock of the list.
    pub fn for_each_frame(&self, mut visit: impl FnMut(MachineFrame)) {
        let frames = self.frames.lock();
        let mut next = frames.possessed.first();
        while let Some(frame) = next {
            visit(frame);
            next = frames.possessed.after(frame);
        }
    }

    /// True when it owns nothing any more, not even what others still use.
    pub fn is_empty(&self) -> bool {
        let frames = self.frames.lock();
        frames.possessed.first().is_none() && frames.lingering.first().is_none()
    }

    pub(super) fn frames(&self) -> MutexGuard<'_, OwnedFrames> {
        self.frames.lock()
    }

    /// The lock around all page tables of the domain; see [`crate::page_table::TableSession`].
    pub(crate) fn lock_tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock()
    }

    /// Counts `frames` more, if the maximum allows.
    pub(crate) fn charge(&self, frames: u64) -> Result<(), Errno> {
        let within = |total: u64| total.checked_add(frames).filter(|total| *total <= self.maximum());
        let charged = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        charged.map(|_| ()).map_err(|_| Errno::ENOMEM)
    }

    /// Takes back a [`Self::charge`].
    pub(crate) fn discharge(&self, frames: u64) {
        self.total.fetch_sub(frames, Ordering::Relaxed);
    }

    /// Counts frames that came to the domain without being asked for.
    pub(super) fn charge_lingering(&self, frames: u64) {
        self.total.fetch_add(frames, Ordering::Relaxed);
    }

    /// Enters `count` frames from `first` on, whose states are set, as possessed.
    ///
    /// A dying domain gets nothing: it is marked dying before its lists are emptied under this lock.
    pub(crate) fn possess(&self, first: MachineFrame, count: u64, domain: &Domain) -> Result<(), Errno> {
        let mut frames = self.frames.lock();
        if domain.is_dying() {
            return Err(Errno::EINVAL);
        }
        (first.0..first.0 + count).for_each(|frame| frames.possessed.push(MachineFrame(frame)));
        Ok(())
    }

    /// Enters a frame that the hypervisor shares.
    pub(super) fn adopt(&self, frame: MachineFrame, domain: &Domain) -> Result<(), Errno> {
        let mut frames = self.frames.lock();
        if domain.is_dying() {
            return Err(Errno::EINVAL);
        }
        frames.lingering.push(frame);
        Ok(())
    }

    /// Enters a frame from [`super::share_new_for`], for a domain that nobody else knows of yet.
    pub fn adopt_shared(&self, frame: MachineFrame) {
        self.frames.lock().lingering.push(frame);
    }

    /// A possessed frame is given up: from now on it lingers.
    pub(super) fn let_linger(&self, frame: MachineFrame) {
        let mut frames = self.frames.lock();
        frames.possessed.remove(frame);
        frames.lingering.push(frame);
    }

    /// A lingering frame is being freed.
    pub(super) fn forget(&self, frame: MachineFrame) {
        debug_assert!(info(frame).is_some_and(|info| info.state().references() == 0));
        self.frames.lock().lingering.remove(frame);
        self.discharge(1);
    }

    /// An entry of one of the domain's page tables stopped mapping something, or mapping it writable, and TLBs
    /// may not know. Called with the tables locked.
    #[inline]
    pub(crate) fn note_stale_mapping(&self) {
        // A store to a line that other CPUs read costs more than looking first.
        if !self.has_stale_mappings.load(Ordering::Relaxed) {
            self.has_stale_mappings.store(true, Ordering::Release);
        }
    }

    /// Flushes the domain's TLBs if they may know mappings that are gone. Called with the tables locked, so no
    /// mapping can go between the flush and the note that it is done.
    pub(crate) fn flush_stale_mappings(&self, domain: &Domain) {
        if self.has_stale_mappings.load(Ordering::Relaxed) {
            arch::tlb::flush_domain(domain);
            self.has_stale_mappings.store(false, Ordering::Release);
        }
    }

    /// As [`Self::flush_stale_mappings`] but without the lock, so the note stays.
    pub(super) fn flush_before_freeing(&self, domain: &Domain) {
        if self.has_stale_mappings.load(Ordering::Acquire) {
            arch::tlb::flush_domain(domain);
        }
    }

    /// Somebody else's page table is about to map a frame of this domain, which its builder may do until the
    /// domain is [sealed](Self::seal).
    ///
    /// # Errors
    /// `EPERM` afterwards.
    pub(crate) fn add_foreign_mapping(&self) -> Result<(), Errno> {
        let one_more = |count: u32| if count >= SEALED - 1 { None } else { Some(count + 1) };
        let added = self.foreign_mappings.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more);
        added.map(|_| ()).map_err(|_| Errno::EPERM)
    }

    pub(crate) fn remove_foreign_mappings(&self, count: u32) {
        self.foreign_mappings.fetch_sub(count, Ordering::Release);
    }

    /// Ends the builder's right to this domain's memory for good; to be called before the domain first runs.
    ///
    /// # Errors
    /// `EBUSY` while the builder still maps any of it.
    pub fn seal(&self) -> Result<(), Errno> {
        match self.foreign_mappings.compare_exchange(0, SEALED, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) | Err(SEALED) => Ok(()),
            Err(_) => Err(Errno::EBUSY),
        }
    }

    /// True once [sealed](Self::seal).
    pub fn is_sealed(&self) -> bool {
        self.foreign_mappings.load(Ordering::Acquire) == SEALED
    }
}

/// Forgets so many foreign mappings of frames of `owner`.
pub(crate) fn remove_foreign_mappings(owner: hypercall_abi::DomainId, count: u32) {
    if let Some(owner) = domain::find(owner) {
        owner.memory.remove_foreign_mappings(count);
    }
}
