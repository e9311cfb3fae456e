#![expect(unsafe_code, reason = "executes instructions that must fault")]
//! Instructions that only ring 0 may execute: each must fault, in this kernel and nowhere else.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::physdev::{PHYSDEVOP_SET_IOPL, PhysdevSetIopl};
use hypercall_abi::version::XENVER_EXTRAVERSION;
use hypercall_abi::xen::{HYPERVISOR_PHYSDEV_OP, HYPERVISOR_SET_DEBUGREG, HYPERVISOR_XEN_VERSION};

use crate::attacker::Attacker;
use crate::report::{Outcome, accepted, cases, expect, faulted, unharmed};
use crate::slot::Slot;

cases!("instructions":
    of_ring_0, of_ring_0_without_effect, of_the_io_ports, ports_with_io_privilege, breakpoints, software_interrupts, flags_by_popf, selectors_of_ring_0, far_jumps,
    watches_on_what_the_hypervisor_uses, watches_behind_a_stack_switch,
);

/// Debug exception.
pub const DEBUG: u64 = 1;
/// Breakpoint.
pub const BREAKPOINT: u64 = 3;
/// Invalid instruction.
pub const INVALID_OPCODE: u64 = 6;
/// No floating-point unit.
pub const NO_DEVICE: u64 = 7;
/// Segment not present.
pub const NOT_PRESENT: u64 = 11;
/// Stack fault.
pub const STACK_FAULT: u64 = 12;
/// General protection.
pub const GENERAL_PROTECTION: u64 = 13;
/// Page fault.
pub const PAGE_FAULT: u64 = 14;
/// What the runtime reports when the failsafe callback was entered.
pub const FAILSAFE: u64 = 255;

/// A function made of instructions.
pub type Instruction = unsafe extern "C" fn(u64);

