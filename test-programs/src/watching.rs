#![expect(unsafe_code, reason = "has an address that a breakpoint can be set to")]
//! Debug registers: a parent sees when its child writes a word or enters a function, and nobody else is disturbed.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::process::{Change, child, signal, traced_child};
use crate::system::{Arguments, yield_now};

static BEFORE: AtomicU64 = AtomicU64::new(0);
static WATCHED: AtomicU64 = AtomicU64::new(0);

global_asm!("watched_function:", "mov eax, 1", "ret");

unsafe extern "C" {
    fn watched_function() -> u64;
}

/// Register 7: breakpoint 0 on writes of eight bytes; breakpoint 1 on execution.
const WRITES_OF_8_BYTES: u64 = 1 | 1 << 16 | 2 << 18;
const EXECUTION: u64 = 1 << 2;
const STOPPED: Change = Change::Stopped(signal::TRAP);

/// Writes both words this often.
const WRITES: u64 = 5;

fn write_words() -> i32 {
    for round in 1..=WRITES {
        BEFORE.store(round, Ordering::Relaxed);
        yield_now();
        WATCHED.store(round, Ordering::Relaxed);
        yield_now();
    }
    7
}

/// `watch`
pub fn data(_: &Arguments) {
    let watched = traced_child(write_words);
    watched.set_debug_register(0, &raw const WATCHED as u64).expect("an address");
    watched.set_debug_register(7, WRITES_OF_8_BYTES).expect("a watch");
    // The same memory and the same address, but nobody watches.
    let other = child(write_words);
    for _ in 0..WRITES {
        watched.go();
        assert_eq!(watched.wait(), STOPPED);
        assert_eq!(watched.debug_register(6) & 0xf, 1, "breakpoint 0");
    }
    watched.go();
    assert_eq!(watched.wait(), Change::Exited(7), "there were no more writes");
    assert_eq!(other.wait(), Change::Exited(7), "the other was not stopped");
    the_kernels_addresses_are_refused();
}

fn the_kernels_addresses_are_refused() {
    let child = traced_child(|| 0);
    for address in [0xffff_8000_0000_0000, 0xffff_82d0_8000_0000, 0xffff_ffff_8100_0000] {
        let answer = child
            .set_debug_register(0, address)
            .and_then(|()| child.set_debug_register(7, WRITES_OF_8_BYTES));
        assert!(answer.is_err(), "{address:#x}");
    }
    child.kill();
}

/// `watch-code`
pub fn code(_: &Arguments) {
    let call = || {
        // SAFETY: it returns a number.
        let returned = (0..WRITES).map(|_| unsafe { watched_function() });
        returned.sum::<u64>() as i32
    };
    let watched = traced_child(call);
    let address = watched_function as *const () as u64;
    watched.set_debug_register(1, address).expect("an address");
    watched.set_debug_register(7, EXECUTION).expect("a breakpoint");
    for _ in 0..WRITES {
        watched.go();
        assert_eq!(watched.wait(), STOPPED);
        assert_eq!(watched.instruction_pointer(), address);
        assert_eq!(watched.debug_register(6) & 0xf, 2, "breakpoint 1");
    }
    watched.go();
    assert_eq!(watched.wait(), Change::Exited(WRITES as u8));
}
