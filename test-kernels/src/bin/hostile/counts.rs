//! Counts that no list has: the call must end, and the hypervisor must go on serving others meanwhile.

use alloc::format;

use hypercall_abi::grant_table::*;
use hypercall_abi::memory::*;
use hypercall_abi::xen::*;
use hypercall_abi::{DomainId, Errno};
use pv_runtime::memory::{PageRun, SharedMemory};

use crate::attacker::{Attacker, address_of};
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect};

cases!("counts":
    requests_without_end, operations_without_end, calls_without_end, extents_without_end, grants_without_end,
    counts_that_continue,
);

/// Counts larger than any list.
const HUGE: [u64; 8] =
    [1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 5, u64::MAX - 1, u64::MAX];

/// Two pages, of which the second is not there: a list in the first ends with it.
struct List<'a> {
    attacker: &'a Attacker,
    run: PageRun,
}

impl<'a> List<'a> {
    fn new(attacker: &'a Attacker) -> Result<Self, alloc::string::String> {
        let run = PageRun::new(2).map_err(|errno| format!("there are no pages: {errno}"))?;
        let list = Self { attacker, run };
        accepted("unmapping the second page", attacker.set_address(list.start() + 4096, 0))?;
        Ok(list)
    }

    fn start(&self) -> u64 {
        self.run.virtual_address() as u64
    }

    /// Fills the page with copies of an element.
    fn fill(&self, element: &[u64]) {
        for (index, word) in (0..512).zip(element.iter().cycle()) {
            self.run.write(8 * index, word);
        }
    }
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        let back = self.attacker.set_address(self.start() + 4096, entry(self.run.machine_frame(1), WRITE));
        assert!(back.is_ok(), "the second page cannot be put back: {back:?}");
    }
}

/// What ends at the end of the list, or before.
fn ends(what: impl core::fmt::Display, answer: Result<u64, Errno>) -> Outcome {
    expect(answer.is_err(), format!("{what} gave {answer:?}"))
}

fn requests_without_end(attacker: &Attacker) -> Outcome {
    let list = List::new(attacker)?;
    // A free entry of the root, set to nothing.
    list.fill(&[attacker.root.physical_address() + 8 * 100, 0]);
    let mut done = 0u32;
    let own = u64::from(DomainId::SELF.0);
    let all = attacker.call(HYPERVISOR_MMU_UPDATE, &[list.start(), 256, address_of(&mut done), own]);
    accepted("a full page of requests", all)?;
    expect(done == 256, format!("{done} of 256 requests were done"))?;
    for count in HUGE.into_iter().filter(|count| *count as u32 & !(1 << 31) > 256) {
        done = 0;
        let arguments = [list.start(), count, address_of(&mut done), own];
        ends(format!("{count} requests"), attacker.call(HYPERVISOR_MMU_UPDATE, &arguments))?;
        expect(done <= 256, format!("{done} of 256 requests were done"))?;
    }
    Ok(())
}

fn operations_without_end(attacker: &Attacker) -> Outcome {
    let list = List::new(attacker)?;
    list.fill(&[u64::from(MMUEXT_INVLPG_LOCAL), 0x1000, 0]);
    let own = u64::from(DomainId::SELF.0);
    accepted("many operations", attacker.call(HYPERVISOR_MMUEXT_OP, &[list.start(), 170, 0, own]))?;
    for count in HUGE.into_iter().filter(|count| *count as u32 & !(1 << 31) > 256) {
        let answer = attacker.call(HYPERVISOR_MMUEXT_OP, &[list.start(), count, 0, own]);
        ends(format!("{count} operations"), answer)?;
    }
    Ok(())
}

fn calls_without_end(attacker: &Attacker) -> Outcome {
    let list = List::new(attacker)?;
    let call = [HYPERVISOR_XEN_VERSION, 0, 0, 0, 0, 0, 0, 0];
    list.fill(&call);
    accepted("a full page of calls", attacker.call(HYPERVISOR_MULTICALL, &[list.start(), 64]))?;
    for count in HUGE {
        list.fill(&call);
        let answer = attacker.call(HYPERVISOR_MULTICALL, &[list.start(), count]);
        // Only the low half may count.
        if count as u32 <= 64 {
            continue;
        }
        ends(format!("{count} calls"), answer)?;
    }
    Ok(())
}

