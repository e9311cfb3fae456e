//! `HYPERVISOR_multicall`: several hypercalls for one entry.
//!
//! The calls are made in order and each result is written into its own entry. A call that wants to be restarted ends
//! the batch for now: its entry gets the arguments to go on with, and the batch is restarted at that entry.

use crate::{
    guest_access,
    hypercall::{self, Arguments, Caller, HypercallError, HypercallResult},
};
use core::mem::offset_of;
use hypercall_abi::{
    Errno,
    xen::{HYPERVISOR_IRET, HYPERVISOR_MULTICALL, MulticallEntry},
};

/// Calls made before the batch is restarted, to let interrupts in.
const PIECE: u64 = 64;

/// `HYPERVISOR_multicall(entries, count)`.
///
/// # Errors
/// `EFAULT` when an entry cannot be read or its result not be written; the calls before it have been made.
pub fn multicall(caller: &mut Caller<'_>, arguments: &Arguments) -> HypercallResult {
    let (entries, count) = (arguments[0], arguments[1]);
    let piece = count.min(PIECE);
    for index in 0..piece {
        let entry: MulticallEntry = guest_access::read_element(entries, index)?;
        match one(caller, &entry) {
            Ok(value) => write_result(entries, index, value)?,
            Err(HypercallError::Errno(errno)) => write_result(entries, index, errno.to_return() as u64)?,
            Err(HypercallError::Restart) => {
                save_arguments(caller, entries, index)?;
                return restart(caller, entries, count, index);
            }
        }
    }
    if piece == count { Ok(0) } else { restart(caller, entries, count, piece) }
}

/// Makes one call with its arguments in the registers, where a call that wants to be restarted updates them.
fn one(caller: &mut Caller<'_>, entry: &MulticallEntry) -> HypercallResult {
    if matches!(entry.op, HYPERVISOR_IRET | HYPERVISOR_MULTICALL) {
        return Err(Errno::EINVAL.into());
    }
    (0..).zip(entry.args).for_each(|(index, value)| caller.set_argument(index, value));
    hypercall::call(caller, entry.op, &entry.args)
}

fn write_result(entries: u64, index: u64, value: u64) -> Result<(), Errno> {
    let offset = index * size_of::<MulticallEntry>() as u64 + offset_of!(MulticallEntry, result) as u64;
    guest_access::write(entries.checked_add(offset).ok_or(Errno::EFAULT)?, &value)
}

fn save_arguments(caller: &Caller<'_>, entries: u64, index: u64) -> Result<(), Errno> {
    let registers = &caller.context.registers;
    let arguments: Arguments =
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    let offset = index * size_of::<MulticallEntry>() as u64 + offset_of!(MulticallEntry, args) as u64;
    guest_access::write(entries.checked_add(offset).ok_or(Errno::EFAULT)?, &arguments)
}

/// Restarts with the batch that begins at entry `done`.
fn restart(caller: &mut Caller<'_>, entries: u64, count: u64, done: u64) -> HypercallResult {
    caller.set_argument(0, entries + done * size_of::<MulticallEntry>() as u64);
    caller.set_argument(1, count - done);
    Err(HypercallError::Restart)
}
