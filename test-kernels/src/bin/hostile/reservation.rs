//! Giving memory up and getting more: frames in use, frames of others, and numbers that are too large.

use alloc::format;
use alloc::vec;
use core::mem;

use hypercall_abi::memory::*;
use hypercall_abi::{DomainId, Errno, MachineFrame};
use pv_runtime::memory::{Page, SharedMemory};

use crate::attacker::Attacker;
use crate::calls::Answer;
use crate::entry::*;
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect, refused, refused_as};
use crate::slot::{Slot, page};
use crate::surroundings::{Surroundings, number_of};
use crate::table::{Table, tables_of};

cases!("reservation":
    a_frame_given_up_and_replaced, frames_of_others, tables_given_up, a_mapped_frame_given_up, for_other_domains,
    impossible_extents, more_than_it_may_have, exchanges, physmap,
);

fn give_up(attacker: &Attacker, frame: MachineFrame) -> Answer {
    attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut [frame.0], 0)
}

/// What must give up nothing: an error, or no extent done.
fn keeps(what: impl core::fmt::Display, answer: Answer) -> Outcome {
    expect(matches!(answer, Ok(0) | Err(_)), format!("{what} was given up"))
}

/// A page without a mapping, given up; the runtime must never see it again. Says which frame it was.
fn lose_page(attacker: &Attacker, page: Page) -> Result<MachineFrame, alloc::string::String> {
    let (frame, address) = (page.machine_frame(), page.virtual_address() as u64);
    mem::forget(page);
    accepted("unmapping a page", attacker.set_address(address, 0))?;
    let count = accepted("giving it up", give_up(attacker, frame))?;
    expect(count == 1, "giving it up did nothing")?;
    Ok(frame)
}

fn a_frame_given_up_and_replaced(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let frame = lose_page(attacker, page()?)?;
    keeps("the same frame a second time", give_up(attacker, frame))?;
    refused("mapping it", slot.map(entry(frame, READ)))?;
    refused("pinning it", attacker.pin(frame, 1))?;
    let mut extents = [0x77];
    let count = attacker.reservation(XENMEM_POPULATE_PHYSMAP, &mut extents, 0);
    expect(count == Ok(1), format!("getting another gave {count:?}"))?;
    let fresh = MachineFrame(extents[0]);
    expect(number_of(fresh) == 0x77, "the new frame has another number than asked for")?;
    accepted("mapping it", slot.map(entry(fresh, WRITE)))?;
    for offset in (0..4096).step_by(8) {
        let word = attacker.read(slot.address() + offset);
        expect(word == Ok(0), format!("it holds {word:?} at {offset:#x}"))?;
    }
    accepted("unmapping it", slot.restore())?;
    expect(give_up(attacker, fresh) == Ok(1), "the new frame cannot be given up")
}

fn frames_of_others(attacker: &Attacker) -> Outcome {
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 40, 1 << 52, u64::MAX - 1, u64::MAX].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(odd) {
        keeps(format!("frame {frame}"), give_up(attacker, frame))?;
        let answer = attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut [frame.0], 3);
        keeps(format!("eight frames from {frame} on"), answer)?;
    }
    Ok(())
}

fn tables_given_up(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for table in tables_of(attacker, slot.address())? {
        keeps(format!("page table {table}"), give_up(attacker, table))?;
    }
    for level in 1..=4 {
        let table = Table::new(attacker, [])?;
        accepted("pinning a table", attacker.pin(table.frame(), level))?;
        keeps(format!("a pinned table of level {level}"), give_up(attacker, table.frame()))?;
        accepted("unpinning it", attacker.unpin(table.frame()))?;
    }
    Ok(())
}

/// A frame that is mapped when it is given up stays until its last mapping goes, and is nobody else's before.
fn a_mapped_frame_given_up(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let page = page()?;
    let (frame, address) = (page.machine_frame(), page.virtual_address() as u64);
    mem::forget(page);
    let answer = give_up(attacker, frame);
    if answer != Ok(1) {
        // Refusing it is as good.
        return expect(attacker.write(address).is_ok(), "the frame was kept and cannot be used");
    }
    expect(attacker.write(address).is_ok(), "the mapping is gone")?;
    refused("a table of it", attacker.pin(frame, 1))?;
    let mut extents = [0];
    accepted("getting a frame", attacker.reservation(XENMEM_POPULATE_PHYSMAP, &mut extents, 0))?;
    expect(extents[0] != frame.0, "the mapped frame was given out again")?;
    keeps("the new frame, which may stay", give_up(attacker, MachineFrame(extents[0])).map(|_| 0))?;
    accepted("unmapping it", attacker.set_address(address, 0))?;
    refused("mapping it again", slot.map(entry(frame, READ)))
}

fn for_other_domains(attacker: &Attacker) -> Outcome {
    let mut current = MemoryDomain { domid: DomainId::SELF };
    accepted("its own size", attacker.memory_op(XENMEM_CURRENT_RESERVATION, &mut current))?;
    for domid in others_numbers(attacker) {
        for command in [XENMEM_CURRENT_RESERVATION, XENMEM_MAXIMUM_RESERVATION] {
            let answer = attacker.memory_op(command, &mut MemoryDomain { domid });
            refused(format!("the size of domain {domid}"), answer)?;
        }
        for command in [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
            let mut extents = [0x1234];
            let mut reservation = MemoryReservation {
                extent_start: extents.as_mut_ptr() as u64,
                nr_extents: 1,
                domid,
                ..Default::default()
            };
            let answer = attacker.memory_op(command, &mut reservation);
            refused(format!("command {command} for domain {domid}"), answer)?;
        }
        let mut space = AddToPhysmap { domid, space: XENMAPSPACE_SHARED_INFO, ..Default::default() };
        let answer = attacker.memory_op(XENMEM_ADD_TO_PHYSMAP, &mut space);
        refused(format!("a place for domain {domid}"), answer)?;
    }
    Ok(())
}

