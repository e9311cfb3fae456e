//! The paravirtual clock and the timer.
//!
//! The hypervisor publishes, for each virtual CPU, a reading of the time-stamp counter with the time at that
//! moment, and the factor between them. A version, odd during an update, tells whether a copy is consistent.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use crate::shared_info::{self, ClockFields};

/// One consistent copy of the clock's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClockReading {
    tsc_timestamp: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
}

impl ClockReading {
    /// The time, in nanoseconds, when the counter reads `tsc`. Never before the reading itself.
    ///
    /// The difference is taken modulo 2⁶⁴: where the hypervisor emulates the counter, a young domain's starts at
    /// zero, and the reading may be of a time before that.
    #[inline]
    fn nanoseconds_at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_timestamp).cast_signed().max(0).cast_unsigned();
        let scaled = match self.shift {
            shift @ 0.. => ticks << (shift as u32 % u64::BITS),
            shift => ticks >> (shift.unsigned_abs() as u32 % u64::BITS),
        };
        let nanoseconds = (u128::from(scaled) * u128::from(self.multiplier)) >> 32;
        self.system_time.wrapping_add(nanoseconds as u64)
    }
}

/// Copies fields that change together; `version` is odd while they do.
#[inline]
fn read_consistently<T>(version: &AtomicU32, read: impl Fn() -> T) -> T {
    loop {
        let before = version.load(Ordering::Acquire);
        let value = read();
        core::sync::atomic::fence(Ordering::Acquire);
        if before & 1 == 0 && version.load(Ordering::Relaxed) == before {
            return value;
        }
    }
}

#[inline]
fn read_clock(fields: &ClockFields) -> ClockReading {
    read_consistently(fields.version, || ClockReading {
        tsc_timestamp: fields.tsc_timestamp.load(Ordering::Relaxed),
        system_time: fields.system_time.load(Ordering::Relaxed),
        multiplier: fields.multiplier.load(Ordering::Relaxed),
        shift: fields.shift.load(Ordering::Relaxed) as i8,
    })
}

/// Reads the time-stamp counter.
#[inline]
pub fn time_stamp_counter() -> u64 {
    #![expect(unsafe_code, reason = "an instruction")]
    // SAFETY: the instruction is there on every x86-64 processor, and allowed in ring 3 unless the
    // hypervisor emulates it; it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What the time-stamp counter read at the kernel's first instruction; written there.
pub(crate) static STARTED_AT: AtomicU64 = AtomicU64::new(0);

/// What the time-stamp counter read at the kernel's first instruction.
pub fn started_at() -> u64 {
    STARTED_AT.load(Ordering::Relaxed)
}

/// Nanoseconds since the hypervisor started.
#[inline]
pub fn nanoseconds() -> u64 {
    let reading = read_clock(&shared_info::clock());
    reading.nanoseconds_at(time_stamp_counter())
}

/// How many ticks the time-stamp counter makes in a second, as the clock's factor says.
pub fn ticks_per_second() -> u64 {
    let reading = read_clock(&shared_info::clock());
    let ticks = (1_000_000_000_u128 << 32) / u128::from(reading.multiplier.max(1));
    let ticks = match reading.shift {
        shift @ 0.. => ticks >> shift,
        shift => ticks << shift.unsigned_abs(),
    };
    ticks as u64
}

/// Time since the hypervisor started.
pub(crate) fn now() -> Duration {
    Duration::from_nanos(nanoseconds())
}

/// Time since the beginning of 1970, UTC.
pub(crate) fn wall_clock() -> Duration {
    let [version, seconds, nanoseconds, seconds_high] = shared_info::wall_clock();
    let at_start = read_consistently(version, || {
        let seconds = u64::from(seconds_high.load(Ordering::Relaxed)) << 32
            | u64::from(seconds.load(Ordering::Relaxed));
        Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds.load(Ordering::Relaxed).into())
    });
    at_start + now()
}

