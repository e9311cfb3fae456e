//! What the boot loader tells: memory, modules, command line, firmware tables.
//!
//! Two loaders, two formats, one [`BootInfo`]: PVH's `hvm_start_info` (QEMU) and multiboot2's list of tags (GRUB).
//! Both are read through [`PhysicalMemory`], which bounds every access, so a wrong pointer in either is a missing
//! item and not a crash.
//!
//! A PVH loader has room for one module only. What it loads may be a *bundle*: the magic bytes `WEIRBNDL`, a version
//! and a count (32 bits each, little-endian), then for each module its offset from the bundle's start and its length
//! (64 bits each).

use crate::{command_line::CommandLine, layout::PAGE_SIZE};
use core::ops::Range;
use hypercall_abi::hvm_start_info::{
    HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo, XEN_HVM_START_MAGIC_VALUE,
};
use zerocopy::FromBytes;

/// Most ranges of memory kept.
pub const MOST_RANGES: usize = 64;
/// Most modules kept.
pub const MOST_MODULES: usize = 8;
/// Type of a range that can be used (the same number in PVH, multiboot2 and E820).
pub const USABLE: u32 = 1;

/// A range of machine addresses and its E820 type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRange {
    /// First address and the one behind the last.
    pub addresses: Range<u64>,
    /// E820 type; [`USABLE`] is memory.
    pub kind: u32,
}

/// Where machine memory is read from while booting.
pub trait PhysicalMemory {
    /// The bytes of a range; `None` if it is not all memory that can be read.
    fn bytes(&self, range: Range<u64>) -> Option<&[u8]>;

    /// One value.
    fn read<T: FromBytes>(&self, address: u64) -> Option<T> {
        let end = address.checked_add(size_of::<T>() as u64)?;
        T::read_from_bytes(self.bytes(address..end)?).ok()
    }

    /// A string up to its zero byte, at most 4 KiB.
    fn text(&self, address: u64) -> Option<&[u8]> {
        let longest =
            (1..=PAGE_SIZE).rev().find_map(|length| self.bytes(address..address.checked_add(length)?))?;
        Some(longest.split(|byte| *byte == 0).next().unwrap_or(longest))
    }
}

/// What the boot loader told.
pub struct BootInfo {
    /// All of the command line.
    pub command_line: CommandLine,
    ranges: [MemoryRange; MOST_RANGES],
    range_count: usize,
    modules: [Range<u64>; MOST_MODULES],
    module_count: usize,
    /// A module's own command line, for the first module, if the loader has those.
    pub first_module_line: Option<CommandLine>,
    /// Machine address of ACPI's root pointer.
    pub acpi_root: Option<u64>,
}

impl BootInfo {
    fn new(command_line: &[u8]) -> Self {
        Self {
            command_line: CommandLine::new(command_line),
            ranges: [const { MemoryRange { addresses: 0..0, kind: 0 } }; MOST_RANGES],
            range_count: 0,
            modules: [const { 0..0 }; MOST_MODULES],
            module_count: 0,
            first_module_line: None,
            acpi_root: None,
        }
    }

    /// Ranges of memory as firmware describes them.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges[..self.range_count]
    }

    /// Modules, bundles unpacked.
    pub fn modules(&self) -> &[Range<u64>] {
        &self.modules[..self.module_count]
    }

    fn add_range(&mut self, start: u64, size: u64, kind: u32) {
        let Some(slot) = self.ranges.get_mut(self.range_count) else { return };
        *slot = MemoryRange { addresses: start..start.saturating_add(size), kind };
        self.range_count += 1;
    }

    fn add_module(&mut self, module: Range<u64>) {
        let Some(slot) = self.modules.get_mut(self.module_count) else { return };
        *slot = module;
        self.module_count += 1;
    }

    fn add_module_or_bundle(&mut self, memory: &impl PhysicalMemory, module: Range<u64>) {
        let Some(entries) = bundle(memory, &module) else { return self.add_module(module) };
        for entry in entries {
            self.add_module(entry);
        }
    }
}

#[derive(FromBytes)]
#[repr(C)]
struct BundleHeader {
    magic: [u8; 8],
    version: u32,
    count: u32,
}

const BUNDLE_MAGIC: [u8; 8] = *b"WEIRBNDL";
const BUNDLE_VERSION: u32 = 1;

