#![expect(unsafe_code, reason = "finds the running CPU's own data from its stack pointer")]
//! A physical CPU and what belongs to it alone.
//!
//! Each CPU has one block of [`BLOCK_SIZE`] bytes, aligned to its size: a stack that grows down from just below
//! its [`Cpu`]. So the stack pointer says which CPU this is, and neither GS nor `swapgs` is needed: a guest's GS
//! base is never disturbed.
//!
//! The boot CPU's block is part of the image; the others' come from the frame allocator and stay for ever.

use super::{descriptor_tables::TableCell, local_apic, tlb};
use crate::{
    cpu::{Cpu, MOST_CPUS},
    frame_allocator,
    vcpu::Vcpu,
};
use core::{
    arch::global_asm,
    cell::UnsafeCell,
    mem::offset_of,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering},
};

/// Bytes in a CPU's block.
pub const BLOCK_SIZE: usize = 64 * 1024;
/// The same in frames, as a power of two.
const BLOCK_ORDER: u32 = 4;

/// A CPU's stack and its data.
#[repr(C, align(65536))]
pub struct CpuBlock {
    stack: UnsafeCell<[u8; BLOCK_SIZE - STACK_TAIL]>,
    cpu: Cpu,
    tables: TableCell,
}

/// Room for what lies behind the stack, rounded so that the stack's top is 64-byte aligned.
const STACK_TAIL: usize = (size_of::<Cpu>() + size_of::<TableCell>()).next_multiple_of(64);

const _: () = assert!(size_of::<CpuBlock>() == BLOCK_SIZE && BLOCK_SIZE == 4096 << BLOCK_ORDER);
const _: () = assert!(STACK_TAIL < BLOCK_SIZE / 4);

// SAFETY: the stack and the tables are used by their CPU alone, and `Cpu` is made of atomics and locks.
unsafe impl Sync for CpuBlock {}

static BOOT_BLOCK: CpuBlock = CpuBlock {
    stack: UnsafeCell::new([0; BLOCK_SIZE - STACK_TAIL]),
    cpu: Cpu::new(0),
    tables: TableCell::new(),
};

/// Where the boot code's stack begins: the symbol's address plus the size of the stack is what it loads.
#[unsafe(no_mangle)]
pub static BOOT_STACK_TOP: BootStackTop = BootStackTop(&BOOT_BLOCK.cpu);

/// A pointer to the boot CPU's [`Cpu`], just below which its stack begins.
#[repr(transparent)]
pub struct BootStackTop(&'static Cpu);

/// The CPUs that are up, by number; the rest is null.
static CPUS: [AtomicPtr<Cpu>; MOST_CPUS] = {
    let mut cpus = [const { AtomicPtr::new(ptr::null_mut()) }; MOST_CPUS];
    cpus[0] = AtomicPtr::new((&raw const BOOT_BLOCK.cpu).cast_mut());
    cpus
};
/// How many there are: they are numbered without gaps, and a CPU that is up stays so.
static COUNT: AtomicU32 = AtomicU32::new(1);
/// One CPU has found that the hypervisor cannot go on: the others neither serve nor wait.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// The block that this code's stack is in.
#[inline]
fn this_block() -> &'static CpuBlock {
    let stack_pointer: usize;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) stack_pointer, options(nomem, nostack, preserves_flags))
    };
    let block = (stack_pointer & !(BLOCK_SIZE - 1)) as *const CpuBlock;
    // SAFETY: the hypervisor runs only on stacks inside a `CpuBlock`, which are aligned to their size and live
    // for ever.
    unsafe { &*block }
}

/// The CPU this code runs on.
#[inline]
pub fn this_cpu() -> &'static Cpu {
    &this_block().cpu
}

/// This CPU's descriptor tables.
#[inline]
pub(super) fn own_tables() -> &'static TableCell {
    &this_block().tables
}

/// Top of this CPU's stack: where the entry code switches to.
pub fn stack_top() -> u64 {
    ptr::from_ref(this_cpu()) as u64
}

/// Byte offset of the [`Cpu`] in its block.
pub const CPU_OFFSET: usize = offset_of!(CpuBlock, cpu);
const _: () = assert!(CPU_OFFSET.is_multiple_of(64));

