//! A file of dom0's own file system that is a guest's disk: the pieces of a disk that it lies in, one after the other.
//!
//! Most requests lie in one piece, and go there as they are. One that reaches over the end of a piece is carried out in
//! parts, and is done when all of them are.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use pv_runtime::executor::spawn;

use super::device::{
    BlockDevice, Geometry, IoError, Operation, SECTOR_SIZE, Segment, SubmitError, Ticket, check, sector_count,
};
use super::transfer::one_request;

/// Sectors of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first.
    pub first_sector: u64,
    /// How many.
    pub sectors: u64,
}

/// Pieces of a disk as one disk. No request leaves them.
pub struct ImageDisk {
    disk: Rc<dyn BlockDevice>,
    /// The pieces, each with the sector of the whole at which it begins.
    pieces: Vec<(u64, Piece)>,
    geometry: Geometry,
}

/// A part of a request: where on the disk, and the memory.
type Part = (u64, Vec<Segment>);

impl ImageDisk {
    /// The disk that these pieces of `disk` are.
    ///
    /// # Errors
    ///
    /// [`IoError::OutOfRange`] if they do not lie on the disk, in whole blocks.
    pub fn new(disk: Rc<dyn BlockDevice>, pieces: &[Piece]) -> Result<Self, IoError> {
        let whole = disk.geometry();
        let mut sectors = 0;
        let mut placed = Vec::new();
        for piece in pieces {
            if piece.sectors == 0 || !whole.holds(piece.first_sector, piece.sectors) {
                return Err(IoError::OutOfRange);
            }
            placed.push((sectors, *piece));
            sectors += piece.sectors;
        }
        if sectors == 0 {
            return Err(IoError::OutOfRange);
        }
        Ok(Self { disk, pieces: placed, geometry: Geometry { sectors, ..whole } })
    }

    /// The piece that a sector lies in: where on the disk the sector is, and how many there are up to the piece's end.
    fn find(&self, sector: u64) -> (u64, u64) {
        // The first piece begins at zero.
        let (start, piece) = self.pieces[self.pieces.partition_point(|(start, _)| *start <= sector) - 1];
        let within = sector - start;
        (piece.first_sector + within, piece.sectors - within)
    }

    /// Cuts a request at the ends of pieces.
    fn cut(&self, first_sector: u64, segments: &[Segment]) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut sector = first_sector;
        let (mut place, mut left) = self.find(sector);
        let mut memory = Vec::new();
        for segment in segments {
            let mut segment = *segment;
            while segment.length > 0 {
                if left == 0 {
                    parts.push((place, core::mem::take(&mut memory)));
                    (place, left) = self.find(sector);
                }
                let taken = u64::from(segment.length / SECTOR_SIZE).min(left);
                let length = taken as u32 * SECTOR_SIZE;
                memory.push(Segment { address: segment.address, length });
                segment.address += u64::from(length);
                segment.length -= length;
                sector += taken;
                left -= taken;
            }
        }
        parts.push((place, memory));
        parts
    }
}

impl BlockDevice for ImageDisk {
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
        if operation == Operation::Flush {
            return self.disk.submit(operation, 0, segments, ticket);
        }
        let (place, left) = self.find(first_sector);
        if sector_count(segments) <= left {
            return self.disk.submit(operation, place, segments, ticket);
        }
        let (disk, parts) = (Rc::clone(&self.disk), self.cut(first_sector, segments));
        spawn(async move { ticket.complete(carry_out(&*disk, operation, parts).await) });
        Ok(())
    }

    fn kick(&self) {
        self.disk.kick();
    }
}

async fn carry_out(disk: &dyn BlockDevice, operation: Operation, parts: Vec<Part>) -> Result<(), IoError> {
    for (place, segments) in parts {
        one_request(disk, operation, place, &segments).await?;
    }
    Ok(())
}

/// The files that are disks of guests, by their paths.
#[derive(Default)]
pub struct Images(RefCell<BTreeMap<String, Rc<ImageDisk>>>);

impl Images {
    /// The disk that a file is.
    pub fn find(&self, path: &str) -> Option<Rc<ImageDisk>> {
        self.0.borrow().get(path).cloned()
    }