/// The modules of a bundle, if it is one and all of them lie inside it.
fn bundle(memory: &impl PhysicalMemory, module: &Range<u64>) -> Option<impl Iterator<Item = Range<u64>>> {
    let header: BundleHeader = memory.read(module.start)?;
    let count = header.count as usize;
    if header.magic != BUNDLE_MAGIC || header.version != BUNDLE_VERSION || count > MOST_MODULES {
        return None;
    }
    let mut entries = [const { 0..0 }; MOST_MODULES];
    for (index, entry) in entries[..count].iter_mut().enumerate() {
        let place = module.start + size_of::<BundleHeader>() as u64 + 16 * index as u64;
        let [offset, length]: [u64; 2] = memory.read(place)?;
        let start = module.start.checked_add(offset)?;
        let end = start.checked_add(length)?;
        if end > module.end {
            return None;
        }
        *entry = start..end;
    }
    Some(entries.into_iter().take(count))
}

/// Reads PVH's `hvm_start_info` at `address`.
pub fn from_pvh(memory: &impl PhysicalMemory, address: u64) -> Option<BootInfo> {
    let start: HvmStartInfo = memory.read(address)?;
    if start.magic != XEN_HVM_START_MAGIC_VALUE {
        return None;
    }
    let line = if start.cmdline_paddr == 0 { None } else { memory.text(start.cmdline_paddr) };
    let mut info = BootInfo::new(line.unwrap_or(b""));
    info.acpi_root = (start.rsdp_paddr != 0).then_some(start.rsdp_paddr);
    for index in 0..u64::from(start.memmap_entries) {
        let entry: HvmMemmapTableEntry = memory.read(start.memmap_paddr + index * 24)?;
        info.add_range(entry.addr, entry.size, entry.r#type);
    }
    for index in 0..u64::from(start.nr_modules) {
        let entry: HvmModlistEntry = memory.read(start.modlist_paddr + index * 32)?;
        info.add_module_or_bundle(memory, entry.paddr..entry.paddr.checked_add(entry.size)?);
    }
    Some(info)
}

/// Multiboot2's tags.
mod tag {
    pub const END: u32 = 0;
    pub const COMMAND_LINE: u32 = 1;
    pub const MODULE: u32 = 3;
    pub const MEMORY_MAP: u32 = 6;
    pub const ACPI_OLD: u32 = 14;
    pub const ACPI_NEW: u32 = 15;
    /// Bytes of a tag's type and size.
    pub const HEADER: u64 = 8;
}

/// Reads multiboot2's information at `address`.
pub fn from_multiboot2(memory: &impl PhysicalMemory, address: u64) -> Option<BootInfo> {
    let total: u32 = memory.read(address)?;
    let end = address + u64::from(total);
    let line = tags(memory, address, end).find(|(kind, _)| *kind == tag::COMMAND_LINE);
    let line = line.and_then(|(_, body)| memory.text(body.start));
    let mut info = BootInfo::new(line.unwrap_or(b""));
    for (kind, body) in tags(memory, address, end) {
        match kind {
            tag::MODULE => read_module(memory, &body, &mut info)?,
            tag::MEMORY_MAP => read_memory_map(memory, &body, &mut info)?,
            tag::ACPI_NEW => info.acpi_root = Some(body.start),
            tag::ACPI_OLD => info.acpi_root = info.acpi_root.or(Some(body.start)),
            _ => {}
        }
    }
    Some(info)
}

/// Type and body of each tag.
fn tags(memory: &impl PhysicalMemory, address: u64, end: u64) -> impl Iterator<Item = (u32, Range<u64>)> {
    let mut next = address + tag::HEADER;
    core::iter::from_fn(move || {
        let [kind, size]: [u32; 2] = memory.read(next)?;
        let size = u64::from(size);
        if kind == tag::END || size < tag::HEADER || next + size > end {
            return None;
        }
        let body = next + tag::HEADER..next + size;
        next += size.next_multiple_of(8);
        Some((kind, body))
    })
}

fn read_module(memory: &impl PhysicalMemory, body: &Range<u64>, info: &mut BootInfo) -> Option<()> {
    let [start, end]: [u32; 2] = memory.read(body.start)?;
    if info.module_count == 0 {
        info.first_module_line = memory.text(body.start + 8).map(CommandLine::new);
    }
    info.add_module_or_bundle(memory, u64::from(start)..u64::from(end));
    Some(())
}

fn read_memory_map(memory: &impl PhysicalMemory, body: &Range<u64>, info: &mut BootInfo) -> Option<()> {
    let [entry_size, _version]: [u32; 2] = memory.read(body.start)?;
    let step = (entry_size as usize).max(24);
    for place in (body.start + 8..body.end).step_by(step) {
        let [start, size]: [u64; 2] = memory.read(place)?;
        let kind: u32 = memory.read(place + 16)?;
        info.add_range(start, size, kind);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};
    use zerocopy::IntoBytes;

    /// Memory that begins at `0`.
    struct Flat(Vec<u8>);

    impl PhysicalMemory for Flat {
        fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
            self.0.get(range.start as usize..range.end as usize)
        }
    }

    impl Flat {
        fn put(&mut self, address: usize, bytes: &[u8]) {
            self.0[address..address + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn bundle_at(memory: &mut Flat, address: usize, entries: &[[u64; 2]]) {
        memory.put(address, b"WEIRBNDL");
        memory.put(address + 8, [1u32, entries.len() as u32].as_bytes());
        memory.put(address + 16, entries.as_bytes());
    }

    fn pvh() -> Flat {
        let mut memory = Flat(vec![0; 0x4000]);
        let start = HvmStartInfo {
            magic: XEN_HVM_START_MAGIC_VALUE,
            version: 1,
            nr_modules: 1,
            modlist_paddr: 0x200,
            cmdline_paddr: 0x300,
            rsdp_paddr: 0xe0000,
            memmap_paddr: 0x400,
            memmap_entries: 1,
            ..Default::default()
        };
        memory.put(0x100, start.as_bytes());
        memory.put(0x200, HvmModlistEntry { paddr: 0x1000, size: 0x2000, ..Default::default() }.as_bytes());
        memory.put(0x300, b"loglevel=debug -- hello\0");
        memory.put(
            0x400,
            HvmMemmapTableEntry { addr: 0, size: 0x4000, r#type: 1, ..Default::default() }.as_bytes(),
        );
        memory
    }

    #[test]
    fn reads_what_qemu_tells() {
        let info = from_pvh(&pvh(), 0x100).expect("well formed");
        assert_eq!(info.command_line.control_domain(), "hello");
        assert_eq!(info.acpi_root, Some(0xe0000));
        assert_eq!(info.ranges(), [MemoryRange { addresses: 0..0x4000, kind: USABLE }]);
        assert_eq!(info.modules(), core::slice::from_ref(&(0x1000..0x3000)));
    }

    #[test]
    fn unpacks_a_bundle() {
        let mut memory = pvh();
        bundle_at(&mut memory, 0x1000, &[[0x100, 0x80], [0x200, 0x1e00]]);
        let info = from_pvh(&memory, 0x100).expect("well formed");
        assert_eq!(info.modules(), [0x1100..0x1180, 0x1200..0x3000]);
    }

    #[test]
    fn a_bundle_that_leaves_its_module_is_taken_as_it_is() {
        let mut memory = pvh();
        bundle_at(&mut memory, 0x1000, &[[0x100, 0x1f01]]);
        let info = from_pvh(&memory, 0x100).expect("well formed");
        assert_eq!(info.modules(), core::slice::from_ref(&(0x1000..0x3000)));
    }

    #[test]
    fn refuses_other_magic_and_pointers_out_of_memory() {
        let mut memory = pvh();
        memory.put(0x100 + 40, 0x3ff8u64.as_bytes());
        assert!(from_pvh(&memory, 0x100).is_none(), "memory map beyond the end");
        assert!(from_pvh(&Flat(vec![0; 64]), 0).is_none());
    }

    #[test]
    fn reads_what_grub_tells() {
        let mut body = Vec::new();
        let mut tag = |kind: u32, content: &[u8]| {
            body.extend_from_slice([kind, content.len() as u32 + 8].as_bytes());
            body.extend_from_slice(content);
            body.resize(body.len().next_multiple_of(8), 0);
        };
        tag(1, b"one -- two\0");
        tag(3, &[[0x1000u32, 0x1800].as_bytes(), b"dom0 line\0"].concat());
        tag(6, &[[24u32, 0].as_bytes(), [0u64, 0x4000].as_bytes(), [1u32, 0].as_bytes()].concat());
        tag(14, b"RSD PTR ");
        tag(0, b"");
        let mut memory = Flat(vec![0; 0x4000]);
        memory.put(0x100, [body.len() as u32 + 8, 0].as_bytes());
        memory.put(0x108, &body);
        let info = from_multiboot2(&memory, 0x100).expect("well formed");
        assert_eq!(info.command_line.control_domain(), "two");
        assert_eq!(info.modules(), core::slice::from_ref(&(0x1000..0x1800)));
        assert_eq!(info.ranges().len(), 1);
        let line = info.first_module_line.expect("the module has one");
        assert_eq!(line.hypervisor(), "dom0 line");
        assert!(info.acpi_root.is_some());
    }
}
