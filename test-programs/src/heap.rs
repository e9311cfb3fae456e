#![expect(unsafe_code, reason = "hands out memory")]
//! Memory that is handed out and never taken back: trials are short.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 256 << 10;

struct Heap {
    memory: UnsafeCell<[u8; SIZE]>,
    used: AtomicUsize,
}

// SAFETY: the counter gives each piece of the memory away once.
unsafe impl Sync for Heap {}

// SAFETY: pieces do not overlap, lie within the memory, and are aligned as asked for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = layout.size() + layout.align();
        let offset = self.used.fetch_add(taken, Ordering::Relaxed);
        if offset + taken > SIZE {
            return core::ptr::null_mut();
        }
        let start = self.memory.get() as usize + offset;
        start.next_multiple_of(layout.align()) as *mut u8
    }

    unsafe fn dealloc(&self, _memory: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static HEAP: Heap = Heap { memory: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) };
