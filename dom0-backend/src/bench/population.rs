//! How many idle guests there is room for, and what each takes of the hypervisor's memory and of dom0's.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::memory::page_count;
use pv_runtime::println;

use super::print_figure;
use super::subject::{BenchError, Subject};
use crate::toolstack::{Toolstack, control};

/// Pages that are free.
struct Free {
    machine: u64,
    dom0: u64,
}

impl Free {
    fn now() -> Result<Self, BenchError> {
        let machine = control::physical_info()?.free_pages;
        Ok(Self { machine, dom0: page_count().free as u64 })
    }
}

/// Makes guests of so many MiB until there can be no more, lets each start up, and takes all apart again.
pub async fn fill(toolstack: &Rc<Toolstack>, memory: u64) -> Result<(), BenchError> {
    // What is made once for all guests is no guest's.
    guest(toolstack, 0, memory).await?.end().await;
    let before = Free::now()?;
    let mut guests = Vec::new();
    let last = loop {
        match guest(toolstack, guests.len(), memory).await {
            Ok(guest) => guests.push(guest),
            Err(error) => break error,
        }
    };
    let (after, own) = (Free::now()?, own_pages(&guests)?);
    let count = guests.len() as u64;
    for guest in guests {
        guest.end().await;
    }
    println!("the next guest: {last}");
    let each = |pages: u64| pages * PAGE_SIZE as u64 / count.max(1);
    print_figure(count, &format!("idle guests of {memory} MiB"));
    let taken = before.machine.saturating_sub(after.machine);
    print_figure(each(taken.saturating_sub(own)), "bytes of the hypervisor for each");
    print_figure(each(before.dom0.saturating_sub(after.dom0)), "bytes of domain 0 for each");
    Ok(())
}

/// A guest that has started up.
async fn guest(toolstack: &Rc<Toolstack>, number: usize, memory: u64) -> Result<Subject, BenchError> {
    let size = format!("memory={memory}");
    let guest = Subject::make(toolstack, &format!("bench-{number}"), &[&size, "on_crash=destroy"]).await?;
    match guest.run("info", |_| {}).await {
        Ok(()) => Ok(guest),
        Err(error) => {
            guest.end().await;
            Err(error)
        }
    }
}

/// The pages that belong to guests themselves.
fn own_pages(guests: &[Subject]) -> Result<u64, BenchError> {
    guests.iter().map(|subject| Ok(control::domain_info(subject.guest().domain)?.tot_pages)).sum()
}
