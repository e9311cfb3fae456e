#![no_std]
#![no_main]
//! The guest kernel: brings its devices up, serves echo, runs the script of its command line, then a shell.
//!
//! Words of the command line:
//!
//! | word | meaning |
//! | --- | --- |
//! | `ip=ADDRESS/PREFIX[,GATEWAY]` | use this address, not one by DHCP |
//! | `ip=none` | no TCP/IP |
//! | `noecho` | serve no echo |
//! | `run="COMMAND; COMMAND"` | run these once the devices are up |
//! | `log=LEVEL` | log this much: `error`, `warn`, `info`, `debug`, `trace` |

use guest_frontend::apps::{self, command::ECHO_PORT, machine::Machine};
use guest_frontend::command_line::quoted_option;
use ip_stack::AddressPlan;
use pv_runtime::executor::spawn;
use pv_runtime::xenbus::{RingTransport, Store};
use pv_runtime::{BootInfo, println};

pv_runtime::entry!(main);

async fn main(info: &'static BootInfo) {
    println!("Weir guest {}, {} pages of memory", env!("CARGO_PKG_VERSION"), info.memory_pages);
    let machine = Machine::start(info, connect_store(info), address_plan(info)).await;
    if let Some(store) = machine.store.clone() {
        spawn(async move {
            if let Err(error) = apps::obey_toolstack(store).await {
                log::error!("the toolstack cannot be obeyed: {error}");
            }
        });
    }
    machine.wait_for_devices().await;
    if let Some(stack) = machine.stack()
        && !info.flag("noecho")
    {
        apps::serve_echo(stack, ECHO_PORT);
    }
    if let Some(script) = quoted_option(&info.command_line, "run") {
        apps::run_script(&machine, script).await;
    }
    apps::interact(&machine).await;
}

/// Connects to the store, if there is one.
fn connect_store(info: &BootInfo) -> Option<Store> {
    let (frame, port) = info.store?;
    match RingTransport::new(frame, port) {
        Ok(transport) => Some(Store::connect(transport)),
        Err(errno) => {
            log::error!("the store cannot be reached: {errno}");
            None
        }
    }
}

/// Where the address comes from; by DHCP if the command line does not say so, or makes no sense. `None` if there is to be
/// none.
fn address_plan(info: &BootInfo) -> Option<AddressPlan> {
    let text = info.option("ip").unwrap_or("dhcp");
    if text == "none" {
        return None;
    }
    let plan = text.parse().unwrap_or_else(|error| {
        log::error!("ip={text}: {error}");
        AddressPlan::Dhcp
    });
    Some(plan)
}
