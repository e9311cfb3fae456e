//! The hypercalls that many cases make, with one request each.

use hypercall_abi::memory::MemoryReservation;
use hypercall_abi::xen::{
    HYPERVISOR_GRANT_TABLE_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_MMU_UPDATE, HYPERVISOR_MMUEXT_OP,
    HYPERVISOR_UPDATE_VA_MAPPING, MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE, MmuUpdate, MmuextOp, UVMF_INVLPG,
};
use hypercall_abi::{DomainId, Errno, MachineFrame};

use crate::attacker::{Attacker, address_of};

/// What a hypercall answered.
pub type Answer = Result<u64, Errno>;

impl Attacker {
    /// A hypercall of the form `call(command, structure)`.
    pub fn command<T>(&self, number: u64, command: u32, argument: &mut T) -> Answer {
        self.call(number, &[u64::from(command), address_of(argument)])
    }

    /// `memory_op`.
    pub fn memory_op<T>(&self, command: u32, argument: &mut T) -> Answer {
        self.command(HYPERVISOR_MEMORY_OP, command, argument)
    }

    /// `memory_op` on a list of extents.
    pub fn reservation(&self, command: u32, extents: &mut [u64], order: u32) -> Answer {
        let mut reservation = MemoryReservation {
            extent_start: extents.as_mut_ptr() as u64,
            nr_extents: extents.len() as u64,
            extent_order: order,
            domid: DomainId::SELF,
            ..Default::default()
        };
        self.memory_op(command, &mut reservation)
    }

    /// `mmu_update` with one request. `owners` is the call's last argument: whose frames, whose tables.
    pub fn mmu_update(&self, request: u64, value: u64, owners: u64) -> Answer {
        let mut update = MmuUpdate { ptr: request, val: value };
        self.call(HYPERVISOR_MMU_UPDATE, &[address_of(&mut update), 1, 0, owners])
    }

    /// Sets the page-table entry at a machine address to map memory of this domain's own.
    pub fn set_entry(&self, place: u64, entry: u64) -> Answer {
        self.mmu_update(place, entry, u64::from(DomainId::SELF.0))
    }

    /// Sets the page-table entry of an address.
    pub fn set_address(&self, address: u64, entry: u64) -> Answer {
        self.call(HYPERVISOR_UPDATE_VA_MAPPING, &[address, entry, UVMF_INVLPG])
    }

    /// `mmuext_op` with one operation, on what `owner` has.
    pub fn mmuext_of(&self, owner: DomainId, command: u32, first: u64, second: u64) -> Answer {
        let mut operation = MmuextOp { cmd: command, arg1: first, arg2: second, ..Default::default() };
        self.call(HYPERVISOR_MMUEXT_OP, &[address_of(&mut operation), 1, 0, u64::from(owner.0)])
    }

    /// `mmuext_op` with one operation.
    pub fn mmuext(&self, command: u32, first: u64, second: u64) -> Answer {
        self.mmuext_of(DomainId::SELF, command, first, second)
    }

    /// Pins a frame as page table of a level, 1 to 4.
    pub fn pin(&self, frame: MachineFrame, level: u32) -> Answer {
        self.mmuext(MMUEXT_PIN_L1_TABLE + level - 1, frame.0, 0)
    }

    /// Undoes a pin.
    pub fn unpin(&self, frame: MachineFrame) -> Answer {
        self.mmuext(MMUEXT_UNPIN_TABLE, frame.0, 0)
    }

    /// `grant_table_op` on a list of operations.
    pub fn grant_op<T>(&self, command: u32, operations: &mut [T]) -> Answer {
        let (list, count) = (operations.as_mut_ptr() as u64, operations.len() as u64);
        self.call(HYPERVISOR_GRANT_TABLE_OP, &[u64::from(command), list, count])
    }
}
