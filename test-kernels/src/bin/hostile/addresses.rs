//! Reading, writing and executing what is the hypervisor's.

use alloc::format;

use hypercall_abi::arch_x86::MACH2PHYS_VIRT_START;
use pv_runtime::memory::SharedMemory;

use crate::attacker::Attacker;
use crate::instructions::{GENERAL_PROTECTION, PAGE_FAULT, STACK_FAULT};
use crate::report::{Outcome, cases, expect, faulted};
use crate::slot::page;

cases!("addresses": the_hypervisors, the_machine_to_physical_table, addresses_that_are_none, its_own);

/// All over the hypervisor's range, but for the machine-to-physical table.
const HYPERVISOR: [u64; 16] = [
    0xffff_8040_0000_0000,
    0xffff_8080_0000_0000,
    0xffff_8100_0000_0000,
    0xffff_8280_0000_0000,
    0xffff_82d0_0000_0000,
    0xffff_82d0_4000_0000,
    0xffff_82d0_4000_e000,
    0xffff_82d0_8000_0000,
    0xffff_82d0_8010_0000,
    0xffff_82d0_8020_0000,
    0xffff_8300_0000_0000,
    0xffff_8300_0010_0000,
    0xffff_8300_fee0_0000,
    0xffff_8380_0000_0000,
    0xffff_87ff_ffff_f000,
    0xffff_87ff_ffff_fff8,
];

fn the_hypervisors(attacker: &Attacker) -> Outcome {
    for address in HYPERVISOR {
        faulted(format!("reading {address:#x}"), &[PAGE_FAULT], attacker.read(address).map(drop))?;
        faulted(format!("writing {address:#x}"), &[PAGE_FAULT], attacker.write(address))?;
        faulted(format!("executing {address:#x}"), &[PAGE_FAULT], attacker.jump(address))?;
    }
    Ok(())
}

fn the_machine_to_physical_table(attacker: &Attacker) -> Outcome {
    expect(attacker.read(MACH2PHYS_VIRT_START).is_ok(), "it cannot be read")?;
    faulted("writing it", &[PAGE_FAULT], attacker.write(MACH2PHYS_VIRT_START))?;
    faulted("executing it", &[PAGE_FAULT], attacker.jump(MACH2PHYS_VIRT_START))
}

fn addresses_that_are_none(attacker: &Attacker) -> Outcome {
    const EXPECTED: [u64; 3] = [GENERAL_PROTECTION, STACK_FAULT, PAGE_FAULT];
    for address in
        [0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63, 0x7fff_ffff_fffc, 0xffff_7fff_ffff_fffc]
    {
        faulted(format!("reading {address:#x}"), &EXPECTED, attacker.read(address).map(drop))?;
        faulted(format!("writing {address:#x}"), &EXPECTED, attacker.write(address))?;
        faulted(format!("executing {address:#x}"), &EXPECTED, attacker.jump(address))?;
    }
    Ok(())
}

fn its_own(attacker: &Attacker) -> Outcome {
    let page = page()?;
    let address = page.virtual_address() as u64;
    expect(attacker.read(address) == Ok(0), "its own page cannot be read")?;
    expect(attacker.write(address).is_ok(), "its own page cannot be written")?;
    faulted("executing its own data", &[PAGE_FAULT], attacker.jump(address))
}
