//! Writing a domain's memory according to its layout.

use crate::{Image, Layout};
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
    for segment in image.segments() {
        write_bytes(memory, segment.offset, image.contents(segment))?;
    }
    write_bytes(memory, layout.module.start * PAGE_SIZE, module)?;
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
    let [l4, l3, l2, l1] = layout.table_counts;
    let starts = [l4, l3, l2].into_iter().scan(layout.tables.start, |next, count| {
        *next += count;
        Some(*next)
    });
    let mut first = layout.tables.start;
    for ((level, count), (below, targets)) in
        [(4, l4), (3, l3), (2, l2)].into_iter().zip(starts.zip([l3, l2, l1]))
    {
        write_level(memory, layout, (level, first, count), &|index| {
            (index < targets).then_some((below + index, WRITABLE))
        })?;
        first = below;
    }
    write_level(memory, layout, (1, first, l1), &|frame| {
        let flags = if layout.tables.contains(&frame) { 0 } else { WRITABLE };
        (frame < layout.end).then_some((frame, flags))
    })
}

/// Fills the tables of one level. `target` gives frame and flags for the entry that is so many entries behind the first.
fn write_level<M: DomainMemory>(
    memory: &mut M,
    layout: &Layout,
    (level, first, count): (u32, u64, u64),
    target: &dyn Fn(u64) -> Option<(u64, u64)>,
) -> Result<(), M::Error> {
    let span = PAGE_SIZE * ENTRIES.pow(level - 1);
    let skipped = layout.virt_base / span % ENTRIES;
    for table in 0..count {
        let mut words = [0u64; WORDS];
        for (slot, word) in (0u64..).zip(&mut words) {
            let entry = (table * ENTRIES + slot).checked_sub(skipped).and_then(target);
            if let Some((frame, flags)) = entry {
                *word = memory.machine_frame(PseudoPhysicalFrame(frame)).physical_address() | ENTRY | flags;
            }
        }
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
