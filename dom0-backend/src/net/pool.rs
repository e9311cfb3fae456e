//! Values that are used over and over, named by small numbers.
//!
//! A value keeps its storage when it is put back, so that a packet's list of pieces is allocated once and not
//! for every packet.

use alloc::vec::Vec;

/// A pool of `T`.
#[derive(Debug, Default)]
pub struct Pool<T> {
    items: Vec<T>,
    free: Vec<u16>,
}

impl<T: Default> Pool<T> {
    /// An unused value; as it was when it was put back. `None` if there are too many already.
    #[inline]
    pub fn take(&mut self) -> Option<u16> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u16::try_from(self.items.len()).ok()?;
        self.items.push(T::default());
        Some(index)
    }

    /// Puts a value back.
    #[inline]
    pub fn put(&mut self, index: u16) {
        self.free.push(index);
    }

    /// A value that was taken.
    #[inline]
    pub fn get(&self, index: u16) -> &T {
        &self.items[usize::from(index)]
    }

    /// A value that was taken, to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: u16) -> &mut T {
        &mut self.items[usize::from(index)]
    }

    /// How many values are in use.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        self.items.len() - self.free.len()
    }
}
