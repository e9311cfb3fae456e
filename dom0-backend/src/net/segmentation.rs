//! Cutting a large TCP packet into segments, for receivers that cannot do it themselves.
//!
//! Each segment gets the large packet's headers with lengths, sequence number and identification put right. The
//! TCP checksum stays blank, with the sum of the pseudo header in its place, and is completed on the way out
//! where need be.

use super::checksum::{Sum, pseudo_header_sum};
use super::headers::{HEADERS_MAX, Headers, IpVersion, Transport};
use super::offload::Segmentation;

/// The most segments that a packet is cut into. With 64 KiB that allows segments of 512 bytes.
pub const SEGMENTS_MAX: usize = 128;

/// Flags of a TCP header: no more data, deliver at once, and "the window was reduced".
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// How a packet is to be cut.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The large packet's headers.
    head: [u8; HEADERS_MAX],
    headers: Headers,
    /// Bytes of payload in all.
    payload: usize,
    /// Bytes of payload in a segment.
    size: usize,
}

impl Plan {
    /// Plans for a packet of `length` bytes that starts with `head`. `None` if it is not TCP as announced, its
    /// headers do not all lie in `head`, or there would be too many segments.
    pub fn new(head: &[u8], length: usize, wanted: Segmentation) -> Option<Self> {
        let headers = Headers::parse(head, length)?;
        let size = usize::from(wanted.size);
        let payload = headers.transport_start + headers.transport_length - headers.payload;
        let is_as_announced = headers.transport == Transport::Tcp && headers.version == wanted.version;
        let has_headers = headers.payload <= head.len().min(HEADERS_MAX);
        if !is_as_announced || !has_headers || payload.div_ceil(size) > SEGMENTS_MAX {
            return None;
        }
        let mut own = [0; HEADERS_MAX];
        own[..headers.payload].copy_from_slice(&head[..headers.payload]);
        Some(Self { head: own, headers, payload, size })
    }

    /// Bytes of the headers, which every segment starts with.
    pub const fn header_length(&self) -> usize {
        self.headers.payload
    }

    /// How many segments there will be, at least one.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.size).max(1)
    }

    /// Bytes of payload in segment `index`.
    pub fn part(&self, index: usize) -> usize {
        (self.payload - index * self.size).min(self.size)
    }

    /// The headers of segment `index`.
    pub fn headers_of(&self, index: usize) -> ([u8; HEADERS_MAX], usize) {
        let mut head = self.head;
        self.patch_ip(&mut head, index);
        self.patch_tcp(&mut head, index);
        (head, self.header_length())
    }

    /// Bytes from the start of the TCP header to the end of segment `index`.
    fn transport_length(&self, index: usize) -> usize {
        self.headers.payload - self.headers.transport_start + self.part(index)
    }

    fn patch_ip(&self, head: &mut [u8], index: usize) {
        let network = self.headers.network;
        let end = self.headers.payload + self.part(index);
        match self.headers.version {
            IpVersion::V4 => {
                put_u16(head, network + 2, (end - network) as u16);
                let identification = u16::from_be_bytes([head[network + 4], head[network + 5]]);
                put_u16(head, network + 4, identification.wrapping_add(index as u16));
                put_u16(head, network + 10, 0);
                let mut sum = Sum::default();
                sum.add_bytes(&head[network..self.headers.transport_start]);
                head[network + 10..network + 12].copy_from_slice(&(!sum.fold()).to_le_bytes());
            }
            IpVersion::V6 => put_u16(head, network + 4, (end - network - 40) as u16),
        }
    }

    fn patch_tcp(&self, head: &mut [u8], index: usize) {
        let start = self.headers.transport_start;
        let bytes = [head[start + 4], head[start + 5], head[start + 6], head[start + 7]];
        let sequence = u32::from_be_bytes(bytes).wrapping_add((index * self.size) as u32);
        head[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < self.count() {
            head[start + 13] &= !TCP_FIN_PSH;
        }
        if index > 0 {
            head[start + 13] &= !TCP_CWR;
        }
        let pseudo = pseudo_header_sum(head, &self.headers, self.transport_length(index)).fold();
        let checksum = self.headers.checksum();
        head[checksum..checksum + 2].copy_from_slice(&pseudo.to_le_bytes());
    }
}

