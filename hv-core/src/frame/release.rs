//! Giving frames back: one that a domain gives up, or all of a domain that dies.

use super::{FrameState, FrameType, drop_reference, info, put};
use crate::{domain::Domain, page_table::TableSession};
use hypercall_abi::{Errno, MachineFrame};

/// How far [`release_some`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The domain owns nothing any more.
    Done,
    /// The budget is spent; call again.
    More,
    /// What is left is in use by others, or shared by the hypervisor, and frees itself when they are done.
    Waiting,
}

/// The owner gives up its possession of a frame. It is freed as soon as nobody uses it.
///
/// # Errors
/// `EINVAL` when the domain does not possess the frame; `EBUSY` when it is in use as a page table or descriptor
/// table.
pub fn give_up(domain: &Domain, frame: MachineFrame) -> Result<(), Errno> {
    let info = info(frame).ok_or(Errno::EINVAL)?;
    let is_memory = |state: FrameState| matches!(state.frame_type(), FrameType::None | FrameType::Writable);
    let give_up = |state: FrameState| {
        if state.owner() == domain.id && is_memory(state) { state.without_possession() } else { None }
    };
    match info.change(give_up) {
        Ok(_) => {
            domain.memory.let_linger(frame);
            put(frame);
            Ok(())
        }
        Err(state) if state.owner() == domain.id && state.is_allocated() => Err(Errno::EBUSY),
        Err(_) => Err(Errno::EINVAL),
    }
}

/// Makes a frame the hypervisor's that `domain` possesses and nobody uses. It still counts as the domain's.
///
/// # Errors
/// `EINVAL` when the domain does not possess it, `EBUSY` when it is used.
pub(crate) fn take_possessed(domain: &Domain, frame: MachineFrame) -> Result<(), Errno> {
    let idle = FrameState::allocated_to(domain.id);
    let take = |state: FrameState| if state == idle { Some(FrameState::HYPERVISOR) } else { None };
    match info(frame).ok_or(Errno::EINVAL)?.change(take) {
        Ok(_) => {
            domain.memory.frames().possessed.remove(frame);
            Ok(())
        }
        Err(state) if state.owner() == domain.id && state.is_allocated() => Err(Errno::EBUSY),
        Err(_) => Err(Errno::EINVAL),
    }
}

/// Makes `domain` possess frames of the hypervisor's, in the place of such as [`take_possessed`] took.
pub(crate) fn give_possessed(domain: &Domain, first: MachineFrame, count: u64) {
    let mut frames = domain.memory.frames();
    for frame in (first.0..first.0 + count).map(MachineFrame) {
        if let Some(info) = info(frame) {
            info.set_state(FrameState::allocated_to(domain.id));
            frames.possessed.push(frame);
        }
    }
}

/// Takes a piece of what a dying domain owns away from it: about `budget` page-table entries and frames.
///
/// First the pins go, and with them the tables; then possession of every frame. The domain must be dying and no
/// vCPU of it may hold tables any more ([`crate::mmu::release_vcpu`]).
pub fn release_some(domain: &Domain, budget: u32) -> Progress {
    let mut session = match TableSession::open(domain, budget) {
        Ok(session) => session,
        Err(_) => return Progress::More,
    };
    loop {
        let Some(frame) = domain.memory.frames().possessed.first() else { break };
        session.abandon(frame);
        if session.spend(1).is_err() || session.finish_undoing().is_err() {
            return Progress::More;
        }
        let possessed = info(frame).is_some_and(|info| info.change(FrameState::without_possession).is_ok());
        if possessed {
            domain.memory.let_linger(frame);
            drop_reference(frame, FrameState::without_reference);
        }
    }
    if domain.memory.is_empty() { Progress::Done } else { Progress::Waiting }
}
