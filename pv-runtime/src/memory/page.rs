#![expect(unsafe_code, reason = "owns pages of the domain's memory")]
//! Pages of the domain's own memory that can be shared: for rings, for granting, for devices.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use hypercall_abi::{Errno, MachineFrame, PAGE_SIZE};

use super::frames::{self, Contiguity};
use super::shared::SharedMemory;

/// One page of its own, zeroed when it is made.
///
/// Dropping it while somebody still has access, through a grant or as a device, lets them write to whatever
/// the page is used for next: the owner ends the access first.
#[derive(Debug)]
pub struct Page(PageRun);

impl Page {
    /// Takes a free page.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is none.
    pub fn new() -> Result<Self, Errno> {
        PageRun::new(1).map(Self)
    }

    /// The frame to name in a grant or to a device.
    #[inline]
    pub fn machine_frame(&self) -> MachineFrame {
        self.0.machine_frame(0)
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.first.as_ptr()
    }
}

// SAFETY: the pages are mapped for as long as the run lives, and only reached through this trait.
unsafe impl SharedMemory for Page {
    fn base(&self) -> NonNull<u8> {
        self.0.first
    }

    fn size(&self) -> usize {
        PAGE_SIZE
    }
}

impl AsRef<[AtomicU32]> for Page {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32] {
        self.words()
    }
}

/// Pages at addresses that follow each other, zeroed when they are made. See [`Page`] for sharing them.
#[derive(Debug)]
pub struct PageRun {
    first: NonNull<u8>,
    pages: usize,
}

impl PageRun {
    /// Takes `pages` free pages, at least one. Their machine frames are anywhere.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there are not that many in a row, `EINVAL` if none is asked for.
    pub fn new(pages: usize) -> Result<Self, Errno> {
        Self::take(pages, Contiguity::Virtual)
    }

    /// Takes `pages` free pages whose machine frames follow each other too.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new). The frames a domain has may hold no such run, however many are free.
    pub fn machine_contiguous(pages: usize) -> Result<Self, Errno> {
        Self::take(pages, Contiguity::Machine)
    }

    fn take(pages: usize, contiguity: Contiguity) -> Result<Self, Errno> {
        if pages == 0 {
            return Err(Errno::EINVAL);
        }
        let first = frames::take(pages, contiguity).ok_or(Errno::ENOMEM)?;
        let run = Self { first, pages };
        run.clear();
        Ok(run)
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The machine frame of a page.
    ///
    /// # Panics
    ///
    /// If there is no page `index`.
    #[inline]
    pub fn machine_frame(&self, index: usize) -> MachineFrame {
        assert!(index < self.pages, "page {index} of {}", self.pages);
        let address = self.first.addr().get() + index * PAGE_SIZE;
        frames::machine_frame_of(address).expect("an owned page has a machine frame")
    }

    /// The machine frames of all pages.
    pub fn machine_frames(&self) -> impl ExactSizeIterator<Item = MachineFrame> + '_ {
        (0..self.pages).map(|index| self.machine_frame(index))
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.first.as_ptr()
    }
}

// SAFETY: the pages are mapped for as long as the run lives, and only reached through this trait.
unsafe impl SharedMemory for PageRun {
    fn base(&self) -> NonNull<u8> {
        self.first
    }

    fn size(&self) -> usize {
        self.pages * PAGE_SIZE
    }
}

impl AsRef<[AtomicU32]> for PageRun {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32] {
        self.words()
    }
}

impl Drop for PageRun {
    fn drop(&mut self) {
        frames::release(self.first, self.pages);
    }
}

/// A page of the domain's memory that the domain builder gave a purpose: the store's ring, the console's.
/// It never becomes free.
#[derive(Debug)]
pub struct BuilderPage(NonNull<u8>);

impl BuilderPage {
    /// Finds the page by its machine frame; for the frames in [`BootInfo`](crate::boot::BootInfo) only.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the domain has no such frame.
    pub fn find(frame: MachineFrame) -> Result<Self, Errno> {
        frames::find(frame).map(Self).ok_or(Errno::ENOENT)
    }
}

// SAFETY: the domain's memory stays mapped, and a page with a purpose is not among the free ones.
unsafe impl SharedMemory for BuilderPage {
    fn base(&self) -> NonNull<u8> {
        self.0
    }

    fn size(&self) -> usize {
        PAGE_SIZE
    }
}

impl AsRef<[AtomicU32]> for BuilderPage {
    #[inline]
    fn as_ref(&self) -> &[AtomicU32] {
        self.words()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn a_new_run_is_zero_and_holds_what_is_written() {
        let run = PageRun::new(3).expect("the host has memory");
        assert!(run.bytes().iter().all(|byte| byte.load(Ordering::Relaxed) == 0));
        run.copy_in(PAGE_SIZE - 3, b"across");
        let mut text = [0; 8];
        run.copy_out(PAGE_SIZE - 4, &mut text);
        assert_eq!(&text, b"\0across\0");
        run.write(2 * PAGE_SIZE, &0x0102_0304_u32);
        assert_eq!(run.read::<u32>(2 * PAGE_SIZE), 0x0102_0304);
        assert_eq!(run.words()[2 * PAGE_SIZE / 4].load(Ordering::Relaxed), 0x0102_0304);
        assert_eq!(run.machine_frame(2).0, run.machine_frame(0).0 + 2);
    }

    #[test]
    #[should_panic(expected = "do not lie in")]
    fn access_beyond_the_end_is_refused() {
        Page::new().expect("the host has memory").read::<u64>(PAGE_SIZE - 7);
    }

    #[test]
    fn an_empty_run_is_an_error() {
        assert_eq!(PageRun::new(0).err(), Some(Errno::EINVAL));
    }
}
