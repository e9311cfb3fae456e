//! A guest for tests: a domain with memory that builds real page tables, and an auditor that counts everything anew.

use super::{ENTRIES, Entry, TableSession, is_hypervisor_slot};
use crate::{
    direct_map,
    domain::{DomainRef, stage},
    frame::{self, FrameType, info},
    frame_allocator::{self, Limit},
    hypercall::HypercallError,
    lifecycle::{self, Configuration},
};
use core::sync::atomic::Ordering;
use hypercall_abi::{DomainId, Errno, MachineFrame};
use std::{vec, vec::Vec};

/// Present, writable, for everybody.
pub const RW: u64 = Entry::PRESENT | Entry::WRITABLE | Entry::USER;
/// Present, for everybody.
pub const RO: u64 = Entry::PRESENT | Entry::USER;

/// A domain under test.
pub struct TestGuest {
    pub domain: DomainRef,
}

/// One branch of page tables, from the root down.
#[derive(Clone, Copy)]
pub struct Branch {
    pub l4: MachineFrame,
    pub l3: MachineFrame,
    pub l2: MachineFrame,
    pub l1: MachineFrame,
}

impl TestGuest {
    /// A domain that runs (or for the control domain, could).
    pub fn new(id: u16) -> Self {
        let guest = Self::under_construction(id);
        guest.domain.stage.store(stage::ALIVE, Ordering::Release);
        guest
    }

    /// A domain that its builder is at work on. Domain 0 is the control domain.
    pub fn under_construction(id: u16) -> Self {
        let configuration = Configuration {
            id: DomainId(id),
            is_privileged: id == 0,
            handle: [0; 16],
            highest_port: u32::MAX,
            grant_frames: 4,
            maptrack_frames: 4,
            newest_grants: crate::grant_table::Version::Two,
        };
        let domain = lifecycle::create(&configuration).expect("room for a domain");
        domain.memory.set_maximum(1 << 20);
        Self { domain }
    }

    pub fn id(&self) -> DomainId {
        self.domain.id
    }

    /// A fresh zeroed frame.
    pub fn frame(&self) -> MachineFrame {
        frame_allocator::allocate_for_domain(&self.domain, 0, Limit::Any).expect("room for a frame")
    }

    /// Four fresh tables, each named by the first entry of the one above. The guest still owns them as plain
    /// memory and may write what it likes.
    pub fn branch(&self) -> Branch {
        let [l4, l3, l2, l1] = [(); 4].map(|()| self.frame());
        write(l4, 0, Entry::new(l3, RW));
        write(l3, 0, Entry::new(l2, RW));
        write(l2, 0, Entry::new(l1, RW));
        Branch { l4, l3, l2, l1 }
    }

    /// A branch whose root is pinned.
    pub fn pinned_branch(&self) -> Branch {
        let branch = self.branch();
        self.pin(branch.l4, 4).expect("a good tree");
        branch
    }

    pub fn session(&self) -> TableSession<'_> {
        TableSession::open(&self.domain, u32::MAX).expect("an unlimited budget")
    }

    pub fn pin(&self, table: MachineFrame, level: u8) -> Result<(), HypercallError> {
        let mut session = self.session();
        let outcome = session.pin(table, level);
        session.finish_undoing().expect("an unlimited budget");
        outcome
    }

    pub fn unpin(&self, table: MachineFrame) -> Result<(), HypercallError> {
        let mut session = self.session();
        let outcome = session.unpin(table);
        session.finish_undoing().expect("an unlimited budget");
        outcome
    }

    pub fn update(&self, table: MachineFrame, index: usize, entry: Entry) -> Result<(), HypercallError> {
        let mut session = self.session();
        let outcome = session.update((table, index), entry, super::Write::Plain).unwrap_or(INVALID);
        session.finish_undoing().expect("an unlimited budget");
        outcome
    }

    /// Destroys the domain in pieces of `budget`; returns how many there were.
    pub fn destroy(self, budget: u32) -> usize {
        self.domain.stage.store(stage::DYING, Ordering::Release);
        frame::unshare(&self.domain, self.domain.shared_info);
        let mut pieces = 1;
        while frame::release_some(&self.domain, budget) == frame::Progress::More {
            pieces += 1;
        }
        pieces
    }
}

/// A guest's own write to memory it can write.
pub fn write(frame: MachineFrame, index: usize, entry: Entry) {
    direct_map::words(frame)[index].store(entry.0, Ordering::Relaxed);
}

