//! Kernels made by hand, built into a domain that is a block of bytes, and read back through its page tables.

use crate::{DomainMemory, Image, ImageError, Layout, LayoutError, Plan, StartInfoFields, build};
use hypercall_abi::{MachineFrame, Port, PseudoPhysicalFrame, xen::StartInfo};
use proptest::prelude::*;
use std::{vec, vec::Vec};
use zerocopy::{FromBytes, IntoBytes};

const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
const TEXT: u64 = 0x20_0000;

fn note(kind: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = [4u32, value.len() as u32, kind].as_bytes().to_vec();
    bytes.extend_from_slice(b"Xen\0");
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

struct Kernel {
    notes: Vec<Vec<u8>>,
    /// Physical address, size in memory, contents.
    segments: Vec<(u64, u64, Vec<u8>)>,
}

impl Kernel {
    fn good() -> Self {
        Self {
            notes: vec![
                note(5, b"xen-3.0\0"),
                note(3, VIRT_BASE.as_bytes()),
                note(1, (VIRT_BASE + TEXT).as_bytes()),
                note(2, (VIRT_BASE + TEXT + 0x1000).as_bytes()),
            ],
            segments: vec![(TEXT, 0x3000, (0..0x2345).map(|byte| byte as u8).collect())],
        }
    }

    fn file(&self) -> Vec<u8> {
        let notes = self.notes.concat();
        let headers = 1 + self.segments.len();
        let mut offset = 64 + 56 * headers as u64;
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend_from_slice([2u16, 62].as_bytes());
        file.extend_from_slice(1u32.as_bytes());
        file.extend_from_slice([0u64, 64, 0].as_bytes());
        file.extend_from_slice(0u32.as_bytes());
        file.extend_from_slice([64u16, 56, headers as u16, 0, 0, 0].as_bytes());
        let mut header = |kind: u32, address: u64, file_size: u64, size: u64| {
            file.extend_from_slice([kind, 7].as_bytes());
            file.extend_from_slice([offset, address, address, file_size, size, 4].as_bytes());
            offset += file_size;
        };
        header(4, 0, notes.len() as u64, notes.len() as u64);
        for (address, size, contents) in &self.segments {
            header(1, *address, contents.len() as u64, *size);
        }
        file.extend_from_slice(&notes);
        self.segments.iter().for_each(|segment| file.extend_from_slice(&segment.2));
        file
    }

    fn error(&self) -> ImageError {
        Image::parse(&self.file()).err().expect("it is refused")
    }
}

#[test]
fn reads_what_a_kernel_asks_for() {
    let file = Kernel::good().file();
    let image = Image::parse(&file).expect("a good kernel");
    assert_eq!(image.virt_base, VIRT_BASE);
    assert_eq!(image.entry, VIRT_BASE + TEXT);
    assert_eq!(image.hypercall_page, Some(VIRT_BASE + TEXT + 0x1000));
    assert_eq!(image.size(), TEXT + 0x3000);
}

#[test]
fn names_what_is_wrong_with_a_file() {
    assert_eq!(Image::parse(b"#!/bin/sh").err(), Some(ImageError::NotElf));
    assert_eq!(Image::parse(&[]).err(), Some(ImageError::NotElf));
    assert_eq!(Kernel { notes: vec![], ..Kernel::good() }.error(), ImageError::NoXenNotes);
    let mut kernel = Kernel::good();
    kernel.notes[0] = note(5, b"xen-2.0\0");
    assert_eq!(kernel.error(), ImageError::WrongVersion);
    let mut kernel = Kernel::good();
    kernel.notes.remove(1);
    assert_eq!(kernel.error(), ImageError::MissingNote("VIRT_BASE"));
    assert_eq!(Kernel { segments: vec![], ..Kernel::good() }.error(), ImageError::Segments(0));
    let mut kernel = Kernel::good();
    kernel.segments[0].0 = 0x40_0000;
    assert_eq!(kernel.error(), ImageError::OutsideImage("entry point"));
}

#[test]
fn refuses_a_file_that_is_cut_short() {
    let file = Kernel::good().file();
    let cut = Image::parse(&file[..file.len() - 1]).err();
    assert_eq!(cut, Some(ImageError::BadSegment { address: VIRT_BASE + TEXT }));
}

#[test]
fn refuses_another_machines_file() {
    let mut file = Kernel::good().file();
    file[18] = 183;
    assert_eq!(Image::parse(&file).err(), Some(ImageError::WrongKind));
}

#[test]
fn says_how_much_memory_is_needed() {
    let file = Kernel::good().file();
    let image = Image::parse(&file).expect("a good kernel");
    let plan = Plan { pages: 512, module: 0, has_store_and_console: true };
    let error = Layout::plan(&image, &plan).expect_err("2 MiB are too little");
    assert_eq!(error, LayoutError::TooLittleMemory { needed: 1024, available: 512 });
    assert!(Layout::plan(&image, &Plan { pages: 1024, ..plan }).is_ok());
}

/// A domain whose machine frames are its own in another order.
struct Domain(Vec<[u8; 4096]>);

const FIRST_MACHINE_FRAME: u64 = 0x1000;

impl Domain {
    fn of_machine(&self, frame: u64) -> &[u8; 4096] {
        &self.0[self.0.len() - 1 - (frame - FIRST_MACHINE_FRAME) as usize]
    }

    /// Reads through the page tables.
    fn at(&self, root: MachineFrame, address: u64) -> (&[u8], bool) {
        let mut frame = root.0;
        let mut writable = true;
        for level in (1..=4).rev() {
            let index = (address >> (3 + 9 * level) & 511) as usize;
            let entry =
                u64::read_from_bytes(&self.of_machine(frame)[8 * index..8 * index + 8]).expect("a word");
            assert_eq!(entry & 1, 1, "{address:#x} is mapped at level {level}");
            writable &= entry & 2 != 0;
            frame = entry >> 12;
        }
        (&self.of_machine(frame)[(address & 0xfff) as usize..], writable)
    }
}

impl DomainMemory for Domain {
    type Error = core::convert::Infallible;

    fn machine_frame(&self, frame: PseudoPhysicalFrame) -> MachineFrame {
        MachineFrame(FIRST_MACHINE_FRAME + self.0.len() as u64 - 1 - frame.0)
    }

    fn write(&mut self, frame: PseudoPhysicalFrame, offset: usize, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0[frame.0 as usize][offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn a_built_domain_finds_everything_where_it_is_told() {
    let file = Kernel::good().file();
    let image = Image::parse(&file).expect("a good kernel");
    let module = [7u8; 5000];
    let plan = Plan { pages: 2048, module: 5000, has_store_and_console: true };
    let layout = Layout::plan(&image, &plan).expect("it fits");
    let mut domain = Domain(vec![[0; 4096]; 2048]);
    let fields = StartInfoFields {
        pages: 2048,
        shared_info: MachineFrame(0x99),
        flags: 0,
        ports: Some((Port(1), Port(2))),
        command_line: "hello",
        module_size: 5000,
    };
    let Ok(entry) = build(&image, &layout, &module, &fields, &mut domain);
    let read = |address| domain.at(entry.root, address);
    assert_eq!(read(entry.instruction).0[..16], file[file.len() - 0x2345..][..16]);
    let (info, _) = StartInfo::read_from_prefix(read(entry.start_info).0).expect("a page");
    assert_eq!(&info.magic[..15], b"xen-3.0-x86_64\0");
    assert_eq!((info.nr_pages, info.shared_info, info.mod_len), (2048, 0x99 << 12, 5000));
    assert_eq!(read(info.mod_start).0[0], 7);
    assert_eq!(&info.cmd_line[..6], b"hello\0");
    let (last, _) = u64::read_from_prefix(read(info.mfn_list + 8 * 2047).0).expect("a word");
    assert_eq!(last, FIRST_MACHINE_FRAME);
    assert_eq!(info.store_mfn, domain.machine_frame(PseudoPhysicalFrame(layout.store.expect("it has one"))));
    assert!(read(entry.stack - 8).1, "the stack is writable");
    for table in 0..info.nr_pt_frames {
        assert!(!read(info.pt_base + 4096 * table).1, "page tables are not");
    }
    assert!(read(VIRT_BASE + layout.end * 4096 - 1).1, "mapped up to the end");
    assert_eq!(layout.end * 4096 % (4 << 20), 0);
    assert!((layout.end - layout.stack - 1) * 4096 >= 512 << 10);
}

#[test]
fn the_tables_are_in_the_last_4_mib_even_if_the_stack_would_end_before() {
    let file = Kernel::good().file();
    let image = Image::parse(&file).expect("a good kernel");
    let mut moved = 0;
    for module in (0..8 << 20).step_by(64 << 10) {
        let plan = Plan { pages: 1 << 16, module, has_store_and_console: true };
        let layout = Layout::plan(&image, &plan).expect("there is memory");
        assert!(layout.tables.start >= layout.end - 1024, "{layout:?}");
        assert!((layout.end - layout.stack - 1) * 4096 >= 512 << 10, "{layout:?}");
        moved += u32::from(layout.tables.start > layout.console.expect("it has one") + 1);
    }
    assert!(moved > 5, "{moved}");
}

proptest! {
    #[test]
    fn no_damage_to_a_file_is_a_panic(changes in prop::collection::vec((0usize..0x2600, any::<u8>()), 1..20), cut in 0usize..0x2600) {
        let mut file = Kernel::good().file();
        for (place, value) in changes {
            if let Some(byte) = file.get_mut(place) {
                *byte = value;
            }
        }
        file.truncate(cut.max(1));
        if let Ok(image) = Image::parse(&file) {
            let _ = Layout::plan(&image, &Plan { pages: 4096, module: 1, has_store_and_console: false });
            image.segments().for_each(|segment| assert!(image.contents(segment).len() as u64 <= segment.size));
        }
    }

    #[test]
    fn every_layout_maps_its_own_tables(size in 1u64..0x400_0000, module in 0u64..0x800_0000, pages in 1u64..0x10_0000) {
        let mut kernel = Kernel::good();
        kernel.segments[0].1 = kernel.segments[0].1.max(size);
        let file = kernel.file();
        let image = Image::parse(&file).expect("a good kernel");
        if let Ok(layout) = Layout::plan(&image, &Plan { pages, module, has_store_and_console: true }) {
            prop_assert!(layout.end <= pages);
            prop_assert!(layout.stack < layout.end);
            prop_assert!(layout.table_counts[3] * 512 >= layout.end);
            prop_assert_eq!(layout.tables.end - layout.tables.start, layout.table_counts.iter().sum::<u64>());
        }
    }
}
