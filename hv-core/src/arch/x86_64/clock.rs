#![expect(unsafe_code, reason = "reads the time stamp counter")]
//! The machine's clocks: TSC for reading the time, local APIC timer for being told of it, CMOS for the date.
//!
//! The TSC's and the timer's rates are measured once against the PIT, whose rate every PC shares. System time zero is
//! the moment of that measurement.
//!
//! CMOS counts whole seconds. It is read at once, which may be wrong by a second, and again when its next second begins,
//! for which it interrupts: waiting for that before anything runs would cost every start half a second.

use super::{io_apic, local_apic, port};
use crate::{lock::Once, time};
use core::{
    arch::x86_64::_rdtsc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

const NANOSECONDS: u64 = 1_000_000_000;

/// How TSC readings become nanoseconds: `((tsc - tsc_at_zero) << shift) * multiplier / 2^32`.
#[derive(Clone, Copy)]
pub struct Scale {
    /// TSC at system time zero.
    pub tsc_at_zero: u64,
    /// Fraction of 2^32.
    pub multiplier: u32,
    /// Binary shift before the multiplication; negative goes right.
    pub shift: i8,
}

struct Rates {
    scale: Scale,
    tsc_per_second: u64,
    /// Timer ticks per nanosecond as a fraction of 2^32.
    timer_multiplier: u64,
}

static RATES: Once<Rates> = Once::new();
static WALL_CLOCK_AT_ZERO: AtomicU64 = AtomicU64::new(0);
/// The wall clock is right: a second's beginning was seen, or somebody has set it.
static IS_RIGHT: AtomicBool = AtomicBool::new(false);

/// The TSC.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: every 64-bit CPU has the instruction.
    unsafe { _rdtsc() }
}

/// Measures the clocks.
pub fn set_up() {
    let (tsc_per_second, timer_per_second) = measure();
    let (multiplier, shift) = crate::time_scale::of(tsc_per_second);
    RATES.call_once(|| Rates {
        scale: Scale { tsc_at_zero: ticks(), multiplier, shift },
        tsc_per_second,
        timer_multiplier: ((u128::from(timer_per_second) << 32) / u128::from(NANOSECONDS)) as u64,
    });
    WALL_CLOCK_AT_ZERO.store(date_from_cmos() * NANOSECONDS, Ordering::Relaxed);
}

/// Nanoseconds since Weir started.
#[inline]
pub fn now() -> u64 {
    RATES.get().map_or(0, |rates| {
        crate::time_scale::apply(
            ticks().wrapping_sub(rates.scale.tsc_at_zero),
            rates.scale.multiplier,
            rates.scale.shift,
        )
    })
}

/// How guests compute system time.
pub fn scale() -> Scale {
    RATES.get().map_or(Scale { tsc_at_zero: 0, multiplier: 1 << 31, shift: 1 }, |rates| rates.scale)
}

/// TSC ticks in a second.
pub fn frequency() -> u64 {
    RATES.get().map_or(0, |rates| rates.tsc_per_second)
}

/// Nanoseconds since 1970 at system time zero.
pub fn wall_clock_at_zero() -> u64 {
    WALL_CLOCK_AT_ZERO.load(Ordering::Relaxed)
}

/// Corrects the wall clock.
pub fn set_wall_clock_at_zero(nanoseconds: u64) {
    WALL_CLOCK_AT_ZERO.store(nanoseconds, Ordering::Relaxed);
    IS_RIGHT.store(true, Ordering::Relaxed);
}

/// The longest the timer is set for at its full rate.
const LONGEST: u64 = 2 * NANOSECONDS;
/// The longest it is set for at all, at its slow rate; it fires early and is set again. So a CPU that has nothing to do for
/// an hour is woken a few times, and not each second.
const LONGEST_SLOWLY: u64 = LONGEST * local_apic::SLOWLY;

/// Asks for an interrupt at `deadline` (system time); never, for `u64::MAX`.
pub fn set_timer(deadline: u64) {
    if deadline == u64::MAX {
        return local_apic::start_timer(0);
    }
    let Some(rates) = RATES.get() else { return };
    let delay = deadline.saturating_sub(now());
    let ticks = |delay: u64| {
        let ticks = (u128::from(delay) * u128::from(rates.timer_multiplier)) >> 32;
        (ticks as u64).clamp(1, u64::from(u32::MAX)) as u32
    };
    if delay <= LONGEST {
        local_apic::start_timer(ticks(delay));
    } else {
        local_apic::start_slow_timer(ticks(delay.min(LONGEST_SLOWLY) / local_apic::SLOWLY));
    }
}

