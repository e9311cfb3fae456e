#![expect(unsafe_code, reason = "the one place that turns a machine frame into a pointer")]
//! The direct map: all machine memory, as the hypervisor sees it.
//!
//! The idea to hold: nothing here hands out `&T` or `&mut T` to memory that a guest may write at the same
//! moment. A frame is seen as an array of atomics, or copied out and in; either is defined whatever another
//! CPU does meanwhile. Every access is bounded by [`frame_count`], so a wild frame number stops here.
//!
//! On the host the "machine" is a block of memory that a test makes with `HostMemory`.

use crate::layout::PAGE_SIZE;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use hypercall_abi::MachineFrame;

/// Number of 64-bit words in a frame.
pub const WORDS_PER_FRAME: usize = (PAGE_SIZE / 8) as usize;

/// An integer that may be viewed as an atomic in shared memory.
pub trait SharedInteger: private::Sealed {
    /// The atomic of the same size.
    type Atomic: 'static;
}

mod private {
    pub trait Sealed {}
}

macro_rules! shared_integer {
    ($($integer:ty => $atomic:ty),*) => {$(
        impl private::Sealed for $integer {}
        impl SharedInteger for $integer { type Atomic = $atomic; }
    )*};
}
shared_integer!(u8 => AtomicU8, u16 => AtomicU16, u32 => AtomicU32, u64 => AtomicU64);

/// Number of machine frames; every frame number below it may be looked at.
pub fn frame_count() -> u64 {
    backing::frame_count()
}

/// A whole frame as 64-bit atomics: the view page tables are read and written through.
///
/// # Panics
/// If the frame does not exist: frame numbers from guests are checked by [`crate::frame`] before they come here.
#[inline]
pub fn words(frame: MachineFrame) -> &'static [AtomicU64; WORDS_PER_FRAME] {
    // SAFETY: the pointer is to a whole, aligned, existing frame, which stays mapped for ever; atomics may be
    // shared with any other user of the same memory.
    unsafe { &*pointer(frame).cast() }
}

/// One naturally aligned integer at `offset` bytes into a frame.
///
/// # Panics
/// If the frame does not exist, or the integer does not lie aligned inside it.
#[inline]
pub fn atomic<T: SharedInteger>(frame: MachineFrame, offset: usize) -> &'static T::Atomic {
    let size = size_of::<T>();
    assert!(offset.is_multiple_of(size) && offset + size <= PAGE_SIZE as usize, "misplaced atomic");
    // SAFETY: as in `words`; the assertion keeps the integer aligned and inside the frame, and `T::Atomic` has
    // the size of `T` because `SharedInteger` is sealed.
    unsafe { &*pointer(frame).add(offset).cast() }
}

/// Copies bytes out of a frame.
///
/// # Panics
/// If the frame does not exist or the range leaves it.
pub fn read_bytes(frame: MachineFrame, offset: usize, destination: &mut [u8]) {
    assert!(offset + destination.len() <= PAGE_SIZE as usize, "read leaves the frame");
    // SAFETY: the range is inside one existing frame, and `destination` is ours alone. Another CPU may write the
    // source meanwhile: the bytes are then any mixture, and the caller treats them as unchecked input.
    unsafe { copy(pointer(frame).add(offset), destination.as_mut_ptr(), destination.len()) }
}

/// Copies bytes into a frame.
///
/// # Panics
/// If the frame does not exist or the range leaves it.
pub fn write_bytes(frame: MachineFrame, offset: usize, source: &[u8]) {
    assert!(offset + source.len() <= PAGE_SIZE as usize, "write leaves the frame");
    // SAFETY: as in `read_bytes`, the other way round.
    unsafe { copy(source.as_ptr(), pointer(frame).add(offset), source.len()) }
}

/// Copies between two frames; the ranges may overlap only if they are the same range.
///
/// # Panics
/// If a frame does not exist or a range leaves its frame.
#[inline]
pub fn copy_between(source: (MachineFrame, usize), destination: (MachineFrame, usize), length: usize) {
    assert!(source.1 + length <= PAGE_SIZE as usize, "source leaves the frame");
    assert!(destination.1 + length <= PAGE_SIZE as usize, "destination leaves the frame");
    // SAFETY: both ranges lie inside existing frames. `copy` works forwards a byte or word at a time, so even
    // overlapping ranges leave defined (if useless) bytes.
    unsafe { copy(pointer(source.0).add(source.1), pointer(destination.0).add(destination.1), length) }
}

/// Fills a frame with zeroes.
///
/// # Panics
/// If the frame does not exist.
pub fn zero(frame: MachineFrame) {
    // SAFETY: one whole existing frame; see `copy` for why a string instruction and not a slice.
    unsafe { fill_zero(pointer(frame)) }
}

/// What the boot loader put in memory, as long as the frames are kept for it: nobody writes them.
///
/// # Panics
/// If the range is not memory.
#[cfg(target_os = "none")]
pub(crate) fn boot_module(range: core::ops::Range<u64>) -> &'static [u8] {
    assert!(
        range.start <= range.end && range.end <= frame_count() * PAGE_SIZE,
        "a module at {range:#x?} lies outside memory, which ends at {:#x}",
        frame_count() * PAGE_SIZE
    );
    let start = backing::base().wrapping_add(range.start as usize);
    // SAFETY: the range is mapped memory that was handed to nobody.
    unsafe { core::slice::from_raw_parts(start, (range.end - range.start) as usize) }
}

