#![expect(unsafe_code, reason = "places values in frames and counts who holds them")]
//! The hypervisor's own objects live in whole frames.
//!
//! There is no heap. A domain, a vCPU, a table of event channels: each takes one or a few frames from the frame
//! allocator, so every byte the hypervisor uses stands in the frame ledger, allocation fails by returning
//! `None`, and a guest can never fragment or exhaust anything but frames.

use crate::{direct_map, frame_allocator, layout::PAGE_SIZE};
use core::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering, fence},
};

/// Frames (as a power of two) that a `T` takes.
const fn order_of<T>() -> u32 {
    let frames = size_of::<T>().div_ceil(PAGE_SIZE as usize);
    frames.next_power_of_two().trailing_zeros()
}

/// Takes frames for a `T` and moves `value` in.
fn place<T>(value: T) -> Option<NonNull<T>> {
    const { assert!(align_of::<T>() <= PAGE_SIZE as usize) };
    let frame = frame_allocator::allocate_for_hypervisor(order_of::<T>())?;
    let pointer = NonNull::new(direct_map::pointer(frame).cast::<T>())?;
    // SAFETY: the frames are ours alone, contiguous in the direct map, large enough and aligned.
    unsafe { pointer.write(value) };
    Some(pointer)
}

/// Drops the value at `pointer` and returns its frames.
///
/// # Safety
/// `pointer` must come from [`place`] and nobody may use it any more.
unsafe fn take_away<T>(pointer: NonNull<T>) {
    // SAFETY: the caller gives up the last use.
    unsafe { pointer.drop_in_place() };
    frame_allocator::free_from_hypervisor(direct_map::frame_of(pointer.as_ptr().cast()), order_of::<T>());
}

/// A value in frames of its own, with one owner; like `Box`, but allocation can fail.
pub struct FrameBox<T> {
    pointer: NonNull<T>,
    owns: PhantomData<T>,
}

// SAFETY: a `FrameBox` owns its value like a `Box` does.
unsafe impl<T: Send> Send for FrameBox<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for FrameBox<T> {}

impl<T> FrameBox<T> {
    /// Moves `value` into frames of its own; `None` when memory is short.
    pub fn try_new(value: T) -> Option<Self> {
        Some(Self { pointer: place(value)?, owns: PhantomData })
    }
}

impl<T, const N: usize> FrameBox<[T; N]> {
    /// An array made in its place, element by element, so it never lies on the hypervisor's small stack;
    /// `None` when memory is short.
    pub fn try_from_fn(make: impl Fn(usize) -> T) -> Option<Self> {
        const { assert!(align_of::<T>() <= PAGE_SIZE as usize) };
        let frame = frame_allocator::allocate_for_hypervisor(order_of::<[T; N]>())?;
        let pointer = NonNull::new(direct_map::pointer(frame).cast::<[T; N]>())?;
        for index in 0..N {
            // SAFETY: the frames are ours alone, contiguous, aligned, and hold `N` elements.
            unsafe { pointer.cast::<T>().add(index).write(make(index)) };
        }
        Some(Self { pointer, owns: PhantomData })
    }
}

impl<T> Deref for FrameBox<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the box owns a valid value until it is dropped.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T> DerefMut for FrameBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the box is borrowed mutably.
        unsafe { self.pointer.as_mut() }
    }
}

impl<T> Drop for FrameBox<T> {
    fn drop(&mut self) {
        // SAFETY: the owner goes away, so nobody else uses the value.
        unsafe { take_away(self.pointer) }
    }
}

struct Counted<T> {
    holders: AtomicU32,
    value: T,
}

/// A value in frames of its own, with several holders; like `Arc`, but allocation can fail.
pub struct FrameArc<T> {
    pointer: NonNull<Counted<T>>,
    owns: PhantomData<Counted<T>>,
}

// SAFETY: a `FrameArc` shares its value like an `Arc` does.
unsafe impl<T: Send + Sync> Send for FrameArc<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for FrameArc<T> {}

impl<T> FrameArc<T> {
    /// Moves `value` into frames of its own; `None` when memory is short.
    pub fn try_new(value: T) -> Option<Self> {
        let counted = Counted { holders: AtomicU32::new(1), value };
        Some(Self { pointer: place(counted)?, owns: PhantomData })
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: this holder keeps the value alive.
        unsafe { self.pointer.as_ref() }
    }

    /// True when both hold the same value.
    pub fn is(&self, other: &Self) -> bool {
        self.pointer == other.pointer
    }
}

impl<T> Clone for FrameArc<T> {
    fn clone(&self) -> Self {
        self.counted().holders.fetch_add(1, Ordering::Relaxed);
        Self { pointer: self.pointer, owns: PhantomData }
    }
}

impl<T> Deref for FrameArc<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for FrameArc<T> {
    fn drop(&mut self) {
        if self.counted().holders.fetch_sub(1, Ordering::Release) > 1 {
            return;
        }
        // The other holders' last uses happen before the value is dropped.
        fence(Ordering::Acquire);
        // SAFETY: this was the last holder.
        unsafe { take_away(self.pointer) }
    }
}
