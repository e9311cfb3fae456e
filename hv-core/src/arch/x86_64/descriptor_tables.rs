#![expect(unsafe_code, reason = "loads GDT, IDT and TSS, and maps the guest's descriptor tables")]
//! GDT, IDT and TSS.
//!
//! A guest chooses the first fourteen pages of the GDT; the hypervisor's own descriptors, whose selectors are
//! part of Xen's ABI (0xe008 and up), live in the fifteenth. The CPU sees both through a window of its own at a
//! fixed address ([`crate::layout::DESCRIPTOR_WINDOW_BASE`]); switching vCPUs rewrites the window's page-table
//! entries, and GDTR never changes.

use super::{cpu::own_tables, entry, paging};
use crate::{
    direct_map,
    layout::{DESCRIPTOR_WINDOW_BASE, DESCRIPTOR_WINDOW_SIZE, PAGE_SIZE},
    vcpu::{Context, GUEST_GDT_FRAMES},
};
use core::{cell::UnsafeCell, sync::atomic::Ordering};
use hypercall_abi::MachineFrame;
use x86::{
    bits64::task::TaskStateSegment,
    dtables::{DescriptorTablePointer, lgdt, lidt},
};

/// Selector of the hypervisor's code segment.
pub const HYPERVISOR_CODE: u16 = 0xe008;
/// Selector of the hypervisor's stack segment.
pub const HYPERVISOR_DATA: u16 = 0xe010;
/// Selector of the TSS.
const TASK_STATE: u16 = 0xe040;
/// Selector of the LDT.
const LOCAL_TABLE: u16 = 0xe050;

/// First byte of the hypervisor's page in the GDT.
const RESERVED_BASE: u64 = GUEST_GDT_FRAMES as u64 * PAGE_SIZE;
/// First byte of the LDT in the window.
const LOCAL_TABLE_BASE: u64 = 16 * PAGE_SIZE;

/// Descriptors of the hypervisor's GDT page, by selector minus 0xe000. Ring-3 ones are the flat segments that
/// the ABI promises to guests.
const FLAT_DESCRIPTORS: [(usize, u64); 5] = [
    (0x08, 0x00af_9a00_0000_ffff), // ring 0 code, 64-bit
    (0x10, 0x00cf_9200_0000_ffff), // ring 0 data
    (0x20, 0x00cf_fa00_0000_ffff), // ring 3 code, 32-bit
    (0x28, 0x00cf_f200_0000_ffff), // ring 3 data
    (0x30, 0x00af_fa00_0000_ffff), // ring 3 code, 64-bit
];

/// Interrupt stacks for events that may strike at any instruction.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum InterruptStack {
    /// Double fault.
    DoubleFault = 1,
    /// Non-maskable interrupt.
    NonMaskable = 2,
    /// Machine check.
    MachineCheck = 3,
    /// Debug exception: a guest that single-steps over a stack switch into SYSCALL gets it delivered on the
    /// hypervisor's first instruction, while the stack pointer is still the guest's.
    Debug = 4,
}

/// What a CPU's descriptor tables need in memory.
pub struct Tables {
    tss: TaskStateSegment,
    gdt_page: MachineFrame,
    zero: MachineFrame,
    /// Pages of a guest's GDT that the window shows.
    shown_pages: usize,
    /// LDTR holds a guest's LDT.
    has_local_table: bool,
}

/// Descriptors in a page.
const ENTRIES_PER_PAGE: usize = 512;

/// One CPU's tables, in a cell because the CPU itself reads the TSS at any time.
pub struct TableCell(UnsafeCell<Option<Tables>>);

impl TableCell {
    /// No tables yet.
    pub const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    /// The tables.
    ///
    /// # Safety
    /// Only on the CPU they belong to, and not while another reference lives.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for being the only one")]
    unsafe fn get_mut(&self) -> &mut Option<Tables> {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.get() }
    }
}

/// Frames that a CPU's tables and special stacks need, in order: the GDT page, four interrupt stacks, and
/// the empty page that stands for GDT pages a guest has not set.
pub const FRAMES_NEEDED: usize = 6;

/// Gives this CPU its descriptor tables. `frames` are [`FRAMES_NEEDED`] zeroed frames that it keeps.
pub fn set_up(frames: [MachineFrame; FRAMES_NEEDED]) {
    let [gdt_page, double_fault, non_maskable, machine_check, debug, zero] = frames;
    let mut tss = TaskStateSegment::new();
    for (stack, frame) in [
        (InterruptStack::DoubleFault, double_fault),
        (InterruptStack::NonMaskable, non_maskable),
        (InterruptStack::MachineCheck, machine_check),
        (InterruptStack::Debug, debug),
    ] {
        tss.ist[stack as usize - 1] = direct_map::pointer(frame) as u64 + PAGE_SIZE;
    }
    // Above the debug stack stands where the entry code finds this CPU's words for SYSCALL.
    tss.ist[InterruptStack::Debug as usize - 1] -= entry::DEBUG_STACK_HEAD;
    let head = (PAGE_SIZE - entry::DEBUG_STACK_HEAD) as usize / 8;
    direct_map::words(debug)[head].store(entry::syscall_words(), Ordering::Relaxed);
    tss.iomap_base = size_of::<TaskStateSegment>() as u16;
    // SAFETY: runs once on each CPU, with its own, before anything else uses the tables.
    let tables = unsafe { own_tables().get_mut() }.insert(Tables {
        tss,
        gdt_page,
        zero,
        shown_pages: 0,
        has_local_table: false,
    });
    fill_gdt_page(gdt_page, &raw const tables.tss as u64);
    map_window(gdt_page, zero);
    load();
}

