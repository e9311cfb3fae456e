#![expect(unsafe_code, reason = "runs once, before anything else, on the bare machine")]
//! Loading the kernel: it gets a run of memory, is laid out in it as any builder of domains would, and is jumped to.
//!
//! Its frames are a run of machine frames, so what it calls a pseudo-physical frame is a machine frame less an offset.

use core::arch::asm;
use core::convert::Infallible;
use core::slice;

use domain_image::{DomainMemory, Entry, Image, Layout, Plan, StartInfoFields, build};
use hypercall_abi::hvm_start_info::{
    HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo, XEN_HVM_MEMMAP_TYPE_RAM,
};
use hypercall_abi::xen::{SIF_INITDOMAIN, SIF_PRIVILEGED};
use hypercall_abi::{MachineFrame, PAGE_SIZE, PseudoPhysicalFrame};
use zerocopy::FromBytes;

use crate::{call, clock, event, interrupt, memory, serial};

/// The most memory that the kernel gets.
const MEMORY_BYTES: u64 = 64 << 20;
const PAGE: u64 = PAGE_SIZE as u64;

unsafe extern "C" {
    static image_end: u8;
    static boot_third_level: [u64; 512];
}

/// Called by the boot code with the address of the boot loader's information.
pub extern "C" fn start(information: u64) -> ! {
    serial::set_up();
    let info: HvmStartInfo = read(information);
    assert!(info.nr_modules > 0, "no kernel: it is to be the boot module");
    let module: HvmModlistEntry = read(info.modlist_paddr);
    let image = Image::parse(bytes(module.paddr, module.size));
    let image = image.unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::find(&info, module.paddr);
    let entry = build_kernel(&image, &info, &mut memory);
    interrupt::set_up();
    event::mask_all();
    clock::set_up();
    // SAFETY: everything above is in place, and the root maps this code where it is.
    unsafe { jump(&entry) }
}

/// What lies at a physical address.
fn bytes(address: u64, length: u64) -> &'static [u8] {
    // SAFETY: the first 512 GiB are mapped one to one; only what the boot loader left is read in this way, and nobody
    // changes it.
    unsafe { slice::from_raw_parts(address as *const u8, length as usize) }
}

fn read<T: FromBytes>(address: u64) -> T {
    T::read_from_bytes(bytes(address, size_of::<T>() as u64)).expect("the length is the type's")
}

fn command_line(address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    let line = bytes(address, PAGE).split(|byte| *byte == 0).next().unwrap_or_default();
    core::str::from_utf8(line).unwrap_or_default()
}

/// The kernel's memory.
struct Memory {
    first: u64,
    pages: u64,
}

impl Memory {
    /// The memory between this image and the boot module, as much of it as the kernel is to get, zeroed.
    fn find(info: &HvmStartInfo, module: u64) -> Self {
        let start = (&raw const image_end) as u64;
        let ranges = (0..u64::from(info.memmap_entries))
            .map(|index| read::<HvmMemmapTableEntry>(info.memmap_paddr + index * 24));
        let mut ram = ranges.filter(|range| range.r#type == XEN_HVM_MEMMAP_TYPE_RAM);
        let range = ram.find(|range| (range.addr..range.addr + range.size).contains(&start));
        let end = range.map_or(start, |range| range.addr + range.size).min(module).min(start + MEMORY_BYTES);
        let memory = Self { first: start.div_ceil(PAGE), pages: (end - start) / PAGE };
        // SAFETY: the memory is there, mapped, and used by nobody.
        unsafe { ((memory.first * PAGE) as *mut u8).write_bytes(0, (memory.pages * PAGE) as usize) };
        memory
    }

    fn address(&self, frame: PseudoPhysicalFrame) -> u64 {
        self.machine_frame(frame).physical_address()
    }
}

impl DomainMemory for Memory {
    type Error = Infallible;

    fn machine_frame(&self, frame: PseudoPhysicalFrame) -> MachineFrame {
        MachineFrame(self.first + frame.0)
    }

    fn write(&mut self, frame: PseudoPhysicalFrame, offset: usize, bytes: &[u8]) -> Result<(), Infallible> {
        assert!(frame.0 < self.pages && offset + bytes.len() <= PAGE_SIZE, "outside of the kernel's memory");
        let to = (self.address(frame) as usize + offset) as *mut u8;
        // SAFETY: the place lies in the kernel's memory, which nobody uses yet.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }
}

/// Writes the kernel, its page tables and what it is told, and adds to its root table what maps this code.
fn build_kernel(image: &Image<'_>, info: &HvmStartInfo, memory: &mut Memory) -> Entry {
    let plan = Plan { pages: memory.pages, module: 0, has_store_and_console: false };
    let layout = Layout::plan(image, &plan).unwrap_or_else(|error| panic!("{error}"));
    let fields = StartInfoFields {
        pages: memory.pages,
        shared_info: event::shared_info_frame(),
        flags: SIF_PRIVILEGED | SIF_INITDOMAIN,
        ports: None,
        command_line: command_line(info.cmdline_paddr),
        module_size: 0,
    };
    let Ok(entry) = build(image, &layout, &[], &fields, memory);
    if let Some(page) = image.hypercall_page {
        let frame = PseudoPhysicalFrame((page - image.virt_base) / PAGE);
        call::stubs().for_each(|(offset, stub)| {
            let Ok(()) = memory.write(frame, offset, &stub);
        });
    }
    let own = (&raw const boot_third_level) as u64;
    memory::write_entry(entry.root.physical_address(), own | memory::PRESENT | memory::WRITABLE);
    entry
}

/// Goes over to the kernel's page tables and to its first instruction.
///
/// # Safety
///
/// The root must map this code and the kernel; nothing that the kernel needs may be missing.
unsafe fn jump(entry: &Entry) -> ! {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "jmp {instruction}",
            root = in(reg) entry.root.physical_address(),
            stack = in(reg) entry.stack,
            instruction = in(reg) entry.instruction,
            in("rsi") entry.start_info,
            options(noreturn),
        )
    }
}
