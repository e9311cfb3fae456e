//! What a frame carries, as far as checksums and segmentation need to know: TCP or UDP over IPv4 or IPv6.
//!
//! Headers are looked at in a private copy of a frame's first bytes. Everything in them was written by a guest
//! or by somebody out on the network.

use super::ethernet::HEADER_LENGTH as ETHERNET_LENGTH;

/// Bytes of a frame that are copied out to look at its headers. Longer headers are not understood.
pub const HEADERS_MAX: usize = 128;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
/// Types of a VLAN tag, which stands before the type proper.
const TYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const VLAN_LENGTH: usize = 4;

/// Numbers of protocols above IP.
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// Those IPv6 extension headers that have the common form: next header, length in eights less one.
const EXTENSIONS: [u8; 3] = [0, 43, 60];

const IPV4_LENGTH_MIN: usize = 20;
const IPV6_LENGTH: usize = 40;
const TCP_LENGTH_MIN: usize = 20;
const UDP_LENGTH: usize = 8;

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The protocol above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Where in its header the checksum lies.
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Tcp => PROTOCOL_TCP,
            Self::Udp => PROTOCOL_UDP,
        }
    }

    const fn length_min(self) -> usize {
        match self {
            Self::Tcp => TCP_LENGTH_MIN,
            Self::Udp => UDP_LENGTH,
        }
    }
}

/// Where a frame's headers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Version of IP.
    pub version: IpVersion,
    /// Where the IP header starts, in bytes.
    pub network: usize,
    /// What is above it.
    pub transport: Transport,
    /// Where that header starts.
    pub transport_start: usize,
    /// Bytes of the IP packet from there on, as its header says; lies within the frame.
    pub transport_length: usize,
    /// Where the payload starts.
    pub payload: usize,
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let pair = bytes.get(offset..offset + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// The version of IP that a frame carries, by its type alone.
pub fn ip_version(frame: &[u8]) -> Option<IpVersion> {
    network_header(frame).map(|(version, _)| version)
}

fn network_header(frame: &[u8]) -> Option<(IpVersion, usize)> {
    let kind = u16_at(frame, ETHERNET_LENGTH - 2)?;
    let (kind, network) = if TYPES_VLAN.contains(&kind) {
        (u16_at(frame, ETHERNET_LENGTH + VLAN_LENGTH - 2)?, ETHERNET_LENGTH + VLAN_LENGTH)
    } else {
        (kind, ETHERNET_LENGTH)
    };
    match kind {
        TYPE_IPV4 => Some((IpVersion::V4, network)),
        TYPE_IPV6 => Some((IpVersion::V6, network)),
        _ => None,
    }
}

impl Headers {
    /// Looks at a frame of `length` bytes that starts with `frame`: all of it or at least its headers. `None` if
    /// it is a fragment, or anything else than whole TCP or UDP over IP.
    pub fn parse(frame: &[u8], length: usize) -> Option<Self> {
        let (version, network) = network_header(frame)?;
        let (transport, transport_start, end) = match version {
            IpVersion::V4 => parse_ipv4(frame, network)?,
            IpVersion::V6 => parse_ipv6(frame, network)?,
        };
        let transport_length = end.checked_sub(transport_start)?;
        if end > length || transport_length < transport.length_min() {
            return None;
        }
        let header_length = match transport {
            Transport::Udp => UDP_LENGTH,
            Transport::Tcp => usize::from(frame.get(transport_start + 12)? >> 4) * 4,
        };
        if header_length < transport.length_min() || header_length > transport_length {
            return None;
        }
        let payload = transport_start + header_length;
        Some(Self { version, network, transport, transport_start, transport_length, payload })
    }

    /// Where the checksum of the protocol above IP lies.
    pub const fn checksum(&self) -> usize {
        self.transport_start + self.transport.checksum_offset()
    }

    /// Where the addresses in the IP header lie, source and destination together.
    pub const fn addresses(&self) -> core::ops::Range<usize> {
        match self.version {
            IpVersion::V4 => self.network + 12..self.network + 20,
            IpVersion::V6 => self.network + 8..self.network + 40,
        }
    }

    /// The protocol's number.
    pub const fn protocol_number(&self) -> u8 {
        self.transport.number()
    }
}

/// The protocol above, where its header starts, and where the packet ends.
fn parse_ipv4(frame: &[u8], network: usize) -> Option<(Transport, usize, usize)> {
    let header = frame.get(network..network + IPV4_LENGTH_MIN)?;
    let header_length = usize::from(header[0] & 0xf) * 4;
    // All but the flag "do not fragment" says that this is a part of a packet.
    let is_fragment = u16_at(header, 6)? & !0x4000 != 0;
    if header[0] >> 4 != 4 || header_length < IPV4_LENGTH_MIN || is_fragment {
        return None;
    }
    let total = usize::from(u16_at(header, 2)?);
    Some((transport(header[9])?, network + header_length, network + total))
}

fn parse_ipv6(frame: &[u8], network: usize) -> Option<(Transport, usize, usize)> {
    let header = frame.get(network..network + IPV6_LENGTH)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut next, mut start) = (header[6], network + IPV6_LENGTH);
    let end = start + usize::from(u16_at(header, 4)?);
    while EXTENSIONS.contains(&next) {
        let extension = frame.get(start..start + 2)?;
        next = extension[0];
        start += (usize::from(extension[1]) + 1) * 8;
    }
    Some((transport(next)?, start, end))
}

