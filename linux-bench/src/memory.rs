//! What memory costs: touching it for the first time, mapping it, changing its protection.

use core::ptr;

use crate::clock;
use crate::measure::{least, least_by};
use crate::syscall::{self, Error};

const PAGE: usize = 4096;
/// Pages that are touched one after another.
const MANY: usize = 256;

/// Memory of this process, given back when it is dropped.
pub struct Memory {
    address: *mut u8,
    length: usize,
}

impl Memory {
    /// So many pages that nobody has touched.
    pub fn new(pages: usize) -> Result<Self, Error> {
        let length = pages * PAGE;
        Ok(Self { address: syscall::map(length)?, length })
    }

    /// Writes to each page.
    pub fn touch(&self) {
        for offset in (0..self.length).step_by(PAGE) {
            // SAFETY: within the memory, which is writable.
            unsafe { ptr::write_volatile(self.address.add(offset), 1) };
        }
    }

    /// Forbids writing, and allows it again.
    fn protect_and_back(&self) -> Result<(), Error> {
        // SAFETY: nobody writes in between.
        unsafe {
            syscall::protect(self.address, self.length, syscall::READ)?;
            syscall::protect(self.address, self.length, syscall::READ_WRITE)
        }
    }

    fn release(self) -> Result<(), Error> {
        let (address, length) = (self.address, self.length);
        core::mem::forget(self);
        // SAFETY: this was its only owner.
        unsafe { syscall::unmap(address, length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: nobody can use it any more. What cannot be given back stays.
        let _ = unsafe { syscall::unmap(self.address, self.length) };
    }
}

/// The first touch of memory.
pub fn faults() -> Result<(), Error> {
    least_by("page fault (first touch of anonymous memory)", MANY as u64, || {
        let memory = Memory::new(MANY)?;
        let before = clock::now();
        memory.touch();
        Ok(clock::now() - before)
    })
}

/// Mapping, unmapping, protecting.
pub fn mappings() -> Result<(), Error> {
    least("mmap and munmap, untouched", 1, || Memory::new(1)?.release())?;
    least("mmap, touch and munmap of one page", 1, || {
        let memory = Memory::new(1)?;
        memory.touch();
        memory.release()
    })?;
    least_by("munmap of 256 touched pages", 1, || {
        let memory = Memory::new(MANY)?;
        memory.touch();
        let before = clock::now();
        memory.release()?;
        Ok(clock::now() - before)
    })?;
    let page = Memory::new(1)?;
    page.touch();
    least("mprotect of one page, read-only and back", 1, || page.protect_and_back())
}
