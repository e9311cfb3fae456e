#![expect(unsafe_code, reason = "returns to places that are none")]
//! Returning by `iret` to addresses, selectors and flags that a guest must not have.
//!
//! The hypervisor executes the real instruction on the guest's behalf, so this is where a bad frame could fault in
//! ring 0. Each case runs on a stack of its own, since the frame says where the stack is afterwards.

use alloc::format;
use alloc::string::String;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::arch_x86::{FLAT_KERNEL_SS, IretContext};
use hypercall_abi::xen::HYPERVISOR_IRET;
use pv_runtime::memory::{Page, SharedMemory};
use pv_runtime::traps::Fault;

use crate::attacker::{Attacker, address_of};
use crate::entry_points::NOT_A_GUESTS;
use crate::instructions::{FAILSAFE, GENERAL_PROTECTION, INVALID_OPCODE, PAGE_FAULT};
use crate::report::{Outcome, cases, expect, faulted, unharmed};
use crate::slot::page;

cases!("returns":
    to_its_own_code, to_the_hypervisor, with_selectors_of_ring_0, with_any_selector, with_all_flags,
    with_any_stack_selector,
);

global_asm!(
    r#"
# hostile_return(rdi: a frame for HYPERVISOR_iret): returns to wherever the frame says.
.global hostile_return
hostile_return:
    mov [rip + {stack}], rsp
    mov rsp, rdi
    mov eax, {iret}
    syscall
    ud2

# A good place to return to: keeps the flags, and leaves hostile_return.
.global hostile_returned
hostile_returned:
    pushfq
    pop [rip + {flags}]
    cld
    push 0x202
    popfq
    mov rsp, [rip + {stack}]
    ret
"#,
    stack = sym STACK,
    flags = sym FLAGS,
    iret = const HYPERVISOR_IRET,
);

/// Where to go on when a return has led where it should.
static STACK: AtomicU64 = AtomicU64::new(0);
/// The flags after that return.
static FLAGS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn hostile_return(frame: u64);
    static hostile_returned: u8;
}

/// The kernel's own code, named with privilege 0 as a return to the kernel has it.
const KERNEL_CODE: u64 = 0xe030;
/// Bit 1 is always set.
const FIXED_FLAG: u64 = 1 << 1;

/// Makes returns, with a stack to return to.
struct Returns<'a> {
    attacker: &'a Attacker,
    stack: Page,
}

impl<'a> Returns<'a> {
    fn new(attacker: &'a Attacker) -> Result<Self, String> {
        Ok(Self { attacker, stack: page()? })
    }

    /// Returns to a frame that is good but for what `change` does to it.
    fn to(&self, change: impl Fn(&mut IretContext)) -> Result<(), Fault> {
        let mut frame = IretContext {
            rip: (&raw const hostile_returned) as u64,
            cs: KERNEL_CODE,
            rflags: FIXED_FLAG,
            rsp: self.stack.virtual_address() as u64 + 4096,
            ss: u64::from(FLAT_KERNEL_SS),
            ..Default::default()
        };
        change(&mut frame);
        self.attacker.run(hostile_return, address_of(&mut frame))
    }
}

fn to_its_own_code(attacker: &Attacker) -> Outcome {
    unharmed("a return to itself", Returns::new(attacker)?.to(|_| ()))
}

fn to_the_hypervisor(attacker: &Attacker) -> Outcome {
    const EXPECTED: [u64; 3] = [PAGE_FAULT, GENERAL_PROTECTION, FAILSAFE];
    let returns = Returns::new(attacker)?;
    for address in NOT_A_GUESTS.into_iter().chain([0, 0x1000, u64::MAX]) {
        let result = returns.to(|frame| frame.rip = address);
        faulted(format!("a return to {address:#x}"), &EXPECTED, result)?;
    }
    Ok(())
}

/// The hypervisor's own selectors: code and data of ring 0, its task and its local table. A code selector of
/// privilege 3 would return to user mode, for which this kernel has no page table (see `endings`).
fn with_selectors_of_ring_0(attacker: &Attacker) -> Outcome {
    let returns = Returns::new(attacker)?;
    const SELECTORS: [u64; 6] = [0xe008, 0xe00a, 0xe010, 0xe040, 0xe041, 0xe050];
    for selector in SELECTORS {
        let result = returns.to(|frame| frame.cs = selector);
        faulted(
            format!("a return with code selector {selector:#x}"),
            &[FAILSAFE, GENERAL_PROTECTION],
            result,
        )?;
        let result = returns.to(|frame| frame.ss = selector);
        faulted(
            format!("a return with stack selector {selector:#x}"),
            &[FAILSAFE, GENERAL_PROTECTION],
            result,
        )?;
    }
    Ok(())
}

/// Every code selector: most fail, the flat one works, and none does harm. That of 32-bit code is left out, since in
/// such code this kernel's stack is out of reach.
fn with_any_selector(attacker: &Attacker) -> Outcome {
    let returns = Returns::new(attacker)?;
    const EXPECTED: [u64; 4] = [FAILSAFE, GENERAL_PROTECTION, PAGE_FAULT, INVALID_OPCODE];
    const CODE_32: u64 = 0xe020;
    for selector in (0..0x1_0000).step_by(4).filter(|selector| *selector != CODE_32) {
        let result = returns.to(|frame| frame.cs = selector);
        if let Err(fault) = result {
            expect(
                EXPECTED.contains(&fault.vector),
                format!("selector {selector:#x} raised {}", fault.vector),
            )?;
        }
    }
    Ok(())
}

fn with_any_stack_selector(attacker: &Attacker) -> Outcome {
    let returns = Returns::new(attacker)?;
    for selector in 0..0x1_0000 {
        let result = returns.to(|frame| frame.ss = selector);
        if let Err(fault) = result {
            let expected = [FAILSAFE, GENERAL_PROTECTION].contains(&fault.vector);
            expect(expected, format!("selector {selector:#x} raised {}", fault.vector))?;
        }
    }
    Ok(())
}

/// The I/O privilege level, virtual-8086 mode and the like are not a guest's to set.
fn with_all_flags(attacker: &Attacker) -> Outcome {
    let returns = Returns::new(attacker)?;
    const TRAP: u64 = 1 << 8;
    const INTERRUPTS: u64 = 1 << 9;
    const NESTED_TASK: u64 = 1 << 14;
    const FORBIDDEN: u64 = 3 << 12 | 1 << 17 | 1 << 19 | 1 << 20;
    for bit in (0..64).filter(|bit| ![TRAP, INTERRUPTS].contains(&(1 << bit))) {
        unharmed(format!("flag {bit}"), returns.to(|frame| frame.rflags |= 1 << bit))?;
        let flags = FLAGS.load(Ordering::Relaxed);
        expect(flags & FORBIDDEN == 0, format!("flag {bit} left {flags:#x}"))?;
    }
    let all = !(TRAP | INTERRUPTS | NESTED_TASK);
    unharmed("all flags", returns.to(|frame| frame.rflags = all))?;
    let flags = FLAGS.load(Ordering::Relaxed);
    expect(flags & FORBIDDEN == 0, format!("all flags left {flags:#x}"))?;
    expect(flags & INTERRUPTS != 0, "interrupts are off")
}