/// What an entry says now.
pub fn read(frame: MachineFrame, index: usize) -> Entry {
    Entry(direct_map::words(frame)[index].load(Ordering::Relaxed))
}

pub const INVALID: Result<(), HypercallError> = Err(HypercallError::Errno(Errno::EINVAL));
pub const BUSY: Result<(), HypercallError> = Err(HypercallError::Errno(Errno::EBUSY));
pub const FORBIDDEN: Result<(), HypercallError> = Err(HypercallError::Errno(Errno::EPERM));

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Count {
    references: u64,
    typed: u64,
}

/// [`audit_with`] uses of roots alone.
pub fn audit(roots: &[MachineFrame]) {
    audit_with(roots, &[], &[]);
}

/// Counts every use of every frame from the tables themselves and compares with the state words: no frame may be
/// used that does not say so, or say so without being used. `roots` are uses that vCPUs have, `read` and `written`
/// uses that the test itself has. That no frame is mapped writable and a table at once follows from each typed use
/// agreeing with the type, which is checked too.
pub fn audit_with(roots: &[MachineFrame], read: &[MachineFrame], written: &[MachineFrame]) {
    let mut counts = vec![Count::default(); direct_map::frame_count() as usize];
    let frames: Vec<_> = (0..direct_map::frame_count()).map(MachineFrame).collect();
    for &frame in &frames {
        count_own_uses(frame, &mut counts);
        count_entries(frame, &mut counts);
    }
    roots.iter().for_each(|frame| use_as(*frame, FrameType::L4, &mut counts));
    written.iter().for_each(|frame| use_as(*frame, FrameType::Writable, &mut counts));
    read.iter().for_each(|frame| counts[frame.0 as usize].references += 1);
    for frame in frames.into_iter().filter(|frame| frame::owner(*frame).is_some()) {
        let state = info(frame).unwrap().state();
        let said = Count { references: state.references(), typed: state.typed() };
        assert_eq!(said, counts[frame.0 as usize], "frame {frame}: says {said:?}: {state:?}");
    }
    balance();
}

/// The ledgers agree with the books kept on the way.
fn balance() {
    let ledger = frame::recount();
    assert_eq!(ledger.free, frame_allocator::free_frames());
    assert_eq!(ledger.free + ledger.hypervisor + ledger.io + ledger.owned, direct_map::frame_count());
    let mut owned = 0;
    for domain in (0..64).filter_map(|id| crate::domain::find(DomainId(id))) {
        let ledger = frame::recount_domain(domain.id);
        assert_eq!(ledger.total(), domain.memory.total(), "{ledger:?}");
        owned += ledger.total() + ledger.shared;
    }
    assert_eq!(owned, ledger.owned);
}

fn count_own_uses(frame: MachineFrame, counts: &mut [Count]) {
    let state = info(frame).unwrap().state();
    let count = &mut counts[frame.0 as usize];
    count.references += u64::from(state.is_allocated()) + u64::from(state.is_half_done());
    count.references += u64::from(state.is_pinned());
    count.typed += u64::from(state.is_pinned());
}

fn use_as(frame: MachineFrame, frame_type: FrameType, counts: &mut [Count]) {
    let state = info(frame).unwrap().state();
    assert_eq!(state.frame_type(), frame_type, "frame {frame} is used as {frame_type:?}: {state:?}");
    assert!(state.table_level().is_none() || state.is_validated(), "frame {frame} is in use unvalidated");
    counts[frame.0 as usize].references += 1;
    counts[frame.0 as usize].typed += 1;
}

fn count_entries(table: MachineFrame, counts: &mut [Count]) {
    let state = info(table).unwrap().state();
    let Some(level) = state.table_level() else { return };
    let held = if state.is_validated() { ENTRIES } else { state.progress() };
    for index in (0..held).filter(|index| !is_hypervisor_slot(level, *index)) {
        let entry = read(table, index);
        if !entry.is_present() || entry.is_grant() {
            continue;
        }
        if level > 1 {
            use_as(entry.frame(), FrameType::table(level - 1), counts);
        } else if frame::is_io(entry.frame()) {
            continue;
        } else if entry.has(Entry::WRITABLE) {
            use_as(entry.frame(), FrameType::Writable, counts);
        } else {
            counts[entry.frame().0 as usize].references += 1;
        }
    }
}