fn impossible_extents(attacker: &Attacker) -> Outcome {
    let mut extents = [0u64; 4];
    for order in [11, 18, 19, 31, 32, 52, 63, 64, 127, u32::MAX] {
        for command in [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
            let answer = attacker.reservation(command, &mut extents, order);
            keeps(format!("command {command} with order {order}"), answer)?;
        }
    }
    for bits in [1, 12, 20, 31] {
        let mut reservation = MemoryReservation {
            extent_start: extents.as_mut_ptr() as u64,
            nr_extents: 1,
            mem_flags: bits,
            domid: DomainId::SELF,
            ..Default::default()
        };
        let answer = attacker.memory_op(XENMEM_POPULATE_PHYSMAP, &mut reservation);
        keeps(format!("a frame below 2^{bits}"), answer)?;
    }
    Ok(())
}

/// A domain has its maximum: what it asks for in addition it does not get, and what it got it can give back.
fn more_than_it_may_have(attacker: &Attacker) -> Outcome {
    let mut held = vec![0u64; 512];
    let mut total = 0;
    for order in [9, 4, 0] {
        let answer = attacker.reservation(XENMEM_POPULATE_PHYSMAP, &mut held, order);
        let count = accepted("asking for much", answer)? as usize;
        expect(count < held.len(), "memory has no end")?;
        let given = attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut held[..count], order);
        expect(given == Ok(count as u64), format!("of {count} extents {given:?} could be given back"))?;
        total += count;
    }
    let mut current = MemoryDomain { domid: DomainId::SELF };
    let pages = accepted("its size", attacker.memory_op(XENMEM_CURRENT_RESERVATION, &mut current))?;
    let maximum = accepted("its maximum", attacker.memory_op(XENMEM_MAXIMUM_RESERVATION, &mut current))?;
    expect(pages <= maximum, format!("it has {pages} of {maximum} pages after {total} extents"))
}

fn exchange(
    attacker: &Attacker,
    old: &mut [u64],
    new: &mut [u64],
    change: impl Fn(&mut MemoryExchange),
) -> Answer {
    let list = |extents: &mut [u64]| MemoryReservation {
        extent_start: extents.as_mut_ptr() as u64,
        nr_extents: extents.len() as u64,
        domid: DomainId::SELF,
        ..Default::default()
    };
    let mut argument = MemoryExchange { r#in: list(old), out: list(new), nr_exchanged: 0 };
    change(&mut argument);
    attacker.memory_op(XENMEM_EXCHANGE, &mut argument)
}

fn exchanges(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let page = page()?;
    let (frame, address) = (page.machine_frame(), page.virtual_address() as u64);
    let number = number_of(frame);
    mem::forget(page);
    refused("a mapped frame", exchange(attacker, &mut [frame.0], &mut [number], |_| ()))?;
    accepted("unmapping it", attacker.set_address(address, 0))?;
    let mut new = [number];
    accepted("its own frame", exchange(attacker, &mut [frame.0], &mut new, |_| ()))?;
    refused("mapping the old one", slot.map(entry(frame, READ)))?;
    accepted("mapping the new one", slot.map(entry(MachineFrame(new[0]), READ)))?;
    accepted("its page back", slot.restore())?;

    let mut mine = new[0];
    let surroundings = Surroundings::look(attacker)?;
    let tables = tables_of(attacker, slot.address())?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 52, u64::MAX].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(tables).chain(odd) {
        // What was nobody's when this began may have become its own below.
        if frame.0 == mine {
            continue;
        }
        refused(format!("frame {frame}"), exchange(attacker, &mut [frame.0], &mut [0], |_| ()))?;
        let mut new = [number, number];
        let both = exchange(attacker, &mut [mine, frame.0], &mut new, |_| ());
        refused(format!("its own frame and {frame}"), both)?;
        // The first of the two may have been exchanged.
        if new[0] != number {
            mine = new[0];
        }
    }
    expect(give_up(attacker, MachineFrame(mine)) == Ok(1), "its own frame is not its own any more")
}

/// A domain's frames are at the places it has entered them at itself; the hypervisor moves none.
fn physmap(attacker: &Attacker) -> Outcome {
    for space in 0..8 {
        let mut place = AddToPhysmap { domid: DomainId::SELF, space, gpfn: 1, ..Default::default() };
        refused(format!("a place in space {space}"), attacker.memory_op(XENMEM_ADD_TO_PHYSMAP, &mut place))?;
    }
    let mut place = RemoveFromPhysmap { domid: DomainId::SELF, gpfn: 1, ..Default::default() };
    refused("taking a place out", attacker.memory_op(XENMEM_REMOVE_FROM_PHYSMAP, &mut place))?;
    let mut resource = MemAcquireResource { domid: DomainId::ZERO, nr_frames: 1, ..Default::default() };
    let errors = [Errno::ENOSYS, Errno::EPERM, Errno::EOPNOTSUPP, Errno::EINVAL];
    let answer = attacker.memory_op(XENMEM_ACQUIRE_RESOURCE, &mut resource);
    refused_as("another domain's grant table", &errors, answer)
}
