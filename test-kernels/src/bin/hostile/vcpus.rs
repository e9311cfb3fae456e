//! Virtual CPUs that do not exist, or whose state lies where it must not.

use alloc::boxed::Box;
use alloc::format;

use hypercall_abi::arch_x86::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext, xen_pfn_to_cr3};
use hypercall_abi::vcpu::*;
use hypercall_abi::xen::HYPERVISOR_VCPU_OP;

use crate::attacker::{Attacker, address_of};
use crate::calls::Answer;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::Slot;
use crate::surroundings::Surroundings;
use crate::table::tables_of;

cases!("vcpus":
    numbers_that_are_none, state_for_a_running_cpu, states_with_foreign_roots, shared_data_in_bad_frames,
    shared_data_at_bad_offsets, timers_of_others, unknown_commands,
);

fn vcpu_op<T>(attacker: &Attacker, command: u32, vcpu: u64, argument: &mut T) -> Answer {
    attacker.call(HYPERVISOR_VCPU_OP, &[u64::from(command), vcpu, address_of(argument)])
}

/// Numbers that no virtual CPU of this domain has.
const NOBODY: [u64; 8] = [1, 2, 31, 32, 33, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

fn numbers_that_are_none(attacker: &Attacker) -> Outcome {
    let mut state = VcpuRunstateInfo::default();
    accepted("its own state", vcpu_op(attacker, VCPUOP_GET_RUNSTATE_INFO, 0, &mut state))?;
    expect(state.state == RUNSTATE_RUNNING, format!("it is in state {}", state.state))?;
    accepted("whether it is up", vcpu_op(attacker, VCPUOP_IS_UP, 0, &mut state))?;
    let mut context = Box::new(VcpuGuestContext::default());
    for vcpu in NOBODY {
        for command in (0..16).filter(|command| *command != VCPUOP_STOP_PERIODIC_TIMER) {
            let answer = vcpu_op(attacker, command, vcpu, &mut *context);
            refused(format!("command {command} for virtual CPU {vcpu}"), answer)?;
        }
    }
    Ok(())
}

fn state_for_a_running_cpu(attacker: &Attacker) -> Outcome {
    let mut context =
        Box::new(VcpuGuestContext { flags: VGCF_IN_KERNEL | VGCF_ONLINE, ..Default::default() });
    context.ctrlreg[3] = xen_pfn_to_cr3(attacker.root.0);
    refused("a state for itself", vcpu_op(attacker, VCPUOP_INITIALISE, 0, &mut *context))
}

/// As there is one virtual CPU only, all of these are refused early; with more, the root is what they are refused for.
fn states_with_foreign_roots(attacker: &Attacker) -> Outcome {
    let surroundings = Surroundings::look(attacker)?;
    for frame in surroundings.samples() {
        let mut context = Box::new(VcpuGuestContext { flags: VGCF_IN_KERNEL, ..Default::default() });
        context.ctrlreg[3] = xen_pfn_to_cr3(frame.0);
        for vcpu in [0, 1] {
            let answer = vcpu_op(attacker, VCPUOP_INITIALISE, vcpu, &mut *context);
            refused(format!("virtual CPU {vcpu} with root {frame}"), answer)?;
        }
    }
    Ok(())
}

/// Registering good shared data moves it for good, which this kernel's event loop does not expect: see `endings`.
fn shared_data_in_bad_frames(attacker: &Attacker) -> Outcome {
    let register = |mfn: u64| {
        let mut place = VcpuRegisterVcpuInfo { mfn, ..Default::default() };
        vcpu_op(attacker, VCPUOP_REGISTER_VCPU_INFO, 0, &mut place)
    };
    let slot = Slot::new(attacker)?;
    for table in tables_of(attacker, slot.address())? {
        refused(format!("shared data in page table {table}"), register(table.0))?;
    }
    let surroundings = Surroundings::look(attacker)?;
    let odd = [surroundings.last.0 + 1, 0xfee00, 1 << 40, 1 << 52, u64::MAX];
    for frame in surroundings.samples().into_iter().map(|frame| frame.0).chain(odd) {
        refused(format!("shared data in frame {frame:#x}"), register(frame))?;
    }
    Ok(())
}

fn shared_data_at_bad_offsets(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    for offset in [1, 2, 4, 7, 4033, 4036, 4040, 4088, 4095, 4096, 8192, 1 << 31, u32::MAX] {
        let mut place = VcpuRegisterVcpuInfo { mfn: slot.frame().0, offset, rsvd: 0 };
        let answer = vcpu_op(attacker, VCPUOP_REGISTER_VCPU_INFO, 0, &mut place);
        refused(format!("shared data at offset {offset}"), answer)?;
    }
    Ok(())
}

fn timers_of_others(attacker: &Attacker) -> Outcome {
    let mut timer = VcpuSetSingleshotTimer { timeout_abs_ns: 1, flags: 0, _pad: 0 };
    accepted("its own timer", vcpu_op(attacker, VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut timer))?;
    accepted("stopping it", vcpu_op(attacker, VCPUOP_STOP_SINGLESHOT_TIMER, 0, &mut timer))?;
    for vcpu in NOBODY {
        refused("another's timer", vcpu_op(attacker, VCPUOP_SET_SINGLESHOT_TIMER, vcpu, &mut timer))?;
    }
    timer.flags = VCPU_SSHOTTMR_FUTURE;
    refused(
        "a deadline that must lie ahead and does not",
        vcpu_op(attacker, VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut timer),
    )
}

fn unknown_commands(attacker: &Attacker) -> Outcome {
    let mut page = [0u8; 64];
    for command in [14, 15, 16, 100, u32::MAX] {
        refused(format!("command {command}"), vcpu_op(attacker, command, 0, &mut page))?;
    }
    Ok(())
}
