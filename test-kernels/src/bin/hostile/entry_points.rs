//! Entry points and segment bases that are no addresses of a guest's.

use alloc::format;

use hypercall_abi::Errno;
use hypercall_abi::arch_x86::{
    FLAT_KERNEL_CS, SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL, TrapInfo,
};
use hypercall_abi::callback::*;
use hypercall_abi::xen::*;

use crate::attacker::{Attacker, address_of};
use crate::instructions::{GENERAL_PROTECTION, INT_0X81, NO_DEVICE, PAGE_FAULT, USE_FPU};
use crate::report::{Outcome, accepted, cases, expect, faulted, refused, unharmed};
use crate::slot::Slot;

cases!("entry_points":
    handlers_in_the_hypervisor, callbacks_in_the_hypervisor, unknown_callbacks, segment_bases, selectors_for_bases,
    debug_registers, assists, a_processor_without_fpu,
);

/// Addresses that the hypervisor must not enter a guest at.
pub const NOT_A_GUESTS: [u64; 8] = [
    0xffff_8000_0000_0000,
    0xffff_8040_0000_0000,
    0xffff_82d0_8000_0000,
    0xffff_8300_0000_0000,
    0xffff_87ff_ffff_ffff,
    0x0000_8000_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_7fff_ffff_ffff,
];

/// A vector that this kernel uses for nothing else.
const FREE_VECTOR: u8 = 0x81;

fn set_handler(attacker: &Attacker, address: u64) -> Result<u64, Errno> {
    let handler =
        TrapInfo { vector: FREE_VECTOR, flags: 3, cs: FLAT_KERNEL_CS, address, ..Default::default() };
    let mut table = [handler, TrapInfo::default()];
    attacker.call(HYPERVISOR_SET_TRAP_TABLE, &[address_of(&mut table)])
}

/// The table may be taken; entering such a handler is then this kernel's own fault, and only that.
fn handlers_in_the_hypervisor(attacker: &Attacker) -> Outcome {
    for address in NOT_A_GUESTS {
        let _ = set_handler(attacker, address);
        let result = attacker.run(INT_0X81, 0);
        faulted(format!("entering {address:#x}"), &[GENERAL_PROTECTION, PAGE_FAULT], result)?;
    }
    Ok(())
}