    /// Puts a file in.
    pub fn put(&self, path: String, image: ImageDisk) {
        self.0.borrow_mut().insert(path, Rc::new(image));
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Completions;
    use super::super::fake::{FakeDisk, page_segment};
    use super::*;
    use hypercall_abi::{MachineFrame, PAGE_SIZE};
    use pv_runtime::executor::{testing, yield_now};
    use pv_runtime::memory::{PageRun, SharedMemory};

    fn image(disk: &Rc<FakeDisk>) -> ImageDisk {
        let pieces = [(800, 16), (100, 8), (400, 40)];
        let pieces = pieces.map(|(first_sector, sectors)| Piece { first_sector, sectors });
        ImageDisk::new(Rc::clone(disk) as Rc<dyn BlockDevice>, &pieces).expect("on the disk")
    }

    fn ticket(token: u32) -> (Ticket, Rc<Completions>) {
        let completions = Rc::new(Completions::default());
        (Ticket { completions: Rc::clone(&completions), token }, completions)
    }

    #[test]
    fn a_request_within_a_piece_goes_there_as_it_is() {
        let disk = Rc::new(FakeDisk::new(1000));
        let image = image(&disk);
        assert_eq!(image.geometry().sectors, 64);
        for (first, place) in [(0, 800), (8, 808), (16, 100), (24, 400), (56, 432)] {
            image.submit(Operation::Read, first, &[page_segment()], ticket(0).0).expect("inside");
            assert_eq!(disk.submitted().pop(), Some((Operation::Read, place, 1)));
        }
        image.submit(Operation::Flush, 0, &[], ticket(0).0).expect("flushes have no position");
    }

    #[test]
    fn nothing_outside_is_reached() {
        let disk = Rc::new(FakeDisk::new(1000));
        let image = image(&disk);
        for first in [57, 64, 1000, u64::MAX] {
            let outcome = image.submit(Operation::Write, first, &[page_segment()], ticket(0).0);
            assert_eq!(outcome, Err(SubmitError::Refused(IoError::OutOfRange)), "sector {first}");
        }
        assert!(disk.submitted().is_empty());
        for (first_sector, sectors) in [(0, 0), (0, 1001), (999, 2), (u64::MAX, 1)] {
            let disk = Rc::clone(&disk) as Rc<dyn BlockDevice>;
            assert!(ImageDisk::new(disk, &[Piece { first_sector, sectors }]).is_err());
        }
        assert!(ImageDisk::new(disk, &[]).is_err());
    }

    #[test]
    fn a_request_over_several_pieces_is_carried_out_in_parts() {
        testing::run(async {
            let disk = Rc::new(FakeDisk::new(1000));
            let image = image(&disk);
            let (ticket, completions) = ticket(7);
            // From the middle of a page in the first piece, over all of the second, into the third.
            let memory = PageRun::new(3).expect("a host has memory");
            let segment =
                |frame: MachineFrame| Segment { address: frame.physical_address(), length: PAGE_SIZE as u32 };
            let segments: Vec<_> = memory.machine_frames().map(segment).collect();
            image.submit(Operation::Read, 12, &segments, ticket).expect("inside");
            let mut outcomes = Vec::new();
            while outcomes.is_empty() {
                yield_now().await;
                disk.complete_all();
                completions.take_all(&mut outcomes);
            }
            assert_eq!((outcomes[0].token, outcomes[0].result), (7, Ok(())));
            let submitted: Vec<_> =
                disk.submitted().iter().map(|(_, place, count)| (*place, *count)).collect();
            assert_eq!(submitted, [(812, 1), (100, 2), (400, 2)]);
            let read = |sector: usize| memory.read::<u64>(sector * SECTOR_SIZE as usize);
            let read: Vec<_> = (0..24).map(read).collect();
            assert_eq!(read, (812..816).chain(100..108).chain(400..412).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_part_that_fails_fails_the_request() {
        testing::run(async {
            let disk = Rc::new(FakeDisk::new(1000));
            let (ticket, completions) = ticket(7);
            image(&disk).submit(Operation::Write, 12, &[page_segment()], ticket).expect("inside");
            let mut outcomes = Vec::new();
            while outcomes.is_empty() {
                yield_now().await;
                disk.fail_one(IoError::Device);
                completions.take_all(&mut outcomes);
            }
            assert_eq!(outcomes[0].result, Err(IoError::Device));
            assert_eq!(disk.submitted().len(), 1);
        });
    }
}
