#![no_std]
#![no_main]
//! A kernel that checks, from within a domain, that this crate and the hypervisor beneath it do what they say.
//!
//! Boot it as the initial domain or as a guest. It prints a line for each check, then
//! `selftest: <n> passed, <m> failed`, and powers off. Words of the command line: `only=<check>` runs one check,
//! `began=<seconds>` says when a machine began that counts instructions, `input` waits for a line at the console, `bench` prints instruction counts (exact under a deterministic
//! machine), `crash=<way>` ends badly, `log=debug` logs more.

extern crate alloc;

mod bench;
mod crash;
mod events;
mod faults;
mod grants;
mod memory;
mod store;
mod tasks;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::fmt::Display;
use core::future::Future;
use core::pin::Pin;

use hypercall_abi::Errno;
use pv_runtime::console::Console;
use pv_runtime::{BootInfo, entry, hypercall, println};

entry!(main);

/// What a check found wrong, in words.
type Outcome = Result<(), String>;

/// A check, ready to run.
type Check = Pin<Box<dyn Future<Output = Outcome>>>;

/// Fails a check with a text unless something holds.
fn expect(holds: bool, otherwise: impl Display) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.to_string()) }
}

/// Puts what was being done before an error.
fn during<T, E: Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| alloc::format!("{what}: {error}"))
}

async fn main(info: &'static BootInfo) {
    let (major, minor) = info.hypervisor_version;
    println!("selftest: domain {} on version {major}.{minor}, {} pages", info.domain_id, info.memory_pages);
    if let Some(way) = info.option("crash") {
        crash::crash(way);
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks(info) {
        if info.option("only").is_some_and(|only| only != name) {
            continue;
        }
        match check.await {
            Ok(()) => {
                passed += 1;
                println!("ok    {name}");
            }
            Err(reason) => {
                failed += 1;
                println!("FAIL  {name}: {reason}");
            }
        }
    }
    if info.flag("bench") {
        bench::run().await;
    }
    println!("selftest: {passed} passed, {failed} failed");
}

fn checks(info: &'static BootInfo) -> impl Iterator<Item = (&'static str, Check)> {
    let mut checks: alloc::vec::Vec<(&'static str, Check)> = alloc::vec![
        ("hypercall-numbers", Box::pin(hypercall_numbers())),
        ("heap", Box::pin(memory::heap())),
        ("pages", Box::pin(memory::pages())),
        ("map-own-frame", Box::pin(memory::map_own_frame())),
        ("map-refused", Box::pin(memory::map_refused())),
        ("faults-reads", Box::pin(faults::reads())),
        ("faults-writes", Box::pin(faults::writes())),
        ("faults-unmapped", Box::pin(faults::after_unmap())),
        ("tasks", Box::pin(tasks::many_tasks())),
        ("timers", Box::pin(tasks::timers())),
        ("clocks", Box::pin(tasks::clocks())),
        ("events-to-self", Box::pin(events::to_self())),
        ("events-masked", Box::pin(events::masked())),
        ("events-many-ports", Box::pin(events::many_ports())),
        ("events-wake-a-blocked-cpu", Box::pin(events::wake_from_block())),
        ("grant-map", Box::pin(grants::map_own(info.domain_id))),
        ("grant-read-only", Box::pin(grants::read_only(info.domain_id))),
        ("grant-copy", Box::pin(grants::copy(info.domain_id))),
        ("grant-device", Box::pin(grants::device(info.domain_id))),
        ("grant-refused", Box::pin(grants::refused(info.domain_id))),
        ("grant-many", Box::pin(grants::many(info.domain_id))),
    ];
    if let Some((frame, port)) = info.store {
        checks.push(("store", Box::pin(store::store(frame, port, info.domain_id))));
    }
    if let Some(start) = info.option("began").and_then(|start| start.parse().ok()) {
        checks.push(("date", Box::pin(tasks::date(start))));
    }
    if info.flag("input") {
        checks.push(("console-input", Box::pin(console_input())));
    }
    checks.into_iter()
}

/// Hypercalls that do not exist say so.
async fn hypercall_numbers() -> Outcome {
    #![expect(unsafe_code, reason = "calls numbers that nothing is behind")]
    for number in [43, 47, 63, 127] {
        // SAFETY: there is no such hypercall.
        let answer = unsafe { hypercall::raw(number, [0; 5]) };
        expect(answer == Errno::ENOSYS.to_return(), alloc::format!("number {number} answered {answer}"))?;
    }
    during("features", hypercall::xen_features()).map(drop)
}

/// Waits for a line and says it back.
async fn console_input() -> Outcome {
    println!("type a line:");
    let mut line = String::new();
    while !line.ends_with(['\r', '\n']) {
        let mut bytes = [0; 16];
        let count = during("reading", Console.read(&mut bytes).await)?;
        line.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    println!("read: {}", line.trim_end());
    Ok(())
}
