//! TSC ticks to nanoseconds, in the form Xen's ABI prescribes: a shift, then a 32-bit fraction.

const NANOSECONDS: u64 = 1_000_000_000;

/// Multiplier (a fraction of 2^32) and shift for a TSC of `ticks_per_second`: the multiplier uses all its bits, so
/// the error stays below one in 2^31.
pub fn of(ticks_per_second: u64) -> (u32, i8) {
    let mut shift = 0;
    let mut ticks = ticks_per_second.max(1);
    while ticks > 2 * NANOSECONDS {
        ticks >>= 1;
        shift -= 1;
    }
    // At most 2^32 nanoseconds a 2^32nd: the quotient must stay below 2^32, so a tick must be over a nanosecond.
    while ticks <= NANOSECONDS {
        ticks <<= 1;
        shift += 1;
    }
    (((NANOSECONDS << 32) / ticks) as u32, shift)
}

/// Nanoseconds in `ticks`.
#[inline]
pub fn apply(ticks: u64, multiplier: u32, shift: i8) -> u64 {
    let shifted = if shift >= 0 { ticks << shift } else { ticks >> -shift };
    ((u128::from(shifted) * u128::from(multiplier)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_rates_are_exact_to_a_part_in_a_billion() {
        for rate in [1_000_000_000, 2_596_000_000, 999_999_999, 3_000_000_001, 500_000_000, 100_000] {
            let (multiplier, shift) = of(rate);
            let second = apply(rate, multiplier, shift);
            assert!(second.abs_diff(NANOSECONDS) <= 2, "{rate}: {second}");
        }
    }

    #[test]
    fn one_gigahertz_counts_nanoseconds() {
        let (multiplier, shift) = of(1_000_000_000);
        assert_eq!((multiplier, shift), (1 << 31, 1));
        assert_eq!(apply(12345, multiplier, shift), 12345);
    }
}