/// A function that executes one instruction, with its argument in `rdi`.
macro_rules! instruction {
    ($text:literal) => {{
        /// # Safety
        ///
        /// To be called so that a fault is caught.
        unsafe extern "C" fn execute(argument: u64) {
            // SAFETY: a fault is caught, and without one the registers below are all that can have changed.
            unsafe {
                asm!($text, inout("rdi") argument => _, out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r11") _);
            }
        }
        execute as Instruction
    }};
}

/// Uses the floating-point unit. It minds no exception that instructions of other cases left pending there.
pub const USE_FPU: Instruction = instruction!("fninit");
/// A software interrupt with a vector that this kernel uses for nothing else.
pub const INT_0X81: Instruction = instruction!("int 0x81");

fn of_ring_0(attacker: &Attacker) -> Outcome {
    let instructions: [(&str, Instruction); 37] = [
        ("cli", instruction!("cli")),
        ("sti", instruction!("sti")),
        ("hlt", instruction!("hlt")),
        ("lgdt", instruction!("lgdt [rsp]")),
        ("lidt", instruction!("lidt [rsp]")),
        ("lldt", instruction!("xor eax, eax; lldt ax")),
        ("ltr", instruction!("mov eax, 0xe040; ltr ax")),
        ("lmsw", instruction!("lmsw ax")),
        ("mov from cr8", instruction!("mov rax, cr8")),
        ("mov to cr0", instruction!("mov cr0, rdi")),
        ("mov to cr3", instruction!("mov cr3, rdi")),
        ("mov to cr4", instruction!("mov cr4, rdi")),
        ("mov to cr8", instruction!("mov cr8, rdi")),
        ("mov to dr0", instruction!("mov dr0, rdi")),
        ("mov to dr7", instruction!("mov eax, 0x2003; mov dr7, rax")),
        ("wrmsr to the entry point", instruction!("mov ecx, 0xc0000082; xor eax, eax; xor edx, edx; wrmsr")),
        ("wrmsr to the features", instruction!("mov ecx, 0xc0000080; xor eax, eax; xor edx, edx; wrmsr")),
        (
            "wrmsr to a segment base",
            instruction!("mov ecx, 0xc0000100; xor eax, eax; mov edx, 0x8000; wrmsr"),
        ),
        ("rdmsr of the entry point", instruction!("mov ecx, 0xc0000082; rdmsr")),
        ("wrmsr to the local APIC", instruction!("mov ecx, 0x1b; xor eax, eax; xor edx, edx; wrmsr")),
        ("rdpmc", instruction!("xor ecx, ecx; rdpmc")),
        ("invlpg", instruction!("invlpg [rsp]")),
        ("invpcid", instruction!("xor eax, eax; invpcid rax, [rsp - 16]")),
        ("swapgs", instruction!("swapgs")),
        ("sysret", instruction!("mov rcx, rdi; sysretq")),
        ("sysexit", instruction!("sysexit")),
        ("sysenter", instruction!("sysenter")),
        ("rsm", instruction!("rsm")),
        ("stac", instruction!("stac")),
        ("clac", instruction!("clac")),
        ("xsetbv", instruction!("xor ecx, ecx; xor edx, edx; mov eax, 7; xsetbv")),
        ("monitor", instruction!("mov rax, rsp; xor ecx, ecx; xor edx, edx; monitor")),
        ("mwait", instruction!("xor eax, eax; xor ecx, ecx; mwait")),
        ("vmrun", instruction!("mov rax, rdi; vmrun")),
        ("vmload", instruction!("mov rax, rdi; vmload")),
        ("clgi", instruction!("clgi")),
        ("wrfsbase", instruction!("wrfsbase rdi")),
    ];
    for (name, function) in instructions {
        let result = attacker.run(function, 0xffff_8300_0000_0000);
        // Where the processor lets a guest's kernel write a base, the base it wrote is harmless.
        if name == "wrfsbase" && result.is_ok() {
            continue;
        }
        faulted(name, &[GENERAL_PROTECTION, INVALID_OPCODE], result)?;
    }
    Ok(())
}

/// The hypervisor may do these for a guest's kernel, as far as they concern the guest alone.
fn of_ring_0_without_effect(attacker: &Attacker) -> Outcome {
    let instructions: [(&str, Instruction); 16] = [
        ("mov from cr0", instruction!("mov rax, cr0")),
        ("mov from cr2", instruction!("mov rax, cr2")),
        ("mov from cr3", instruction!("mov rax, cr3")),
        ("mov from cr4", instruction!("mov rax, cr4")),
        ("mov cr0 to itself", instruction!("mov rax, cr0; mov cr0, rax")),
        ("mov cr4 to itself", instruction!("mov rax, cr4; mov cr4, rax")),
        ("mov to cr2", instruction!("mov cr2, rdi")),
        ("mov from dr0", instruction!("mov rax, dr0")),
        ("mov from dr7", instruction!("mov rax, dr7")),
        ("mov to dr6", instruction!("mov dr6, rdi")),
        ("clts", instruction!("clts")),
        ("wbinvd", instruction!("wbinvd")),
        ("invd", instruction!("invd")),
        ("rdmsr of the features", instruction!("mov ecx, 0xc0000080; rdmsr")),
        ("rdmsr of a segment base", instruction!("mov ecx, 0xc0000100; rdmsr")),
        ("wrmsr to a segment base", instruction!("mov ecx, 0xc0000102; xor eax, eax; xor edx, edx; wrmsr")),
    ];
    for (name, function) in instructions {
        if let Err(fault) = attacker.run(function, 0) {
            expect(fault.vector == GENERAL_PROTECTION, alloc::format!("{name} raised {}", fault.vector))?;
        }
    }
    Ok(())
}

fn of_the_io_ports(attacker: &Attacker) -> Outcome {
    let instructions: [(&str, Instruction); 12] = [
        ("in al, 0x60", instruction!("in al, 0x60")),
        ("in eax, 0x21", instruction!("in eax, 0x21")),
        ("out 0x80, al", instruction!("xor eax, eax; out 0x80, al")),
        ("out 0x20, ax", instruction!("xor eax, eax; out 0x20, ax")),
        ("in al, dx", instruction!("mov edx, edi; in al, dx")),
        ("in ax, dx", instruction!("mov edx, edi; in ax, dx")),
        ("in eax, dx", instruction!("mov edx, edi; in eax, dx")),
        ("out dx, al", instruction!("mov edx, edi; xor eax, eax; out dx, al")),
        ("out dx, ax", instruction!("mov edx, edi; xor eax, eax; out dx, ax")),
        ("out dx, eax", instruction!("mov edx, edi; xor eax, eax; out dx, eax")),
        ("insb", instruction!("mov edx, edi; lea rdi, [rsp - 16]; insb")),
        ("outsb", instruction!("mov edx, edi; lea rsi, [rsp - 16]; outsb")),
    ];
    // Interrupt controllers, timer, keyboard, serial line, reset, PCI configuration, the debug-exit port, the last.
    for port in [0x20, 0x40, 0x60, 0x70, 0x80, 0xa0, 0xf4, 0x3f8, 0xcf8, 0xcf9, 0xcfc, 0xfffe, 0xffff] {
        for (name, function) in instructions {
            faulted(
                alloc::format!("{name} at {port:#x}"),
                &[GENERAL_PROTECTION],
                attacker.run(function, port),
            )?;
        }
    }
    Ok(())
}

/// A kernel that asks for I/O privilege may find that no device answers, but no device's port.
fn ports_with_io_privilege(attacker: &Attacker) -> Outcome {
    static VALUE: AtomicU64 = AtomicU64::new(0);
    /// # Safety
    ///
    /// To be called so that a fault is caught.
    unsafe extern "C" fn input(port: u64) {
        let value: u32;
        // SAFETY: this domain has no right to any port, and a fault is caught.
        unsafe { asm!("in eax, dx", in("edx") port as u32, out("eax") value) };
        VALUE.store(u64::from(value), Ordering::Relaxed);
    }
    let output = instruction!("mov edx, edi; mov eax, 0x31; out dx, eax; out dx, ax; out dx, al");
    let set =
        |iopl: u32| attacker.command(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl });
    accepted("asking for I/O privilege", set(3))?;
    // Among them are the port that ends the machine under test, and the one that resets any machine.
    for port in [0x21, 0x61, 0x64, 0x71, 0xf4, 0x3f8, 0x3fd, 0x604, 0xcf8, 0xcf9, 0xcfc] {
        if attacker.run(input, port).is_ok() {
            let value = VALUE.load(Ordering::Relaxed);
            expect(value == 0xffff_ffff, alloc::format!("port {port:#x} reads {value:#x}"))?;
        }
        let _ = attacker.run(output, port);
    }
    accepted("giving I/O privilege back", set(0))?;
    faulted("in eax, dx", &[GENERAL_PROTECTION], attacker.run(input, 0x61))
}

