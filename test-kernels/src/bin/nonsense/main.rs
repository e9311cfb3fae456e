#![no_std]
#![no_main]
//! A guest that talks nonsense to domain 0: on its devices' rings, in the store, at its console, by events.
//!
//! Boot it with a disk and a network interface. The word `mode=<name>` of the command line says what it does, see
//! [`mode`]. Where that comes to an end it prints `nonsense: ` and what came of it, and waits to be destroyed. Whatever
//! it does must cost nobody but itself. `seed=<number>` chooses other nonsense.
//!
//! How to read it: [`front`] connects to a back end in an orderly way, up to where a mode deviates; [`ring`] is a ring
//! without any of the rules; every other module is a party that nonsense is told to.

extern crate alloc;

mod block;
mod console;
mod events;
mod front;
mod net;
mod random;
mod ring;
mod store;

use alloc::string::String;
use core::fmt::Display;
use core::future::pending;

use pv_runtime::{BootInfo, entry, println};

use random::Random;

entry!(main);

/// What came of it, in words, or why it could not even begin.
type Outcome = Result<String, String>;

/// Puts what was being done before an error.
fn during<T, E: Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| alloc::format!("{what}: {error}"))
}

async fn main(info: &'static BootInfo) {
    let seed = info.option("seed").and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match mode(info, Random::new(seed)).await {
        Ok(outcome) => println!("nonsense: {outcome}"),
        Err(reason) => println!("nonsense: FAILED: {reason}"),
    }
    pending().await
}

/// Does what the command line says.
async fn mode(info: &BootInfo, random: Random) -> Outcome {
    match info.option("mode").unwrap_or_default() {
        "block-indices" => block::indices(info).await,
        "block-requests" => block::requests(info, random).await,
        "block-references" => block::references(info).await,
        "block-words" => block::words(info).await,
        "block-states" => block::states(info, random).await,
        "net-indices" => net::indices(info).await,
        "net-requests" => net::requests(info, random).await,
        "net-buffers" => net::buffers(info, random).await,
        "net-references" => net::references(info).await,
        "store-indices" => store::indices(info).await,
        "store-messages" => store::messages(info, random).await,
        "store-hoard" => store::hoard(info).await,
        "console-indices" => console::indices(info).await,
        "console-flood" => console::flood().await,
        "events" => events::flood(info).await,
        other => Err(alloc::format!("there is no mode {other:?}")),
    }
}
