//! Checksums that are left to somebody else.
//!
//! Between domains of one machine a TCP checksum protects nothing, so it is left blank, and whoever sends the
//! packet on to a wire fills it in. *Blank* means, as with Linux, that the field holds the folded sum of the
//! pseudo header, so that summing up the segment from its header on gives the checksum.

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket, checksum::pseudo_header_v4,
};

/// Leaves the checksum of a TCP packet over IPv4 blank. Returns whether the packet is one.
pub fn leave_blank(frame: &mut [u8]) -> bool {
    let Ok(mut ethernet) = EthernetFrame::new_checked(frame) else { return false };
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return false;
    }
    let Ok(mut ip) = Ipv4Packet::new_checked(ethernet.payload_mut()) else { return false };
    if ip.next_header() != IpProtocol::Tcp {
        return false;
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let segment = ip.payload_mut();
    let sum = pseudo_header_v4(&source, &destination, IpProtocol::Tcp, segment.len() as u32);
    let Ok(mut tcp) = TcpPacket::new_checked(segment) else { return false };
    tcp.set_checksum(sum);
    true
}

/// Whether the TCP or UDP checksum of a packet that came from a wire is right. Fragments and other protocols
/// pass: their checksums are looked at by whoever reads them.
pub fn is_right(frame: &[u8]) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return true;
    }
    let Ok(ip) = Ipv4Packet::new_checked(ethernet.payload()) else { return false };
    if ip.more_frags() || ip.frag_offset() != 0 {
        return true;
    }
    let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
    match ip.next_header() {
        IpProtocol::Tcp => {
            TcpPacket::new_checked(ip.payload()).is_ok_and(|tcp| tcp.verify_checksum(&source, &destination))
        }
        IpProtocol::Udp => {
            UdpPacket::new_checked(ip.payload()).is_ok_and(|udp| udp.verify_checksum(&source, &destination))
        }
        _ => true,
    }
}
