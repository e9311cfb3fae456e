//! A guest's handle: the number by which it is known across restarts, written as a UUID.

use core::fmt;
use core::str::FromStr;

use pv_runtime::time;

/// A handle (`xen_domain_handle_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub [u8; 16]);

impl Handle {
    /// Dom0's.
    pub const DOM0: Self = Self([0; 16]);

    /// A handle that no other guest on this machine has: it is mixed from the time stamp counter and a count. It
    /// need not be hard to guess.
    pub fn new(count: u64) -> Self {
        Self::mix(time::time_stamp_counter(), count)
    }

    fn mix(seed: u64, count: u64) -> Self {
        let mut bytes = [0; 16];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&scramble(seed ^ scramble(count)).to_le_bytes());
        second.copy_from_slice(&scramble(count.wrapping_add(scramble(seed))).to_le_bytes());
        // Version 4, variant 1 of RFC 4122: neither from a time nor from a name.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

/// The output function of SplitMix64: each bit of the input changes about half of the output.
const fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl FromStr for Handle {
    type Err = ();

    /// As it is written: `8-4-4-4-12` hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ()> {
        let groups = text.split('-').map(str::len);
        if !groups.eq([8, 4, 4, 4, 12]) || !text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        {
            return Err(());
        }
        let mut digits = text.bytes().filter(|byte| *byte != b'-');
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let pair = [digits.next().ok_or(())?, digits.next().ok_or(())?];
            let pair = core::str::from_utf8(&pair).map_err(drop)?;
            *byte = u8::from_str_radix(pair, 16).map_err(drop)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(formatter, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn it_is_written_as_a_uuid() {
        let handle = Handle(core::array::from_fn(|index| index as u8));
        assert_eq!(handle.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(handle.to_string().parse(), Ok(handle));
        for text in [
            "",
            "00010203040506070809",
            "0001020-30405-0607-0809-0a0b0c0d0e0f",
            "g0010203-0405-0607-0809-0a0b0c0d0e0f",
        ] {
            assert_eq!(text.parse::<Handle>(), Err(()), "{text}");
        }
    }

    #[test]
    fn new_ones_are_of_version_four_and_differ() {
        let (one, two) = (Handle::mix(1, 1), Handle::mix(1, 2));
        assert_ne!(one, two);
        for text in [one.to_string(), two.to_string()] {
            assert_eq!(&text[14..15], "4");
            assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"));
        }
    }
}
