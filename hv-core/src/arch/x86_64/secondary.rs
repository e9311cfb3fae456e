#![expect(unsafe_code, reason = "starts processors in real mode")]
//! The other processors, from their reset to the scheduler.
//!
//! A processor that is started begins in real mode at the start of a page below 1 MiB. What is copied there only
//! enters protected mode; the rest is the image's own code: the boot code's page tables lead to 64-bit mode, and from
//! there on a processor of its own block, stack and descriptor tables goes on in Rust. They are started one after the
//! other, so one word tells where the stack is.

use super::{
    boot::turn_paging_on,
    clock,
    cpu::{self, this_cpu},
    descriptor_tables, local_apic, paging, start, switch,
};
use crate::{
    cpu::Cpu,
    direct_map,
    firmware::Firmware,
    frame_allocator,
    layout::{DIRECT_MAP_BASE, PAGE_SIZE},
};
use core::{
    arch::global_asm,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
use hypercall_abi::MachineFrame;

global_asm!(
    r#"
    .section .boot.text, "ax"
    .code16
    .balign 16
secondary_entry16:
    cli
    cld
    mov ax, cs
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16    # lgdt, with all 32 bits of the base
    .short secondary_gdt_pointer - secondary_entry16
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                # far jump to 32-bit code
    .long secondary_entry32
    .short 0x10
secondary_gdt_pointer:
    .short 31
    .long secondary_gdt
secondary_entry16_end:

    .balign 8
secondary_gdt:
    .quad 0
    .quad 0x00af9a000000ffff        # 64-bit code
    .quad 0x00cf9a000000ffff        # 32-bit code
    .quad 0x00cf92000000ffff        # data

    .code32
secondary_entry32:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    "#,
    turn_paging_on!(),
    r#"
    .byte 0xea                      # far jump to 64-bit code
    .long secondary_entry64
    .short 8

    .code64
secondary_entry64:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    movabs rax, offset secondary_high
    jmp rax

    .text
secondary_high:                     # the image's own address, which both page tables have
    mov rax, [rip + SECONDARY_ROOT]
    mov cr3, rax
    mov rsp, [rip + SECONDARY_STACK]
    xor ebp, ebp
    call {start}
    ud2

    .section .rodata
    .balign 8
    .global secondary_range
secondary_range:
    .quad secondary_entry16
    .quad secondary_entry16_end
    .text
"#,
    start = sym start_secondary,
);

unsafe extern "C" {
    /// First and last machine address of what is copied.
    static secondary_range: [u64; 2];
}

/// Machine address of the hypervisor's own L4 table.
#[unsafe(no_mangle)]
static SECONDARY_ROOT: AtomicU64 = AtomicU64::new(0);
/// Top of the stack of the processor that is being started.
#[unsafe(no_mangle)]
static SECONDARY_STACK: AtomicU64 = AtomicU64::new(0);

/// How far the start of a processor has come; it and the boot CPU take turns in moving on.
static STEP: AtomicU32 = AtomicU32::new(step::STARTED);

mod step {
    /// It has been sent the messages.
    pub const STARTED: u32 = 0;
    /// It is in Rust.
    pub const ARRIVED: u32 = 1;
    /// It may compare its clock with the boot CPU's.
    pub const COMPARING: u32 = 2;
    /// It has done so.
    pub const COMPARED: u32 = 3;
    /// It is enlisted.
    pub const ACCEPTED: u32 = 4;
    /// It is not to be used.
    pub const REFUSED: u32 = 5;
}

/// The highest TSC that anybody has read during the comparison.
static HIGHEST_TSC: AtomicU64 = AtomicU64::new(0);
/// By how much the TSC was once found to have gone back from one CPU to the other.
static SKEW: AtomicU64 = AtomicU64::new(0);
/// Readings that the processor makes for the comparison.
const READINGS: u32 = 2000;

const MILLISECOND: u64 = 1_000_000;
/// How long a processor has to arrive after each of the two start-up messages.
const PATIENCE: u64 = 100 * MILLISECOND;

/// Starts every processor that firmware names, one after the other; `page` is a free page below 1 MiB.
pub fn start_all(firmware: &Firmware, page: Option<MachineFrame>) {
    let own = this_cpu().apic_id.load(Ordering::Relaxed);
    let others = firmware.processors().iter().copied().filter(|id| *id != own);
    let Some(page) = page else {
        if others.count() > 0 {
            log::warn!("there is no free page below 1 MiB: one CPU is used");
        }
        return;
    };
    copy_start_code(page);
    SECONDARY_ROOT.store(paging::root(), Ordering::Relaxed);
    for id in others {
        let Some(cpu) = cpu::new_block() else {
            log::warn!("CPU {id} is not used: there are more than Weir can use, or memory is short");
            return;
        };
        cpu.apic_id.store(id, Ordering::Relaxed);
        if !start(cpu, page) {
            // Its block is lost: it might still come, and must not find somebody else's memory under its stack.
            log::warn!("the CPU with identifier {id} does not start");
            return;
        }
        admit(cpu);
    }
    log::info!("{} CPUs", cpu::all().count());
}

fn copy_start_code(page: MachineFrame) {
    // SAFETY: the two words are constants.
    let [start, end] = unsafe { secondary_range };
    let source = (DIRECT_MAP_BASE + start) as *const u8;
    // SAFETY: the image is memory, and so is in the direct map.
    let code = unsafe { core::slice::from_raw_parts(source, (end - start) as usize) };
    direct_map::write_bytes(page, 0, code);
}

/// Starts one processor; false when it does not arrive.
fn start(cpu: &'static Cpu, page: MachineFrame) -> bool {
    let id = cpu.apic_id.load(Ordering::Relaxed);
    STEP.store(step::STARTED, Ordering::Relaxed);
    SECONDARY_STACK.store(core::ptr::from_ref(cpu) as u64, Ordering::SeqCst);
    local_apic::reset(id);
    let _ = arrives_within(10 * MILLISECOND);
    // A processor may miss the first message; the second is ignored by one that did not.
    (0..2).any(|_| {
        local_apic::start_up(id, page.0 as u8);
        arrives_within(PATIENCE)
    })
}

fn arrives_within(time: u64) -> bool {
    let begun = clock::now();
    while clock::now() - begun < time {
        if STEP.load(Ordering::Acquire) != step::STARTED {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

/// Takes a processor on whose clock agrees: guests are told that time never goes back from one CPU to another.
fn admit(cpu: &'static Cpu) {
    SKEW.store(0, Ordering::Relaxed);
    STEP.store(step::COMPARING, Ordering::Release);
    while STEP.load(Ordering::Acquire) != step::COMPARED {
        compare_tsc();
    }
    let skew = SKEW.load(Ordering::Relaxed);
    if skew == 0 {
        cpu::enlist(cpu);
        STEP.store(step::ACCEPTED, Ordering::Release);
    } else {
        log::warn!("a CPU is not used: its time stamp counter is {skew} ticks off");
        STEP.store(step::REFUSED, Ordering::Release);
    }
}

/// Reads the TSC, after what the other CPU has read of its own.
fn compare_tsc() {
    let before = HIGHEST_TSC.load(Ordering::SeqCst);
    // The counter must not be read ahead of the load.
    core::sync::atomic::fence(Ordering::SeqCst);
    let now = clock::ticks();
    if now < before {
        SKEW.fetch_max(before - now, Ordering::Relaxed);
    }
    HIGHEST_TSC.fetch_max(now, Ordering::SeqCst);
}

/// Where a secondary processor enters, on its own stack and in the hypervisor's own address space.
extern "C" fn start_secondary() -> ! {
    descriptor_tables::set_up(core::array::from_fn(|_| zeroed_frame()));
    start::set_up_cpu();
    local_apic::enable();
    STEP.store(step::ARRIVED, Ordering::Release);
    wait_until(step::COMPARING);
    (0..READINGS).for_each(|_| compare_tsc());
    STEP.store(step::COMPARED, Ordering::Release);
    match wait_until(step::ACCEPTED) {
        step::ACCEPTED => switch::run(),
        _ => cpu::halt_for_ever(),
    }
}

/// Waits for this step or a later one.
fn wait_until(wanted: u32) -> u32 {
    loop {
        let step = STEP.load(Ordering::Acquire);
        if step >= wanted {
            return step;
        }
        core::hint::spin_loop();
    }
}

fn zeroed_frame() -> MachineFrame {
    let Some(frame) = frame_allocator::allocate_for_hypervisor(0) else {
        panic!("there is no memory for a CPU's descriptor tables")
    };
    direct_map::zero(frame);
    frame
}

/// The highest whole page of usable memory below the firmware's own, clear of what must be kept.
pub fn find_start_page(
    usable: &[core::ops::Range<u64>],
    kept: &[core::ops::Range<u64>],
) -> Option<MachineFrame> {
    const FIRMWARE: u64 = 0xa_0000;
    let is_free = |page: &u64| {
        let range = *page..*page + PAGE_SIZE;
        let is_memory = usable.iter().any(|usable| usable.start <= range.start && range.end <= usable.end);
        is_memory && !kept.iter().any(|kept| kept.start < range.end && range.start < kept.end)
    };
    let pages = (1..FIRMWARE / PAGE_SIZE).rev().map(|number| number * PAGE_SIZE);
    pages.into_iter().find(is_free).map(MachineFrame::containing)
}
