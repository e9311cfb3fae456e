//! Everything the hypervisor knows about the machine, in one value.
//!
//! There is exactly one [`Machine`], reached through [`machine`]. On the host each test thread has one of its
//! own, so tests run in parallel and each starts from a known state.

use crate::lock::Once;
use crate::{
    command_line::CommandLine, domain::DomainTable, frame_allocator::FrameAllocator,
    interrupt::InterruptTable, io_rights::ReservedIo, memory_op::MachineMemoryMap,
    page_table::HypervisorSlots, scheduler::RunQueue,
};

/// The hypervisor's global state. Each part carries its own lock.
pub struct Machine {
    /// Free frames.
    pub allocator: FrameAllocator,
    /// Every domain that exists.
    pub domains: DomainTable,
    /// Vcpus that wait for a CPU.
    pub run_queue: RunQueue,
    /// The hypervisor's entries in every L4 table.
    pub hypervisor_slots: HypervisorSlots,
    /// The firmware's map of memory.
    pub memory_map: MachineMemoryMap,
    /// Physical interrupts and who gets them.
    pub interrupts: InterruptTable,
    /// I/O that no domain may touch.
    pub reserved_io: ReservedIo,
    /// What the boot loader was told to tell the hypervisor.
    pub command_line: Once<CommandLine>,
}

impl Machine {
    /// A machine without memory and domains.
    pub const fn new() -> Self {
        Self {
            allocator: FrameAllocator::new(),
            domains: DomainTable::new(),
            run_queue: RunQueue::new(),
            hypervisor_slots: HypervisorSlots::new(),
            memory_map: MachineMemoryMap::new(),
            interrupts: InterruptTable::new(),
            reserved_io: ReservedIo::new(),
            command_line: Once::new(),
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(target_os = "none")]
static MACHINE: Machine = Machine::new();

/// The machine.
#[cfg(target_os = "none")]
#[inline]
pub fn machine() -> &'static Machine {
    &MACHINE
}

#[cfg(not(target_os = "none"))]
pub use host::{TestMachine, machine};

#[cfg(not(target_os = "none"))]
mod host {
    use super::Machine;
    use crate::{
        direct_map::{HostMemory, HostView},
        frame::HostTables,
    };
    use std::{boxed::Box, cell::Cell, thread_local};

    thread_local! {
        static MACHINE: Cell<Option<&'static Machine>> = const { Cell::new(None) };
    }

    /// The machine of this test thread.
    ///
    /// # Panics
    /// If the thread has not made a [`TestMachine`].
    pub fn machine() -> &'static Machine {
        MACHINE.get().expect("this thread has no TestMachine")
    }

    /// A small machine for one test: memory, a frame table, and nothing running.
    pub struct TestMachine {
        _memory: HostMemory,
    }

    impl TestMachine {
        /// A machine of `frames` frames, all free except those that the frame table itself takes.
        pub fn new(frames: u64) -> Self {
            let memory = HostMemory::new(frames);
            // One machine's worth of statics per test is leaked on purpose: it is what `'static` means.
            MACHINE.set(Some(Box::leak(Box::new(Machine::new()))));
            crate::frame::set_up_host(frames);
            Self { _memory: memory }
        }

        /// Runs all tasks at the same time, each on a thread of its own that shares this machine.
        pub fn in_parallel(&self, tasks: &[&(dyn Fn() + Sync)]) {
            let (machine, memory, tables) = (machine(), HostView::here(), HostTables::here());
            std::thread::scope(|scope| {
                for task in tasks {
                    scope.spawn(move || {
                        MACHINE.set(Some(machine));
                        memory.enter();
                        tables.enter();
                        task();
                    });
                }
            });
        }
    }

    impl Drop for TestMachine {
        fn drop(&mut self) {
            MACHINE.set(None);
        }
    }
}
