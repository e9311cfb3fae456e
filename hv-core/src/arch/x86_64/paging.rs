#![expect(unsafe_code, reason = "builds and loads the hypervisor's own page tables")]
//! The hypervisor's own page tables.
//!
//! They fill L4 slots 256 to 271 and are the same in every address space: guests' L4 tables get copies of these
//! sixteen entries, so the L3 tables below them are made once, while booting, and never replaced. What changes later
//! (device pages, descriptor windows) changes below.

use crate::{
    direct_map,
    frame::FrameInfo,
    layout::{
        DESCRIPTOR_WINDOW_BASE, DIRECT_MAP_BASE, FIRST_HYPERVISOR_SLOT, FRAME_TABLE_BASE, IMAGE_BASE,
        LAST_HYPERVISOR_SLOT, MACHINE_TO_PHYSICAL_BASE, MACHINE_TO_PHYSICAL_WRITABLE_BASE, PAGE_SIZE,
    },
};
use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};
use hypercall_abi::MachineFrame;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED_DIRTY: u64 = 3 << 5;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE_PAGE: u64 = 2 << 20;
/// One page for a look at device registers anywhere, in the gigabyte of the descriptor windows.
const SCRATCH_WINDOW: u64 = DESCRIPTOR_WINDOW_BASE + (256 << 20);

/// Ordinary data of the hypervisor.
const DATA: u64 = PRESENT | WRITABLE | ACCESSED_DIRTY | NO_EXECUTE;
/// Registers of devices.
const DEVICE: u64 = DATA | WRITE_THROUGH | CACHE_DISABLE;

/// Machine address of the hypervisor's own L4 table, which is in force while no guest runs.
static ROOT: AtomicU64 = AtomicU64::new(0);
// Where the linker script puts the end of the code, of the constants, and of the image.
unsafe extern "C" {
    static image_start: u8;
    static image_text_end: u8;
    static image_rodata_end: u8;
    static image_end: u8;
}

/// Machine addresses of the image, from its first boot code to its last variable.
pub fn image_range() -> Range<u64> {
    0x10_0000..&raw const image_end as u64 - IMAGE_BASE
}

/// Hands out zeroed frames before the frame allocator exists.
pub struct EarlyFrames {
    next: u64,
    end: u64,
}

impl EarlyFrames {
    /// Takes frames from this range of machine addresses, upwards.
    pub fn new(range: Range<u64>) -> Self {
        Self { next: range.start.next_multiple_of(PAGE_SIZE), end: range.end }
    }

    /// The next frame, zeroed.
    ///
    /// # Panics
    /// When the range is used up: the machine has too little memory to start.
    pub fn take(&mut self) -> MachineFrame {
        assert!(self.next + PAGE_SIZE <= self.end, "too little memory to start");
        let frame = MachineFrame(self.next / PAGE_SIZE);
        self.next += PAGE_SIZE;
        direct_map::zero(frame);
        frame
    }

    /// 2 MiB, aligned and zeroed; what is skipped for the alignment is lost until the machine restarts.
    fn take_large(&mut self) -> u64 {
        while !self.next.is_multiple_of(LARGE_PAGE) {
            self.take();
        }
        let start = self.next;
        while self.next < start + LARGE_PAGE {
            self.take();
        }
        start
    }

    /// Where the next frame would come from.
    pub fn position(&self) -> u64 {
        self.next
    }
}

/// Index of `address` in a table of `level` (1 to 4).
const fn index(address: u64, level: u32) -> usize {
    (address >> (3 + 9 * level) & 511) as usize
}

/// Builds the page tables. `ram` are the usable ranges of machine addresses, sorted.
pub fn set_up(ram: &[Range<u64>], frames: &mut EarlyFrames) {
    let root = frames.take();
    for slot in FIRST_HYPERVISOR_SLOT..=LAST_HYPERVISOR_SLOT {
        let table = frames.take();
        let flags = if slot == FIRST_HYPERVISOR_SLOT { USER } else { 0 };
        let entry = table.physical_address() | PRESENT | WRITABLE | ACCESSED_DIRTY | flags;
        direct_map::words(root)[slot].store(entry, Ordering::Relaxed);
    }
    ROOT.store(root.physical_address(), Ordering::Relaxed);
    map_image(frames);
    for range in ram {
        map_range(DIRECT_MAP_BASE + range.start, range.clone(), DATA, frames);
    }
    map_frame_tables(direct_map::frame_count(), frames);
    prepare_windows(frames);
    load_root();
}

