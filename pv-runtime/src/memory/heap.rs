#![expect(unsafe_code, reason = "the global allocator")]
//! The heap: talc over blocks of pages, which it takes when needed and gives back when empty.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use hypercall_abi::PAGE_SIZE;
use talc::TalcLock;
use talc::source::GlobalAllocSource;

use super::frames::{self, Contiguity};

/// Bytes that the heap takes at a time, at least.
const BLOCK_SIZE: usize = 256 * 1024;

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, GlobalAllocSource<Pages>> =
    TalcLock::new(GlobalAllocSource::with_block_size(Pages, BLOCK_SIZE));

/// Whole pages as an allocator, for the heap to stand on.
#[derive(Debug)]
struct Pages;

// SAFETY: a run of pages is given to one caller at a time, is page-aligned, and no allocation happens on the way.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE_SIZE {
            return ptr::null_mut();
        }
        let pages = layout.size().div_ceil(PAGE_SIZE);
        frames::take(pages, Contiguity::Virtual).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(first) = NonNull::new(block) {
            frames::release(first, layout.size().div_ceil(PAGE_SIZE));
        }
    }
}