fn callbacks_in_the_hypervisor(attacker: &Attacker) -> Outcome {
    let register = |kind: u16, address: u64| {
        let mut argument = CallbackRegister { r#type: kind, address, ..Default::default() };
        attacker.command(HYPERVISOR_CALLBACK_OP, CALLBACKOP_REGISTER, &mut argument)
    };
    accepted("an address of its own", register(CALLBACKTYPE_SYSCALL, 0xffff_ffff_8020_0000))?;
    for address in NOT_A_GUESTS {
        for kind in [
            CALLBACKTYPE_EVENT,
            CALLBACKTYPE_FAILSAFE,
            CALLBACKTYPE_SYSCALL,
            CALLBACKTYPE_SYSCALL32,
            CALLBACKTYPE_SYSENTER,
        ] {
            refused(format!("callback {kind} at {address:#x}"), register(kind, address))?;
        }
        for arguments in [[address, 0, 0], [0, address, 0], [0, 0, address]] {
            refused(
                format!("callbacks {arguments:x?}"),
                attacker.call(HYPERVISOR_SET_CALLBACKS, &arguments),
            )?;
        }
    }
    Ok(())
}

fn unknown_callbacks(attacker: &Attacker) -> Outcome {
    for kind in [CALLBACKTYPE_SYSENTER_DEPRECATED, 6, 8, 100, u16::MAX] {
        let mut argument = CallbackRegister { r#type: kind, address: 0x1000, ..Default::default() };
        let answer = attacker.command(HYPERVISOR_CALLBACK_OP, CALLBACKOP_REGISTER, &mut argument);
        refused(format!("callback {kind}"), answer)?;
    }
    for command in [2, 100, u32::MAX] {
        let mut argument = CallbackRegister::default();
        let answer = attacker.command(HYPERVISOR_CALLBACK_OP, command, &mut argument);
        refused(format!("command {command}"), answer)?;
    }
    Ok(())
}

fn segment_bases(attacker: &Attacker) -> Outcome {
    let set = |which: u32, base: u64| attacker.call(HYPERVISOR_SET_SEGMENT_BASE, &[u64::from(which), base]);
    let slot = Slot::new(attacker)?;
    for which in [SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL] {
        accepted(format!("base {which} at a page"), set(which, slot.address()))?;
        for base in [1 << 47, 1 << 63, 0xffff_7fff_ffff_ffff, 0x0001_0000_0000_0000, 0xfffe_ffff_ffff_ffff] {
            refused(format!("base {which} at {base:#x}"), set(which, base))?;
        }
        // In the hypervisor's range a base is harmless: using it faults.
        accepted(format!("base {which} in the hypervisor"), set(which, 0xffff_8300_0000_0000))?;
        accepted(format!("base {which} at zero"), set(which, 0))?;
    }
    for which in [4, 5, 100, u32::MAX] {
        refused(format!("base {which}"), set(which, 0))?;
    }
    Ok(())
}

/// Every selector there is, whether or not there is a descriptor behind it.
fn selectors_for_bases(attacker: &Attacker) -> Outcome {
    for selector in 0..=0xffff {
        let arguments = [u64::from(SEGBASE_GS_USER_SEL), selector];
        let answer = attacker.call(HYPERVISOR_SET_SEGMENT_BASE, &arguments);
        if selector & !3 == 0 {
            accepted("the null selector", answer)?;
        }
    }
    Ok(())
}

fn debug_registers(attacker: &Attacker) -> Outcome {
    let set = |register: u64, value: u64| attacker.call(HYPERVISOR_SET_DEBUGREG, &[register, value]);
    accepted("an address of its own", set(0, 0xffff_ffff_8020_0000))?;
    for address in NOT_A_GUESTS {
        for register in 0..4 {
            refused(format!("register {register} at {address:#x}"), set(register, address))?;
        }
    }
    for register in [4, 5, 8, 100, 1 << 32, u64::MAX] {
        refused(format!("register {register}"), set(register, 0))?;
        refused(format!("reading {register}"), attacker.call(HYPERVISOR_GET_DEBUGREG, &[register]))?;
    }
    // A breakpoint that is taken must not be one in the hypervisor; none at all is as good.
    let _ = set(7, 0x0000_ffff_0000_03ff);
    for register in [0, 7] {
        accepted("no breakpoint", set(register, 0))?;
    }
    Ok(())
}

fn assists(attacker: &Attacker) -> Outcome {
    let assist = |command: u32, kind: u64| attacker.call(HYPERVISOR_VM_ASSIST, &[u64::from(command), kind]);
    accepted("a known assist", assist(VMASST_CMD_ENABLE, u64::from(VMASST_TYPE_PAE_EXTENDED_CR3)))?;
    for kind in [6, 31, 33, 63, 64, 65, 1 << 31, 1 << 32, u64::MAX] {
        refused(format!("assist {kind}"), assist(VMASST_CMD_ENABLE, kind))?;
    }
    for command in [2, 100, u32::MAX] {
        refused(format!("command {command}"), assist(command, u64::from(VMASST_TYPE_PAE_EXTENDED_CR3)))?;
    }
    expect(
        assist(VMASST_CMD_DISABLE, u64::from(VMASST_TYPE_PAE_EXTENDED_CR3)).is_ok(),
        "it cannot be disabled",
    )
}

fn a_processor_without_fpu(attacker: &Attacker) -> Outcome {
    unharmed("using the FPU", attacker.run(USE_FPU, 0))?;
    accepted("taking it away", attacker.call(HYPERVISOR_FPU_TASKSWITCH, &[1]))?;
    faulted("using it", &[NO_DEVICE], attacker.run(USE_FPU, 0))?;
    accepted("giving it back", attacker.call(HYPERVISOR_FPU_TASKSWITCH, &[0]))?;
    unharmed("using it again", attacker.run(USE_FPU, 0))
}
