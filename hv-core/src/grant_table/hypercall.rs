//! `HYPERVISOR_grant_table_op`: arrays of operations, a bounded number at a time.
//!
//! Each operation has its own status in its structure; the call itself fails only when the guest's array cannot
//! be read or written. A long array is worked on in pieces: the call moves its pointer and count on and restarts.

use super::{
    cache,
    copy::Copier,
    map,
    peer::Peer,
    status, table,
    unmap::{BATCH, Batch, Unmap},
};
use crate::{
    guest_access::{read, write},
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
};
use core::mem::offset_of;
use hypercall_abi::{
    Errno,
    grant_table::{
        GNTTABOP_CACHE_FLUSH, GNTTABOP_COPY, GNTTABOP_GET_STATUS_FRAMES, GNTTABOP_GET_VERSION,
        GNTTABOP_MAP_GRANT_REF, GNTTABOP_QUERY_SIZE, GNTTABOP_SET_VERSION, GNTTABOP_SETUP_TABLE,
        GNTTABOP_SWAP_GRANT_REF, GNTTABOP_UNMAP_AND_REPLACE, GNTTABOP_UNMAP_GRANT_REF, GnttabCacheFlush,
        GnttabCopy, GnttabMapGrantRef, GnttabSwapGrantRef, GnttabUnmapAndReplace, GnttabUnmapGrantRef,
    },
};
use zerocopy::{FromBytes, IntoBytes};

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
        GNTTABOP_COPY => array.in_pieces::<GnttabCopy>(caller, copy_piece),
        GNTTABOP_MAP_GRANT_REF => array.in_pieces::<GnttabMapGrantRef>(caller, map_piece),
        GNTTABOP_UNMAP_GRANT_REF => array.in_pieces::<GnttabUnmapGrantRef>(caller, unmap_piece),
        GNTTABOP_UNMAP_AND_REPLACE => array.in_pieces::<GnttabUnmapAndReplace>(caller, replace_piece),
        GNTTABOP_SWAP_GRANT_REF => array.in_pieces::<GnttabSwapGrantRef>(caller, swap_piece),
        GNTTABOP_SETUP_TABLE => array.only_one(|pointer| table::setup_table(caller, pointer)),
        GNTTABOP_QUERY_SIZE => array.only_one(|pointer| table::query_size(caller, pointer)),
        GNTTABOP_GET_STATUS_FRAMES => array.only_one(|pointer| table::get_status_frames(caller, pointer)),
        GNTTABOP_CACHE_FLUSH => array.in_pieces::<GnttabCacheFlush>(caller, flush_piece),
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
const PIECE: u32 = BATCH as u32;

/// A guest's array of operations.
struct Array {
    base: u64,
    count: u32,
}

/// Some of them: the addresses of the operations.
struct Piece {
    base: u64,
    size: u64,
    count: u32,
}

impl Piece {
    fn addresses(&self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.count)).map(|index| self.base.wrapping_add(index * self.size))
    }
}

impl Array {
    /// Works on the first piece, and restarts the call for the rest.
    fn in_pieces<T>(
        &self,
        caller: &mut Caller<'_>,
        work: fn(&Caller<'_>, &Piece) -> Result<(), Errno>,
    ) -> HypercallResult {
        let piece = Piece { base: self.base, size: size_of::<T>() as u64, count: self.count.min(PIECE) };
        work(caller, &piece)?;
        if piece.count == self.count {
            return Ok(0);
        }
        caller.set_argument(1, self.base.wrapping_add(u64::from(piece.count) * piece.size));
        caller.set_argument(2, u64::from(self.count - piece.count));
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

fn copy_piece(caller: &Caller<'_>, piece: &Piece) -> Result<(), Errno> {
    let mut copier = Copier::new(caller.domain);
    for address in piece.addresses() {
        let op: GnttabCopy = read(address)?;
        let status = status(copier.copy(&op));
        write(address.wrapping_add(offset_of!(GnttabCopy, status) as u64), &status)?;
    }
    Ok(())
}

fn map_piece(caller: &Caller<'_>, piece: &Piece) -> Result<(), Errno> {
    let mut peer = Peer::default();
    for address in piece.addresses() {
        let mut op: GnttabMapGrantRef = read(address)?;
        op.status = status(map::map(caller, &mut peer, &mut op));
        write(address, &op)?;
    }
    Ok(())
}

fn unmap_piece(caller: &Caller<'_>, piece: &Piece) -> Result<(), Errno> {
    let at = offset_of!(GnttabUnmapGrantRef, status) as u64;
    unmap_all(caller, piece, at, |op: &GnttabUnmapGrantRef| Unmap::from(op))
}

fn replace_piece(caller: &Caller<'_>, piece: &Piece) -> Result<(), Errno> {
    let at = offset_of!(GnttabUnmapAndReplace, status) as u64;
    unmap_all(caller, piece, at, |op: &GnttabUnmapAndReplace| Unmap::from(op))
}

/// Undoes the mappings of a piece, however far it could be read, and then flushes once and lets go.
fn unmap_all<T: FromBytes + IntoBytes>(
    caller: &Caller<'_>,
    piece: &Piece,
    status_at: u64,
    convert: fn(&T) -> Unmap,
) -> Result<(), Errno> {
    let mut batch = Batch::new(caller.domain);
    let result = piece.addresses().try_for_each(|address| {
        let op: T = read(address)?;
        let status = status(batch.unmap(caller, &convert(&op)));
        write(address.wrapping_add(status_at), &status)
    });
    batch.finish();
    result
}

fn swap_piece(caller: &Caller<'_>, piece: &Piece) -> Result<(), Errno> {
    for address in piece.addresses() {
        let mut op: GnttabSwapGrantRef = read(address)?;
        op.status = status(caller.domain.grant_table.granted.lock().swap(op.ref_a, op.ref_b));
        write(address, &op)?;
    }
    Ok(())
}

fn flush_piece(caller: &Caller<'_>, piece: &Piece) -> Result<(), Errno> {
    piece.addresses().try_for_each(|address| cache::flush(caller.domain, &read(address)?))
}
