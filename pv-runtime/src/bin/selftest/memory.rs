#![expect(unsafe_code, reason = "maps pages a second time")]
//! Checks of pages, heap and mappings.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::{DomainId, MachineFrame, PAGE_SIZE};
use pv_runtime::memory::{
    Page, PageRun, Protection, SharedMemory, map_machine_frames, map_own_frames, page_count,
    page_table_entry_address,
};

use crate::{Outcome, during, expect};

/// The heap takes pages and gives them back.
pub async fn heap() -> Outcome {
    let before = page_count().free;
    for round in 1..=3_usize {
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for index in 0..500_usize {
            blocks.push(vec![index as u8; 16 + index * round * 7]);
        }
        let large = vec![0x5a_u8; before / 2 * PAGE_SIZE];
        for (index, block) in blocks.iter().enumerate() {
            expect(block.iter().all(|byte| *byte == index as u8), "a block changed by itself")?;
        }
        expect(large.iter().step_by(PAGE_SIZE).all(|byte| *byte == 0x5a), "the large block changed")?;
    }
    let after = page_count().free;
    expect(before.abs_diff(after) <= 64, format!("{before} pages were free before, {after} after"))
}

/// Pages are zero, have frames of their own, and are free again when dropped.
pub async fn pages() -> Outcome {
    let before = page_count().free;
    {
        let run = during("five pages", PageRun::new(5))?;
        let mut frames: Vec<MachineFrame> = run.machine_frames().collect();
        run.write(2 * PAGE_SIZE - 4, &0x1122_3344_5566_7788_u64);
        expect(run.read::<u32>(2 * PAGE_SIZE) == 0x1122_3344, "a value across two pages is wrong")?;
        frames.sort_unstable();
        frames.dedup();
        expect(frames.len() == 5, "two pages have the same frame")?;
        let contiguous = during("contiguous pages", PageRun::machine_contiguous(8))?;
        let first = contiguous.machine_frame(0).0;
        expect(
            (0..8).all(|index| contiguous.machine_frame(index).0 == first + index as u64),
            "not contiguous",
        )?;
        contiguous.copy_in(0, &[1; 100]);
    }
    let page = during("a page", Page::new())?;
    expect(
        page.bytes().iter().all(|byte| byte.load(core::sync::atomic::Ordering::Relaxed) == 0),
        "not zero",
    )?;
    drop(page);
    expect(page_count().free == before, "pages were lost")
}

/// One frame at two addresses is one memory.
pub async fn map_own_frame() -> Outcome {
    let run = during("two pages", PageRun::new(2))?;
    let backwards = [run.machine_frame(1), run.machine_frame(0)];
    // SAFETY: pages of a run are reached as shared memory only.
    let mapping = during("mapping", unsafe { map_own_frames(&backwards, Protection::ReadWrite) })?;
    run.copy_in(0, b"first");
    mapping.copy_in(0, b"second");
    let mut text = [0; 6];
    run.copy_out(PAGE_SIZE, &mut text);
    expect(&text == b"second", "the page does not show what the mapping wrote")?;
    mapping.copy_out(PAGE_SIZE, &mut text);
    expect(&text[..5] == b"first", "the mapping does not show what the page holds")
}

/// Frames that are no memory, and page tables, cannot be mapped as one's own writable memory.
pub async fn map_refused() -> Outcome {
    let nothing = MachineFrame(u64::MAX >> 24);
    let page = during("a page", Page::new())?;
    let entry =
        page_table_entry_address(page.virtual_address() as u64).ok_or("a page without a page table")?;
    let table = MachineFrame::containing(entry);
    for frame in [nothing, table] {
        // SAFETY: neither is memory in Rust's hands.
        let mapping = unsafe { map_own_frames(&[frame], Protection::ReadWrite) };
        expect(mapping.is_err(), format!("frame {frame} was mapped"))?;
    }
    // SAFETY: likewise.
    let many = unsafe { map_own_frames(&vec![nothing; 300], Protection::ReadOnly) };
    expect(many.is_err(), "300 frames were mapped")?;
    let through_safe_door = map_machine_frames(&[page.machine_frame()], DomainId::SELF, Protection::ReadOnly);
    expect(through_safe_door.is_err(), "own frames were mapped as foreign ones")?;
    // SAFETY: page tables are never written through Rust.
    let readable = during("mapping a table", unsafe { map_own_frames(&[table], Protection::ReadOnly) })?;
    let shown = readable.read::<u64>(entry as usize % PAGE_SIZE);
    let frame = MachineFrame::containing(shown & 0x000f_ffff_ffff_f000);
    expect(frame == page.machine_frame(), format!("the page's entry is {shown:#x}"))
}
