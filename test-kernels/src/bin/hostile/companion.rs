#![expect(unsafe_code, reason = "starts a second thread of execution in a kernel made for one")]
//! The other virtual CPUs of this kernel: each runs one function, and then goes down.
//!
//! The rest of the kernel knows of one CPU only. So what runs here uses nothing of it: no heap, no console, no tasks,
//! only atomics, its own stack, and hypercalls. Events stay masked. A page fault is no error but a reason to try
//! again: somebody else is about to change the page.

use alloc::boxed::Box;
use alloc::format;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hypercall_abi::arch_x86::{
    FLAT_KERNEL_CS, FLAT_KERNEL_SS, TrapInfo, VGCF_IN_KERNEL, VcpuGuestContext, xen_pfn_to_cr3,
};
use hypercall_abi::vcpu::{VCPUOP_DOWN, VCPUOP_INITIALISE, VCPUOP_IS_UP, VCPUOP_UP};
use hypercall_abi::xen::HYPERVISOR_VCPU_OP;
use pv_runtime::memory::PageRun;

use crate::attacker::{Attacker, address_of};
use crate::report::{Outcome, accepted};

/// What a companion does, with its own virtual CPU's number.
pub type Body = extern "C" fn(u64);

/// Most virtual CPUs of this kernel.
pub const MOST: usize = 8;
/// Pages of a companion's stack.
const STACK_PAGES: usize = 8;
const PAGE_FAULT: u8 = 14;

/// Companions that have ended.
static ENDED: AtomicU32 = AtomicU32::new(0);
/// Page faults that were tried again.
static FAULTS: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
# companion_start: rdi is the virtual CPU's number, rsi the function.
.global companion_start
companion_start:
    cld
    push rdi
    call rsi
    pop rsi
    lock inc dword ptr [rip + {ended}]
2:  mov eax, {vcpu_op}
    mov edi, {down}
    xor edx, edx
    syscall
    jmp 2b

# companion_page_fault: goes back to the instruction. Frame: rcx, r11, error code, rip, cs, rflags, rsp, ss.
.global companion_page_fault
companion_page_fault:
    lock inc qword ptr [rip + {faults}]
    pop rcx
    pop r11
    add rsp, 8
    or byte ptr [rsp + 8], 3
    iretq
"#,
    ended = sym ENDED,
    faults = sym FAULTS,
    vcpu_op = const HYPERVISOR_VCPU_OP,
    down = const VCPUOP_DOWN,
);

unsafe extern "C" {
    static companion_start: u8;
    static companion_page_fault: u8;
}

/// How many virtual CPUs this domain has.
pub fn count(attacker: &Attacker) -> usize {
    let exists = |vcpu: &u64| attacker.call(HYPERVISOR_VCPU_OP, &[u64::from(VCPUOP_IS_UP), *vcpu]).is_ok();
    (0..MOST as u64).take_while(exists).count()
}

/// Lets virtual CPU `vcpu`, which was never up, run a function. Its stack is never used for anything else again.
pub fn start(attacker: &Attacker, vcpu: u64, body: Body) -> Outcome {
    let stack = PageRun::new(STACK_PAGES).map_err(|errno| format!("there is no stack: {errno}"))?;
    let top = stack.as_ptr() as u64 + (STACK_PAGES * 4096) as u64;
    core::mem::forget(stack);
    let mut context = Box::new(VcpuGuestContext { flags: VGCF_IN_KERNEL, ..Default::default() });
    context.user_regs.rip = (&raw const companion_start) as u64;
    context.user_regs.rsp = top;
    context.user_regs.rdi = vcpu;
    context.user_regs.rsi = body as usize as u64;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    (context.kernel_ss, context.kernel_sp) = (u64::from(FLAT_KERNEL_SS), top);
    context.ctrlreg[3] = xen_pfn_to_cr3(attacker.root.0);
    context.trap_ctxt[usize::from(PAGE_FAULT)] = TrapInfo {
        vector: PAGE_FAULT,
        flags: 0,
        cs: FLAT_KERNEL_CS,
        _pad: 0,
        address: (&raw const companion_page_fault) as u64,
    };
    let op = |command: u32, argument: u64| {
        attacker.call(HYPERVISOR_VCPU_OP, &[u64::from(command), vcpu, argument])
    };
    accepted(format!("a state for virtual CPU {vcpu}"), op(VCPUOP_INITIALISE, address_of(&mut *context)))?;
    accepted(format!("bringing virtual CPU {vcpu} up"), op(VCPUOP_UP, 0)).map(|_| ())
}

/// How many companions have ended.
pub fn ended() -> usize {
    ENDED.load(Ordering::Acquire) as usize
}

/// How many page faults of companions were tried again.
pub fn faults() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// Writes a word at an address that may be write-protected at any moment: the write is tried until it succeeds.
pub fn write_until_done(address: u64, value: u64) {
    // SAFETY: the address is that of a page that nobody holds, and a fault is tried again.
    unsafe { core::arch::asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack)) };
}