fn breakpoints(attacker: &Attacker) -> Outcome {
    faulted("int3", &[BREAKPOINT], attacker.run(instruction!("int3"), 0))?;
    faulted("int 3", &[BREAKPOINT], attacker.run(instruction!("int 3"), 0))?;
    faulted("int1", &[DEBUG], attacker.run(instruction!(".byte 0xf1"), 0))?;
    faulted("ud2", &[INVALID_OPCODE], attacker.run(instruction!("ud2"), 0))?;
    faulted("a prefix alone", &[INVALID_OPCODE], attacker.run(instruction!("ud2; .ascii \"xe\"; ud2"), 0))?;
    unharmed("cpuid", attacker.run(instruction!("push rbx; xor eax, eax; cpuid; pop rbx"), 0))
}

/// Vectors of interrupts, of the hypervisor's own use and of nothing: none is entered.
fn software_interrupts(attacker: &Attacker) -> Outcome {
    let interrupts: [(&str, Instruction); 9] = [
        ("int 15", instruction!("int 15")),
        ("int 20", instruction!("int 20")),
        ("int 31", instruction!("int 31")),
        ("int 32", instruction!("int 32")),
        ("int 0x30", instruction!("int 0x30")),
        ("int 0x80", instruction!("int 0x80")),
        ("int 0xef", instruction!("int 0xef")),
        ("int 0xf0", instruction!("int 0xf0")),
        ("int 0xff", instruction!("int 0xff")),
    ];
    for (name, function) in interrupts {
        faulted(name, &[GENERAL_PROTECTION], attacker.run(function, 0))?;
    }
    Ok(())
}

fn flags_by_popf(_: &Attacker) -> Outcome {
    const INTERRUPTS: u64 = 1 << 9;
    const IO_PRIVILEGE: u64 = 3 << 12;
    let flags: u64;
    // SAFETY: the flags that the compiler relies on are as before in the end.
    unsafe {
        asm!(
            "pushfq",
            "push {wanted}",
            "popfq",
            "pushfq",
            "pop {flags}",
            "popfq",
            wanted = in(reg) IO_PRIVILEGE | 2,
            flags = out(reg) flags,
        );
    }
    expect(flags & IO_PRIVILEGE == 0, "popf sets the I/O privilege level")?;
    expect(flags & INTERRUPTS != 0, "popf disables interrupts")
}