fn map_image(frames: &mut EarlyFrames) {
    let sections = [
        (&raw const image_start as u64, &raw const image_text_end as u64, PRESENT | ACCESSED_DIRTY),
        (
            &raw const image_text_end as u64,
            &raw const image_rodata_end as u64,
            PRESENT | ACCESSED_DIRTY | NO_EXECUTE,
        ),
        (&raw const image_rodata_end as u64, &raw const image_end as u64, DATA),
    ];
    for (start, end, flags) in sections {
        for address in (start..end).step_by(PAGE_SIZE as usize) {
            table(address, 1, frames)[index(address, 1)]
                .store((address - IMAGE_BASE) | flags, Ordering::Relaxed);
        }
    }
}

/// Maps `range` at `address`, in large pages where both are aligned.
fn map_range(mut address: u64, range: Range<u64>, flags: u64, frames: &mut EarlyFrames) {
    let mut machine = range.start;
    while machine < range.end {
        let fits = machine.is_multiple_of(LARGE_PAGE)
            && address.is_multiple_of(LARGE_PAGE)
            && range.end - machine >= LARGE_PAGE;
        let size = if fits {
            table(address, 2, frames)[index(address, 2)].store(machine | flags | LARGE, Ordering::Relaxed);
            LARGE_PAGE
        } else {
            table(address, 1, frames)[index(address, 1)].store(machine | flags, Ordering::Relaxed);
            PAGE_SIZE
        };
        machine += size;
        address += size;
    }
}

/// Frame table and machine-to-physical table: fresh memory, the latter seen twice.
fn map_frame_tables(frame_count: u64, frames: &mut EarlyFrames) {
    let table_size = frame_count * size_of::<FrameInfo>() as u64;
    for address in (FRAME_TABLE_BASE..FRAME_TABLE_BASE + table_size).step_by(PAGE_SIZE as usize) {
        let frame = frames.take();
        table(address, 1, frames)[index(address, 1)]
            .store(frame.physical_address() | DATA, Ordering::Relaxed);
    }
    let for_guests = PRESENT | USER | ACCESSED_DIRTY | NO_EXECUTE;
    for offset in (0..frame_count * 8).step_by(LARGE_PAGE as usize) {
        let extent = frames.take_large();
        for (base, flags) in
            [(MACHINE_TO_PHYSICAL_WRITABLE_BASE, DATA), (MACHINE_TO_PHYSICAL_BASE, for_guests)]
        {
            let address = base + offset;
            table(address, 2, frames)[index(address, 2)].store(extent | flags | LARGE, Ordering::Relaxed);
        }
    }
}

/// The first frame of piece `number` of the machine-to-physical table, which is made of 2 MiB each.
pub fn machine_to_physical_extent(number: u64) -> Option<MachineFrame> {
    let address = MACHINE_TO_PHYSICAL_BASE.checked_add(number.checked_mul(LARGE_PAGE)?)?;
    if index(address, 4) != FIRST_HYPERVISOR_SLOT {
        return None;
    }
    let mut current = direct_map::words(MachineFrame(ROOT.load(Ordering::Relaxed) / PAGE_SIZE));
    for level in [4, 3] {
        let entry = current[index(address, level)].load(Ordering::Relaxed);
        if entry & PRESENT == 0 {
            return None;
        }
        current = direct_map::words(MachineFrame((entry & ADDRESS) / PAGE_SIZE));
    }
    let entry = current[index(address, 2)].load(Ordering::Relaxed);
    (entry & PRESENT != 0).then_some(MachineFrame((entry & ADDRESS) / PAGE_SIZE))
}

