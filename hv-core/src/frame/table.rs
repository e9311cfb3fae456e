//! The frame table and the machine-to-pseudo-physical table: one entry a machine frame in each.
//!
//! Both are arrays of atomics that exist from boot to the end, so a reference into them is `'static` and may be
//! used from any CPU. A frame number that has no entry gets `None`: numbers come from guests.

use super::state::FrameState;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypercall_abi::MachineFrame;

/// What the hypervisor keeps for a frame: its state, and its place in a list of its owner's frames or of free
/// blocks. The lists' locks guard the links; the state needs none.
#[repr(C, align(16))]
pub struct FrameInfo {
    state: AtomicU64,
    pub(super) next: AtomicU32,
    pub(super) previous: AtomicU32,
}

const _: () = assert!(size_of::<FrameInfo>() == 16);

/// Bytes that the hypervisor keeps for each frame of memory, in both tables.
pub const METADATA_BYTES: usize = size_of::<FrameInfo>() + size_of::<AtomicU64>();

const _: () = assert!(METADATA_BYTES <= 24);

impl FrameInfo {
    /// The state as it is now.
    #[inline]
    pub fn state(&self) -> FrameState {
        FrameState(self.state.load(Ordering::Relaxed))
    }

    /// Sets the state of a frame that nobody else can change: one that is being allocated or freed.
    pub fn set_state(&self, state: FrameState) {
        self.state.store(state.0, Ordering::Release);
    }

    /// Replaces the state by what `change` makes of it, or changes nothing when it makes `None`. Returns the
    /// state before.
    #[inline]
    pub fn change(
        &self,
        change: impl Fn(FrameState) -> Option<FrameState>,
    ) -> Result<FrameState, FrameState> {
        let mut present = self.state.load(Ordering::Relaxed);
        loop {
            let Some(next) = change(FrameState(present)) else { return Err(FrameState(present)) };
            let exchange =
                self.state.compare_exchange_weak(present, next.0, Ordering::AcqRel, Ordering::Relaxed);
            match exchange {
                Ok(_) => return Ok(FrameState(present)),
                Err(now) => present = now,
            }
        }
    }
}

/// The entry of a frame; `None` beyond the end of memory.
#[inline]
pub fn info(frame: MachineFrame) -> Option<&'static FrameInfo> {
    backing::info(frame)
}

/// The machine-to-pseudo-physical entry of a frame.
#[inline]
pub fn machine_to_physical_entry(frame: MachineFrame) -> Option<&'static AtomicU64> {
    backing::machine_to_physical(frame)
}

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "views two fixed address ranges as arrays")]
mod backing {
    use super::FrameInfo;
    use crate::{
        direct_map,
        layout::{FRAME_TABLE_BASE, MACHINE_TO_PHYSICAL_WRITABLE_BASE},
    };
    use core::sync::atomic::AtomicU64;
    use hypercall_abi::MachineFrame;

    #[inline]
    pub fn info(frame: MachineFrame) -> Option<&'static FrameInfo> {
        if frame.0 >= direct_map::frame_count() {
            return None;
        }
        // SAFETY: the boot code maps an entry for every frame below `frame_count` before it says that count, and
        // never unmaps it; any bits make a valid `FrameInfo`, and it is only ever reached through its atomics.
        Some(unsafe { &*(FRAME_TABLE_BASE as *const FrameInfo).add(frame.0 as usize) })
    }

    #[inline]
    pub fn machine_to_physical(frame: MachineFrame) -> Option<&'static AtomicU64> {
        if frame.0 >= direct_map::frame_count() {
            return None;
        }
        // SAFETY: as in `info`, for the other table.
        Some(unsafe { &*(MACHINE_TO_PHYSICAL_WRITABLE_BASE as *const AtomicU64).add(frame.0 as usize) })
    }
}

#[cfg(not(target_os = "none"))]
mod backing {
    use super::FrameInfo;
    use core::{
        cell::Cell,
        sync::atomic::{AtomicU32, AtomicU64},
    };
    use hypercall_abi::MachineFrame;
    use std::{boxed::Box, thread_local, vec::Vec};

    thread_local! {
        static TABLE: Cell<&'static [FrameInfo]> = const { Cell::new(&[]) };
        static MACHINE_TO_PHYSICAL: Cell<&'static [AtomicU64]> = const { Cell::new(&[]) };
    }

    /// Makes the tables of this thread's machine; they are leaked, like the machine itself.
    pub fn make(frames: u64) {
        let info =
            || FrameInfo { state: AtomicU64::new(0), next: AtomicU32::new(0), previous: AtomicU32::new(0) };
        let table: Vec<_> = (0..frames).map(|_| info()).collect();
        TABLE.set(Box::leak(table.into_boxed_slice()));
        let entries: Vec<_> = (0..frames).map(|_| AtomicU64::new(0)).collect();
        MACHINE_TO_PHYSICAL.set(Box::leak(entries.into_boxed_slice()));
    }

    /// One thread's tables, to be used by another.
    #[derive(Clone, Copy)]
    pub struct HostTables(&'static [FrameInfo], &'static [AtomicU64]);

    impl HostTables {
        /// This thread's tables.
        pub fn here() -> Self {
            Self(TABLE.get(), MACHINE_TO_PHYSICAL.get())
        }

        /// Makes them this thread's tables as well.
        pub fn enter(self) {
            TABLE.set(self.0);
            MACHINE_TO_PHYSICAL.set(self.1);
        }
    }

    pub fn info(frame: MachineFrame) -> Option<&'static FrameInfo> {
        TABLE.get().get(usize::try_from(frame.0).ok()?)
    }

    pub fn machine_to_physical(frame: MachineFrame) -> Option<&'static AtomicU64> {
        MACHINE_TO_PHYSICAL.get().get(usize::try_from(frame.0).ok()?)
    }
}

#[cfg(not(target_os = "none"))]
pub(crate) use backing::HostTables;
#[cfg(not(target_os = "none"))]
pub(super) use backing::make;