fn extents_without_end(attacker: &Attacker) -> Outcome {
    let list = List::new(attacker)?;
    for count in HUGE {
        for order in [0, 4, 9] {
            list.fill(&[u64::MAX]);
            for command in [XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
                let mut reservation = MemoryReservation {
                    extent_start: list.start(),
                    nr_extents: count,
                    extent_order: order,
                    domid: DomainId::SELF,
                    ..Default::default()
                };
                let answer = attacker.memory_op(command, &mut reservation);
                let done = answer.unwrap_or_default();
                expect(done < 512, format!("{done} of {count} extents were done"))?;
                give_back(attacker, &list, command, done, order)?;
            }
        }
    }
    Ok(())
}

/// Gives back what a domain that is not at its maximum got.
fn give_back(attacker: &Attacker, list: &List<'_>, command: u32, count: u64, order: u32) -> Outcome {
    if command != XENMEM_POPULATE_PHYSMAP || count == 0 {
        return Ok(());
    }
    let mut reservation = MemoryReservation {
        extent_start: list.start(),
        nr_extents: count,
        extent_order: order,
        domid: DomainId::SELF,
        ..Default::default()
    };
    accepted("giving back", attacker.memory_op(XENMEM_DECREASE_RESERVATION, &mut reservation)).map(drop)
}

fn grants_without_end(attacker: &Attacker) -> Outcome {
    const COMMANDS: [u32; 6] = [
        GNTTABOP_MAP_GRANT_REF,
        GNTTABOP_UNMAP_GRANT_REF,
        GNTTABOP_COPY,
        GNTTABOP_UNMAP_AND_REPLACE,
        GNTTABOP_SWAP_GRANT_REF,
        GNTTABOP_SETUP_TABLE,
    ];
    let list = List::new(attacker)?;
    for command in COMMANDS {
        for count in HUGE {
            list.fill(&[u64::MAX]);
            let answer = attacker.call(HYPERVISOR_GRANT_TABLE_OP, &[u64::from(command), list.start(), count]);
            if count as u32 <= 64 {
                continue;
            }
            ends(format!("{count} operations of kind {command}"), answer)?;
        }
    }
    Ok(())
}

/// A long call goes on where its arguments say. A guest that writes them itself must get nothing by it.
fn counts_that_continue(attacker: &Attacker) -> Outcome {
    let list = List::new(attacker)?;
    list.fill(&[attacker.root.physical_address() + 8 * 100, 0]);
    let own = u64::from(DomainId::SELF.0);
    for done in [0, 1, u32::MAX, u32::MAX - 1, 1 << 31] {
        let mut counter = done;
        let arguments = [list.start(), 1 << 31 | 3, address_of(&mut counter), own];
        accepted("three more requests", attacker.call(HYPERVISOR_MMU_UPDATE, &arguments))?;
        expect(counter == done.wrapping_add(3), format!("after {done} and 3 there are {counter}"))?;
    }
    for done in [1u64, 2, 100, 1 << 25, 1 << 40, (1 << 58) - 1] {
        for command in [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
            let mut extents = [u64::MAX; 2];
            let mut reservation = MemoryReservation {
                extent_start: extents.as_mut_ptr() as u64,
                nr_extents: 2,
                domid: DomainId::SELF,
                ..Default::default()
            };
            let arguments = [u64::from(command) | done << 6, address_of(&mut reservation)];
            let before = pages(attacker)?;
            let _ = attacker.call(HYPERVISOR_MEMORY_OP, &arguments);
            expect(
                pages(attacker)? <= before + 1,
                format!("command {command} after {done} grew by more than asked"),
            )?;
        }
    }
    Ok(())
}

fn pages(attacker: &Attacker) -> Result<u64, alloc::string::String> {
    let mut own = MemoryDomain { domid: DomainId::SELF };
    accepted("asking for its size", attacker.memory_op(XENMEM_CURRENT_RESERVATION, &mut own))
}
