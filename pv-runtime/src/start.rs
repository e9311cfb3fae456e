#![expect(
    unsafe_code,
    reason = "the first code to run; everything that start-up must promise is promised here"
)]
//! Start-up, from the first instruction to the first task.

use alloc::boxed::Box;
use core::arch::global_asm;
use core::future::Future;
use core::pin::Pin;
use core::slice;

use hypercall_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use hypercall_abi::xen::{StartInfo, UVMF_INVLPG, UVMF_LOCAL};
use hypercall_abi::{Errno, MachineFrame};

use crate::boot::BootInfo;
use crate::memory::{self, Image};
use crate::power::{self, Shutdown};
use crate::{console, event_channel, executor, hypercall, shared_info, time, traps};

/// Bytes of stack. Every task is polled on it, one at a time.
const STACK_BYTES: usize = 256 * 1024;
/// Vectors that `trap_entries` has a place for.
const TRAP_VECTORS: usize = 20;

global_asm!(
    include_str!("entry.s"),
    start = sym start,
    trap = sym traps::trap,
    upcalls = sym traps::UPCALLS,
    started_at = sym time::STARTED_AT,
    stack_bytes = const STACK_BYTES,
);

unsafe extern "C" {
    static image_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
    static boot_stack_guard: u8;
    static scratch_page: u8;
    static event_upcall: u8;
    static failsafe_callback: u8;
    static trap_entries: [u64; TRAP_VECTORS];
}

unsafe extern "Rust" {
    /// Made by [`entry!`](crate::entry!).
    safe fn pv_kernel_main(info: &'static BootInfo) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// Called by `_start` with the address of the start info, on the kernel's own stack, events masked.
extern "C" fn start(start_info: *const StartInfo) -> ! {
    // SAFETY: the domain builder put it there, and changes it no more.
    let info = unsafe { start_info.read() };
    // SAFETY: this is the first code to run, and runs once.
    if let Err(errno) = unsafe { take_over(&info) } {
        console::print_in_distress(format_args!("start-up failed: {errno}\n"));
        power::shutdown(Shutdown::Crash);
    }
    let boot_info = Box::leak(Box::new(boot_info(&info)));
    console::init(boot_info);
    boot_info.domain_id = event_channel::own_domain_id().unwrap_or(boot_info.domain_id);
    memory::set_own_domain(boot_info.domain_id);
    boot_info.hypervisor_version = hypercall::xen_version().unwrap_or_default();
    let boot_info: &'static BootInfo = boot_info;
    executor::spawn(console::service());
    executor::spawn(async move {
        pv_kernel_main(boot_info).await;
        power::shutdown(Shutdown::PowerOff);
    });
    executor::run();
}

/// Registers the entry points, takes over memory, and maps the shared page.
///
/// # Safety
///
/// To be called once, first thing.
unsafe fn take_over(info: &StartInfo) -> Result<(), Errno> {
    let image = Image {
        text: (&raw const image_start) as u64..(&raw const text_end) as u64,
        constants: (&raw const text_end) as u64..(&raw const rodata_end) as u64,
        data: (&raw const rodata_end) as u64..(&raw const image_end) as u64,
        stack_guard: (&raw const boot_stack_guard) as u64,
        scratch: (&raw const scratch_page) as u64,
    };
    // SAFETY: the entry points are those of `entry.s`, the table ends with a zero.
    unsafe {
        hypercall::set_trap_table(&trap_table())?;
        hypercall::set_callbacks((&raw const event_upcall) as u64, (&raw const failsafe_callback) as u64)?;
    }
    // SAFETY: nothing was done yet; what the builder placed after the image is used at its new address only.
    unsafe { memory::init(info, &image)? };
    let shared = memory::data_entry(MachineFrame::containing(info.shared_info));
    // SAFETY: the page at this address was not used yet.
    unsafe { hypercall::update_va_mapping(shared_info::address(), shared, UVMF_INVLPG | UVMF_LOCAL)? };
    event_channel::init();
    time::init()
}

/// One entry for each vector that has a stub, and the zero at the end.
fn trap_table() -> [TrapInfo; TRAP_VECTORS] {
    let mut table = [TrapInfo::default(); TRAP_VECTORS];
    // SAFETY: `entry.s` has this table of constants.
    let entries = unsafe { trap_entries };
    let present = (0..).zip(entries).filter(|(_, address)| *address != 0);
    // Vector 15 does not exist, so one place is left for the zero.
    for (place, (vector, address)) in table.iter_mut().zip(present) {
        *place = TrapInfo { vector, flags: 0, cs: FLAT_KERNEL_CS, _pad: 0, address };
    }
    table
}

fn boot_info(info: &StartInfo) -> BootInfo {
    let module = (info.mod_len != 0).then(|| {
        let first = memory::moved(info.mod_start) as *const u8;
        // SAFETY: the domain builder put the module there; its pages are not among the free ones.
        unsafe { slice::from_raw_parts(first, info.mod_len as usize) }
    });
    BootInfo::new(info, module)
}
