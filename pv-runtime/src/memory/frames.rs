#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "takes over the free memory that start-up found")
)]
#![cfg_attr(not(target_os = "none"), expect(unsafe_code, reason = "stands in for the domain's memory"))]
//! The books on the domain's own pages: which are free, and which machine frame each one is.
//!
//! On a host, pages come from the host's allocator and a page's "machine frame" is its address divided by the
//! page size, so that code above can be tested.

#[cfg(target_os = "none")]
pub(super) use domain::*;
#[cfg(not(target_os = "none"))]
pub(super) use host::*;

/// How many pages the domain has, and how many of them are in use neither by the kernel nor by its heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCount {
    /// All of the domain's pages.
    pub total: usize,
    /// Free ones.
    pub free: usize,
}

/// What the machine frames of neighbouring pages must be to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contiguity {
    /// Anything: only virtual addresses follow each other.
    Virtual,
    /// Neighbours too, as a device needs that knows one address only.
    Machine,
}

#[cfg(target_os = "none")]
mod domain {
    use core::cell::{Cell, RefCell};
    use core::ops::Range;
    use core::ptr::NonNull;
    use core::slice;

    use hypercall_abi::{MachineFrame, PAGE_SHIFT, PAGE_SIZE, PseudoPhysicalFrame};

    use super::super::layout::{WINDOW, WindowTables, frame_at, window_address};
    use super::super::page_runs::{PageRuns, words_for};
    use super::super::window::Window;
    use super::{Contiguity, PageCount};
    use crate::kernel_local;

    kernel_local! {
        /// The machine frame of each frame.
        static MACHINE_FRAMES: Cell<&'static [u64]> = Cell::new(&[]);
    }

    kernel_local! {
        static TABLES: Cell<Option<WindowTables>> = Cell::new(None);
    }

    kernel_local! {
        static ROOT: Cell<PseudoPhysicalFrame> = Cell::new(PseudoPhysicalFrame(0));
    }

    kernel_local! {
        static FREE: RefCell<Option<PageRuns<&'static mut [u64]>>> = RefCell::new(None);
    }

    /// Takes over the memory that start-up found free. To be called once.
    pub(in super::super) fn init(window: &Window) {
        let frames = window.machine_frames;
        MACHINE_FRAMES.with(|cell| cell.set(frames));
        TABLES.with(|cell| cell.set(Some(window.tables)));
        ROOT.with(|cell| cell.set(window.root));
        let [before, after] = window.free.clone();
        let bitmap_pages = (words_for(frames.len()) * 8).div_ceil(PAGE_SIZE) as u64;
        let bitmap = window_address(PseudoPhysicalFrame(after.start)) as *mut u64;
        // SAFETY: these pages are free, mapped in the window, and left out of what is released below.
        let words = unsafe { slice::from_raw_parts_mut(bitmap, words_for(frames.len())) };
        let mut runs = PageRuns::new(words, frames.len());
        release_existing(&mut runs, frames, before);
        release_existing(&mut runs, frames, after.start + bitmap_pages..after.end);
        FREE.with(|free| free.replace(Some(runs)));
    }

    /// Releases the frames of a range, except numbers without a frame.
    fn release_existing(runs: &mut PageRuns<&'static mut [u64]>, frames: &[u64], range: Range<u64>) {
        let (mut start, end) = (range.start as usize, range.end as usize);
        while start < end {
            let rest = &frames[start..end];
            let length = rest.iter().position(|machine| *machine == u64::MAX).unwrap_or(rest.len());
            runs.release(start, length);
            start += length + 1;
        }
    }

    /// Takes neighbouring pages. Their content is whatever was there.
    pub(in super::super) fn take(count: usize, contiguity: Contiguity) -> Option<NonNull<u8>> {
        let machine = MACHINE_FRAMES.with(Cell::get);
        let follows =
            |page: usize| contiguity == Contiguity::Virtual || machine[page] == machine[page - 1] + 1;
        let first = FREE.with(|free| free.borrow_mut().as_mut()?.take_if(count, follows))?;
        NonNull::new(window_address(PseudoPhysicalFrame(first as u64)) as *mut u8)
    }

