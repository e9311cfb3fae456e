//! Packets to another guest or to the network, many at a time, for dom0 to count what they take; and who receives them.
//!
//! They are handed to the interface as they are, below TCP/IP: what they cost this guest is not what is asked. Their
//! type is one that every receiver passes over, unless it runs [`sink`].

use alloc::format;
use core::time::Duration;

use ip_stack::Port;
use pv_runtime::executor::{sleep, timeout};
use pv_runtime::println;
use smoltcp::wire::EthernetAddress;

use super::frames::{Compare, Frames};
use super::marks::Marks;
use super::wire::{COMPARED_ROUNDS, SETTLING, connected, receive, send, unused_interface};
use crate::apps::{Failure, machine::Machine};

/// How long the receiver waits for what must come.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(60);

/// Packets between two guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The other guest's interface.
    pub other: EthernetAddress,
    /// Bytes of a packet behind its Ethernet header.
    pub bytes: usize,
    /// Packets of a round, handed over together.
    pub packets: u32,
    /// Rounds that are counted.
    pub rounds: u32,
}

/// Sends rounds of packets, which dom0 counts.
///
/// # Errors
///
/// If there is no network, nobody who counts, or no room for so many packets at once.
pub(super) async fn rounds(machine: &Machine, stream: Stream) -> Result<(), Failure> {
    let port = machine.interface();
    connected(&*port).await?;
    let mut frames = Frames::new(port.address(), stream.other, stream.bytes)?;
    let marks = Marks::connect(machine.store.as_ref()).await?;
    for _ in 0..stream.rounds {
        marks.pass().await?;
        send_round(&*port, &mut frames, stream.packets).await?;
        marks.pass().await?;
    }
    for _ in 0..COMPARED_ROUNDS {
        send_round(&*port, &mut frames, stream.packets).await?;
    }
    Ok(())
}

/// Sends packets with at most one notification, and waits until everybody is done with them.
async fn send_round(port: &dyn Port, frames: &mut Frames, packets: u32) -> Result<(), Failure> {
    send(port, frames, packets)?;
    port.hand_over();
    sleep(SETTLING).await;
    Ok(())
}

/// Receives and compares what a guest in [`rounds`] sends: numbers in counted rounds, every byte later.
///
/// # Errors
///
/// If there is no network, or TCP/IP has it, or something is lost or wrong.
pub(super) async fn sink(machine: &Machine, stream: Stream) -> Result<(), Failure> {
    let port = unused_interface(machine).await?;
    let (own, other) = (port.address(), stream.other);
    // The switch sends to one only when it has seen where that one is.
    send_round(&*port, &mut Frames::new(own, other, stream.bytes)?, 1).await?;
    let mut expected = Frames::new(other, own, stream.bytes)?;
    let counted = u64::from(stream.packets) * u64::from(stream.rounds);
    let all = counted + u64::from(stream.packets) * u64::from(COMPARED_ROUNDS);
    let mut is_wrong = false;
    let packets = receive(&*port, |frame| {
        let compare = if expected.number() < counted { Compare::Numbers } else { Compare::All };
        is_wrong |= !expected.accept(frame, compare);
        is_wrong || expected.number() >= all
    });
    timeout(RECEIVER_PATIENCE, packets).await.map_err(|_| Failure::new("not all packets came"))?;
    if is_wrong {
        return Err(Failure::new(format!("packet {} is not what was sent", expected.number())));
    }
    println!("checked {all} of them: guests {} {}", stream.bytes, stream.packets);
    Ok(())
}