const PIT_RATE: u64 = 1_193_182;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
const PIT_GATE: u16 = 0x61;
/// How long the measurement takes: a twenty-fifth of a second, which the PIT's counter can hold.
const MEASURED_COUNTS: u16 = (PIT_RATE / 25) as u16;
/// Readings at either end, of which the quickest counts: the others may have been held up.
const READINGS: usize = 8;

/// What the clocks show at one moment.
struct Moment {
    /// The PIT's counter, which counts down.
    count: u16,
    ticks: u64,
    /// Timer ticks since the measurement began.
    timer: u64,
}

/// TSC and timer ticks in a second.
fn measure() -> (u64, u64) {
    let gate = port::read(PIT_GATE, 1) & !3;
    port::write(PIT_GATE, 1, gate | 1);
    port::write(PIT_COMMAND, 1, 0xb0); // channel 2, low then high byte, count down once
    port::write(PIT_CHANNEL_2, 1, 0xff);
    port::write(PIT_CHANNEL_2, 1, 0xff);
    local_apic::start_measuring();
    let start = moment();
    while start.count.wrapping_sub(count()) < MEASURED_COUNTS {}
    let end = moment();
    local_apic::start_timer(0);
    port::write(PIT_GATE, 1, gate);
    let counts = u64::from(start.count.wrapping_sub(end.count));
    let in_a_second = |ticks: u64| ticks * PIT_RATE / counts;
    (in_a_second(end.ticks - start.ticks), in_a_second(end.timer - start.timer))
}

/// The moment at which the PIT's counter changes.
fn moment() -> Moment {
    let mut quickest = (u64::MAX, Moment { count: 0, ticks: 0, timer: 0 });
    for _ in 0..READINGS {
        let before = count();
        let (held_up, moment) = loop {
            let ticks = ticks();
            let count = count();
            if count != before {
                let timer = u64::from(local_apic::measured());
                break (self::ticks() - ticks, Moment { count, ticks, timer });
            }
        };
        if held_up < quickest.0 {
            quickest = (held_up, moment);
        }
    }
    quickest.1
}

/// The PIT's counter, held still while its two bytes are read.
fn count() -> u16 {
    port::write(PIT_COMMAND, 1, 0x80);
    let low = port::read(PIT_CHANNEL_2, 1) as u16;
    low | (port::read(PIT_CHANNEL_2, 1) as u16) << 8
}

/// Seconds since 1970 as the battery-backed clock has it, taken as UTC.
fn date_from_cmos() -> u64 {
    const UPDATE_IN_PROGRESS: u8 = 0x80;
    loop {
        while cmos(0x0a) & UPDATE_IN_PROGRESS != 0 {}
        let first = registers();
        if first == registers() {
            return crate::calendar::seconds_since_1970(first);
        }
    }
}

/// Line of the battery-backed clock's interrupt.
const DATE_LINE: u32 = 8;
/// Its control register, and the bit that has it interrupt when a second begins; reading the cause ends the interrupt.
const DATE_CONTROL: u8 = 0x0b;
const INTERRUPT_EACH_SECOND: u8 = 1 << 4;
const DATE_CAUSE: u8 = 0x0c;

/// Has the beginning of the next second interrupt.
pub fn await_second() {
    if io_apic::has_line(DATE_LINE) {
        io_apic::enable(DATE_LINE, local_apic::DATE_VECTOR, false, false);
        cmos(DATE_CAUSE);
        set_cmos(DATE_CONTROL, cmos(DATE_CONTROL) | INTERRUPT_EACH_SECOND);
    }
}

/// A second of the battery-backed clock begins: now its time is known exactly, and it need not interrupt again.
pub fn second_begins() {
    let system_time = now();
    set_cmos(DATE_CONTROL, cmos(DATE_CONTROL) & !INTERRUPT_EACH_SECOND);
    cmos(DATE_CAUSE);
    io_apic::mask(DATE_LINE);
    if !IS_RIGHT.load(Ordering::Relaxed) {
        time::set_wall_clock((date_from_cmos() * NANOSECONDS).saturating_sub(system_time));
    }
}

/// Seconds, minutes, hours, day, month, year, century and the format register.
fn registers() -> [u8; 8] {
    [0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32, 0x0b].map(cmos)
}

fn cmos(register: u8) -> u8 {
    select(register);
    port::read(0x71, 1) as u8
}

fn set_cmos(register: u8, value: u8) {
    select(register);
    port::write(0x71, 1, u32::from(value));
}

fn select(register: u8) {
    const NMI_OFF: u8 = 0x80;
    port::write(0x70, 1, u32::from(register | NMI_OFF));
}
