#![expect(unsafe_code, reason = "enters user mode")]
//! User mode, which has no hypercalls and no handlers of its own.
//!
//! This kernel has no user programs. A few instructions of its own, entered by `iret` with privilege 3 and on the
//! kernel's page tables, do for one.

use alloc::format;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::callback::{CALLBACKOP_REGISTER, CALLBACKTYPE_SYSCALL, CallbackRegister};
use hypercall_abi::xen::*;
use pv_runtime::memory::SharedMemory;

use crate::attacker::Attacker;
use crate::instructions::{BREAKPOINT, GENERAL_PROTECTION, INVALID_OPCODE, PAGE_FAULT};
use crate::report::{Outcome, accepted, cases, expect, faulted};
use crate::slot::page;

cases!("user_mode": system_calls, faults, software_interrupts);

global_asm!(
    r#"
# hostile_user(rdi: address of user code): enters user mode there. Comes back when that makes a system call, with what
# was in rax then.
.global hostile_user
hostile_user:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + {stack}], rsp
    lea rax, [rsp - 512]
    push 0xe02b                 # ss
    push rax                    # a little further down
    push 2                      # flags, events masked
    push 0xe033                 # code of privilege 3: user mode
    push rdi
    push 0                      # flags of the call
    push 0                      # rcx
    push 0                      # r11
    push 0                      # rax
    mov eax, {iret}
    syscall
    ud2

# Entered by SYSCALL from user mode, on the kernel's stack.
.global hostile_system_call
hostile_system_call:
    mov rsp, [rip + {stack}]
    mov [rip + {result}], rax
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# Programs.
.global hostile_user_version
hostile_user_version:
    mov eax, {version}
    xor edi, edi
    xor esi, esi
    syscall
    ud2
.global hostile_user_update
hostile_user_update:
    mov eax, {update_va_mapping}
    xor edi, edi
    xor esi, esi
    xor edx, edx
    syscall
    ud2
.global hostile_user_iret
hostile_user_iret:
    mov eax, {iret}
    syscall
    ud2
.global hostile_user_cli
hostile_user_cli:
    cli
    ud2
.global hostile_user_ud2
hostile_user_ud2:
    ud2
.global hostile_user_read
hostile_user_read:
    mov rax, 0xffff830000000000
    mov rax, [rax]
    ud2
.global hostile_user_int3
hostile_user_int3:
    int3
    ud2
.global hostile_user_int0x80
hostile_user_int0x80:
    int 0x80
    ud2
.global hostile_user_int9
hostile_user_int9:
    int 9
    ud2
.global hostile_user_out
hostile_user_out:
    xor eax, eax
    out 0x80, al
    ud2
"#,
    stack = sym STACK,
    result = sym RESULT,
    iret = const HYPERVISOR_IRET,
    version = const HYPERVISOR_XEN_VERSION,
    update_va_mapping = const HYPERVISOR_UPDATE_VA_MAPPING,
);

static STACK: AtomicU64 = AtomicU64::new(0);
static RESULT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn hostile_user(code: u64);
    static hostile_system_call: u8;
    static hostile_user_version: u8;
    static hostile_user_update: u8;
    static hostile_user_iret: u8;
    static hostile_user_cli: u8;
    static hostile_user_ud2: u8;
    static hostile_user_read: u8;
    static hostile_user_int3: u8;
    static hostile_user_int0x80: u8;
    static hostile_user_int9: u8;
    static hostile_user_out: u8;
}

/// The address of a program.
macro_rules! program {
    ($name:ident) => {
        (&raw const $name) as u64
    };
}

/// Gives user mode its page table, its way into the kernel and the stack it gets there, and lets `body` use it.
fn with_user_mode(attacker: &Attacker, body: impl FnOnce() -> Outcome) -> Outcome {
    let stack = page()?;
    let top = stack.virtual_address() as u64 + 4096;
    let mut callback = CallbackRegister {
        r#type: CALLBACKTYPE_SYSCALL,
        address: program!(hostile_system_call),
        ..Default::default()
    };
    let answer = attacker.command(HYPERVISOR_CALLBACK_OP, CALLBACKOP_REGISTER, &mut callback);
    accepted("a way into the kernel", answer)?;
    accepted("a stack in the kernel", attacker.call(HYPERVISOR_STACK_SWITCH, &[0xe02b, top]))?;
    accepted("a page table for users", attacker.mmuext(MMUEXT_NEW_USER_BASEPTR, attacker.root.0, 0))?;
    let outcome = body();
    accepted("no page table for users", attacker.mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0))?;
    outcome
}

/// Whatever hypercall's number a user program loads, SYSCALL leads to its kernel.
fn system_calls(attacker: &Attacker) -> Outcome {
    let programs = [
        (program!(hostile_user_version), HYPERVISOR_XEN_VERSION),
        (program!(hostile_user_update), HYPERVISOR_UPDATE_VA_MAPPING),
        (program!(hostile_user_iret), HYPERVISOR_IRET),
    ];
    with_user_mode(attacker, || {
        for (program, number) in programs {
            RESULT.store(u64::MAX, Ordering::Relaxed);
            let result = attacker.run(hostile_user, program);
            expect(result.is_ok(), format!("the program that calls {number} raised {result:?}"))?;
            let found = RESULT.load(Ordering::Relaxed);
            expect(found == number, format!("a system call with {number} in rax came with {found:#x}"))?;
        }
        Ok(())
    })
}

fn faults(attacker: &Attacker) -> Outcome {
    let programs = [
        ("cli", program!(hostile_user_cli), GENERAL_PROTECTION),
        ("ud2", program!(hostile_user_ud2), INVALID_OPCODE),
        ("reading the hypervisor", program!(hostile_user_read), PAGE_FAULT),
        ("out", program!(hostile_user_out), GENERAL_PROTECTION),
    ];
    with_user_mode(attacker, || {
        programs.into_iter().try_for_each(|(name, program, vector)| {
            faulted(name, &[vector], attacker.run(hostile_user, program))
        })
    })
}

/// Handlers of privilege 0 are not for user mode to call.
fn software_interrupts(attacker: &Attacker) -> Outcome {
    let programs = [
        ("int 0x80", program!(hostile_user_int0x80), [GENERAL_PROTECTION, GENERAL_PROTECTION]),
        ("int 9", program!(hostile_user_int9), [GENERAL_PROTECTION, GENERAL_PROTECTION]),
        ("int3", program!(hostile_user_int3), [BREAKPOINT, GENERAL_PROTECTION]),
    ];
    with_user_mode(attacker, || {
        programs.into_iter().try_for_each(|(name, program, vectors)| {
            faulted(name, &vectors, attacker.run(hostile_user, program))
        })
    })
}
