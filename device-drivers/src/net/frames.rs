//! Frames for tests, with right checksums, and the plainest way to verify them.

use alloc::vec::Vec;

/// Who sends the frames.
pub const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Who they are for.
pub const TARGET_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame between them that is not IP.
pub fn plain(payload: usize) -> Vec<u8> {
    let mut frame = ethernet([0x88, 0xb5]);
    frame.extend((0..payload).map(|byte| byte as u8));
    frame
}

fn ethernet(kind: [u8; 2]) -> Vec<u8> {
    [&TARGET_MAC[..], &SOURCE_MAC, &kind].concat()
}

/// Payload that differs from byte to byte.
pub fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte * 7 + byte / 251) as u8).collect()
}

fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    header[2..4].copy_from_slice(&(20 + transport.len() as u16).to_be_bytes());
    let sum = !ones_sum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&ethernet([8, 0])[..], &header, transport].concat()
}

fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    header[6] = next;
    header[7] = 64;
    header[8..24].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    header[24..40].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    [&ethernet([0x86, 0xdd])[..], &header, rest].concat()
}

fn tcp_segment(length: usize) -> Vec<u8> {
    // Ports, sequence number, acknowledgement, 20 bytes of header, CWR + PSH + ACK + FIN, window.
    let mut header = Vec::from([
        0x30, 0x39, 0, 80, 0x10, 0x20, 0x30, 0x40, 1, 2, 3, 4, 0x50, 0x99, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    header.extend(payload(length));
    header
}

fn udp_datagram(length: usize) -> Vec<u8> {
    let mut header = Vec::from([0x30, 0x39, 0, 53, 0, 0, 0, 0]);
    header[4..6].copy_from_slice(&(8 + length as u16).to_be_bytes());
    header.extend(payload(length));
    header
}

/// TCP over IPv4, with so many bytes of payload.
pub fn tcp_v4(length: usize) -> Vec<u8> {
    with_checksum(ipv4(6, &tcp_segment(length)))
}

/// UDP over IPv4.
pub fn udp_v4(length: usize) -> Vec<u8> {
    with_checksum(ipv4(17, &udp_datagram(length)))
}

/// TCP over IPv6.
pub fn tcp_v6(length: usize) -> Vec<u8> {
    with_checksum(ipv6(6, &tcp_segment(length)))
}

/// UDP over IPv6 with an extension header between them.
pub fn udp_v6_with_extension(length: usize) -> Vec<u8> {
    let extension = [17, 0, 1, 4, 0, 0, 0, 0];
    with_checksum(ipv6(0, &[&extension[..], &udp_datagram(length)].concat()))
}

/// The same, with a tag of a virtual network.
pub fn udp_v6_with_extension_and_tag(length: usize) -> Vec<u8> {
    tagged(udp_v6_with_extension(length), 42)
}

/// The same frame with a tag of a virtual network.
pub fn tagged(mut frame: Vec<u8>, vlan: u8) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0, 0, vlan]);
    frame
}

/// The sum of big-endian pairs, carries added back in: slow and plain.
pub fn ones_sum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Where the transport header starts, where its checksum is, and the sum of its pseudo header; for frames made
/// here.
fn layout(frame: &[u8]) -> (usize, usize, u16) {
    let network = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let (mut start, addresses, mut protocol) = match frame[network] >> 4 {
        4 => (network + 20, network + 12..network + 20, frame[network + 9]),
        _ => (network + 40, network + 8..network + 40, frame[network + 6]),
    };
    if protocol == 0 {
        protocol = frame[start];
        start += 8;
    }
    let field = start + if protocol == 6 { 16 } else { 6 };
    let length = (frame.len() - start) as u16;
    let mut pseudo = Vec::from(&frame[addresses]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, protocol]);
    (start, field, ones_sum(&pseudo))
}

fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let (start, field, pseudo) = layout(&frame);
    frame[field..field + 2].fill(0);
    let sum = ones_sum(&[&pseudo.to_be_bytes()[..], &frame[start..]].concat());
    frame[field..field + 2].copy_from_slice(&(!sum).to_be_bytes());
    frame
}

/// The same frame with its checksum left blank, as a guest with offload sends it.
pub fn blank(mut frame: Vec<u8>) -> Vec<u8> {
    let (_, field, pseudo) = layout(&frame);
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

/// Whether the checksums of IP and of what is above it are right.
pub fn is_right(frame: &[u8]) -> bool {
    let network = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let ip_is_right = frame[network] >> 4 == 6 || ones_sum(&frame[network..network + 20]) == 0xffff;
    let (start, _, pseudo) = layout(frame);
    let sum = ones_sum(&[&pseudo.to_be_bytes()[..], &frame[start..]].concat());
    ip_is_right && sum == 0xffff
}

#[test]
fn the_frames_are_right() {
    for frame in [tcp_v4(100), udp_v4(33), tcp_v6(1), udp_v6_with_extension_and_tag(7)] {
        assert!(is_right(&frame));
        assert!(!is_right(&blank(frame)));
    }
}
