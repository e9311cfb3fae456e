#![expect(unsafe_code, reason = "runs once, before anything else, on the bare machine")]
//! From the boot code to the control domain's first instruction.
//!
//! Read what the boot loader left, make page tables and the frame table, take over interrupts and clocks, build the
//! control domain, run. Until the frame table exists, memory comes from the end of the largest range the boot code has
//! mapped, clear of the image and the modules.

use super::{
    boot::MULTIBOOT2_MAGIC,
    clock, cpu, descriptor_tables, entry, fpu, guest_memory, io_apic, local_apic, own_registers,
    paging::{self, EarlyFrames},
    power, secondary, serial, switch,
};
use crate::{
    boot_info::{self, BootInfo, MOST_MODULES, MOST_RANGES, PhysicalMemory, USABLE},
    command_line::{CommandLine, Options},
    console, direct_map,
    dom0_builder::{self, Parts},
    firmware::{self, Firmware},
    frame, frame_allocator,
    io_rights::Resource,
    layout::{DIRECT_MAP_BASE, PAGE_SHIFT, PAGE_SIZE},
    machine::machine,
    memory_op,
    own_registers::control4,
    page_table,
};
use core::{ops::Range, sync::atomic::Ordering};
use hypercall_abi::{MachineFrame, memory::E820Entry};

/// What the boot code maps.
const BOOT_MAPPED: u64 = 4 << 30;
/// Memory below this belongs to firmware; the hypervisor keeps it and hands it to nobody.
const LOW_MEMORY: u64 = 1 << 20;

/// Machine memory that the boot code has mapped, as bytes.
struct BootMemory;

impl PhysicalMemory for BootMemory {
    fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.start > range.end || range.end > BOOT_MAPPED {
            return None;
        }
        let pointer = (DIRECT_MAP_BASE + range.start) as *const u8;
        // SAFETY: the first 4 GiB are mapped; reading what is no memory gives ones. Nobody writes boot information or
        // modules while these references live, which is before the control domain runs.
        Some(unsafe { core::slice::from_raw_parts(pointer, (range.end - range.start) as usize) })
    }
}

/// Where the boot code enters, on the boot CPU's own stack.
pub extern "C" fn start(magic: u32, information: u32) -> ! {
    serial::set_up();
    console::set_up(log::LevelFilter::Info);
    let information = u64::from(information);
    let info = match magic {
        MULTIBOOT2_MAGIC => boot_info::from_multiboot2(&BootMemory, information),
        _ => boot_info::from_pvh(&BootMemory, information),
    };
    let Some(info) = info else { panic!("the boot loader left no information that can be read") };
    let line =
        machine().command_line.call_once(|| CommandLine::new(info.command_line.hypervisor().as_bytes()));
    let options = Options::parse(line.hypervisor(), |word| log::warn!("unknown option {word:?} ignored"));
    log::set_max_level(options.log_level);
    power::set_debug_exit(options.debug_exit);
    log::info!("Weir {} starts", env!("CARGO_PKG_VERSION"));
    // Firmware's tables lie in reserved memory, which only the boot code's page tables map.
    let firmware = info.acpi_root.map(|root| firmware::read(&BootMemory, root)).unwrap_or_default();
    set_up_memory(&info);
    set_up_cpu();
    set_up_interrupts(&firmware);
    start_other_cpus(&info, &firmware);
    start_control_domain(&info, &options);
    clock::await_second();
    switch::run()
}

/// Usable memory, in whole pages, sorted.
fn usable_ranges(info: &BootInfo, ranges: &mut [Range<u64>; MOST_RANGES]) -> usize {
    let mut count = 0;
    for range in info.ranges().iter().filter(|range| range.kind == USABLE) {
        let start = range.addresses.start.next_multiple_of(PAGE_SIZE);
        let end = range.addresses.end & !(PAGE_SIZE - 1);
        if start < end {
            ranges[count] = start..end;
            count += 1;
        }
    }
    ranges[..count].sort_unstable_by_key(|range| range.start);
    count
}

fn set_up_memory(info: &BootInfo) {
    let mut ranges = [const { 0..0 }; MOST_RANGES];
    let count = usable_ranges(info, &mut ranges);
    let ranges = &ranges[..count];
    let Some(last) = ranges.last() else { panic!("the boot loader names no usable memory") };
    direct_map::set_frame_count(last.end / PAGE_SIZE);
    let Some(home) = largest_gap(ranges, &used_ranges(info)) else {
        panic!("there is no memory below 4 GiB")
    };
    let mut frames = EarlyFrames::new(home.clone());
    paging::set_up(ranges, &mut frames);
    let stacks = core::array::from_fn(|_| frames.take());
    hand_over(info, ranges, home.start..frames.position());
    page_table::set_hypervisor_slots(&paging::hypervisor_slots());
    let map = info.ranges().iter().map(|range| E820Entry {
        addr: range.addresses.start.into(),
        size: (range.addresses.end - range.addresses.start).into(),
        r#type: range.kind.into(),
    });
    memory_op::set_machine_memory_map(map);
    descriptor_tables::set_up(stacks);
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    log::info!(
        "{} MiB of memory, {} MiB free, {} bytes of metadata for each frame",
        total >> 20,
        frame_allocator::free_frames() >> 8,
        frame::METADATA_BYTES
    );
}

