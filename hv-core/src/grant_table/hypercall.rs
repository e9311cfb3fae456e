//! `HYPERVISOR_grant_table_op`: arrays of operations, a bounded number at a time.
//!
//! Each operation has its own status in its structure; the call itself fails only when the guest's array cannot
//! be read or written. A long array is worked on in pieces: the call moves its pointer and count on and restarts.

use super::{
    cache,
    copy::copy_batch,
    map,
    peer::Peer,
    status, table,
    unmap::{BATCH, Batch, Unmap},
};
use crate::{
    guest_access::{ArrayRoom, read_element, write_bytes},
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
};
use hypercall_abi::{
    Errno,
    grant_table::{
        GNTTABOP_CACHE_FLUSH, GNTTABOP_COPY, GNTTABOP_GET_STATUS_FRAMES, GNTTABOP_GET_VERSION,
        GNTTABOP_MAP_GRANT_REF, GNTTABOP_QUERY_SIZE, GNTTABOP_SET_VERSION, GNTTABOP_SETUP_TABLE,
        GNTTABOP_SWAP_GRANT_REF, GNTTABOP_UNMAP_AND_REPLACE, GNTTABOP_UNMAP_GRANT_REF, GnttabCacheFlush,
        GnttabCopy, GnttabMapGrantRef, GnttabSwapGrantRef, GnttabUnmapAndReplace, GnttabUnmapGrantRef,
    },
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Grant-table operation `arguments[0]` (`GNTTABOP_*`) on the array of `arguments[2]` structures at guest address
/// `arguments[1]`.
///
/// # Errors
/// `EFAULT` when the array cannot be read or written, `EINVAL` for an impossible count, `ENOSYS` for an operation
/// that is not built.
pub fn grant_table_op(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let [command, base, count, ..] = *arguments;
    let count = count as u32;
    if count > i32::MAX as u32 {
        return Err(Errno::EINVAL.into());
    }
    let array = Array { base, count };
    match command as u32 {
        GNTTABOP_COPY => array.in_pieces(caller, COPY_PIECE, |caller, ops| copy_batch(caller.domain, ops)),
        GNTTABOP_MAP_GRANT_REF => array.in_pieces(caller, PIECE, map_piece),
        GNTTABOP_UNMAP_GRANT_REF => array.in_pieces(caller, PIECE, |caller, ops| {
            unmap_piece::<GnttabUnmapGrantRef>(caller, ops, |op| &mut op.status)
        }),
        GNTTABOP_UNMAP_AND_REPLACE => array.in_pieces(caller, PIECE, |caller, ops| {
            unmap_piece::<GnttabUnmapAndReplace>(caller, ops, |op| &mut op.status)
        }),
        GNTTABOP_SWAP_GRANT_REF => array.in_pieces(caller, PIECE, swap_piece),
        GNTTABOP_SETUP_TABLE => array.only_one(|pointer| table::setup_table(caller, pointer)),
        GNTTABOP_QUERY_SIZE => array.only_one(|pointer| table::query_size(caller, pointer)),
        GNTTABOP_GET_STATUS_FRAMES => array.only_one(|pointer| table::get_status_frames(caller, pointer)),
        GNTTABOP_CACHE_FLUSH => array.flush(caller),
        // These two have no count: one structure whatever it says.
        GNTTABOP_SET_VERSION => done(table::set_version(caller, base)),
        GNTTABOP_GET_VERSION => done(table::get_version(caller, base)),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn done(result: Result<(), Errno>) -> HypercallResult {
    result?;
    Ok(0)
}

/// Operations in one piece of an array.
const PIECE: u32 = 64;
/// Copies in one piece, which are small mostly.
const COPY_PIECE: u32 = 128;

/// Room for a piece of any kind of operations.
type Room = ArrayRoom<{ COPY_PIECE as usize * size_of::<GnttabCopy>() }>;

/// A guest's array of operations.
struct Array {
    base: u64,
    count: u32,
}

impl Array {
    /// Works on copies of the operations of the first piece, of at most `most`, writes them back, and restarts the call
    /// for the rest. The work says how many it has done. When a piece cannot be read whole, the first operation is a
    /// piece for itself.
    fn in_pieces<T: FromBytes + IntoBytes + KnownLayout + Immutable>(
        &self,
        caller: &mut Caller<'_>,
        most: u32,
        work: fn(&Caller<'_>, &mut [T]) -> usize,
    ) -> HypercallResult {
        if self.count == 0 {
            return Ok(0);
        }
        let mut room = Room::empty();
        let mut count = self.count.min(most);
        if room.read::<T>(self.base, count as usize).is_err() {
            count = 1;
        }
        let ops = room.read::<T>(self.base, count as usize)?;
        let done = work(caller, ops);
        write_bytes(self.base, ops[..done].as_bytes())?;
        self.go_on::<T>(caller, done as u32)
    }

    /// [`Self::in_pieces`] for operations that nothing is written back of, and of which one that fails ends the call.
    fn flush(&self, caller: &mut Caller<'_>) -> HypercallResult {
        let count = self.count.min(PIECE);
        for index in 0..u64::from(count) {
            cache::flush(caller.domain, &read_element(self.base, index)?)?;
        }
        self.go_on::<GnttabCacheFlush>(caller, count)
    }

    /// Restarts the call for what is left after `done` operations.
    fn go_on<T>(&self, caller: &mut Caller<'_>, done: u32) -> HypercallResult {
        if done == self.count {
            return Ok(0);
        }
        caller.set_argument(1, self.base.wrapping_add(size_of::<T>() as u64 * u64::from(done)));
        caller.set_argument(2, u64::from(self.count - done));
        Err(HypercallError::Restart)
    }

    /// For operations that take one structure only.
    fn only_one(&self, work: impl FnOnce(u64) -> Result<(), Errno>) -> HypercallResult {
        if self.count != 1 {
            return Err(Errno::EINVAL.into());
        }
        done(work(self.base))
    }
}

fn map_piece(caller: &Caller<'_>, ops: &mut [GnttabMapGrantRef]) -> usize {
    let mut peer = Peer::default();
    for op in &mut *ops {
        op.status = status(map::map(caller, &mut peer, op));
    }
    ops.len()
}

/// Undoes mappings. Of each batch of them it flushes once, and then lets go.
fn unmap_piece<T>(caller: &Caller<'_>, ops: &mut [T], status_of: fn(&mut T) -> &mut i16) -> usize
where
    Unmap: for<'a> From<&'a T>,
{
    for some in ops.chunks_mut(BATCH) {
        let mut batch = Batch::new(caller.domain);
        for op in some {
            *status_of(op) = status(batch.unmap(caller, &Unmap::from(op)));
        }
        batch.finish();
    }
    ops.len()
}

fn swap_piece(caller: &Caller<'_>, ops: &mut [GnttabSwapGrantRef]) -> usize {
    for op in &mut *ops {
        op.status = status(caller.domain.grant_table.granted.lock().swap(op.ref_a, op.ref_b));
    }
    ops.len()
}