/// The CPU that was running when the machine started.
pub fn boot_cpu() -> &'static Cpu {
    &BOOT_BLOCK.cpu
}

/// Makes a block for a CPU with the next number. It does not count as up before [`enlist`].
pub(super) fn new_block() -> Option<&'static Cpu> {
    let number = COUNT.load(Ordering::Relaxed);
    if number as usize >= MOST_CPUS {
        return None;
    }
    let frame = frame_allocator::allocate_for_hypervisor(BLOCK_ORDER)?;
    let block = crate::direct_map::pointer(frame).cast::<CpuBlock>();
    // SAFETY: the frames are ours alone and a block of this order is aligned to its size. The stack may hold any bytes.
    unsafe {
        (&raw mut (*block).cpu).write(Cpu::new(number));
        (&raw mut (*block).tables).write(TableCell::new());
        Some(&(*block).cpu)
    }
}

/// The CPU, which has the next number, is up.
pub(super) fn enlist(cpu: &'static Cpu) {
    CPUS[cpu.id as usize].store(ptr::from_ref(cpu).cast_mut(), Ordering::Release);
    COUNT.store(cpu.id + 1, Ordering::Release);
}

/// The CPU of this number, or the boot CPU if there is none.
#[inline]
pub fn by_number(number: u8) -> &'static Cpu {
    let pointer = CPUS[usize::from(number) % MOST_CPUS].load(Ordering::Acquire);
    // SAFETY: what stands there is a CPU's data, which live for ever.
    unsafe { pointer.as_ref() }.unwrap_or(&BOOT_BLOCK.cpu)
}

/// Every CPU that is up.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    (0..COUNT.load(Ordering::Acquire) as u8).map(by_number)
}

/// Makes another CPU look at its [`crate::cpu::work`], and at the events of the vCPU it runs. The one this code runs on
/// does so anyway before it returns to a guest.
#[inline]
pub fn kick(cpu: &Cpu) {
    if !ptr::eq(cpu, this_cpu()) {
        local_apic::interrupt(cpu.apic_id.load(Ordering::Relaxed), local_apic::REQUEST_VECTOR);
    }
}

/// True when the vCPU is the one this CPU entered the hypervisor from.
pub fn runs_here(vcpu: &Vcpu) -> bool {
    this_cpu().current().is_some_and(|current| ptr::eq(current, vcpu))
}

global_asm!(
    r#"
    .text
    .balign 16
wait_in_place_thunk:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push rbp
    mov rbp, rsp
    and rsp, -16
    call {wait}
    mov rsp, rbp
    pop rbp
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    ret
"#,
    wait = sym wait_politely,
);

/// [`wait_politely`], by a call that changes no register: so the code around a lock, which is nearly always free, keeps
/// nothing safe for a wait that does not come.
#[inline(always)]
pub fn wait_in_place() {
    // SAFETY: the thunk keeps all registers but the flags and aligns the stack itself; nothing lies below the stack
    // pointer, because this target has no red zone.
    unsafe { core::arch::asm!("call wait_in_place_thunk") };
}

/// Waits a moment for another CPU, and meanwhile does what others wait for.
pub extern "C" fn wait_politely() {
    if !STOPPED.load(Ordering::Relaxed) {
        tlb::serve_requests(this_cpu());
    }
    core::hint::spin_loop();
}

/// Sleeps until an interrupt, which is handled before this returns.
pub fn wait_for_interrupt() {
    // SAFETY: nothing is held or half done when the hypervisor idles. `sti` takes effect after the next instruction,
    // so an interrupt that is already waiting ends the `hlt`.
    unsafe { core::arch::asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Handles the interrupts that are waiting.
pub fn let_interrupts_in() {
    // SAFETY: as in `wait_for_interrupt`. Interrupts are let in after the `nop`.
    unsafe { core::arch::asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// Stops all other CPUs for ever, wherever they are.
pub fn stop_others() {
    if COUNT.load(Ordering::Relaxed) > 1 && !STOPPED.swap(true, Ordering::SeqCst) {
        local_apic::interrupt_others_unmaskably();
    }
}

/// True when another CPU has stopped this one.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Stops this CPU for ever.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: interrupts are off, so nothing runs after it.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
