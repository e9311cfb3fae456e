//! Mapping what is not its own, and mapping its own in ways that would break isolation.

use alloc::format;
use alloc::vec::Vec;

use hypercall_abi::xen::{
    HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD, UVMF_INVLPG, foreign_domain,
};
use hypercall_abi::{DomainId, Errno, MachineFrame};

use crate::attacker::Attacker;
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::{Slot, read_entry};
use crate::surroundings::{Surroundings, number_of};
use crate::table::tables_of;

cases!("mapping":
    frames_of_nobody, frames_of_other_domains, every_frame_not_its_own, device_memory, frames_beyond_memory,
    frames_in_the_name_of_others, tables_of_others, entries_in_frames_of_others, machine_to_physical_entries,
    own_page_tables_writable, bits_a_guest_may_not_set, odd_requests,
);

/// Every way to map a frame at a slot, readable and writable, must be refused.
fn map_refused(slot: &Slot<'_>, frame: MachineFrame) -> Outcome {
    for flags in [READ, WRITE] {
        let entry = entry(frame, flags);
        refused(format!("frame {frame} by mmu_update ({flags:#x})"), slot.map(entry))?;
        refused(format!("frame {frame} by update_va_mapping ({flags:#x})"), slot.map_by_address(entry))?;
    }
    Ok(())
}

fn maps_its_own(slot: &Slot<'_>) -> Outcome {
    accepted("its own page read-only", slot.map(entry(slot.frame(), READ)))?;
    accepted("its own page writable", slot.map_by_address(entry(slot.frame(), WRITE)))?;
    Ok(())
}

fn frames_of_nobody(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    maps_its_own(&slot)?;
    let frames = Surroundings::look(attacker)?.nobodys();
    expect(!frames.is_empty(), "there is no such frame")?;
    frames.into_iter().try_for_each(|frame| map_refused(&slot, frame))
}

fn frames_of_other_domains(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    maps_its_own(&slot)?;
    let frames = Surroundings::look(attacker)?.others();
    expect(!frames.is_empty(), "no other domain has memory")?;
    frames.into_iter().try_for_each(|frame| map_refused(&slot, frame))
}

/// The sweep finds what the samples miss.
fn every_frame_not_its_own(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let surroundings = Surroundings::look(attacker)?;
    let mapped: Vec<_> =
        surroundings.foreign().filter(|frame| slot.map_by_address(entry(*frame, READ)).is_ok()).collect();
    expect(mapped.is_empty(), format!("{} foreign frames, such as {:?}", mapped.len(), mapped.first()))
}

fn device_memory(attacker: &Attacker) -> Outcome {
    /// Local APIC, I/O APIC, event timer, PCI configuration space, screen, firmware, a PCI window.
    const DEVICES: [u64; 9] = [0xfee00, 0xfec00, 0xfed00, 0xb0000, 0xe0000, 0xa0, 0xb8, 0xf0, 0xfe000];
    let slot = Slot::new(attacker)?;
    maps_its_own(&slot)?;
    for frame in DEVICES.map(MachineFrame) {
        map_refused(&slot, frame)?;
        let uncached = entry(frame, WRITE | CACHE_DISABLE | WRITE_THROUGH);
        refused(format!("device frame {frame} uncached"), slot.map(uncached))?;
        for flags in [READ, WRITE, WRITE | CACHE_DISABLE | WRITE_THROUGH] {
            let answer = slot.map_of(DomainId::IO, entry(frame, flags));
            refused(format!("device frame {frame} as the devices' ({flags:#x})"), answer)?;
        }
    }
    Ok(())
}

fn frames_beyond_memory(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let last = Surroundings::look(attacker)?.last.0;
    for frame in [last + 1, last + 2, 1 << 20, 1 << 24, 1 << 32, 1 << 36, (1 << 40) - 1].map(MachineFrame) {
        map_refused(&slot, frame)?;
        refused(format!("frame {frame} as a device"), slot.map_of(DomainId::IO, entry(frame, WRITE)))?;
    }
    Ok(())
}

/// Numbers that are no domain's, and those of other domains.
pub fn others_numbers(attacker: &Attacker) -> impl Iterator<Item = DomainId> {
    let own = attacker.own_id;
    let reserved = [DomainId::IO, DomainId::XEN, DomainId::COW, DomainId::INVALID, DomainId::IDLE];
    let odd = [0x7fef, 0x8000, 0x8000 | own.0, 0xffff].map(DomainId);
    let next = DomainId(own.0 + 1);
    let before = (0..own.0).map(DomainId);
    before.chain([next]).chain(reserved).chain(odd)
}

fn frames_in_the_name_of_others(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for own in [DomainId::SELF, attacker.own_id] {
        accepted(format!("its own page as domain {own}'s"), slot.map_of(own, entry(slot.frame(), READ)))?;
    }
    let surroundings = Surroundings::look(attacker)?;
    for domain in others_numbers(attacker) {
        for frame in surroundings.samples() {
            refused(format!("frame {frame} as domain {domain}'s"), slot.map_of(domain, entry(frame, READ)))?;
            let arguments = [slot.address(), entry(frame, READ), UVMF_INVLPG, u64::from(domain.0)];
            let answer = attacker.call(HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN, &arguments);
            refused(format!("frame {frame} as domain {domain}'s by update_va_mapping"), answer)?;
        }
    }
    Ok(())
}

