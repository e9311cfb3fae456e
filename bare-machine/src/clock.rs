//! The TSC's rate, measured against the legacy timer, the local APIC's timer, and how long the machine was idle.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hypercall_abi::vcpu::VcpuRunstateInfo;
use zerocopy::FromZeros;

use crate::interrupt::{TIMER, read_register, write_register};
use crate::{event, port};

const NANOSECONDS: u64 = 1_000_000_000;

const TIMER_ENTRY: u64 = 0x320;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;
const DIVIDE_BY_1: u32 = 0b1011;

const PIT_RATE: u64 = 1_193_182;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
const PIT_GATE: u16 = 0x61;
/// In the gate's register: the counter has come to its end.
const PIT_OUTPUT: u8 = 1 << 5;
/// How far the counter goes: a twenty-fifth of a second.
const PIT_COUNTS: u64 = PIT_RATE / 25;

/// In the run state: the place of the time spent blocked.
const BLOCKED: usize = 2;

static TSC_AT_ZERO: AtomicU64 = AtomicU64::new(0);
static TSC_RATE: AtomicU64 = AtomicU64::new(NANOSECONDS);
static TIMER_RATE: AtomicU64 = AtomicU64::new(NANOSECONDS);
/// Ticks of the TSC that the machine waited.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// The TSC.
pub fn ticks() -> u64 {
    #![expect(unsafe_code, reason = "an instruction")]
    // SAFETY: the instruction is there on every x86-64 processor and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measures the rates, and publishes the clock.
pub fn set_up() {
    write_register(TIMER_DIVIDE, DIVIDE_BY_1);
    write_register(TIMER_ENTRY, u32::from(TIMER));
    let (tsc, timer) = measure();
    TSC_RATE.store(tsc, Relaxed);
    TIMER_RATE.store(timer, Relaxed);
    TSC_AT_ZERO.store(ticks(), Relaxed);
    let (multiplier, shift) = scale(tsc);
    event::set_clock(TSC_AT_ZERO.load(Relaxed), multiplier, shift);
}

/// Ticks of the TSC and of the timer in a second.
fn measure() -> (u64, u64) {
    let gate = port::read_u8(PIT_GATE) & !3;
    port::write_u8(PIT_GATE, gate | 1);
    port::write_u8(PIT_COMMAND, 0xb0); // channel 2, low then high byte, count down once
    port::write_u8(PIT_CHANNEL_2, PIT_COUNTS as u8);
    port::write_u8(PIT_CHANNEL_2, (PIT_COUNTS >> 8) as u8);
    write_register(TIMER_INITIAL, u32::MAX);
    let start = ticks();
    while port::read_u8(PIT_GATE) & PIT_OUTPUT == 0 {}
    let (end, left) = (ticks(), read_register(TIMER_CURRENT));
    write_register(TIMER_INITIAL, 0);
    port::write_u8(PIT_GATE, gate);
    let in_a_second = |ticks: u64| ticks * PIT_RATE / PIT_COUNTS;
    (in_a_second(end - start), in_a_second(u64::from(u32::MAX - left)))
}

/// Multiplier, a fraction of 2^32, and shift that make nanoseconds of ticks.
fn scale(rate: u64) -> (u32, i8) {
    let (mut ticks, mut shift) = (rate.max(1), 0);
    while ticks > 2 * NANOSECONDS {
        ticks >>= 1;
        shift -= 1;
    }
    // The multiplier must stay below one.
    while ticks <= NANOSECONDS {
        ticks <<= 1;
        shift += 1;
    }
    (((NANOSECONDS << 32) / ticks) as u32, shift)
}

fn nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * u128::from(NANOSECONDS) / u128::from(TSC_RATE.load(Relaxed))) as u64
}

/// `set_timer_op`: the timer goes off at this time; never, for zero.
pub fn set_timer(deadline: u64) {
    if deadline == 0 {
        return write_register(TIMER_INITIAL, 0);
    }
    let now = nanoseconds(ticks() - TSC_AT_ZERO.load(Relaxed));
    let delay = u128::from(deadline.saturating_sub(now));
    let counts = delay * u128::from(TIMER_RATE.load(Relaxed)) / u128::from(NANOSECONDS);
    write_register(TIMER_INITIAL, counts.clamp(1, u128::from(u32::MAX)) as u32);
}

/// The machine waited for so many ticks.
pub fn add_idle(ticks: u64) {
    IDLE.store(IDLE.load(Relaxed) + ticks, Relaxed);
}

/// How the time since the start was spent, in nanoseconds.
pub fn run_state() -> VcpuRunstateInfo {
    let (idle, all) = (nanoseconds(IDLE.load(Relaxed)), nanoseconds(ticks() - TSC_AT_ZERO.load(Relaxed)));
    let mut info = VcpuRunstateInfo::new_zeroed();
    info.time[0] = all - idle;
    info.time[BLOCKED] = idle;
    info
}
