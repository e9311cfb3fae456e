//! Counting every frame anew, to compare with the books kept on the way.

use super::{FrameType, info};
use crate::direct_map;
use hypercall_abi::{DomainId, MachineFrame};

/// Every machine frame, by the one owner it has.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// In the allocator.
    pub free: u64,
    /// The hypervisor's own.
    pub hypervisor: u64,
    /// No memory.
    pub io: u64,
    /// Some domain's.
    pub owned: u64,
}

/// The frames of one domain.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct DomainLedger {
    /// Those it possesses.
    pub possessed: u64,
    /// Those it has given up but that are still used.
    pub lingering: u64,
    /// Those the hypervisor shares with it; they do not count towards its total.
    pub shared: u64,
    /// Those in use as page tables or descriptor tables.
    pub tables: u64,
    /// Those some domain may write.
    pub writable: u64,
}

impl DomainLedger {
    /// What [`super::DomainMemory::total`] must say.
    pub fn total(&self) -> u64 {
        self.possessed + self.lingering
    }
}

/// Counts all frames of the machine by owner. Takes time in proportion to memory.
pub fn recount() -> Ledger {
    let mut ledger = Ledger::default();
    for info in (0..direct_map::frame_count()).filter_map(|frame| info(MachineFrame(frame))) {
        let counter = match info.state().owner() {
            DomainId::INVALID => &mut ledger.free,
            DomainId::XEN => &mut ledger.hypervisor,
            DomainId::IO => &mut ledger.io,
            _ => &mut ledger.owned,
        };
        *counter += 1;
    }
    ledger
}

/// Counts the frames of one domain. Takes time in proportion to memory.
pub fn recount_domain(owner: DomainId) -> DomainLedger {
    let mut ledger = DomainLedger::default();
    let states = (0..direct_map::frame_count()).filter_map(|frame| Some(info(MachineFrame(frame))?.state()));
    for state in states.filter(|state| state.owner() == owner) {
        match (state.is_allocated(), state.is_shared()) {
            (true, _) => ledger.possessed += 1,
            (false, true) => ledger.shared += 1,
            (false, false) => ledger.lingering += 1,
        }
        match state.frame_type() {
            FrameType::None => (),
            FrameType::Writable => ledger.writable += 1,
            _ => ledger.tables += 1,
        }
    }
    ledger
}
