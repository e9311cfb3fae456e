//! Random numbers for keys: the processor's own, by RDRAND.
//!
//! Nothing ever takes their place: where the processor has none, whoever asks gets an error. What RDRAND gives is looked
//! at, for some processors give the same again and again once they have slept, and call that success.

#![expect(
    unsafe_code,
    reason = "RDRAND is an instruction that not every processor has, and the crate that asks for random numbers finds us by a name for the linker"
)]

use core::arch::x86_64::{__cpuid, _rdrand64_step};
use core::slice;

use getrandom::Error;

/// In leaf 1, ecx: the processor has RDRAND.
const HAS_RDRAND: u32 = 1 << 30;
/// How often the instruction may have nothing to give.
const TRIES: usize = 10;

/// What `getrandom` calls.
///
/// # Safety
///
/// `into` must be valid for writing `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(into: *mut u8, length: usize) -> Result<(), Error> {
    // SAFETY: by this function's contract; zeroes come first because the bytes may never have been written.
    let into = unsafe {
        into.write_bytes(0, length);
        slice::from_raw_parts_mut(into, length)
    };
    fill(into)
}

fn fill(into: &mut [u8]) -> Result<(), Error> {
    if __cpuid(1).ecx & HAS_RDRAND == 0 {
        return Err(Error::UNSUPPORTED);
    }
    let mut last = 0;
    for chunk in into.chunks_mut(size_of::<u64>()) {
        // SAFETY: the processor has the instruction.
        last = unsafe { next(last) }.ok_or(Error::UNEXPECTED)?;
        chunk.copy_from_slice(&last.to_ne_bytes()[..chunk.len()]);
    }
    Ok(())
}

/// The next number, which is neither the last one nor one of those that stand for a failure.
///
/// # Safety
///
/// The processor must have the instruction.
#[target_feature(enable = "rdrand")]
fn next(last: u64) -> Option<u64> {
    for _ in 0..TRIES {
        let mut number = 0;
        let is_given = _rdrand64_step(&mut number) == 1;
        if is_given && ![0, u64::MAX, last].contains(&number) {
            return Some(number);
        }
    }
    None
}
