//! Checks of event channels, with this domain at both ends.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::{DomainId, Port};
use pv_runtime::event_channel::{EventChannel, counters};
use pv_runtime::executor::{sleep, spawn, timeout, yield_now};

use crate::{Outcome, during, expect};

/// Two ports of this domain, connected with each other, with no event pending.
pub async fn pair() -> Result<(EventChannel, EventChannel), alloc::string::String> {
    let offered = during("offering a port", EventChannel::alloc_unbound(DomainId::SELF))?;
    let bound = during("binding", EventChannel::bind_interdomain(DomainId::SELF, offered.port()))?;
    yield_now().await;
    offered.take_pending();
    bound.take_pending();
    Ok((offered, bound))
}

async fn wait(channel: &EventChannel) -> Outcome {
    let waited = timeout(Duration::from_secs(1), channel.wait()).await;
    waited.map_err(|_| format!("no event on port {}", channel.port()))
}

/// Events go both ways, are remembered once, and end with the port.
pub async fn to_self() -> Outcome {
    let (left, right) = pair().await?;
    for _ in 0..100 {
        during("sending", left.notify())?;
        wait(&right).await?;
        during("sending", right.notify())?;
        wait(&left).await?;
    }
    during("sending", left.notify())?;
    during("sending", left.notify())?;
    wait(&right).await?;
    yield_now().await;
    expect(!right.take_pending(), "two events were not merged")?;
    drop(right);
    expect(left.notify().is_err() || !left.take_pending(), "a closed port still answers")?;
    let unbound = EventChannel::bind_interdomain(DomainId::SELF, Port(4000));
    expect(unbound.is_err(), "a port nobody offered was bound")
}

/// A masked port keeps its event.
pub async fn masked() -> Outcome {
    let (left, right) = pair().await?;
    right.mask();
    during("sending", left.notify())?;
    yield_now().await;
    expect(!right.take_pending(), "a masked port reported an event")?;
    right.unmask();
    wait(&right).await?;
    during("sending", left.notify())?;
    wait(&right).await
}

/// Two hundred ports at once.
pub async fn many_ports() -> Outcome {
    let mut pairs = Vec::new();
    for _ in 0..100 {
        pairs.push(pair().await?);
    }
    let before = counters();
    for (left, right) in &pairs {
        during("sending", left.notify())?;
        during("sending", right.notify())?;
    }
    for (left, right) in &pairs {
        wait(left).await?;
        wait(right).await?;
    }
    let events = counters().events - before.events;
    expect(events >= 200, format!("{events} events were counted"))
}

/// An event ends a block: the sender wakes by its timer while everybody else waits.
pub async fn wake_from_block() -> Outcome {
    let (left, right) = pair().await?;
    let before = counters().upcalls;
    let sender = spawn(async move {
        for _ in 0..10 {
            sleep(Duration::from_millis(2)).await;
            if left.notify().is_err() {
                return false;
            }
        }
        sleep(Duration::from_millis(2)).await;
        true
    });
    for _ in 0..10 {
        wait(&right).await?;
    }
    expect(sender.join().await, "sending failed")?;
    let upcalls = counters().upcalls - before;
    expect(upcalls >= 10, format!("{upcalls} upcalls in 10 blocks"))
}