fn fill_gdt_page(page: MachineFrame, tss: u64) {
    let words = direct_map::words(page);
    for (offset, descriptor) in FLAT_DESCRIPTORS {
        words[offset / 8].store(descriptor, Ordering::Relaxed);
    }
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    set_system_descriptor(page, TASK_STATE, tss, limit, 0x9);
}

/// Writes a 16-byte system descriptor (TSS or LDT).
fn set_system_descriptor(page: MachineFrame, selector: u16, base: u64, limit: u64, kind: u64) {
    let words = direct_map::words(page);
    let index = (selector as usize & 0xfff) / 8;
    let low = (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (0x80 | kind) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    words[index + 1].store(base >> 32, Ordering::Relaxed);
    words[index].store(low, Ordering::Relaxed);
}

fn window() -> u64 {
    DESCRIPTOR_WINDOW_BASE + u64::from(super::cpu::this_cpu().id) * DESCRIPTOR_WINDOW_SIZE
}

fn map_window(gdt_page: MachineFrame, zero: MachineFrame) {
    for page in 0..GUEST_GDT_FRAMES as u64 {
        paging::map_window_page(window() + page * PAGE_SIZE, zero);
    }
    paging::map_window_page(window() + RESERVED_BASE, gdt_page);
}

fn load() {
    let gdt = DescriptorTablePointer::<u64> {
        limit: (RESERVED_BASE + PAGE_SIZE - 1) as u16,
        base: window() as *const u64,
    };
    let idt = super::entry::interrupt_descriptor_table();
    // SAFETY: the window maps a valid GDT whose code and data descriptors are the ones loaded here; the IDT is
    // static. Loading SS with a null selector is what 64-bit ring 0 expects after an interrupt anyway.
    unsafe {
        lgdt(&gdt);
        core::arch::asm!(
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {data:x}",
            code = in(reg) u64::from(HYPERVISOR_CODE),
            data = in(reg) HYPERVISOR_DATA,
            scratch = out(reg) _,
        );
        lidt(&DescriptorTablePointer::<u128> { limit: 256 * 16 - 1, base: idt.cast() });
        core::arch::asm!("ltr {0:x}", in(reg) TASK_STATE, options(nostack));
    }
}

/// Points the CPU's entries from ring 3 at the end of a vCPU's saved frame.
pub fn set_entry_stack(end_of_frame: u64) {
    // SAFETY: only this CPU uses its TSS, and it reads it when it next enters from ring 3.
    if let Some(tables) = unsafe { own_tables().get_mut() } {
        tables.tss.rsp[0] = end_of_frame;
    }
}

/// Shows the guest's GDT and LDT to the CPU; the caller flushes the TLB or switches address space.
///
/// Most guests have one page of GDT or none, and no LDT: only what the window shows now or is to show is touched.
pub fn show_guest_tables(context: &Context) {
    // SAFETY: as in `set_entry_stack`.
    let Some(tables) = (unsafe { own_tables().get_mut() }) else { return };
    let pages = (context.gdt_entries as usize).div_ceil(ENTRIES_PER_PAGE);
    for page in 0..pages.max(tables.shown_pages) {
        let frame = context.gdt_frames.get(page).copied().flatten().unwrap_or(tables.zero);
        paging::map_window_page(window() + page as u64 * PAGE_SIZE, frame);
    }
    tables.shown_pages = pages;
    if context.ldt_entries != 0 || tables.has_local_table {
        tables.has_local_table = context.ldt_entries != 0;
        load_local_table(tables, context);
    }
}

/// Loads the guest's LDT, or none. It is shown through the window, as the GDT is: where the guest itself maps it
/// the CPU could not read it, since supervisor access to user pages is off.
fn load_local_table(tables: &Tables, context: &Context) {
    let mut selector = 0;
    if context.ldt_entries != 0 {
        let base = window() + LOCAL_TABLE_BASE;
        for (page, frame) in (0u64..).zip(&context.ldt_frames) {
            paging::map_window_page(base + page * PAGE_SIZE, frame.unwrap_or(tables.zero));
        }
        let limit = u64::from(context.ldt_entries) * 8 - 1;
        set_system_descriptor(tables.gdt_page, LOCAL_TABLE, base, limit, 0x2);
        selector = LOCAL_TABLE;
    }
    // SAFETY: the selector is null or names the descriptor just written.
    unsafe { core::arch::asm!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags)) };
}
