#![expect(unsafe_code, reason = "breaks things on purpose")]
//! Ways to end badly, for tests of how that is reported: `crash=panic`, `crash=fault` or `crash=stack`.

use core::hint::black_box;

use pv_runtime::println;

/// Ends the domain in the way that is named.
pub fn crash(way: &str) {
    match way {
        "panic" => panic!("asked to"),
        "fault" => write_to_nowhere(),
        "stack" => {
            exhaust_stack(1);
        }
        other => println!("selftest: there is no way to crash called {other}"),
    }
}

fn write_to_nowhere() {
    // SAFETY: nothing is mapped there, so this faults, which ends the domain.
    unsafe { black_box(0xdead_b000_usize as *mut u64).write_volatile(1) };
}

/// Calls itself until the stack meets its guard page.
fn exhaust_stack(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if black_box(depth) == 0 {
        return 0;
    }
    black_box(exhaust_stack(depth + 1)) + frame[1]
}
