//! A range of a disk that is a disk to its user: how several guests share one.

use alloc::rc::Rc;

use super::device::{BlockDevice, Geometry, IoError, Operation, Segment, SubmitError, Ticket, check};

/// Some sectors of a disk. No request leaves them.
pub struct DiskRange {
    disk: Rc<dyn BlockDevice>,
    first_sector: u64,
    geometry: Geometry,
}

impl DiskRange {
    /// The `sectors` sectors of `disk` from `first_sector` on.
    ///
    /// # Errors
    ///
    /// [`IoError::OutOfRange`] if they do not lie on the disk, in whole blocks.
    pub fn new(disk: Rc<dyn BlockDevice>, first_sector: u64, sectors: u64) -> Result<Self, IoError> {
        let whole = disk.geometry();
        if sectors == 0 || !whole.holds(first_sector, sectors) {
            return Err(IoError::OutOfRange);
        }
        Ok(Self { disk, first_sector, geometry: Geometry { sectors, ..whole } })
    }
}

impl BlockDevice for DiskRange {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(
        &self,
        operation: Operation,
        first_sector: u64,
        segments: &[Segment],
        ticket: Ticket,
    ) -> Result<(), SubmitError> {
        check(&self.geometry, operation, first_sector, segments).map_err(SubmitError::Refused)?;
        // Cannot overflow: the sector lies in the range, and the range on the disk. A flush has no position.
        let position = if operation == Operation::Flush { 0 } else { self.first_sector + first_sector };
        self.disk.submit(operation, position, segments, ticket)
    }

    fn kick(&self) {
        self.disk.kick();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeDisk, page_segment};
    use super::*;
    use crate::block::device::Completions;

    fn ticket() -> Ticket {
        Ticket { completions: Rc::new(Completions::default()), token: 0 }
    }

    #[test]
    fn positions_are_moved_by_the_start() {
        let disk = Rc::new(FakeDisk::new(1000));
        let range = DiskRange::new(disk.clone(), 100, 200).expect("on the disk");
        assert_eq!(range.geometry().sectors, 200);
        range.submit(Operation::Read, 192, &[page_segment()], ticket()).expect("inside");
        range.submit(Operation::Flush, 7, &[], ticket()).expect("flushes have no position");
        let submitted = disk.submitted();
        assert_eq!(submitted[0], (Operation::Read, 292, 1));
        assert_eq!(submitted[1].0, Operation::Flush);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let disk = Rc::new(FakeDisk::new(1000));
        let range = DiskRange::new(disk.clone(), 100, 200).expect("on the disk");
        for first in [193, 200, 1000, u64::MAX, u64::MAX - 99, u64::MAX - 107] {
            let outcome = range.submit(Operation::Write, first, &[page_segment()], ticket());
            assert_eq!(outcome, Err(SubmitError::Refused(IoError::OutOfRange)), "sector {first}");
        }
        assert!(disk.submitted().is_empty());
    }

    #[test]
    fn a_range_must_lie_on_the_disk() {
        for (first, count) in [(0, 0), (0, 1001), (1000, 1), (999, 2), (u64::MAX, 2)] {
            assert!(
                DiskRange::new(Rc::new(FakeDisk::new(1000)), first, count).is_err(),
                "{count} from {first}"
            );
        }
    }
}
