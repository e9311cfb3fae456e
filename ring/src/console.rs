//! The two ends of a guest's console.

use core::mem::offset_of;

use hypercall_abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface};

use crate::byte_ring::{ByteRing, StreamEnd, StreamLayout};

/// From the back end to the guest.
const INPUT: StreamLayout = StreamLayout {
    buffer: offset_of!(XenconsInterface, input),
    size: XENCONS_IN_SIZE as u32,
    consumer: offset_of!(XenconsInterface, in_cons),
    producer: offset_of!(XenconsInterface, in_prod),
};

/// From the guest to the back end.
const OUTPUT: StreamLayout = StreamLayout {
    buffer: offset_of!(XenconsInterface, output),
    size: XENCONS_OUT_SIZE as u32,
    consumer: offset_of!(XenconsInterface, out_cons),
    producer: offset_of!(XenconsInterface, out_prod),
};

/// Marks the guest's end.
#[derive(Clone, Copy, Debug)]
pub enum FrontEnd {}

impl StreamEnd for FrontEnd {
    const RECEIVE: StreamLayout = INPUT;
    const SEND: StreamLayout = OUTPUT;
}

/// Marks the back end's end.
#[derive(Clone, Copy, Debug)]
pub enum BackEnd {}

impl StreamEnd for BackEnd {
    const RECEIVE: StreamLayout = OUTPUT;
    const SEND: StreamLayout = INPUT;
}

/// The console as the guest has it: it reads what is typed and writes what is shown.
pub type ConsoleFront<M> = ByteRing<FrontEnd, M>;

/// The console as the back end has it: it reads what the guest shows and writes what is typed.
pub type ConsoleBack<M> = ByteRing<BackEnd, M>;
