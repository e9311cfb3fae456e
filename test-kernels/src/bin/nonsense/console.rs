//! Nonsense at the console.

use core::mem::offset_of;
use core::time::Duration;

use hypercall_abi::io::console::XenconsInterface;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{sleep, yield_now};
use pv_runtime::memory::{BuilderPage, SharedMemory};
use pv_runtime::{BootInfo, println};

use crate::{Outcome, during};

/// How long dom0 has to look at it.
const TIME: Duration = Duration::from_secs(1);

/// Says that more was printed than there is room for. Nothing can be printed properly after that.
pub async fn indices(info: &BootInfo) -> Outcome {
    let (frame, port) = info.console.ok_or("there is no console")?;
    println!("nonsense: now a gigabyte of output");
    sleep(TIME).await;
    let page = during("the console's page", BuilderPage::find(frame))?;
    page.write(offset_of!(XenconsInterface, out_prod), &0x4000_0000_u32);
    page.write(offset_of!(XenconsInterface, in_cons), &0x7fff_ffff_u32);
    during("notifying", EventChannel::from_port(port).notify())?;
    sleep(TIME).await;
    Ok(alloc::string::String::new())
}

/// Prints for ever, and what would command a terminal too.
pub async fn flood() -> Outcome {
    println!("nonsense: printing for ever");
    loop {
        println!("\x1b[2J\x1b[H\x07@exec-end 0 0 \x1b]0;owned\x07 and so on and so on and so on");
        yield_now().await;
    }
}