fn put_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::frames::*;
    use super::*;
    use alloc::vec::Vec;

    const SIZE: u16 = 1000;

    fn wanted(version: IpVersion) -> Segmentation {
        Segmentation { version, size: SIZE }
    }

    fn plan(frame: &[u8], version: IpVersion) -> Option<Plan> {
        Plan::new(&frame[..frame.len().min(HEADERS_MAX)], frame.len(), wanted(version))
    }

    /// All segments, put together as the switch does.
    fn cut(frame: &[u8], version: IpVersion) -> Vec<Vec<u8>> {
        let plan = plan(frame, version).expect("TCP");
        let mut payload = &frame[plan.header_length()..];
        let segment = |index| {
            let (head, length) = plan.headers_of(index);
            let (part, rest) = payload.split_at(plan.part(index));
            payload = rest;
            [&head[..length], part].concat()
        };
        (0..plan.count()).map(segment).collect()
    }

    #[test]
    fn segments_are_right_and_add_up() {
        for (frame, version) in [(tcp_v4(2500), IpVersion::V4), (tcp_v6(2500), IpVersion::V6)] {
            let segments = cut(&blank(frame.clone()), version);
            assert_eq!(segments.len(), 3);
            let header = frame.len() - 2500;
            let mut sent = Vec::new();
            for (index, segment) in segments.iter().enumerate() {
                assert_eq!(*segment, blank(segment.clone()), "the pseudo header's sum stands in place");
                sent.extend_from_slice(&segment[header..]);
                let sequence = segment[header - 16..header - 12].try_into().expect("four bytes");
                assert_eq!(u32::from_be_bytes(sequence), 0x1020_3040 + 1000 * index as u32);
            }
            assert_eq!(sent, frame[header..]);
        }
    }

    #[test]
    fn only_the_last_segment_ends_and_only_the_first_reports_the_window() {
        let flags: Vec<_> = cut(&tcp_v4(2500), IpVersion::V4).iter().map(|segment| segment[47]).collect();
        assert_eq!(flags, [0x90, 0x10, 0x19]);
    }

    #[test]
    fn headers_of_ipv4_are_whole() {
        let segments = cut(&tcp_v4(1500), IpVersion::V4);
        for (index, segment) in segments.iter().enumerate() {
            assert_eq!(ones_sum(&segment[14..34]), 0xffff);
            assert_eq!(segment[18..20], (0x1234 + index as u16).to_be_bytes());
            assert_eq!(usize::from(u16::from_be_bytes([segment[16], segment[17]])), segment.len() - 14);
        }
    }

    #[test]
    fn a_packet_that_needs_no_cutting_stays_one() {
        assert_eq!(cut(&tcp_v4(1000), IpVersion::V4).len(), 1);
        assert_eq!(cut(&tcp_v4(0), IpVersion::V4).len(), 1);
    }

    #[test]
    fn other_packets_than_announced_are_refused() {
        assert!(plan(&udp_v4(2500), IpVersion::V4).is_none());
        assert!(plan(&tcp_v4(2500), IpVersion::V6).is_none());
        assert!(plan(&plain(2500), IpVersion::V4).is_none());
        let frame = tcp_v4(2500);
        assert!(Plan::new(&frame[..50], frame.len(), wanted(IpVersion::V4)).is_none(), "headers cut off");
    }

    #[test]
    fn a_guest_cannot_ask_for_thousands_of_segments() {
        let frame = tcp_v4(2500);
        let tiny = Segmentation { version: IpVersion::V4, size: 1 };
        assert!(Plan::new(&frame[..128], frame.len(), tiny).is_none());
    }
}
