//! A disk, or a part of one, that a file system lies on.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::memory::{PageRun, SharedMemory};

use super::Source;
use crate::block::{BlockDevice, IoError, Operation, SECTOR_SIZE, transfer};

const SECTORS_PER_PAGE: u64 = PAGE_SIZE as u64 / SECTOR_SIZE as u64;

/// A disk that is read in whole pages. Less than a page at its end is left out.
pub struct DiskSource(pub Rc<dyn BlockDevice>);

impl Source for DiskSource {
    fn size(&self) -> u64 {
        self.0.geometry().sectors / SECTORS_PER_PAGE * PAGE_SIZE as u64
    }

    async fn read(&self, start: u64, length: usize) -> Result<Vec<u8>, IoError> {
        let memory = PageRun::new(length.div_ceil(PAGE_SIZE)).map_err(|_| IoError::Device)?;
        let first = start / u64::from(SECTOR_SIZE);
        let (result, memory) = transfer(&*self.0, Operation::Read, first, memory).await;
        result?;
        let mut bytes = vec![0; length];
        memory.copy_out(0, &mut bytes);
        Ok(bytes)
    }
}