#[cfg(target_os = "none")]
pub(crate) use timer::{idle, init};

#[cfg(target_os = "none")]
mod timer {
    use core::cell::RefCell;
    use core::time::Duration;

    use hypercall_abi::xen::VIRQ_TIMER;
    use hypercall_abi::{Errno, VcpuId};

    use crate::event_channel::EventChannel;
    use crate::{hypercall, kernel_local};

    /// The hypervisor's one-shot timer.
    struct Timer {
        /// Its events only end a block; the executor looks at the clock itself.
        channel: EventChannel,
        /// When it will go off; an earlier time than wanted is left alone.
        armed: Option<Duration>,
    }

    kernel_local! {
        static TIMER: RefCell<Option<Timer>> = RefCell::new(None);
    }

    /// Binds the timer's interrupt and stops the regular ticks that the hypervisor may have begun.
    pub(crate) fn init() -> Result<(), Errno> {
        hypercall::stop_periodic_timer(VcpuId(0))?;
        let channel = EventChannel::bind_virq(VIRQ_TIMER)?;
        TIMER.with(|timer| timer.replace(Some(Timer { channel, armed: None })));
        Ok(())
    }

    /// Blocks until an event comes or the deadline has passed. Returns early at will.
    pub(crate) fn idle(deadline: Option<Duration>) {
        if let Some(deadline) = deadline {
            arm(deadline);
        }
        hypercall::sched_block();
    }

    /// Sees to it that the timer goes off no later than at `deadline`.
    fn arm(deadline: Duration) {
        TIMER.with(|timer| {
            let mut timer = timer.borrow_mut();
            let Some(timer) = timer.as_mut() else { return };
            if timer.channel.take_pending() {
                timer.armed = None;
            }
            if timer.armed.is_some_and(|armed| armed <= deadline) {
                return;
            }
            match hypercall::set_timer_op(deadline) {
                Ok(()) => timer.armed = Some(deadline),
                Err(errno) => log::error!("the timer cannot be set: {errno}"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        // 2 GHz: half a nanosecond a tick.
        let reading = ClockReading { tsc_timestamp: 1000, system_time: 5_000, multiplier: 1 << 31, shift: 0 };
        assert_eq!(reading.nanoseconds_at(1000), 5_000);
        assert_eq!(reading.nanoseconds_at(3000), 6_000);
        assert_eq!(reading.nanoseconds_at(500), 5_000);
        let slow = ClockReading { shift: 1, ..reading };
        assert_eq!(slow.nanoseconds_at(3000), 7_000);
        let fast = ClockReading { shift: -1, ..reading };
        assert_eq!(fast.nanoseconds_at(3000), 5_500);
    }

    #[test]
    fn a_reading_from_before_the_counter_s_start_counts() {
        let reading = ClockReading {
            tsc_timestamp: 0_u64.wrapping_sub(3000),
            system_time: 0,
            multiplier: 1 << 31,
            shift: 1,
        };
        assert_eq!(reading.nanoseconds_at(1000), 4000);
        assert_eq!(reading.nanoseconds_at(reading.tsc_timestamp - 1), 0);
    }

    #[test]
    fn a_long_uptime_does_not_overflow() {
        let reading = ClockReading { tsc_timestamp: 0, system_time: 0, multiplier: u32::MAX, shift: 0 };
        let decades = 1_000_000_000 * 3600 * 24 * 365 * 50;
        assert!(reading.nanoseconds_at(decades).abs_diff(decades) < decades / 1_000_000);
    }

    #[test]
    fn an_update_in_progress_is_waited_out() {
        use core::cell::Cell;
        let version = AtomicU32::new(3);
        let reads = Cell::new(0);
        let value = read_consistently(&version, || {
            reads.set(reads.get() + 1);
            match reads.get() {
                1 => version.store(4, Ordering::Relaxed),
                2 => version.store(6, Ordering::Relaxed),
                _ => {}
            }
            reads.get()
        });
        assert_eq!(value, 3);
    }
}
