//! Writing a domain's memory according to its layout.

use crate::{Image, Layout};
use core::ops::Range;
use hypercall_abi::{
    MachineFrame, Port, PseudoPhysicalFrame,
    xen::{StartInfo, StartInfoConsole},
};
use zerocopy::{FromZeros, IntoBytes};

const PAGE_SIZE: u64 = 4096;
const ENTRIES: u64 = 512;
const WORDS: usize = 512;
/// A page table entry that points to a table, or maps a page: present, user, accessed, dirty.
const ENTRY: u64 = 0x65;
const WRITABLE: u64 = 0x02;

/// Memory of a domain that is being built.
pub trait DomainMemory {
    /// Why writing failed.
    type Error;

    /// The machine frame behind a frame of the domain.
    fn machine_frame(&self, frame: PseudoPhysicalFrame) -> MachineFrame;

    /// Tells that frames up to this one, and not itself, are written next: memory that has to be made ready for that can
    /// be made so at once, and no more of it than is needed.
    fn announce(&mut self, end: PseudoPhysicalFrame) {
        let _ = end;
    }

    /// Writes bytes into one frame; the range does not leave it.
    ///
    /// # Errors
    /// As the implementation says.
    fn write(&mut self, frame: PseudoPhysicalFrame, offset: usize, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// How a vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// rip.
    pub instruction: u64,
    /// rsp.
    pub stack: u64,
    /// rsi: virtual address of `start_info`.
    pub start_info: u64,
    /// The L4 table.
    pub root: MachineFrame,
    /// The first and the number of frames that hold page tables.
    pub tables: (u64, u64),
}

/// What `start_info` says besides what follows from the layout.
pub struct StartInfoFields<'a> {
    /// Pages the domain has.
    pub pages: u64,
    /// Machine frame of `shared_info`.
    pub shared_info: MachineFrame,
    /// `SIF_*`.
    pub flags: u32,
    /// Event channels to the store and the console.
    pub ports: Option<(Port, Port)>,
    /// Its command line; what does not fit is cut.
    pub command_line: &'a str,
    /// Bytes of its module.
    pub module_size: u64,
}

/// Writes everything a domain starts with: kernel, module, list of frames, start information, page tables.
///
/// The frames must be zeroed.
///
/// # Errors
/// The first that `memory` has.
pub fn build<M: DomainMemory>(
    image: &Image<'_>,
    layout: &Layout,
    module: &[u8],
    fields: &StartInfoFields<'_>,
    memory: &mut M,
) -> Result<Entry, M::Error> {
    let ends = image.segments().map(|segment| segment.offset + image.contents(segment).len() as u64);
    memory.announce(PseudoPhysicalFrame(ends.max().unwrap_or_default().div_ceil(PAGE_SIZE)));
    for segment in image.segments() {
        write_bytes(memory, segment.offset, image.contents(segment))?;
    }
    memory.announce(PseudoPhysicalFrame(layout.module.end));
    write_bytes(memory, layout.module.start * PAGE_SIZE, module)?;
    memory.announce(PseudoPhysicalFrame(layout.tables.end));
    write_p2m(memory, layout, fields.pages)?;
    write_tables(memory, layout)?;
    let info = start_info(layout, fields, memory);
    write_bytes(memory, layout.start_info * PAGE_SIZE, info.as_bytes())?;
    Ok(Entry {
        instruction: image.entry,
        stack: layout.address(layout.stack + 1),
        start_info: layout.address(layout.start_info),
        root: memory.machine_frame(PseudoPhysicalFrame(layout.tables.start)),
        tables: (layout.tables.start, layout.tables.end - layout.tables.start),
    })
}

/// Writes bytes at a pseudo-physical address, page by page.
fn write_bytes<M: DomainMemory>(memory: &mut M, address: u64, bytes: &[u8]) -> Result<(), M::Error> {
    let mut done = 0;
    while done < bytes.len() {
        let at = address + done as u64;
        let offset = (at % PAGE_SIZE) as usize;
        let length = (bytes.len() - done).min(PAGE_SIZE as usize - offset);
        memory.write(PseudoPhysicalFrame(at / PAGE_SIZE), offset, &bytes[done..done + length])?;
        done += length;
    }
    Ok(())
}

