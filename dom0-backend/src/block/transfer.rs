//! One request from start to end, for this domain's own use of a disk.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::memory::{PageRun, SharedMemory};

use super::device::{
    BlockDevice, Completions, IoError, Operation, SECTOR_SIZE, Segment, SubmitError, Ticket,
};

/// Pages that a device may be using. Dropped in that state they are never used again, since nobody could say
/// when the device will be done with them.
struct LentPages(ManuallyDrop<PageRun>);

impl LentPages {
    fn give_back(self) -> PageRun {
        ManuallyDrop::into_inner(self.0)
    }
}

/// Reads sectors into `memory`, writes sectors from it, or flushes and leaves it alone, and gives it back.
///
/// As much is transferred as `memory` holds. It is cut into as many requests as the disk needs, one after the
/// other. If the future is dropped half-way, the memory is lost.
pub async fn transfer(
    disk: &dyn BlockDevice,
    operation: Operation,
    first_sector: u64,
    memory: PageRun,
) -> (Result<(), IoError>, PageRun) {
    let segments: Vec<_> = match operation {
        Operation::Flush => Vec::new(),
        Operation::Read | Operation::Write => page_segments(&memory),
    };
    let lent = LentPages(ManuallyDrop::new(memory));
    let result = transfer_all(disk, operation, first_sector, &segments).await;
    (result, lent.give_back())
}

fn page_segments(memory: &PageRun) -> Vec<Segment> {
    debug_assert_eq!(memory.size() % PAGE_SIZE, 0);
    let segment = |frame: hypercall_abi::MachineFrame| Segment {
        address: frame.physical_address(),
        length: PAGE_SIZE as u32,
    };
    memory.machine_frames().map(segment).collect()
}

async fn transfer_all(
    disk: &dyn BlockDevice,
    operation: Operation,
    first_sector: u64,
    segments: &[Segment],
) -> Result<(), IoError> {
    if operation == Operation::Flush {
        return one_request(disk, operation, 0, &[]).await;
    }
    let most = usize::from(disk.geometry().segments_max).max(1);
    let mut sector = first_sector;
    for part in segments.chunks(most) {
        one_request(disk, operation, sector, part).await?;
        sector += (part.len() * PAGE_SIZE) as u64 / u64::from(SECTOR_SIZE);
    }
    Ok(())
}

/// Carries one request out, whose memory the caller keeps until it is done.
pub(super) async fn one_request(
    disk: &dyn BlockDevice,
    operation: Operation,
    first_sector: u64,
    segments: &[Segment],
) -> Result<(), IoError> {
    let completions = Rc::new(Completions::default());
    let ticket = Ticket { completions: Rc::clone(&completions), token: 0 };
    loop {
        match disk.submit(operation, first_sector, segments, ticket.clone()) {
            Ok(()) => break,
            Err(SubmitError::Refused(error)) => return Err(error),
            Err(SubmitError::Full) => completions.wait().await,
        }
    }
    disk.kick();
    let mut outcomes = Vec::new();
    loop {
        completions.wait().await;
        completions.take_all(&mut outcomes);
        if let Some(outcome) = outcomes.pop() {
            return outcome.result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeDisk;
    use super::*;
    use pv_runtime::executor::{spawn, testing, yield_now};

    fn number_at(memory: &PageRun, byte: usize) -> u64 {
        memory.read(byte)
    }

    #[test]
    fn a_long_read_is_cut_into_requests() {
        testing::run(async {
            let disk = Rc::new(FakeDisk::new(8192));
            let served = Rc::clone(&disk);
            let device = spawn(async move {
                loop {
                    served.complete_one();
                    yield_now().await;
                }
            });
            let memory = PageRun::new(100).expect("a host has memory");
            let (result, memory) = transfer(&*disk, Operation::Read, 16, memory).await;
            assert_eq!(result, Ok(()));
            assert_eq!(disk.submitted(), [(Operation::Read, 16, 64), (Operation::Read, 528, 36)]);
            assert_eq!((number_at(&memory, 0), number_at(&memory, 99 * 4096)), (16, 16 + 99 * 8));
            device.cancel();
        });
    }

    #[test]
    fn a_full_disk_is_waited_for_and_errors_come_through() {
        testing::run(async {
            let disk = Rc::new(FakeDisk::new(1000));
            disk.depth.set(0);
            let user = spawn({
                let disk = Rc::clone(&disk);
                async move {
                    let memory = PageRun::new(1).expect("a host has memory");
                    transfer(&*disk, Operation::Write, 0, memory).await.0
                }
            });
            yield_now().await;
            disk.depth.set(1);
            assert_eq!(disk.pending(), 0);
            disk.make_room();
            while disk.pending() == 0 {
                yield_now().await;
            }
            disk.fail_one(IoError::Device);
            assert_eq!(user.join().await, Err(IoError::Device));
        });
    }

    #[test]
    fn what_lies_beyond_the_end_is_refused_at_once() {
        testing::run(async {
            let disk = FakeDisk::new(15);
            let memory = PageRun::new(2).expect("a host has memory");
            let (result, _) = transfer(&disk, Operation::Read, 0, memory).await;
            assert_eq!(result, Err(IoError::OutOfRange));
        });
    }
}
