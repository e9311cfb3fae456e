#![expect(unsafe_code, reason = "reads and writes memory that another party may change at the same time")]
//! Access to memory that somebody else may change at any time: another domain or a device.
//!
//! No `&[u8]` or `&mut [u8]` to such memory ever exists. It is read and written as atomics, or copied out of
//! and into private memory by instructions that the compiler cannot look into; what is copied out is used,
//! what lies in the shared memory is never looked at twice.

use core::arch::asm;
use core::mem::size_of;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A stretch of mapped memory, a whole number of pages, that other parties may change.
///
/// # Safety
///
/// From [`base`](Self::base) on, [`size`](Self::size) bytes must be mapped and readable for as long as the
/// value lives, and page-aligned. Rust must hold no references to them that forbid changes by others.
pub unsafe trait SharedMemory {
    /// The first byte.
    fn base(&self) -> NonNull<u8>;

    /// The number of bytes.
    fn size(&self) -> usize;

    /// Whether the mapping allows writing.
    fn is_writable(&self) -> bool {
        true
    }

    /// The address of the first byte, as a number.
    fn virtual_address(&self) -> usize {
        self.base().addr().get()
    }

    /// The memory as bytes.
    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: mapped, as the trait demands; atomics may be changed by anybody at any time.
        unsafe { slice::from_raw_parts(self.base().cast().as_ptr(), self.size()) }
    }

    /// The memory as 32-bit words, the form that rings take.
    fn words(&self) -> &[AtomicU32] {
        // SAFETY: mapped and page-aligned, as the trait demands; the rest is as for bytes.
        unsafe { slice::from_raw_parts(self.base().cast().as_ptr(), self.size() / size_of::<u32>()) }
    }

    /// The memory as 64-bit words.
    fn double_words(&self) -> &[AtomicU64] {
        // SAFETY: mapped and page-aligned, as the trait demands; the rest is as for bytes.
        unsafe { slice::from_raw_parts(self.base().cast().as_ptr(), self.size() / size_of::<u64>()) }
    }

    /// The address of `length` bytes from `offset` on.
    ///
    /// # Panics
    ///
    /// If they are not all in the memory.
    fn span(&self, offset: usize, length: usize) -> NonNull<u8> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size());
        assert!(end.is_some(), "{length} bytes at {offset} do not lie in {} bytes", self.size());
        // SAFETY: the offset is at most the size.
        unsafe { self.base().add(offset) }
    }

    /// Copies bytes out.
    ///
    /// # Panics
    ///
    /// If the memory has fewer bytes from `offset` on.
    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        let from = self.span(offset, into.len());
        // SAFETY: both sides hold that many bytes, and private memory does not overlap shared memory.
        unsafe { copy(from.as_ptr(), into.as_mut_ptr(), into.len()) };
    }

    /// Copies bytes in.
    ///
    /// # Panics
    ///
    /// If the memory has fewer bytes from `offset` on, or is read-only.
    fn copy_in(&self, offset: usize, from: &[u8]) {
        assert!(self.is_writable(), "the memory is read-only");
        let into = self.span(offset, from.len());
        // SAFETY: both sides hold that many bytes, and private memory does not overlap shared memory.
        unsafe { copy(from.as_ptr(), into.as_ptr(), from.len()) };
    }

    /// Copies a value out, once.
    ///
    /// # Panics
    ///
    /// If it does not lie in the memory.
    fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> T
    where
        Self: Sized,
    {
        let mut value = T::new_zeroed();
        self.copy_out(offset, value.as_mut_bytes());
        value
    }

    /// Copies a value in.
    ///
    /// # Panics
    ///
    /// If it does not lie in the memory, or the memory is read-only.
    fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: &T)
    where
        Self: Sized,
    {
        self.copy_in(offset, value.as_bytes());
    }

    /// Fills the memory with zeroes.
    ///
    /// # Panics
    ///
    /// If the memory is read-only.
    fn clear(&self) {
        assert!(self.is_writable(), "the memory is read-only");
        // SAFETY: the memory is mapped writable and a whole number of pages.
        unsafe { zero(self.base().as_ptr(), self.size()) };
    }
}

/// Copies bytes, eight at a time and then the rest.
///
/// # Safety
///
/// Both sides must be mapped, and must not overlap. Others may change shared memory meanwhile.
unsafe fn copy(from: *const u8, into: *mut u8, length: usize) {
    // SAFETY: string moves over `length` bytes in all, upwards (the direction flag is clear by convention).
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) length % 8,
            inout("rcx") length / 8 => _,
            inout("rsi") from => _,
            inout("rdi") into => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Fills memory with zeroes. `length` must be a multiple of eight.
///
/// # Safety
///
/// The memory must be mapped writable.
unsafe fn zero(into: *mut u8, length: usize) {
    // SAFETY: string stores over `length` bytes, upwards (the direction flag is clear by convention).
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") length / 8 => _,
            inout("rdi") into => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags),
        );
    }
}