fn write_p2m<M: DomainMemory>(memory: &mut M, layout: &Layout, pages: u64) -> Result<(), M::Error> {
    for (frame, first) in layout.p2m.clone().zip((0..).step_by(WORDS)) {
        let mut words = [0u64; WORDS];
        let count = pages.saturating_sub(first).min(WORDS as u64);
        for (index, word) in words[..count as usize].iter_mut().enumerate() {
            *word = memory.machine_frame(PseudoPhysicalFrame(first + index as u64)).0;
        }
        memory.write(PseudoPhysicalFrame(frame), 0, words.as_bytes())?;
    }
    Ok(())
}

/// Writes the tables level by level: each level's tables stand in address order behind those of the level above, so
/// entry after entry of one level points to table after table of the next.
fn write_tables<M: DomainMemory>(memory: &mut M, layout: &Layout) -> Result<(), M::Error> {
    let mut first = layout.tables.start;
    let targets = layout.table_counts[1..].iter().chain([&layout.end]);
    for ((level, count), targets) in (1..=4).rev().zip(layout.table_counts).zip(targets) {
        let below = if level > 1 { first + count } else { 0 };
        write_level(memory, layout, (level, first, count), below..below + targets)?;
        first = below;
    }
    Ok(())
}

/// Fills the tables of one level, whose entries point to one frame after the other. Tables are mapped read-only.
fn write_level<M: DomainMemory>(
    memory: &mut M,
    layout: &Layout,
    (level, first, count): (u32, u64, u64),
    mut targets: Range<u64>,
) -> Result<(), M::Error> {
    let span = PAGE_SIZE * ENTRIES.pow(level - 1);
    let mut skipped = (layout.virt_base / span % ENTRIES) as usize;
    for table in 0..count {
        let mut words = [0u64; WORDS];
        for (word, frame) in words[skipped..].iter_mut().zip(&mut targets) {
            let is_mapped_table = level == 1 && layout.tables.contains(&frame);
            let flags = if is_mapped_table { ENTRY } else { ENTRY | WRITABLE };
            *word = memory.machine_frame(PseudoPhysicalFrame(frame)).physical_address() | flags;
        }
        skipped = 0;
        memory.write(PseudoPhysicalFrame(first + table), 0, words.as_bytes())?;
    }
    Ok(())
}

fn start_info<M: DomainMemory>(layout: &Layout, fields: &StartInfoFields<'_>, memory: &M) -> StartInfo {
    let mut info = StartInfo::new_zeroed();
    let magic = b"xen-3.0-x86_64";
    info.magic[..magic.len()].copy_from_slice(magic);
    info.nr_pages = fields.pages;
    info.shared_info = fields.shared_info.physical_address();
    info.flags = fields.flags;
    if let (Some((store_port, console_port)), Some(store), Some(console)) =
        (fields.ports, layout.store, layout.console)
    {
        info.store_mfn = memory.machine_frame(PseudoPhysicalFrame(store));
        info.store_evtchn = store_port;
        let mfn = memory.machine_frame(PseudoPhysicalFrame(console));
        info.console = StartInfoConsole { mfn, evtchn: console_port, _pad: 0 };
    }
    info.pt_base = layout.address(layout.tables.start);
    info.nr_pt_frames = layout.tables.end - layout.tables.start;
    info.mfn_list = layout.p2m_address;
    if fields.module_size > 0 {
        info.mod_start = layout.address(layout.module.start);
        info.mod_len = fields.module_size;
    }
    let line = fields.command_line.as_bytes();
    let length = line.len().min(info.cmd_line.len() - 1);
    info.cmd_line[..length].copy_from_slice(&line[..length]);
    info
}