/// The modules are still where the boot loader put them.
fn start_other_cpus(info: &BootInfo, firmware: &Firmware) {
    let mut ranges = [const { 0..0 }; MOST_RANGES];
    let count = usable_ranges(info, &mut ranges);
    secondary::start_all(firmware, secondary::find_start_page(&ranges[..count], info.modules()));
}

/// Gives the frame table everything but the image, the modules and what `early` has taken.
fn hand_over(info: &BootInfo, ranges: &[Range<u64>], early: Range<u64>) {
    let to_frames = |range: &Range<u64>| range.start / PAGE_SIZE..range.end.div_ceil(PAGE_SIZE);
    let mut ram = [const { 0..0 }; MOST_RANGES];
    for (slot, range) in ram.iter_mut().zip(ranges) {
        *slot = to_frames(range);
    }
    let mut used = used_ranges(info);
    used[0] = early;
    used.sort_unstable_by_key(|range| range.start);
    frame::set_up(&ram[..ranges.len()], &used.map(|range| to_frames(&range)));
}

/// What must not be touched: firmware's memory, the image and the modules; the first entry is free for one more.
fn used_ranges(info: &BootInfo) -> [Range<u64>; 3 + MOST_MODULES] {
    let mut used = [const { 0..0 }; 3 + MOST_MODULES];
    used[1] = 0..LOW_MEMORY;
    used[2] = paging::image_range();
    used[3..].iter_mut().zip(info.modules()).for_each(|(slot, module)| *slot = module.clone());
    used.sort_unstable_by_key(|range| range.start);
    used
}

/// The largest piece of memory that the boot code has mapped and that overlaps nothing in use (`used` is sorted).
fn largest_gap(ranges: &[Range<u64>], used: &[Range<u64>]) -> Option<Range<u64>> {
    let mapped = ranges.iter().map(|range| range.start..range.end.min(BOOT_MAPPED));
    let gaps = mapped.flat_map(|range| {
        let starts = core::iter::once(0).chain(used.iter().map(|used| used.end));
        let ends = used.iter().map(|used| used.start).chain([u64::MAX]);
        starts.zip(ends).map(move |(start, end)| start.max(range.start)..end.min(range.end))
    });
    gaps.filter(|gap| gap.start < gap.end).max_by_key(|gap| gap.end - gap.start)
}

/// CR4: what the hypervisor relies on, and SMEP and SMAP where there are.
pub(super) fn set_up_cpu() {
    const SMEP: u64 = 1 << 20;
    const SMAP: u64 = 1 << 21;
    const TASK_SWITCHED: usize = 1 << 3;
    const EMULATE_FPU: usize = 1 << 2;
    const MONITOR_FPU: usize = 1 << 1;
    let features = cpuid(7, 0)[1];
    let mut cr4 = control4::FXSR | control4::SIMD_EXCEPTIONS;
    if features & 1 << 7 != 0 {
        cr4 |= SMEP;
    }
    if features & 1 << 20 != 0 {
        cr4 |= SMAP;
        guest_memory::set_guarded();
    }
    // SAFETY: each feature was looked up or is part of every 64-bit CPU; no user page is reached except through
    // `guest_memory`; the system call entry is ready.
    unsafe {
        use x86::{controlregs, msr};
        let current = controlregs::cr4();
        controlregs::cr4_write(current | controlregs::Cr4::from_bits_truncate(cr4 as usize));
        let cr0 = controlregs::cr0().bits() & !EMULATE_FPU | TASK_SWITCHED | MONITOR_FPU;
        controlregs::cr0_write(controlregs::Cr0::from_bits_truncate(cr0));
        // SYSCALL takes its selectors from bits 32-47; SYSRET's, in the upper bits, are not used.
        msr::wrmsr(msr::IA32_STAR, u64::from(descriptor_tables::HYPERVISOR_CODE) << 32);
        msr::wrmsr(msr::IA32_LSTAR, entry::syscall_address());
        msr::wrmsr(msr::IA32_CSTAR, entry::compatibility_syscall_address());
        // SYSENTER takes the stack selector that follows the code selector. Its stack pointer is none: the entry code
        // finds by it where to push to.
        msr::wrmsr(msr::IA32_SYSENTER_CS, u64::from(descriptor_tables::HYPERVISOR_CODE));
        msr::wrmsr(msr::IA32_SYSENTER_ESP, entry::syscall_words());
        msr::wrmsr(msr::IA32_SYSENTER_EIP, entry::sysenter_address());
        // Interrupt, trap, direction, nested task and alignment flags are clear on entry.
        msr::wrmsr(msr::IA32_FMASK, 0x4_7700);
    }
    fpu::set_up();
    own_registers::set_up();
}