/// The high half of the last argument says whose tables are changed.
fn tables_of_others(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let (place, value) = (slot.place(), entry(slot.frame(), READ));
    let own = foreign_domain(DomainId::SELF, Some(attacker.own_id));
    accepted("its own tables by number", attacker.mmu_update(place, value, u64::from(own)))?;
    // One more than the highest number has no room there, and would mean the caller's own.
    for domain in others_numbers(attacker).filter(|domain| domain.0 != u16::MAX) {
        for frames in [DomainId::SELF, domain] {
            let owners = foreign_domain(frames, Some(domain));
            let answer = attacker.mmu_update(place, value, u64::from(owners));
            refused(format!("tables of domain {domain}, frames of {frames}"), answer)?;
        }
    }
    Ok(())
}

fn entries_in_frames_of_others(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    accepted("an entry of its own", attacker.set_entry(slot.place(), entry(slot.frame(), READ)))?;
    let surroundings = Surroundings::look(attacker)?;
    let beyond = [surroundings.last.0 + 1, 0xfee00, 1 << 40, (1 << 52) - 1].map(MachineFrame);
    for frame in surroundings.samples().into_iter().chain(beyond) {
        for index in [0, 1, 256, 511] {
            for value in [0, entry(slot.frame(), WRITE)] {
                let answer = attacker.set_entry(place_of(frame, index), value);
                refused(format!("entry {index} in frame {frame}"), answer)?;
            }
        }
    }
    Ok(())
}

fn machine_to_physical_entries(attacker: &Attacker) -> Outcome {
    let own = u64::from(DomainId::SELF.0);
    let set = |frame: MachineFrame, number: u64, owner: u64| {
        attacker.mmu_update(frame.physical_address() | MMU_MACHPHYS_UPDATE, number, owner)
    };
    let slot = Slot::new(attacker)?;
    let number = number_of(slot.frame());
    accepted("its own frame's number", set(slot.frame(), 0x1234, own))?;
    expect(number_of(slot.frame()) == 0x1234, "its own frame's number has not changed")?;
    accepted("its own frame's number again", set(slot.frame(), number, own))?;
    let surroundings = Surroundings::look(attacker)?;
    for frame in surroundings.samples() {
        let before = number_of(frame);
        for owner in [DomainId::SELF, DomainId::ZERO, DomainId::IO, DomainId::XEN] {
            refused(format!("frame {frame}'s number"), set(frame, 0x1234, u64::from(owner.0)))?;
        }
        expect(number_of(frame) == before, format!("frame {frame}'s number has changed"))?;
    }
    for frame in [surroundings.last.0 + 1, 0xfee00, 1 << 40].map(MachineFrame) {
        refused(format!("frame {frame}'s number"), set(frame, 0x1234, own))?;
    }
    Ok(())
}

/// A table in use stays read-only, whichever way its mapping is changed.
fn own_page_tables_writable(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for (step, table) in tables_of(attacker, slot.address())?.into_iter().enumerate() {
        let (readable, writable) = (entry(table, READ), entry(table, WRITE));
        let level = 4 - step;
        refused(format!("a table of level {level}, fresh"), slot.map(writable))?;
        refused(format!("a table of level {level}, fresh, by address"), slot.map_by_address(writable))?;
        accepted(format!("a table of level {level}, read-only"), slot.map(readable))?;
        refused(format!("a table of level {level}, by a changed flag"), slot.map(writable))?;
        refused(
            format!("a table of level {level}, by a changed flag and address"),
            slot.map_by_address(writable),
        )?;
        let keeping = slot.place() | MMU_PT_UPDATE_PRESERVE_AD;
        refused(format!("a table of level {level}, keeping bits"), attacker.set_entry(keeping, writable))?;
        let untranslated = slot.place() | MMU_PT_UPDATE_NO_TRANSLATE;
        refused(
            format!("a table of level {level}, untranslated"),
            attacker.set_entry(untranslated, writable),
        )?;
        expect(slot.entry() & WRITABLE == 0, "the entry has become writable")?;
        accepted("its page back", slot.restore())?;
    }
    Ok(())
}

/// Marks that only the hypervisor makes, and entries that would outlive their address space.
fn bits_a_guest_may_not_set(attacker: &Attacker) -> Outcome {
    /// The hypervisor's mark of a granted frame.
    const GRANT: u64 = 1 << 62;
    let slot = Slot::new(attacker)?;
    refused("the mark of a granted frame", slot.map(entry(slot.frame(), READ | GRANT)))?;
    refused(
        "the mark of a granted frame, by address",
        slot.map_by_address(entry(slot.frame(), WRITE | GRANT)),
    )?;
    if slot.map(entry(slot.frame(), READ | GLOBAL)).is_ok() {
        expect(slot.entry() & GLOBAL == 0, "a mapping is global")?;
    }
    accepted("its page back", slot.restore())?;
    if slot.map(entry(slot.frame(), READ) & !USER).is_ok() {
        expect(attacker.read(slot.address()).is_ok(), "a mapping without the user bit is unusable")?;
    }
    Ok(())
}

/// Requests whose addresses and commands make no sense.
fn odd_requests(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let before = slot.entry();
    let value = entry(slot.frame(), READ);
    for place in [slot.place() | 4, slot.place() | 7, u64::MAX, !7, 1 << 63] {
        refused(format!("the entry at {place:#x}"), attacker.set_entry(place, value))?;
    }
    for address in [0, 0x1000, 0x8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_87ff_ffff_f000, u64::MAX] {
        let answer = attacker.set_address(address, value);
        expect(answer == Err(Errno::EINVAL), format!("the entry for {address:#x} gave {answer:?}"))?;
    }
    expect(read_entry(slot.place()) == before, "the entry has changed")
}
