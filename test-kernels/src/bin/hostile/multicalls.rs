//! Calls within calls.

use alloc::format;

use hypercall_abi::Errno;
use hypercall_abi::sched::SCHEDOP_YIELD;
use hypercall_abi::xen::*;

use crate::attacker::{Attacker, address_of};
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect};
use crate::slot::Slot;
use crate::table::Table;

cases!("multicalls": several_calls, calls_of_themselves, returns, results_over_entries, unknown_numbers, long_calls);

fn entry_for(op: u64, args: &[u64]) -> MulticallEntry {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    MulticallEntry { op, result: 1, args: all }
}

fn multicall(attacker: &Attacker, entries: &mut [MulticallEntry]) -> Result<u64, Errno> {
    attacker.call(HYPERVISOR_MULTICALL, &[entries.as_mut_ptr() as u64, entries.len() as u64])
}

fn several_calls(attacker: &Attacker) -> Outcome {
    let mut entries = [
        entry_for(HYPERVISOR_XEN_VERSION, &[0]),
        entry_for(1000, &[]),
        entry_for(HYPERVISOR_SCHED_OP, &[u64::from(SCHEDOP_YIELD)]),
    ];
    accepted("three calls", multicall(attacker, &mut entries))?;
    let results = entries.map(|entry| entry.result);
    expect(results == [0x4_0011, Errno::ENOSYS.to_return(), 0], format!("their results are {results:x?}"))
}

fn calls_of_themselves(attacker: &Attacker) -> Outcome {
    let mut inner = [entry_for(HYPERVISOR_XEN_VERSION, &[0])];
    let mut entries = [entry_for(HYPERVISOR_MULTICALL, &[inner.as_mut_ptr() as u64, 1])];
    accepted("a call of itself", multicall(attacker, &mut entries))?;
    expect(entries[0].result < 0, "a call within a call of its kind was made")?;
    // A list that holds itself.
    let place = entries.as_mut_ptr() as u64;
    entries[0] = entry_for(HYPERVISOR_MULTICALL, &[place, u64::MAX]);
    accepted("a list in itself", multicall(attacker, &mut entries))?;
    expect(entries[0].result < 0, "a list within itself was worked on")
}

/// `iret` replaces all registers, so it cannot be one call of several.
fn returns(attacker: &Attacker) -> Outcome {
    let mut entries = [entry_for(HYPERVISOR_IRET, &[0; 6]), entry_for(HYPERVISOR_XEN_VERSION, &[0])];
    accepted("two calls", multicall(attacker, &mut entries))?;
    expect(entries[0].result < 0, "a return within a call was made")?;
    expect(entries[1].result == 0x4_0011, "the call after it was not made")
}

/// The list lies in a page that one of its calls write-protects, or makes a page table: no result lands in there.
fn results_over_entries(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let list = slot.address() as *mut MulticallEntry;
    let protect = [slot.address(), entry(slot.frame(), READ), UVMF_INVLPG];
    let mut pin = MmuextOp { cmd: MMUEXT_PIN_L1_TABLE, arg1: slot.frame().0, ..Default::default() };
    let pinning = [address_of(&mut pin), 1, 0, u64::from(hypercall_abi::DomainId::SELF.0)];
    let entries = [
        entry_for(HYPERVISOR_UPDATE_VA_MAPPING, &protect),
        entry_for(HYPERVISOR_MMUEXT_OP, &pinning),
        entry_for(HYPERVISOR_XEN_VERSION, &[0]),
    ];
    write_list(list, &entries);
    let answer = attacker.call(HYPERVISOR_MULTICALL, &[list as u64, 3]);
    expect(answer == Err(Errno::EFAULT), format!("a list that cannot be written gave {answer:?}"))?;
    // The second call must not have been made either, as the first could not be reported.
    if attacker.unpin(slot.frame()).is_ok() {
        return Err("calls went on after a result could not be written".into());
    }
    accepted("its page back", slot.restore()).map(drop)
}

fn write_list(list: *mut MulticallEntry, entries: &[MulticallEntry]) {
    #![expect(unsafe_code, reason = "writes to a page by its address")]
    for (index, entry) in entries.iter().enumerate() {
        // SAFETY: the list is at the start of a page of its own, which is writable and nobody else's.
        unsafe { list.add(index).write(*entry) };
    }
}

fn unknown_numbers(attacker: &Attacker) -> Outcome {
    for number in [11, 23, 40, 1000, 1 << 32 | 17, u64::MAX] {
        let mut entries = [entry_for(number, &[0; 6])];
        accepted("one call", multicall(attacker, &mut entries))?;
        expect(entries[0].result < 0, format!("number {number:#x} gave {}", entries[0].result))?;
    }
    Ok(())
}

/// Calls that are worked on in pieces, several in one list.
fn long_calls(attacker: &Attacker) -> Outcome {
    const TABLES: usize = 40;
    let lower = Table::new(attacker, [])?;
    let all = entry(lower.frame(), TABLE);
    let mut tables = alloc::vec::Vec::new();
    for _ in 0..TABLES {
        tables.push(Table::new(attacker, (0..512).map(|index| (index, all)))?);
    }
    let operations = |cmd: u32| -> alloc::vec::Vec<MmuextOp> {
        tables.iter().map(|table| MmuextOp { cmd, arg1: table.frame().0, ..Default::default() }).collect()
    };
    for command in [MMUEXT_PIN_L2_TABLE, MMUEXT_UNPIN_TABLE] {
        let mut list = operations(command);
        let mut done = 0u32;
        let own = u64::from(hypercall_abi::DomainId::SELF.0);
        let arguments = [list.as_mut_ptr() as u64, TABLES as u64, address_of(&mut done), own];
        let mut entries =
            [entry_for(HYPERVISOR_MMUEXT_OP, &arguments), entry_for(HYPERVISOR_XEN_VERSION, &[0])];
        accepted("two calls", multicall(attacker, &mut entries))?;
        let results = entries.map(|entry| entry.result);
        expect(results == [0, 0x4_0011], format!("their results are {results:x?}"))?;
        expect(done == TABLES as u32, format!("{done} of {TABLES} operations were done"))?;
    }
    Ok(())
}
