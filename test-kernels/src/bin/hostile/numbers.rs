#![expect(unsafe_code, reason = "looks at all registers after a hypercall")]
//! Hypercalls that do not exist, and what a hypercall leaves in the registers.

use alloc::format;
use core::arch::global_asm;

use hypercall_abi::Errno;
use hypercall_abi::xen::*;

use crate::attacker::{Attacker, address_of};
use crate::report::{Outcome, accepted, cases, expect, refused_as};

cases!("numbers": unknown_hypercalls, unknown_commands, registers_come_back);

global_asm!(
    r#"
# hostile_registers(rdi: 13 words, rsi: hypercall): fills the registers with the words, makes the hypercall, and puts
# what is in them then back into the words.
.global hostile_registers
hostile_registers:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdi
    mov rax, rsi
    mov r15, rdi
    mov rbx, [r15]
    mov rdx, [r15 + 8]
    mov rsi, [r15 + 16]
    mov rdi, [r15 + 24]
    mov rbp, [r15 + 32]
    mov r8, [r15 + 40]
    mov r9, [r15 + 48]
    mov r10, [r15 + 56]
    mov r12, [r15 + 64]
    mov r13, [r15 + 72]
    mov r14, [r15 + 80]
    syscall
    mov r15, [rsp]
    mov [r15], rbx
    mov [r15 + 8], rdx
    mov [r15 + 16], rsi
    mov [r15 + 24], rdi
    mov [r15 + 32], rbp
    mov [r15 + 40], r8
    mov [r15 + 48], r9
    mov [r15 + 56], r10
    mov [r15 + 64], r12
    mov [r15 + 72], r13
    mov [r15 + 80], r14
    mov [r15 + 88], rcx
    mov [r15 + 96], r11
    pop rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
"#
);

unsafe extern "C" {
    fn hostile_registers(words: *mut u64, number: u64);
}

fn unknown_hypercalls(attacker: &Attacker) -> Outcome {
    let version = u64::from(attacker.call(HYPERVISOR_XEN_VERSION, &[0, 0]).is_ok());
    expect(version == 1, "the version cannot be asked for")?;
    let obsolete = [6, 11, 16, 19, 27, 28, 31, 34, 37, 38, 39];
    let beyond =
        (40..1024).chain([u64::from(u32::MAX), 1 << 32 | 17, 1 << 31 | 17, 1 << 63 | 17, u64::MAX, 1 << 63]);
    for number in obsolete.into_iter().chain(beyond) {
        refused_as(format!("hypercall {number:#x}"), &[Errno::ENOSYS], attacker.call(number, &[0; 6]))?;
    }
    Ok(())
}

fn unknown_commands(attacker: &Attacker) -> Outcome {
    let mut page = [0u64; 64];
    let families = [
        HYPERVISOR_MEMORY_OP,
        HYPERVISOR_XEN_VERSION,
        HYPERVISOR_VCPU_OP,
        HYPERVISOR_SCHED_OP,
        HYPERVISOR_CALLBACK_OP,
        HYPERVISOR_EVENT_CHANNEL_OP,
        HYPERVISOR_PHYSDEV_OP,
    ];
    for family in families {
        for command in [60, 63, 1000, 0x7fff_ffff, u64::from(u32::MAX)] {
            let answer = attacker.call(family, &[command, address_of(&mut page), 1]);
            let expected = [Errno::ENOSYS, Errno::EINVAL, Errno::ENOENT];
            refused_as(format!("command {command} of hypercall {family}"), &expected, answer)?;
        }
    }
    let answer = attacker.call(HYPERVISOR_GRANT_TABLE_OP, &[1000, address_of(&mut page), 1]);
    refused_as("command 1000 on grants", &[Errno::ENOSYS], answer)
}

/// Registers that are no result are as they were: nothing of the hypervisor's is to be seen in them.
fn registers_come_back(attacker: &Attacker) -> Outcome {
    accepted("asking for the version", attacker.call(HYPERVISOR_XEN_VERSION, &[0, 0]))?;
    for number in [HYPERVISOR_XEN_VERSION, 1000, HYPERVISOR_SET_SEGMENT_BASE, HYPERVISOR_SCHED_OP] {
        let mut words: [u64; 13] = core::array::from_fn(|index| 0x1111_1111_1111_1111 * (index as u64 + 1));
        // An unknown command, or something harmless, whatever the call.
        words[3] = if number == HYPERVISOR_SCHED_OP { 1000 } else { 0 };
        let before = words;
        // SAFETY: the function keeps what the calling convention says, and the calls do nothing.
        unsafe { hostile_registers(words.as_mut_ptr(), number) };
        let kept = &words[..11];
        expect(kept == &before[..11], format!("hypercall {number} left {kept:x?}"))?;
        for leftover in &words[11..] {
            let is_hypervisors = (0xffff_8000_0000_0000..0xffff_8800_0000_0000).contains(leftover);
            expect(!is_hypervisors, format!("hypercall {number} shows {leftover:#x}"))?;
        }
    }
    Ok(())
}
