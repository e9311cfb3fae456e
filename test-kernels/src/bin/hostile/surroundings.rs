#![expect(unsafe_code, reason = "reads the machine-to-physical table")]
//! Which frames of the machine are this domain's own, and which are not.
//!
//! The machine-to-physical table is readable by everybody and has a number for each frame that a domain has: the
//! frame's number in that domain. So a frame with a number that is not one of this domain's own is some other
//! domain's; one without a number is free, or the hypervisor's, or shared by it with a domain, or no memory at all.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::arch_x86::MACH2PHYS_VIRT_START;
use hypercall_abi::grant_table::{
    GNTTABOP_QUERY_SIZE, GNTTABOP_SETUP_TABLE, GnttabQuerySize, GnttabSetupTable,
};
use hypercall_abi::memory::{MachphysMapping, XENMEM_MACHPHYS_MAPPING};
use hypercall_abi::{DomainId, MachineFrame};
use pv_runtime::memory::{BuilderPage, SharedMemory, own_frames};

use crate::attacker::Attacker;
use crate::entry::{PRESENT, frame_of};
use crate::report::accepted;

/// In the machine-to-physical table: no domain has a number for the frame.
const NO_NUMBER: u64 = u64::MAX;
/// Entries of a root that are the hypervisor's.
const HYPERVISOR_SLOTS: core::ops::RangeInclusive<usize> = 256..=271;
/// How many frames of a kind are attacked one by one.
const SAMPLES: usize = 12;

/// The machine's frames, as this domain sees them.
pub struct Surroundings {
    own: BTreeSet<u64>,
    /// The last frame of the machine's memory.
    pub last: MachineFrame,
}

impl Surroundings {
    /// Looks around.
    pub fn look(attacker: &Attacker) -> Result<Self, String> {
        let mut mapping = MachphysMapping::default();
        accepted("asking for the table", attacker.memory_op(XENMEM_MACHPHYS_MAPPING, &mut mapping))?;
        let mut own: BTreeSet<u64> = own_frames().map(|frame| frame.0).collect();
        collect_mapped(attacker.root, 4, &mut own);
        own.extend(grant_frames(attacker)?);
        Ok(Self { own, last: MachineFrame(mapping.max_mfn) })
    }

    /// Whether a frame is this domain's.
    pub fn is_own(&self, frame: MachineFrame) -> bool {
        self.own.contains(&frame.0)
    }

    /// All frames of the machine's memory that are not this domain's.
    pub fn foreign(&self) -> impl Iterator<Item = MachineFrame> + '_ {
        (0..=self.last.0).map(MachineFrame).filter(|frame| !self.is_own(*frame))
    }

    /// Some frames that other domains have.
    pub fn others(&self) -> Vec<MachineFrame> {
        sample(self.foreign().filter(|frame| number_of(*frame) != NO_NUMBER).collect())
    }

    /// Some frames that no domain has: free ones, the hypervisor's own, and what is no memory.
    pub fn nobodys(&self) -> Vec<MachineFrame> {
        sample(self.foreign().filter(|frame| number_of(*frame) == NO_NUMBER).collect())
    }

    /// Some of all frames that are not this domain's.
    pub fn samples(&self) -> Vec<MachineFrame> {
        let mut frames = self.others();
        frames.extend(self.nobodys());
        frames
    }
}

/// A few frames from all over a list, its first and its last among them.
fn sample(frames: Vec<MachineFrame>) -> Vec<MachineFrame> {
    let step = (frames.len() / SAMPLES).max(1);
    let mut chosen: Vec<_> = frames.iter().copied().step_by(step).collect();
    chosen.extend(frames.last());
    chosen
}

/// What the machine-to-physical table says of a frame of the machine's memory.
pub fn number_of(frame: MachineFrame) -> u64 {
    let place = (MACH2PHYS_VIRT_START + 8 * frame.0) as *const u64;
    // SAFETY: the table is mapped for all of the machine's memory, and every caller got the frame's number from
    // there or from the hypervisor. It changes at any time, hence volatile.
    unsafe { place.read_volatile() }
}

/// Adds every frame that a table names, directly or through tables below it, and the table itself.
fn collect_mapped(table: MachineFrame, level: u32, frames: &mut BTreeSet<u64>) {
    frames.insert(table.0);
    let Ok(page) = BuilderPage::find(table) else { return };
    for index in 0..512 {
        let entry = page.read::<u64>(8 * index);
        let is_foreign = level == 4 && HYPERVISOR_SLOTS.contains(&index);
        if entry & PRESENT == 0 || is_foreign {
            continue;
        }
        if level == 1 {
            frames.insert(frame_of(entry).0);
        } else {
            collect_mapped(frame_of(entry), level - 1, frames);
        }
    }
}

/// The frames of this domain's grant table.
fn grant_frames(attacker: &Attacker) -> Result<Vec<u64>, String> {
    let mut size = GnttabQuerySize { dom: DomainId::SELF, ..Default::default() };
    let answer = attacker.grant_op(GNTTABOP_QUERY_SIZE, core::slice::from_mut(&mut size));
    accepted("asking for the grant table's size", answer)?;
    let mut frames = alloc::vec![0; size.nr_frames as usize];
    let mut table = GnttabSetupTable {
        dom: DomainId::SELF,
        nr_frames: size.nr_frames,
        frame_list: frames.as_mut_ptr() as u64,
        ..Default::default()
    };
    let answer = attacker.grant_op(GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut table));
    accepted("asking for the grant table's frames", answer)?;
    Ok(frames)
}