fn selectors_of_ring_0(attacker: &Attacker) -> Outcome {
    let loads: [(&str, Instruction); 6] = [
        ("ds", instruction!("mov ds, edi")),
        ("es", instruction!("mov es, edi")),
        ("fs", instruction!("mov fs, edi")),
        ("gs", instruction!("mov gs, edi")),
        ("ss", instruction!("mov ss, edi")),
        ("lss", instruction!("push 0; push 0; mov [rsp + 4], edi; lss eax, [rsp]; pop rax; pop rax")),
    ];
    for (register, function) in loads {
        for selector in [0xe008, 0xe010, 0xe00b, 0xe013, 0xe040, 0xe043, 0xe050, 0xe0f8, 0xfff8, 0x0007] {
            let what = alloc::format!("{register} with {selector:#x}");
            faulted(what, &[GENERAL_PROTECTION, STACK_FAULT, NOT_PRESENT], attacker.run(function, selector))?;
        }
    }
    Ok(())
}

fn far_jumps(attacker: &Attacker) -> Outcome {
    let far_return = instruction!("push rdi; lea rax, [rip + 2f]; push rax; retfq; 2: nop");
    let far_jump = instruction!("push rdi; push rdi; mov dword ptr [rsp], 0; jmp fword ptr [rsp]");
    let interrupt_return = instruction!(
        "mov rax, rsp; push 0xe02b; push rax; pushfq; push rdi; lea rax, [rip + 3f]; push rax; iretq; 3: nop"
    );
    for selector in [0xe008, 0xe00b, 0xe010, 0xe040, 0xe043, 0xe050, 0xe053, 0xe0f8, 0xfff8] {
        for (name, function) in [("retf", far_return), ("jmp", far_jump), ("iret", interrupt_return)] {
            let what = alloc::format!("{name} to {selector:#x}");
            faulted(what, &[GENERAL_PROTECTION, NOT_PRESENT], attacker.run(function, selector))?;
        }
    }
    unharmed("retf to its own code", attacker.run(far_return, 0xe033))
}

/// Has every access to the eight bytes at `address` stop this kernel while `act` runs.
fn watching(attacker: &Attacker, address: u64, act: impl FnOnce() -> Outcome) -> Outcome {
    const ACCESS_TO_8_BYTES: u64 = 1 | 3 << 16 | 2 << 18;
    let set = |register: u64, value: u64| attacker.call(HYPERVISOR_SET_DEBUGREG, &[register, value]);
    accepted("an address", set(0, address))?;
    accepted("a watch", set(7, ACCESS_TO_8_BYTES))?;
    let outcome = act();
    accepted("no watch", set(7, 0))?;
    accepted("no address", set(0, 0))?;
    outcome
}

/// The hypervisor reads and writes what a hypercall names, and is not stopped.
fn watches_on_what_the_hypervisor_uses(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let address = slot.address();
    watching(attacker, address, || {
        for _ in 0..20 {
            let arguments = [u64::from(XENVER_EXTRAVERSION), address];
            accepted("a text", attacker.call(HYPERVISOR_XEN_VERSION, &arguments))?;
        }
        faulted("its own access", &[DEBUG], attacker.read(address).map(drop))
    })?;
    unharmed("its own access without a watch", attacker.read(address).map(drop))
}

/// A processor may hold a watch's exception back for one instruction after the stack selector was loaded. If that one
/// enters the hypervisor, it is stopped on its first instruction.
fn watches_behind_a_stack_switch(attacker: &Attacker) -> Outcome {
    static SELECTOR: AtomicU64 = AtomicU64::new(hypercall_abi::arch_x86::FLAT_KERNEL_SS as u64);
    let entries = [
        (
            "syscall",
            instruction!(
                "mov rdx, rdi; mov eax, 17; xor edi, edi; xor esi, esi; mov ss, [rdx]; syscall; nop"
            ),
        ),
        ("int3", instruction!("mov ss, [rdi]; int3; nop")),
        ("int 0x81", instruction!("mov ss, [rdi]; int 0x81; nop")),
        ("ud2", instruction!("mov ss, [rdi]; ud2; nop")),
    ];
    watching(attacker, &raw const SELECTOR as u64, || {
        for (name, entry) in entries {
            for _ in 0..20 {
                if let Err(fault) = attacker.run(entry, &raw const SELECTOR as u64) {
                    let allowed = [DEBUG, BREAKPOINT, INVALID_OPCODE, GENERAL_PROTECTION];
                    expect(
                        allowed.contains(&fault.vector),
                        alloc::format!("{name} raised {}", fault.vector),
                    )?;
                }
            }
        }
        Ok(())
    })
}
