//! Nonsense by events.

use hypercall_abi::Errno;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::{BootInfo, println};

use crate::{Outcome, front};

/// Sends events to domain 0 for ever, without ever letting go of the processor of its own accord.
pub async fn flood(info: &BootInfo) -> Outcome {
    let (Some((_, store)), Some((_, console))) = (info.store, info.console) else {
        return Err("there is no store or no console".into());
    };
    // The connection stays in use, so that each event has somebody at the other end.
    let _store = front::store(info)?;
    let channels = [store, console].map(EventChannel::from_port);
    println!("nonsense: sending events for ever");
    pv_runtime::executor::sleep(core::time::Duration::from_millis(100)).await;
    loop {
        for channel in &channels {
            channel.notify().map_err(|errno: Errno| alloc::format!("notifying: {errno}"))?;
        }
    }
}
