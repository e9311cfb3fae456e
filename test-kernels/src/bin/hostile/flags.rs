#![expect(unsafe_code, reason = "sets flags and handles the debug exception")]
//! Flags that a guest sets for itself and that must not work on the hypervisor: single step, alignment check,
//! direction, nested task.

use alloc::format;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::Errno;
use hypercall_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use hypercall_abi::version::XENVER_EXTRAVERSION;
use hypercall_abi::xen::{HYPERVISOR_SET_TRAP_TABLE, HYPERVISOR_XEN_VERSION};
use pv_runtime::traps::catch;

use crate::attacker::{Attacker, address_of};
use crate::report::{Outcome, accepted, cases, expect};

cases!("flags": alignment_check, direction_and_nested_task, single_step, single_step_behind_a_stack_switch);

global_asm!(
    r#"
# hostile_flagged(rdi: flags, rsi: hypercall, rdx, rcx: its arguments): makes a hypercall with these flags set.
.global hostile_flagged
hostile_flagged:
    pushfq
    mov rax, rsi
    mov rsi, rcx
    pushfq
    or [rsp], rdi
    mov rdi, rdx
    popfq
    syscall
    nop
    pushfq
    pop rdx
    popfq
    mov [rip + {flags}], rdx
    ret

# hostile_flagged_fault(rdi: flags): raises an exception with these flags set.
.global hostile_flagged_fault
hostile_flagged_fault:
    pushfq
    or [rsp], rdi
    popfq
    ud2

# hostile_stepped(rdi: hypercall): makes a hypercall, its arguments zero, with every instruction stepped over.
.global hostile_stepped
hostile_stepped:
    mov rax, rdi
    xor edi, edi
    xor esi, esi
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    syscall
    nop
    pushfq
    and qword ptr [rsp], ~0x100
    popfq
    ret

# hostile_stepped_stack(rdi: hypercall): the same, but a stack switch holds the step back until SYSCALL is done.
.global hostile_stepped_stack
hostile_stepped_stack:
    mov rax, rdi
    xor edi, edi
    xor esi, esi
    mov edx, ss
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    mov ss, edx
    syscall
    nop
    pushfq
    and qword ptr [rsp], ~0x100
    popfq
    ret

# The handler of the debug exception: rcx, r11, and the frame.
.global hostile_step
hostile_step:
    inc qword ptr [rip + {steps}]
    pop rcx
    pop r11
    or byte ptr [rsp + 8], 3
    iretq
"#,
    flags = sym FLAGS,
    steps = sym STEPS,
);

/// The flags after the last hypercall.
static FLAGS: AtomicU64 = AtomicU64::new(0);
/// How many steps there were.
static STEPS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn hostile_flagged(flags: u64, number: u64, first: u64, second: u64) -> i64;
    fn hostile_flagged_fault(flags: u64);
    fn hostile_stepped(number: u64) -> i64;
    fn hostile_stepped_stack(number: u64) -> i64;
    static hostile_step: u8;
}

const DIRECTION: u64 = 1 << 10;
const NESTED_TASK: u64 = 1 << 14;
const ALIGNMENT_CHECK: u64 = 1 << 18;
const IDENTIFICATION: u64 = 1 << 21;

/// What the version call with command 0 answers.
const VERSION: i64 = 0x4_0011;

/// With supervisor access to user pages guarded, this flag is what lifts the guard: a guest's must not.
fn alignment_check(attacker: &Attacker) -> Outcome {
    for bad in [0x1000, 1 << 47, 0xffff_8000_0000_0000, 0xffff_8300_0000_0000] {
        let command = u64::from(XENVER_EXTRAVERSION);
        // SAFETY: the call does nothing else than fail to write.
        let answer = unsafe { hostile_flagged(ALIGNMENT_CHECK, HYPERVISOR_XEN_VERSION, command, bad) };
        expect(answer == Errno::EFAULT.to_return(), format!("a bad pointer with the flag gave {answer:#x}"))?;
        expect(FLAGS.load(Ordering::Relaxed) & ALIGNMENT_CHECK != 0, "the flag is gone after a hypercall")?;
    }
    let fault = attacker.run(hostile_flagged_fault, ALIGNMENT_CHECK);
    expect(fault.is_err_and(|fault| fault.vector == 6), "an exception with the flag is another one")?;
    let answer = attacker.call(HYPERVISOR_XEN_VERSION, &[1, 0x1000]);
    expect(answer == Err(Errno::EFAULT), "a bad pointer is followed afterwards")
}

fn direction_and_nested_task(_: &Attacker) -> Outcome {
    for flag in [DIRECTION, NESTED_TASK, IDENTIFICATION, DIRECTION | NESTED_TASK | ALIGNMENT_CHECK] {
        // SAFETY: the call does nothing; the function puts the flags back.
        let answer = unsafe { hostile_flagged(flag, HYPERVISOR_XEN_VERSION, 0, 0) };
        expect(answer == VERSION, format!("a call with flags {flag:#x} gave {answer:#x}"))?;
        let after = FLAGS.load(Ordering::Relaxed);
        expect(after & flag == flag, format!("of flags {flag:#x} {after:#x} came back"))?;
        // SAFETY: the function faults at once and is left.
        let fault = unsafe { catch(hostile_flagged_fault, flag) };
        expect(fault.is_err_and(|fault| fault.vector == 6), format!("flags {flag:#x} change an exception"))?;
    }
    Ok(())
}

/// Takes the debug exception over for good.
fn handle_steps(attacker: &Attacker) -> Outcome {
    let address = (&raw const hostile_step) as u64;
    let handler = TrapInfo { vector: 1, flags: 0, cs: FLAT_KERNEL_CS, address, ..Default::default() };
    let mut table = [handler, TrapInfo::default()];
    accepted("a handler for steps", attacker.call(HYPERVISOR_SET_TRAP_TABLE, &[address_of(&mut table)]))
        .map(drop)
}

fn stepped(
    attacker: &Attacker,
    function: unsafe extern "C" fn(u64) -> i64,
    number: u64,
) -> Result<i64, alloc::string::String> {
    handle_steps(attacker)?;
    STEPS.store(0, Ordering::Relaxed);
    // SAFETY: the calls that are made do nothing, and the steps are handled.
    let answer = unsafe { function(number) };
    let steps = STEPS.load(Ordering::Relaxed);
    expect((2..20).contains(&steps), format!("there were {steps} steps"))?;
    Ok(answer)
}

fn single_step(attacker: &Attacker) -> Outcome {
    for _ in 0..100 {
        let answer = stepped(attacker, hostile_stepped, HYPERVISOR_XEN_VERSION)?;
        expect(answer == VERSION, format!("the call gave {answer:#x}"))?;
        let answer = stepped(attacker, hostile_stepped, 1000)?;
        expect(answer == Errno::ENOSYS.to_return(), format!("a call that does not exist gave {answer:#x}"))?;
    }
    Ok(())
}

fn single_step_behind_a_stack_switch(attacker: &Attacker) -> Outcome {
    for _ in 0..100 {
        let answer = stepped(attacker, hostile_stepped_stack, HYPERVISOR_XEN_VERSION)?;
        expect(answer == VERSION, format!("the call gave {answer:#x}"))?;
    }
    Ok(())
}