    /// Gives pages back that were taken.
    pub(in super::super) fn release(first: NonNull<u8>, count: usize) {
        let page = ((first.addr().get() as u64 - WINDOW) >> PAGE_SHIFT) as usize;
        FREE.with(|free| {
            if let Some(runs) = free.borrow_mut().as_mut() {
                runs.release(page, count);
            }
        });
    }

    /// The machine frame behind an address of the image or of the domain's own pages.
    #[inline]
    pub(in super::super) fn machine_frame_of(address: usize) -> Option<MachineFrame> {
        machine_frame(frame_at(address as u64)?)
    }

    #[inline]
    fn machine_frame(frame: PseudoPhysicalFrame) -> Option<MachineFrame> {
        let machine = *MACHINE_FRAMES.with(Cell::get).get(frame.0 as usize)?;
        (machine != u64::MAX).then_some(MachineFrame(machine))
    }

    /// The machine frames of all of the domain's memory.
    pub(in super::super) fn all() -> impl Iterator<Item = MachineFrame> {
        let frames = MACHINE_FRAMES.with(Cell::get).iter().copied();
        frames.filter(|machine| *machine != u64::MAX).map(MachineFrame)
    }

    /// The fourth-level table.
    pub(in super::super) fn root_table() -> Option<MachineFrame> {
        machine_frame(ROOT.with(Cell::get))
    }

    /// The second-level table of the mappings.
    pub(in super::super) fn mappings_table() -> Option<MachineFrame> {
        machine_frame(TABLES.with(Cell::get)?.mappings_second_level())
    }

    /// The first-level table `index` of the window.
    pub(in super::super) fn window_table(index: usize) -> Option<MachineFrame> {
        let tables = TABLES.with(Cell::get).filter(|tables| index < tables.first_levels)?;
        machine_frame(tables.first_level(index))
    }

    /// Where the domain's own page with this machine frame is: a search through all of them.
    pub(in super::super) fn find(machine: MachineFrame) -> Option<NonNull<u8>> {
        let index = MACHINE_FRAMES.with(Cell::get).iter().position(|known| *known == machine.0)?;
        NonNull::new(window_address(PseudoPhysicalFrame(index as u64)) as *mut u8)
    }

    /// How many pages there are, and how many are free.
    pub(in super::super) fn count() -> PageCount {
        let free = FREE.with(|free| free.borrow().as_ref().map_or(0, PageRuns::free_pages));
        PageCount { total: MACHINE_FRAMES.with(Cell::get).len(), free }
    }
}

#[cfg(not(target_os = "none"))]
mod host {
    use core::ptr::NonNull;
    use std::alloc::{Layout, alloc, dealloc};

    use hypercall_abi::{MachineFrame, PAGE_SHIFT, PAGE_SIZE};

    use super::{Contiguity, PageCount};

    fn layout(count: usize) -> Option<Layout> {
        Layout::from_size_align(count.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
    }

    pub(in super::super) fn take(count: usize, _: Contiguity) -> Option<NonNull<u8>> {
        let layout = layout(count).filter(|layout| layout.size() != 0)?;
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { alloc(layout) })
    }

    pub(in super::super) fn release(first: NonNull<u8>, count: usize) {
        let layout = layout(count).expect("pages that were taken have a layout");
        // SAFETY: it was taken with the same layout, for whoever takes pages gives the same number back.
        unsafe { dealloc(first.as_ptr(), layout) };
    }

    pub(in super::super) fn machine_frame_of(address: usize) -> Option<MachineFrame> {
        Some(MachineFrame((address >> PAGE_SHIFT) as u64))
    }

    pub(in super::super) fn find(machine: MachineFrame) -> Option<NonNull<u8>> {
        NonNull::new((machine.0 << PAGE_SHIFT) as *mut u8)
    }

    pub(in super::super) fn window_table(_: usize) -> Option<MachineFrame> {
        None
    }

    pub(in super::super) fn count() -> PageCount {
        PageCount { total: 0, free: 0 }
    }

    pub(in super::super) fn all() -> impl Iterator<Item = MachineFrame> {
        core::iter::empty()
    }

    pub(in super::super) fn root_table() -> Option<MachineFrame> {
        None
    }
}