/// Start of a frame in the hypervisor's address space, for [`crate::frame_object`] and [`crate::arch`], which
/// own the frame they ask for.
///
/// # Panics
/// If the frame does not exist.
#[inline]
pub(crate) fn pointer(frame: MachineFrame) -> *mut u8 {
    assert!(frame.0 < frame_count(), "machine frame {:#x} does not exist", frame.0);
    backing::base().wrapping_add((frame.0 * PAGE_SIZE) as usize)
}

/// The frame that holds `pointer`, which must come from [`pointer()`].
pub(crate) fn frame_of(pointer: *const u8) -> MachineFrame {
    MachineFrame((pointer as u64 - backing::base() as u64) / PAGE_SIZE)
}

/// Forward copy with one string instruction: a peer may write either side while it runs, which Rust's own
/// copy functions do not allow for.
///
/// # Safety
/// Both ranges must be mapped for `length` bytes.
#[inline]
unsafe fn copy(source: *const u8, destination: *mut u8, length: usize) {
    // SAFETY: the caller vouches for the ranges; the direction flag is clear by convention. Whole words first:
    // the remainder of at most seven bytes follows in the same registers.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, {tail}",
            "rep movsb",
            tail = in(reg) length & 7,
            inout("rcx") length / 8 => _,
            inout("rsi") source => _,
            inout("rdi") destination => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Zeroes a frame with one string instruction.
///
/// # Safety
/// `destination` must be a whole mapped frame.
unsafe fn fill_zero(destination: *mut u8) {
    // SAFETY: the caller vouches for the frame.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            in("rax") 0u64,
            inout("rcx") WORDS_PER_FRAME => _,
            inout("rdi") destination => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(target_os = "none")]
mod backing {
    use crate::layout::DIRECT_MAP_BASE;
    use core::sync::atomic::{AtomicU64, Ordering};

    static FRAME_COUNT: AtomicU64 = AtomicU64::new(0);

    #[inline]
    pub fn frame_count() -> u64 {
        FRAME_COUNT.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn base() -> *mut u8 {
        DIRECT_MAP_BASE as *mut u8
    }

    pub fn set_frame_count(frames: u64) {
        FRAME_COUNT.store(frames, Ordering::Relaxed);
    }
}

/// Says how many frames the direct map covers; called by the boot code as soon as it has mapped them.
#[cfg(target_os = "none")]
pub(crate) fn set_frame_count(frames: u64) {
    backing::set_frame_count(frames);
}

#[cfg(not(target_os = "none"))]
mod backing {
    use core::cell::Cell;

    std::thread_local! {
        pub static MACHINE: Cell<(*mut u8, u64)> = const { Cell::new((core::ptr::null_mut(), 0)) };
    }

    pub fn frame_count() -> u64 {
        MACHINE.get().1
    }

    pub fn base() -> *mut u8 {
        MACHINE.get().0
    }
}

/// A machine's memory on the host, for tests: made per thread, so tests run in parallel.
#[cfg(not(target_os = "none"))]
pub struct HostMemory {
    memory: *mut u8,
    layout: std::alloc::Layout,
}

#[cfg(not(target_os = "none"))]
impl HostMemory {
    /// Makes `frames` frames of zeroed memory the machine of this thread.
    ///
    /// # Panics
    /// If `frames` is zero or this thread already has a machine.
    pub fn new(frames: u64) -> Self {
        assert!(frames > 0 && backing::MACHINE.get().0.is_null(), "one memory a thread");
        let bytes = (frames * PAGE_SIZE) as usize;
        let layout = std::alloc::Layout::from_size_align(bytes, 1 << 21).expect("a sane size");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!memory.is_null(), "the host has no {bytes} bytes");
        backing::MACHINE.set((memory, frames));
        Self { memory, layout }
    }
}

/// One thread's memory, to be used by another that does not outlive it.
#[cfg(not(target_os = "none"))]
#[derive(Clone, Copy)]
pub(crate) struct HostView {
    base: usize,
    frames: u64,
}

#[cfg(not(target_os = "none"))]
impl HostView {
    /// This thread's memory.
    pub fn here() -> Self {
        let (base, frames) = backing::MACHINE.get();
        Self { base: base.expose_provenance(), frames }
    }

    /// Makes it this thread's memory as well.
    pub fn enter(self) {
        backing::MACHINE.set((core::ptr::with_exposed_provenance_mut(self.base), self.frames));
    }
}

#[cfg(not(target_os = "none"))]
impl Drop for HostMemory {
    fn drop(&mut self) {
        backing::MACHINE.set((core::ptr::null_mut(), 0));
        // SAFETY: allocated in `new` with this very layout, and nothing of this thread can name it any more.
        unsafe { std::alloc::dealloc(self.memory, self.layout) }
    }
}
