//! What has been read from a disk lately, in chunks.
//!
//! The file system's code reads as if all of a disk were in memory; here it gets what is, or a note is left of what is
//! missing. Then the missing chunk is read, which takes its time, and the code tries again.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use ext4_view::Ext4Read;

/// Bytes in a chunk.
pub const CHUNK: u64 = 128 * 1024;
/// Chunks that are kept.
const KEPT: usize = 32;

/// Chunks by their numbers.
#[derive(Default)]
pub struct Chunks {
    present: BTreeMap<u64, Vec<u8>>,
    /// Their numbers, the latest last.
    order: VecDeque<u64>,
    /// The chunk that was missing last.
    missed: Option<u64>,
}

impl Chunks {
    /// The chunk that somebody wanted in vain since this was asked last.
    pub fn take_missed(&mut self) -> Option<u64> {
        self.missed.take()
    }

    /// Puts a chunk in; the oldest go.
    pub fn put(&mut self, number: u64, bytes: Vec<u8>) {
        if self.present.insert(number, bytes).is_none() {
            self.order.push_back(number);
        }
        while self.order.len() > KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.present.remove(&oldest);
            }
        }
    }

    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Unread> {
        let mut done = 0;
        while done < into.len() {
            let at = start.checked_add(done as u64).ok_or(Unread)?;
            let (number, offset) = (at / CHUNK, (at % CHUNK) as usize);
            let Some(chunk) = self.present.get(&number) else {
                self.missed = Some(number);
                return Err(Unread);
            };
            let there = chunk.get(offset..).filter(|there| !there.is_empty()).ok_or(Unread)?;
            let count = there.len().min(into.len() - done);
            into[done..done + count].copy_from_slice(&there[..count]);
            done += count;
        }
        Ok(())
    }
}

/// Bytes that are not there: not yet, or never, if they lie behind the end.
#[derive(Clone, Copy, Debug)]
struct Unread;

impl fmt::Display for Unread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not read yet")
    }
}

impl core::error::Error for Unread {}

/// The chunks, as the file system's code reads them.
pub struct Reader {
    /// The chunks.
    pub chunks: Rc<RefCell<Chunks>>,
    /// Bytes that there are to be read.
    pub size: u64,
}

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn core::error::Error + Send + Sync + 'static>> {
        if start_byte.checked_add(dst.len() as u64).is_none_or(|end| end > self.size) {
            return Err(Box::new(Unread));
        }
        self.chunks.borrow_mut().read(start_byte, dst).map_err(|unread| Box::new(unread).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_missing_chunk_is_noted_and_then_read() {
        let chunks = Rc::new(RefCell::new(Chunks::default()));
        let mut reader = Reader { chunks: Rc::clone(&chunks), size: 2 * CHUNK };
        let mut into = [0; 4];
        assert!(reader.read(CHUNK - 2, &mut into).is_err());
        assert_eq!(chunks.borrow_mut().take_missed(), Some(0));
        chunks.borrow_mut().put(0, vec![1; CHUNK as usize]);
        assert!(reader.read(CHUNK - 2, &mut into).is_err());
        assert_eq!(chunks.borrow_mut().take_missed(), Some(1));
        chunks.borrow_mut().put(1, vec![2; CHUNK as usize]);
        assert!(reader.read(CHUNK - 2, &mut into).is_ok());
        assert_eq!(into, [1, 1, 2, 2]);
    }

    #[test]
    fn behind_the_end_nothing_is_missed() {
        let chunks = Rc::new(RefCell::new(Chunks::default()));
        let mut reader = Reader { chunks: Rc::clone(&chunks), size: 10 };
        for start in [7, 10, u64::MAX] {
            assert!(reader.read(start, &mut [0; 4]).is_err());
        }
        assert_eq!(chunks.borrow_mut().take_missed(), None);
    }

    #[test]
    fn only_so_many_are_kept() {
        let mut chunks = Chunks::default();
        (0..100).for_each(|number| chunks.put(number, vec![0]));
        assert_eq!((chunks.present.len(), chunks.order.len()), (KEPT, KEPT));
        assert!(chunks.present.contains_key(&99) && !chunks.present.contains_key(&0));
    }
}