/// The L1 tables of the descriptor windows and of the devices' gigabyte, so that mapping there never allocates.
fn prepare_windows(frames: &mut EarlyFrames) {
    table(DESCRIPTOR_WINDOW_BASE, 1, frames);
    table(SCRATCH_WINDOW, 1, frames);
    const DEVICES: u64 = 0xfec0_0000;
    for address in (DEVICES..DEVICES + 3 * LARGE_PAGE).step_by(LARGE_PAGE as usize) {
        table(DIRECT_MAP_BASE + address, 1, frames);
    }
}

/// The table of `level` that `address` is looked up in, made on the way if need be.
fn table(address: u64, level: u32, frames: &mut EarlyFrames) -> &'static [AtomicU64; 512] {
    let mut current = direct_map::words(MachineFrame(ROOT.load(Ordering::Relaxed) / PAGE_SIZE));
    for above in (level + 1..=4).rev() {
        let slot = &current[index(address, above)];
        if slot.load(Ordering::Relaxed) & PRESENT == 0 {
            let user = if index(address, 4) == FIRST_HYPERVISOR_SLOT { USER } else { 0 };
            let fresh = frames.take().physical_address();
            slot.store(fresh | PRESENT | WRITABLE | ACCESSED_DIRTY | user, Ordering::Relaxed);
        }
        current = direct_map::words(MachineFrame((slot.load(Ordering::Relaxed) & ADDRESS) / PAGE_SIZE));
    }
    current
}

/// An existing L1 entry of the hypervisor's.
fn existing(address: u64) -> Option<&'static AtomicU64> {
    let mut current = direct_map::words(MachineFrame(ROOT.load(Ordering::Relaxed) / PAGE_SIZE));
    for level in (2..=4).rev() {
        let entry = current[index(address, level)].load(Ordering::Relaxed);
        if entry & PRESENT == 0 || entry & LARGE != 0 {
            return None;
        }
        current = direct_map::words(MachineFrame((entry & ADDRESS) / PAGE_SIZE));
    }
    Some(&current[index(address, 1)])
}

/// The hypervisor's entries of every L4 table.
pub fn hypervisor_slots() -> [u64; LAST_HYPERVISOR_SLOT - FIRST_HYPERVISOR_SLOT + 1] {
    let root = direct_map::words(MachineFrame(ROOT.load(Ordering::Relaxed) / PAGE_SIZE));
    core::array::from_fn(|slot| root[FIRST_HYPERVISOR_SLOT + slot].load(Ordering::Relaxed))
}

/// Machine address of the hypervisor's own L4 table.
pub fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// Leaves whatever guest address space is in force for the hypervisor's own.
pub fn load_root() {
    load(ROOT.load(Ordering::Relaxed));
}

/// Loads an L4 table, which flushes the TLB.
pub fn load(root: u64) {
    // SAFETY: the table is the hypervisor's, or a guest's that was validated and has the hypervisor's slots.
    unsafe { x86::controlregs::cr3_write(root) };
}

/// Maps one page of a descriptor window. The caller flushes the TLB, or loads an address space, before the CPU may look
/// there.
pub fn map_window_page(address: u64, frame: MachineFrame) {
    if let Some(entry) = existing(address) {
        entry.store(frame.physical_address() | DATA, Ordering::Relaxed);
    }
}

/// Where device registers at any machine address can be reached until the next call: there is one such window, and
/// the caller holds the lock of the interrupt table, which is all it is for.
pub fn map_device_anywhere(address: u64) -> Option<*mut u8> {
    let entry = existing(SCRATCH_WINDOW)?;
    entry.store(address & ADDRESS | DEVICE, Ordering::Relaxed);
    super::tlb::flush_page_local(SCRATCH_WINDOW);
    Some((SCRATCH_WINDOW + address % PAGE_SIZE) as *mut u8)
}

/// Where the hypervisor reaches device registers at this machine address; `None` outside the devices' part of the
/// first 4 GiB that was prepared for it, or where a table is missing.
pub fn map_device(address: u64) -> Option<*mut u8> {
    let place = DIRECT_MAP_BASE + address;
    let entry = existing(place & !(PAGE_SIZE - 1))?;
    entry.store(address & !(PAGE_SIZE - 1) | DEVICE, Ordering::Relaxed);
    super::tlb::flush_page_local(place);
    Some(place as *mut u8)
}
