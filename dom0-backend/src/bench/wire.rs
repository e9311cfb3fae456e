//! What traffic of a guest's costs that has both ends of a wire, and packets between two guests.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use pv_runtime::executor::{join, sleep};

use super::subject::{BenchError, Subject};
use super::traffic::{address, rounds};
use crate::toolstack::Toolstack;

/// Parts of a round that are counted one by one, as the guest makes them.
const HALVES: usize = 2;
/// The guest's command line: its interface is for nothing else.
const WORDS: &str = "cmdline=noecho ip=none";
/// How long a guest may take until it waits for packets.
const STARTING: Duration = Duration::from_millis(100);

/// Traffic to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireTraffic {
    /// The guest's interfaces, the one that is measured and a card for the far end: `vif`, or the PCI address of a card
    /// that the guest is to drive itself.
    pub ends: [String; 2],
    /// What goes between them, as a guest's command `bench wire` takes it: kind, bytes.
    pub kind: [String; 2],
    /// How many of it make a round; at least one.
    pub count: u32,
    /// Rounds.
    pub rounds: u32,
}

/// Packets between two guests to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairTraffic {
    /// Bytes of a packet behind its Ethernet header.
    pub bytes: u32,
    /// How many make a round; at least one.
    pub count: u32,
    /// Rounds.
    pub rounds: u32,
}

/// Measures traffic over a wire, with a guest made for it.
pub async fn traffic(toolstack: &Rc<Toolstack>, traffic: &WireTraffic) -> Result<(), BenchError> {
    let WireTraffic { ends, kind, count, rounds: times } = traffic;
    let [near, far] = ends.each_ref().map(|end| match end.contains(':') {
        true => format!("pci={end},permissive=1"),
        false => end.clone(),
    });
    let guest = Subject::make(toolstack, "bench", &["memory=32", &near, &far, WORDS]).await?;
    let kind = kind.join(" ");
    let name = format!("{kind} {count}");
    let command = |count| format!("bench wire {kind} {count} {times}");
    let measured = rounds(&guest, &name, (*count, HALVES), &command).await;
    guest.end().await;
    measured
}

/// Measures packets from one guest to another, both made for it.
pub async fn pair(toolstack: &Rc<Toolstack>, traffic: &PairTraffic) -> Result<(), BenchError> {
    let settings = ["memory=32", "vif", WORDS];
    let mut guests = Vec::new();
    let mut made = Ok(());
    for name in ["bench-a", "bench-b"] {
        match Subject::make(toolstack, name, &settings).await {
            Ok(guest) => guests.push(guest),
            Err(error) => made = Err(error),
        }
    }
    let measured = match (made, &guests[..]) {
        (Ok(()), [sender, receiver]) => between(sender, receiver, traffic).await,
        (made, _) => made,
    };
    for guest in guests {
        guest.end().await;
    }
    measured
}

async fn between(sender: &Subject, receiver: &Subject, traffic: &PairTraffic) -> Result<(), BenchError> {
    let PairTraffic { bytes, count, rounds: times } = traffic;
    let command = |count| format!("bench net {} {bytes} {count} {times}", address(receiver));
    let sink = format!("bench sink {} {bytes} {count} {times}", address(sender));
    let name = format!("guests {bytes} {count}");
    let sent = async {
        sleep(STARTING).await;
        rounds(sender, &name, (*count, 1), &command).await
    };
    let (received, sent) = join(receiver.run_checked(&sink), sent).await;
    sent.and(received)
}
