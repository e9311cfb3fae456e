//! Two guests that talk TCP with each other through their interfaces and a switch between the back ends.

use std::vec;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Duration;
use smoltcp::wire::{EthernetAddress, EthernetFrame, IpCidr, IpProtocol, Ipv4Address, Ipv4Packet, TcpPacket};

use super::*;
use crate::apps::pattern::Pattern;

/// A guest and its back end.
struct Host {
    device: NetDevice<FakeGrants>,
    back_end: BackEnd,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

fn host(number: u8, features: Features) -> Host {
    let (mut device, back_end) = connected(features);
    let config = Config::new(EthernetAddress([2, 0, 0, 0, 0, number]).into());
    let mut interface = Interface::new(config, &mut device, TIME);
    let address = IpCidr::new(Ipv4Address::new(10, 0, 0, number).into(), 24);
    interface.update_ip_addrs(|addresses| addresses.push(address).unwrap());
    let buffer = || tcp::SocketBuffer::new(vec![0; 256 << 10]);
    let mut sockets = SocketSet::new(Vec::new());
    let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
    Host { device, back_end, interface, sockets, socket }
}

impl Host {
    fn turn(&mut self, now: Instant) {
        self.device.begin();
        self.interface.poll(now, &mut self.device, &mut self.sockets);
        let _ = self.device.flush();
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}

/// Passes packets on, as a bridge does: flags and all. Returns how many there were.
fn pass_on(from: &mut BackEnd, to: &mut BackEnd, damage: &mut impl FnMut(&mut Sent)) -> usize {
    let mut count = 0;
    while to.rx.waiting_requests().unwrap() > 20
        && let Some(mut sent) = from.take()
    {
        count += 1;
        damage(&mut sent);
        let blank = if sent.flags & NETTXF_CSUM_BLANK != 0 { NETRXF_CSUM_BLANK } else { 0 };
        let validated = if sent.flags & NETTXF_DATA_VALIDATED != 0 { NETRXF_DATA_VALIDATED } else { 0 };
        to.deliver(&sent.bytes, blank | validated, sent.extra.map(|extra| extra.size));
    }
    count
}

/// Sends `bytes` from the first host to the second and compares. Returns how many packets the first sent.
fn transfer(features: [Features; 2], bytes: u64, mut damage: impl FnMut(&mut Sent)) -> usize {
    let (mut first, mut second) = (host(1, features[0]), host(2, features[1]));
    second.socket().listen(9).unwrap();
    let context = first.interface.context();
    let socket = first.sockets.get_mut::<tcp::Socket>(first.socket);
    socket.connect(context, (Ipv4Address::new(10, 0, 0, 2), 9), 5000).unwrap();
    let (mut sent, mut received) = (Pattern::new(1), Pattern::new(1));
    let (mut packets, mut now) = (0, TIME);
    while received.position() < bytes {
        first.turn(now);
        second.turn(now);
        packets += pass_on(&mut first.back_end, &mut second.back_end, &mut damage);
        pass_on(&mut second.back_end, &mut first.back_end, &mut |_| ());
        if first.socket().can_send() {
            let rest = bytes - sent.position();
            let fill = |room: &mut [u8]| {
                let length = room.len().min(rest as usize);
                sent.fill(&mut room[..length]);
                (length, ())
            };
            first.socket().send(fill).unwrap();
        }
        if second.socket().can_recv() {
            let compare = |data: &mut [u8]| {
                assert!(received.matches(data), "data differs before byte {}", received.position());
                (data.len(), ())
            };
            second.socket().recv(compare).unwrap();
        }
        now += Duration::from_millis(1);
        assert!(now < TIME + Duration::from_secs(600), "the transfer does not come to an end");
    }
    for host in [&first, &second] {
        assert_eq!(host.device.fault(), None);
    }
    packets
}

#[test]
fn a_megabyte_goes_over_with_any_mix_of_features() {
    for first in [ALL_FEATURES, NO_FEATURES] {
        for second in [ALL_FEATURES, NO_FEATURES] {
            transfer([first, second], 1 << 20, |_| ());
        }
    }
}

#[test]
fn segmentation_saves_packets() {
    let cut = transfer([NO_FEATURES; 2], 1 << 20, |_| ());
    let uncut = transfer([ALL_FEATURES; 2], 1 << 20, |_| ());
    assert!(cut > 700, "{cut}");
    assert!(uncut < cut / 10, "{uncut} of {cut}");
}

#[test]
fn damage_on_the_way_is_noticed_where_checksums_are_there() {
    let mut count = 0;
    let packets = transfer([NO_FEATURES; 2], 256 << 10, |sent| {
        count += 1;
        if count % 10 == 5 {
            *sent.bytes.last_mut().unwrap() ^= 1;
        }
    });
    assert!(packets > 200, "{packets}: damaged packets were sent again");
}

#[test]
fn a_blank_checksum_holds_the_sum_of_the_pseudo_header() {
    let mut looked_at = 0;
    transfer([ALL_FEATURES; 2], 100 << 10, |sent| {
        if sent.flags & NETTXF_CSUM_BLANK == 0 {
            return;
        }
        looked_at += 1;
        assert_ne!(sent.flags & NETTXF_DATA_VALIDATED, 0);
        // What a network card does that fills the checksum in: sum up from the header on, and complement.
        let mut frame = EthernetFrame::new_unchecked(&mut sent.bytes[..]);
        let mut ip = Ipv4Packet::new_unchecked(frame.payload_mut());
        assert_eq!(ip.next_header(), IpProtocol::Tcp);
        let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
        let segment = ip.payload_mut();
        let sum = !smoltcp::wire::checksum::data(segment);
        let mut tcp = TcpPacket::new_unchecked(segment);
        tcp.set_checksum(sum);
        assert!(tcp.verify_checksum(&source, &destination));
    });
    assert!(looked_at > 3);
}
