//! Packets of 1,500 bytes, many at a time, for dom0 to count what they take.
//!
//! They are handed to the interface as they are, below TCP/IP: what they cost this guest is not what is asked. Their
//! type is one that every receiver passes over.

use core::time::Duration;

use ip_stack::Port;
use pv_runtime::executor::sleep;
use smoltcp::phy::{Device as _, TxToken as _};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

use super::marks::Marks;
use crate::apps::{Failure, machine::Machine};
use crate::net::NetPort;

/// Bytes of a packet without its Ethernet header.
const PAYLOAD: usize = 1500;
/// A type that is set aside for experiments.
const EXPERIMENTAL: u16 = 0x88b5;
/// How long everybody has to be done with a round.
const SETTLING: Duration = Duration::from_millis(5);

/// Does rounds of `packets` packets to the interface with this address.
///
/// # Errors
///
/// If there is no network, nobody who counts, or no room for so many packets at once.
pub(super) async fn rounds(
    machine: &Machine,
    to: EthernetAddress,
    rounds: u32,
    packets: u32,
) -> Result<(), Failure> {
    machine.network()?;
    let port = machine.port();
    let marks = Marks::connect(machine.store.as_ref()).await?;
    for _ in 0..rounds {
        marks.pass().await?;
        send(port, to, packets)?;
        sleep(SETTLING).await;
        marks.pass().await?;
    }
    Ok(())
}

/// Sends packets with at most one notification.
fn send(port: &NetPort, to: EthernetAddress, packets: u32) -> Result<(), Failure> {
    let mut device = port.device();
    device.begin();
    for _ in 0..packets {
        let token = device.transmit(Instant::ZERO).ok_or_else(|| Failure::new("there is no room"))?;
        token.consume(EthernetFrame::<&[u8]>::buffer_len(PAYLOAD), |bytes| {
            let mut frame = EthernetFrame::new_unchecked(bytes);
            frame.set_dst_addr(to);
            frame.set_src_addr(port.address());
            frame.set_ethertype(EthernetProtocol::from(EXPERIMENTAL));
        });
    }
    let needed = device.flush();
    drop(device);
    port.notify(needed);
    Ok(())
}