fn transport(number: u8) -> Option<Transport> {
    match number {
        PROTOCOL_TCP => Some(Transport::Tcp),
        PROTOCOL_UDP => Some(Transport::Udp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tcp_over_ipv4_is_taken_apart() {
        let frame = tcp_v4(100);
        let headers = Headers::parse(&frame[..HEADERS_MAX], frame.len()).expect("understood");
        assert_eq!((headers.version, headers.transport), (IpVersion::V4, Transport::Tcp));
        assert_eq!((headers.network, headers.transport_start, headers.payload), (14, 34, 54));
        assert_eq!((headers.transport_length, headers.checksum()), (120, 50));
        assert_eq!(headers.addresses(), 26..34);
    }

    #[test]
    fn udp_over_ipv6_with_extensions_and_a_tag_is_taken_apart() {
        let frame = udp_v6_with_extension_and_tag(33);
        let headers = Headers::parse(&frame, frame.len()).expect("understood");
        assert_eq!((headers.version, headers.transport), (IpVersion::V6, Transport::Udp));
        assert_eq!((headers.network, headers.transport_start, headers.payload), (18, 66, 74));
        assert_eq!(headers.transport_length, 41);
    }

    #[test]
    fn padding_after_the_packet_is_not_part_of_it() {
        let mut frame = udp_v4(2);
        frame.resize(60, 0xee);
        let headers = Headers::parse(&frame, frame.len()).expect("understood");
        assert_eq!(headers.transport_length, 10);
    }

    #[test]
    fn what_is_not_whole_tcp_or_udp_is_not_understood() {
        let sound = tcp_v4(100);
        let cases: [(&str, usize, u8); 7] = [
            ("type", 12, 0x81),
            ("version", 14, 0x55),
            ("header length", 14, 0x44),
            ("more fragments", 20, 0x20),
            ("later fragment", 21, 0x01),
            ("protocol", 23, 1),
            ("TCP header length", 46, 0x40),
        ];
        for (what, offset, value) in cases {
            let mut frame = sound.clone();
            frame[offset] = value;
            assert_eq!(Headers::parse(&frame, frame.len()), None, "{what}");
        }
        assert_eq!(Headers::parse(&sound, sound.len() - 1), None, "cut off");
        assert_eq!(Headers::parse(&sound[..40], sound.len()), None, "headers missing");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// No bytes lead outside the frame.
        #[test]
        fn whatever_is_understood_lies_in_the_frame(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0_usize..4,
            length in 0_usize..300,
        ) {
            let mut frame = bytes;
            let start = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0, 0]][kind];
            if frame.len() > 14 {
                frame[12..14].copy_from_slice(&start);
                frame[14] = if kind == 0 { 0x45 } else { 0x60 };
            }
            let length = length.max(frame.len());
            if let Some(headers) = Headers::parse(&frame, length) {
                prop_assert!(headers.transport_start + headers.transport_length <= length);
                prop_assert!(headers.checksum() + 2 <= headers.transport_start + headers.transport_length);
                prop_assert!(headers.payload <= headers.transport_start + headers.transport_length);
                prop_assert!(headers.addresses().end <= headers.transport_start);
            }
        }
    }
}
