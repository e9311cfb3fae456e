//! Nonsense for the switch.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use hypercall_abi::GrantReference;
use hypercall_abi::io::netif::*;
use pv_runtime::executor::sleep;
use pv_runtime::grant::{Grant, GrantAccess, grant_access};
use pv_runtime::memory::Page;
use pv_runtime::{BootInfo, println};

use crate::front::{Answer, Front};
use crate::random::Random;
use crate::ring::Ring;
use crate::{Outcome, during};

/// How many rings full of requests are sent.
const ROUNDS: u32 = 20;
/// How often to look whether a packet has come, and how many times.
const LOOK: Duration = Duration::from_millis(1);
const MOST_LOOKS: u32 = 10_000;

/// A network interface and its rings.
struct Interface {
    front: Front,
    tx: Ring,
    rx: Ring,
}

/// A connected interface.
async fn connected(info: &BootInfo) -> Result<Interface, String> {
    let front = Front::find(info, "vif").await?;
    let tx = Ring::new(front.device.peer(), size_of::<NetifTxRequest>())?;
    let rx = Ring::new(front.device.peer(), size_of::<NetifRxRequest>())?;
    let keys = [
        (key::TX_RING_REF, format!("{}", tx.reference())),
        (key::RX_RING_REF, format!("{}", rx.reference())),
        (key::REQUEST_RX_COPY, String::from("1")),
        (key::FEATURE_SG, String::from("1")),
        (key::FEATURE_GSO_TCPV4, String::from("1")),
    ];
    front.publish(&keys).await?;
    front.connect().await?;
    Ok(Interface { front, tx, rx })
}

/// Says that there are more packets to be sent than the ring has room for.
pub async fn indices(info: &BootInfo) -> Outcome {
    let Interface { front, tx, rx: _rx } = connected(info).await?;
    tx.publish(0x8000_0000);
    during("notifying", front.channel.notify())?;
    front.wait_until_closed().await
}

/// Packets whose every field may be anything.
pub async fn requests(info: &BootInfo, mut random: Random) -> Outcome {
    let Interface { front, tx, rx: _rx } = connected(info).await?;
    let page = during("a page", Page::new())?;
    let grant =
        during("a grant", grant_access(front.device.peer(), page.machine_frame(), GrantAccess::ReadOnly))?;
    for round in 0..ROUNDS {
        let first = round * tx.slots();
        for index in first..first + tx.slots() {
            tx.put(index, &packet(&mut random, &grant, index + 1 == first + tx.slots()));
        }
        if front.exchange(&tx, first + tx.slots()).await? == Answer::Closed {
            return Ok(format!("the back end closed the device after {first} packets"));
        }
    }
    Ok(format!("{} packets answered", ROUNDS * tx.slots()))
}

/// A piece of a packet. The last one in the ring ends its packet, so that an answer can be waited for.
fn packet(random: &mut Random, grant: &Grant, is_last: bool) -> NetifTxRequest {
    let any = random.any() as u16;
    let flags = random.one_of([0, 0, NETTXF_MORE_DATA, NETTXF_EXTRA_INFO, NETTXF_CSUM_BLANK, any]);
    NetifTxRequest {
        gref: random.one_of([
            grant.reference(),
            grant.reference(),
            GrantReference(500),
            GrantReference(u32::MAX),
        ]),
        offset: random.one_of([0, 0, 4095, 4096, u16::MAX]),
        flags: if is_last { 0 } else { flags },
        id: random.any() as u16,
        size: random.one_of([60, 60, 0, 13, 1514, 4096, u16::MAX]),
    }
}

/// Buffers for received packets that nobody granted, or that may only be read.
pub async fn buffers(info: &BootInfo, mut random: Random) -> Outcome {
    let Interface { front, tx: _tx, rx } = connected(info).await?;
    let page = during("a page", Page::new())?;
    let grant =
        during("a grant", grant_access(front.device.peer(), page.machine_frame(), GrantAccess::ReadOnly))?;
    for index in 0..rx.slots() {
        let gref = random.one_of([grant.reference(), GrantReference(500), GrantReference(u32::MAX)]);
        rx.put(index, &NetifRxRequest { id: random.any() as u16, pad: 0xffff, gref });
    }
    rx.publish(rx.slots());
    during("notifying", front.channel.notify())?;
    println!("nonsense: waiting for a packet");
    let mut looks = 0;
    while rx.answered() == 0 && !front.is_closed().await? {
        looks += 1;
        if looks == MOST_LOOKS {
            return Err(String::from("no packet comes"));
        }
        sleep(LOOK).await;
    }
    Ok(String::from("a packet came"))
}

/// Publishes rings that nobody granted.
pub async fn references(info: &BootInfo) -> Outcome {
    let front = Front::find(info, "vif").await?;
    let keys = [(key::TX_RING_REF, "400"), (key::RX_RING_REF, "4294967295"), (key::REQUEST_RX_COPY, "1")];
    front.publish(&keys.map(|(key, value)| (key, String::from(value)))).await?;
    front.verdict().await
}
