//! Ethernet addresses and the first bytes of a frame.

use core::fmt;
use core::str::FromStr;
use core::sync::atomic::Ordering;

use pv_runtime::memory::{Page, SharedMemory};

/// Bytes of an Ethernet header: destination, source, type.
pub const HEADER_LENGTH: usize = 14;
/// Bytes of the two addresses.
pub const ADDRESSES_LENGTH: usize = 12;
/// Bytes of a tag that says to which virtual network a frame belongs (IEEE 802.1Q); it stands behind the addresses.
pub const TAG_LENGTH: u16 = 4;
/// How such a tag begins.
pub const TAG_TYPE: u16 = 0x8100;
/// How other tags begin: those of providers, and one that is older than the standard.
const OTHER_TAG_TYPES: [u16; 2] = [0x88a8, 0x9100];
/// The part of a tag that is the network's number; the rest is priority.
const NETWORK_MASK: u16 = 0xfff;

/// A virtual network on the wire: frames of different ones never meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vlan(u16);

impl Vlan {
    /// The network of frames without a tag.
    pub const UNTAGGED: Self = Self(0);

    /// The network of this number: 1 to 4094.
    pub const fn new(number: u16) -> Option<Self> {
        if matches!(number, 1..=4094) { Some(Self(number)) } else { None }
    }

    /// The network that a tag names; number 0 says nothing but a priority. `None` for the number that is reserved.
    pub const fn of_tag(tag: u16) -> Option<Self> {
        match tag & NETWORK_MASK {
            0 => Some(Self::UNTAGGED),
            number => Self::new(number),
        }
    }

    /// Its number; 0 for the one without tags.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// An Ethernet address: six bytes, the first in the lowest byte of the number.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(u64);

impl MacAddress {
    /// The address of everybody.
    pub const BROADCAST: Self = Self(0xffff_ffff_ffff);

    /// The address with these bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// The address's bytes.
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Whether it names a group of interfaces, or all of them.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether an interface can have it.
    #[inline]
    pub const fn is_valid_source(self) -> bool {
        self.0 != 0 && !self.is_group()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.bytes();
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The text is not six hexadecimal bytes with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not an Ethernet address")
    }
}

impl core::error::Error for NotAnAddress {}

impl FromStr for MacAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or(NotAnAddress)?;
        }
        if parts.next().is_some() { Err(NotAnAddress) } else { Ok(Self::new(bytes)) }
    }
}

/// Who a frame is for, who sent it, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Receiver.
    pub destination: MacAddress,
    /// Sender.
    pub source: MacAddress,
    /// The two bytes that follow: the frame's type, or the beginning of a tag.
    kind: u16,
}

/// What stands where a tag would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// No tag: the frame's type or length.
    None,
    /// A tag of a virtual network.
    Network,
    /// A tag of another kind.
    Other,
}

impl Addresses {
    /// Reads them from a frame that starts at a multiple of four bytes in a page.
    #[inline]
    pub fn in_page(page: &Page, offset: usize) -> Self {
        let words = &page.words()[offset / 4..][..4];
        Self::from_words([0, 1, 2, 3].map(|word: usize| words[word].load(Ordering::Relaxed)))
    }

    /// Reads the first sixteen bytes of a frame, given as words.
    #[inline]
    pub const fn from_words(words: [u32; 4]) -> Self {
        let [first, second, third, _] = words;
        let (first, second, third) = (first as u64, second as u64, third as u64);
        Self {
            destination: MacAddress(first | (second & 0xffff) << 32),
            source: MacAddress(second >> 16 | third << 16),
            kind: words[3] as u16,
        }
    }

    /// What follows them.
    pub fn tag(&self) -> Tag {
        match u16::from_be(self.kind) {
            TAG_TYPE => Tag::Network,
            other if OTHER_TAG_TYPES.contains(&other) => Tag::Other,
            _ => Tag::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn text_and_bytes_go_both_ways() {
        let address = MacAddress::new([0x00, 0x16, 0x3e, 0xab, 0xcd, 0xef]);
        assert_eq!(format!("{address}"), "00:16:3e:ab:cd:ef");
        assert_eq!("00:16:3E:ab:cd:ef".parse(), Ok(address));
        assert_eq!(address.bytes(), [0x00, 0x16, 0x3e, 0xab, 0xcd, 0xef]);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "00:16:3e:ab:cd",
            "00:16:3e:ab:cd:ef:00",
            "0:16:3e:ab:cd:ef",
            "00:16:3e:ab:cd:eg",
            "+0:16:3e:ab:cd:ef",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(NotAnAddress), "{text}");
        }
    }

    #[test]
    fn groups_and_nobody_send_nothing() {
        assert!(MacAddress::BROADCAST.is_group());
        assert!(MacAddress::new([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!MacAddress::new([0; 6]).is_valid_source());
        assert!(MacAddress::new([2, 0, 0, 0, 0, 1]).is_valid_source());
    }

    #[test]
    fn a_frame_starts_with_destination_and_source() {
        let frame = |last| {
            let words = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], last].map(u32::from_le_bytes);
            Addresses::from_words(words)
        };
        let addresses = frame([8, 0, 0x45, 0]);
        assert_eq!(addresses.destination.bytes(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(addresses.source.bytes(), [7, 8, 9, 10, 11, 12]);
        assert_eq!(addresses.tag(), Tag::None);
        assert_eq!(frame([0x81, 0, 0x60, 42]).tag(), Tag::Network);
        for other in [[0x88, 0xa8, 0, 1], [0x91, 0, 0, 1]] {
            assert_eq!(frame(other).tag(), Tag::Other);
        }
    }

    #[test]
    fn networks_have_numbers_from_1_to_4094() {
        assert_eq!(Vlan::of_tag(0x602a), Vlan::new(42));
        assert_eq!(Vlan::of_tag(0xe000), Some(Vlan::UNTAGGED));
        assert_eq!((Vlan::new(0), Vlan::new(4095), Vlan::of_tag(0xffff)), (None, None, None));
        assert_eq!(Vlan::new(4094).map(Vlan::number), Some(4094));
    }
}