fn set_up_interrupts(firmware: &Firmware) {
    mask_legacy_controllers();
    if let Some((port, value)) = firmware.power_off {
        power::set_power_off(port, value);
    }
    let id = local_apic::set_up();
    cpu::this_cpu().apic_id.store(id, Ordering::Relaxed);
    const USUAL_IO_APIC: u64 = 0xfec0_0000;
    let io_apic_address = firmware.io_apic.unwrap_or(USUAL_IO_APIC);
    io_apic::set_up(io_apic_address);
    clock::set_up();
    reserve(io_apic_address);
    io_apic::enable(serial::INTERRUPT_LINE, local_apic::SERIAL_VECTOR, false, false);
}

/// Keeps for the hypervisor what it drives itself.
fn reserve(io_apic_address: u64) {
    let memory = |address: u64| (Resource::Memory, address / PAGE_SIZE..=address / PAGE_SIZE);
    let ports = |first: u64, last: u64| (Resource::Port, first..=last);
    let reserved = [
        memory(local_apic::ADDRESS),
        memory(io_apic_address),
        (Resource::Memory, 1 << (physical_address_bits() - PAGE_SHIFT)..=u64::MAX),
        ports(0x20, 0x21), // legacy interrupt controllers
        ports(0xa0, 0xa1),
        ports(0x40, 0x43),   // timer
        ports(0x3f8, 0x3ff), // serial port
        (Resource::Interrupt, u64::from(serial::INTERRUPT_LINE)..=u64::from(serial::INTERRUPT_LINE)),
    ];
    for (resource, range) in reserved {
        if machine().reserved_io.reserve(resource, range).is_err() {
            panic!("there is no room to reserve what the hypervisor drives");
        }
    }
}

/// Bits of a machine address: an entry with more would fault as malformed.
pub fn physical_address_bits() -> u32 {
    const SMALLEST: u32 = 36;
    const SIZES: u32 = 0x8000_0008;
    if cpuid(0x8000_0000, 0)[0] < SIZES { SMALLEST } else { (cpuid(SIZES, 0)[0] & 0xff).clamp(SMALLEST, 52) }
}

/// The two legacy interrupt controllers are moved off the exceptions' vectors and silenced.
fn mask_legacy_controllers() {
    let commands: [(u16, u32); 10] = [
        (0x20, 0x11),
        (0xa0, 0x11), // initialise
        (0x21, 0x20),
        (0xa1, 0x28), // vectors 32 and 40
        (0x21, 0x04),
        (0xa1, 0x02), // how they are connected
        (0x21, 0x01),
        (0xa1, 0x01),
        (0x21, 0xff),
        (0xa1, 0xff), // all lines masked
    ];
    for (port, value) in commands {
        super::port::write(port, 1, value);
    }
}

fn start_control_domain(info: &BootInfo, options: &Options) {
    let empty = 0..0;
    let mut modules = info.modules().iter();
    let Some(kernel) = modules.next() else {
        panic!("there is no module: the boot loader must load the control domain's kernel")
    };
    let archive = modules.next().unwrap_or(&empty);
    let own_line = info.first_module_line.as_ref().map_or("", CommandLine::hypervisor);
    let line = if own_line.is_empty() { info.command_line.control_domain() } else { own_line };
    let bytes = |range: &Range<u64>| direct_map::boot_module(range.clone());
    let parts = Parts {
        kernel: bytes(kernel),
        archive: bytes(archive),
        command_line: line,
        memory: options.control_domain_memory,
    };
    if let Err(error) = dom0_builder::start(&parts) {
        panic!("the control domain cannot be started: {error}");
    }
    free_modules(info);
    log::info!("the control domain starts with {} MiB", options.control_domain_memory >> 20);
}

/// The modules have been copied into the control domain: their memory is free.
fn free_modules(info: &BootInfo) {
    for module in info.modules() {
        let whole = module.start.div_ceil(PAGE_SIZE)..module.end / PAGE_SIZE;
        whole.for_each(|frame| frame_allocator::free_from_hypervisor(MachineFrame(frame), 0));
    }
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    switch::panic(info)
}
