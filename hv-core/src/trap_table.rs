//! A vCPU's handlers for exceptions and software interrupts, by vector.
//!
//! The idea to hold: a kernel handles the CPU's own exceptions, which are the first 32 vectors, and a software interrupt
//! or two. These have their places in the vCPU itself; a frame for all others is taken only when a kernel has more.

use crate::frame_object::FrameBox;
use hypercall_abi::{Errno, arch_x86::TrapInfo};

/// Vectors there are.
const VECTORS: usize = 256;
/// The CPU's own exceptions.
const EXCEPTIONS: usize = 32;
/// Places for other vectors in the table itself.
const FEW: usize = 8;

const NONE: TrapInfo = TrapInfo { vector: 0, flags: 0, cs: 0, _pad: 0, address: 0 };

/// Handlers by vector; one with address 0 is none.
pub struct TrapTable {
    exceptions: [TrapInfo; EXCEPTIONS],
    /// Handlers of other vectors, in no order.
    few: [TrapInfo; FEW],
    /// All of them, once they were too many for that.
    many: Option<FrameBox<[TrapInfo; VECTORS - EXCEPTIONS]>>,
}

impl TrapTable {
    /// A table without handlers.
    pub const fn new() -> Self {
        Self { exceptions: [NONE; EXCEPTIONS], few: [NONE; FEW], many: None }
    }

    /// The handler of a vector.
    #[inline]
    pub fn get(&self, vector: u8) -> TrapInfo {
        match self.exceptions.get(usize::from(vector)) {
            Some(handler) => *handler,
            None => self.get_other(vector),
        }
    }

    fn get_other(&self, vector: u8) -> TrapInfo {
        if let Some(many) = &self.many {
            return many[usize::from(vector) - EXCEPTIONS];
        }
        let handles = |handler: &&TrapInfo| handler.address != 0 && handler.vector == vector;
        self.few.iter().find(handles).copied().unwrap_or(NONE)
    }

    /// Enters the handler of the vector it names; one with address 0 takes away what was there.
    ///
    /// # Errors
    /// `ENOMEM`; then everything is as before.
    pub fn set(&mut self, handler: TrapInfo) -> Result<(), Errno> {
        let vector = usize::from(handler.vector);
        if let Some(place) = self.exceptions.get_mut(vector) {
            *place = handler;
            return Ok(());
        }
        if self.many.is_none() {
            let is_its = |place: &TrapInfo| place.address != 0 && place.vector == handler.vector;
            let is_free = |place: &TrapInfo| place.address == 0;
            let place = self.few.iter().position(is_its).or_else(|| self.few.iter().position(is_free));
            match place {
                Some(place) => self.few[place] = handler,
                None if handler.address == 0 => {}
                None => self.many = Some(self.with_room()?),
            }
        }
        if let Some(many) = &mut self.many {
            many[vector - EXCEPTIONS] = handler;
        }
        Ok(())
    }

    /// The few in a frame where there is room for all.
    fn with_room(&self) -> Result<FrameBox<[TrapInfo; VECTORS - EXCEPTIONS]>, Errno> {
        FrameBox::try_from_fn(|index| self.get_other((index + EXCEPTIONS) as u8)).ok_or(Errno::ENOMEM)
    }

    /// Takes all handlers away.
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

impl Default for TrapTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frame_allocator, test_support::machine_of};

    fn handler(vector: u8, address: u64) -> TrapInfo {
        TrapInfo { vector, address, ..NONE }
    }

    /// Vectors in an order in which exceptions and others take turns, from 255 down.
    fn vectors() -> impl Iterator<Item = u8> {
        (0..=u8::MAX).map(|number| number.wrapping_mul(97).wrapping_add(255))
    }

    /// How many vectors have a handler.
    fn handled(table: &TrapTable) -> usize {
        (0..=u8::MAX).filter(|vector| table.get(*vector).address != 0).count()
    }

    #[test]
    fn every_vector_has_its_handler() {
        let _machine = machine_of(64);
        let mut table = TrapTable::new();
        for (count, vector) in vectors().enumerate() {
            table.set(handler(vector, 0x1000 + u64::from(vector))).unwrap();
            assert_eq!(handled(&table), count + 1);
        }
        for vector in 0..=u8::MAX {
            assert_eq!(
                (table.get(vector).vector, table.get(vector).address),
                (vector, 0x1000 + u64::from(vector))
            );
        }
        for vector in vectors() {
            table.set(handler(vector, 0)).unwrap();
            assert_eq!(table.get(vector).address, 0);
        }
    }

    #[test]
    fn a_usual_kernel_needs_no_frame_and_an_unusual_one_gives_it_back() {
        let _machine = machine_of(64);
        let free = frame_allocator::free_frames();
        let mut table = TrapTable::new();
        for vector in (0..32).chain(0x80..0x88) {
            table.set(handler(vector, 0x1000)).unwrap();
        }
        for vector in 0x80..0x88 {
            table.set(handler(vector, 0x2000)).unwrap();
            assert_eq!(table.get(vector).address, 0x2000, "in the place of the one before");
        }
        table.set(handler(0x90, 0)).unwrap();
        assert_eq!(frame_allocator::free_frames(), free);
        table.set(handler(0x90, 0x3000)).unwrap();
        assert_eq!(frame_allocator::free_frames(), free - 1);
        assert_eq!((table.get(0x87).address, table.get(0x90).address), (0x2000, 0x3000));
        table.clear();
        assert_eq!(frame_allocator::free_frames(), free);
        assert_eq!(handled(&table), 0);
    }
}
