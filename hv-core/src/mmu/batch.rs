//! Going through an array of requests in guest memory.
//!
//! `mmu_update` and `mmuext_op` have the same frame: the address of the requests, how many, where the number of
//! completed ones is to be written, and whom they are about.

use crate::{
    guest_access,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    page_table::TableSession,
};
use hypercall_abi::Errno;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// In the count argument: the call continues an earlier one, whose completed requests are in the counter.
const CONTINUED: u64 = 1 << 31;

/// Requests copied in at once: few, because most batches are short and the room is cleared for each.
const CHUNK: usize = 4;

/// A batch of requests, and how far it has got.
pub struct Batch {
    requests: u64,
    count: u64,
    completed_address: u64,
    completed_before: u64,
    completed: u64,
}

impl Batch {
    /// The batch that the arguments describe.
    ///
    /// # Errors
    /// `EFAULT` when the counter of a continued call cannot be read.
    pub fn new(arguments: &Arguments) -> Result<Self, Errno> {
        let [requests, count, completed_address, ..] = *arguments;
        let count = count & 0xffff_ffff;
        let continued = count & CONTINUED != 0 && completed_address != 0;
        let completed_before =
            if continued { u64::from(guest_access::read::<u32>(completed_address)?) } else { 0 };
        Ok(Self { requests, count: count & !CONTINUED, completed_address, completed_before, completed: 0 })
    }

    /// Calls `perform` for each request until one fails, finishes what that left to be undone, and says in the
    /// guest's terms how it ended.
    ///
    /// # Errors
    /// That of the request that failed; `EFAULT` when requests cannot be read or the counter not be written;
    /// `Restart` with the arguments moved on.
    pub fn run<T: FromBytes + IntoBytes + Copy>(
        mut self,
        caller: &mut Caller<'_>,
        session: &mut TableSession<'_>,
        perform: impl FnMut(&mut Caller<'_>, &mut TableSession<'_>, T) -> Result<(), HypercallError>,
    ) -> HypercallResult {
        let outcome = self.perform_all(caller, session, perform);
        // After a failure as well: what the guest hears is refused as a table is plain memory to it.
        let undone = session.finish_undoing();
        let outcome = outcome.and(undone);
        self.report(caller, size_of::<T>() as u64, outcome)
    }

    #[inline]
    fn perform_all<T: FromBytes + IntoBytes + Copy>(
        &mut self,
        caller: &mut Caller<'_>,
        session: &mut TableSession<'_>,
        mut perform: impl FnMut(&mut Caller<'_>, &mut TableSession<'_>, T) -> Result<(), HypercallError>,
    ) -> Result<(), HypercallError> {
        let mut chunk: [T; CHUNK] = FromZeros::new_zeroed();
        while self.completed < self.count {
            let length = (self.count - self.completed).min(CHUNK as u64) as usize;
            let offset = self.completed.checked_mul(size_of::<T>() as u64);
            let address = offset.and_then(|offset| self.requests.checked_add(offset)).ok_or(Errno::EFAULT)?;
            guest_access::read_bytes(address, chunk[..length].as_mut_bytes())?;
            for request in &chunk[..length] {
                perform(caller, session, *request)?;
                self.completed += 1;
            }
        }
        Ok(())
    }

    fn report(
        self,
        caller: &mut Caller<'_>,
        size: u64,
        outcome: Result<(), HypercallError>,
    ) -> HypercallResult {
        if self.completed_address != 0 {
            let completed = (self.completed_before + self.completed) as u32;
            guest_access::write(self.completed_address, &completed)?;
        }
        if outcome == Err(HypercallError::Restart) {
            caller.set_argument(0, self.requests + self.completed * size);
            caller.set_argument(1, (self.count - self.completed) | CONTINUED);
        }
        outcome.map(|()| 0)
    }
}
