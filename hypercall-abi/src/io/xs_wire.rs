//! The store's wire protocol (`public/io/xs_wire.h`).
//!
//! A message is an [`XsdSockmsg`] and then `len` bytes of payload, mostly NUL-terminated strings. The client
//! picks `req_id`; the reply repeats type, `req_id` and `tx_id`, or has the type [`XS_ERROR`] and an error's
//! name from [`XSD_ERRORS`] as payload. Watch events come unasked, with the type [`XS_WATCH_EVENT`].
//!
//! A domain reaches the store through one page, [`XenstoreDomainInterface`]: a stream of bytes each way. A
//! message may be longer than the stream's buffer and then passes through it in pieces.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Errno;

/// Message type: a command to the store itself (also known as `XS_DEBUG`).
pub const XS_CONTROL: u32 = 0;
/// Message type: list a node's children.
pub const XS_DIRECTORY: u32 = 1;
/// Message type: read a node.
pub const XS_READ: u32 = 2;
/// Message type: read a node's permissions.
pub const XS_GET_PERMS: u32 = 3;
/// Message type: watch a path.
pub const XS_WATCH: u32 = 4;
/// Message type: watch a path no longer.
pub const XS_UNWATCH: u32 = 5;
/// Message type: start a transaction.
pub const XS_TRANSACTION_START: u32 = 6;
/// Message type: end a transaction, payload `T` to commit or `F` to give up.
pub const XS_TRANSACTION_END: u32 = 7;
/// Message type: tell the store of a new domain.
pub const XS_INTRODUCE: u32 = 8;
/// Message type: tell the store that a domain is gone.
pub const XS_RELEASE: u32 = 9;
/// Message type: ask for a domain's home directory.
pub const XS_GET_DOMAIN_PATH: u32 = 10;
/// Message type: write a node.
pub const XS_WRITE: u32 = 11;
/// Message type: make a node if it is not there.
pub const XS_MKDIR: u32 = 12;
/// Message type: remove a node and all below it.
pub const XS_RM: u32 = 13;
/// Message type: set a node's permissions.
pub const XS_SET_PERMS: u32 = 14;
/// Message type, from the store only: something at or below a watched path changed.
pub const XS_WATCH_EVENT: u32 = 15;
/// Message type, from the store only: a request failed.
pub const XS_ERROR: u32 = 16;
/// Message type: ask whether the store knows a domain.
pub const XS_IS_DOMAIN_INTRODUCED: u32 = 17;
/// Message type: tell the store that a domain goes on after a suspend.
pub const XS_RESUME: u32 = 18;
/// Message type: let one domain act for another.
pub const XS_SET_TARGET: u32 = 19;
/// Message type: drop all of the sender's watches and transactions.
pub const XS_RESET_WATCHES: u32 = 21;
/// Message type: list a node's children from an offset on, for long lists.
pub const XS_DIRECTORY_PART: u32 = 22;
/// One more than the highest message type. 20 was one once.
pub const XS_TYPE_COUNT: u32 = 23;
/// Never a message type.
pub const XS_INVALID: u32 = 0xffff;

/// Index, in the payload of [`XS_WATCH`], [`XS_UNWATCH`] and [`XS_WATCH_EVENT`], of the path.
pub const XS_WATCH_PATH: usize = 0;
/// Index, in the same payloads, of the token that the watcher chose.
pub const XS_WATCH_TOKEN: usize = 1;

/// Most bytes of payload in a message. Who sends more loses the connection.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// Most bytes in a path that starts with `/`.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// Most bytes in a path that starts at the domain's home directory.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;
/// Bytes in each of the two buffers of a domain's page.
pub const XENSTORE_RING_SIZE: usize = 1024;

/// Bit of `server_features`: a domain can ask for the connection to be made anew.
pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// Bit of `server_features`: the field `error` is there.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;

/// Value of `connection`: as it should be.
pub const XENSTORE_CONNECTED: u32 = 0;
/// Value of `connection`: being made anew.
pub const XENSTORE_RECONNECT: u32 = 1;

/// Value of `error`: none.
pub const XENSTORE_ERROR_NONE: u32 = 0;
/// Value of `error`: communication failed.
pub const XENSTORE_ERROR_COMM: u32 = 1;
/// Value of `error`: an index of the page makes no sense.
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
/// Value of `error`: a message breaks the protocol, such as by its length.
pub const XENSTORE_ERROR_PROTO: u32 = 3;

/// What stands before each message's payload (`struct xsd_sockmsg`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XsdSockmsg {
    /// `XS_*`; the header calls it `type`.
    pub kind: u32,
    /// Chosen by the client, repeated in the reply.
    pub req_id: u32,
    /// The transaction, or zero for none.
    pub tx_id: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

/// The start of a domain's store page (`struct xenstore_domain_interface`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct XenstoreDomainInterface {
    /// Bytes on their way to the store.
    pub req: [u8; XENSTORE_RING_SIZE],
    /// Bytes on their way from the store.
    pub rsp: [u8; XENSTORE_RING_SIZE],
    /// Bytes of `req` that the store has taken. Written by the store.
    pub req_cons: u32,
    /// Bytes of `req` that were put in. Written by the domain.
    pub req_prod: u32,
    /// Bytes of `rsp` that the domain has taken. Written by the domain.
    pub rsp_cons: u32,
    /// Bytes of `rsp` that were put in. Written by the store.
    pub rsp_prod: u32,
    /// `XENSTORE_SERVER_FEATURE_*`. Written by the store.
    pub server_features: u32,
    /// [`XENSTORE_CONNECTED`] or [`XENSTORE_RECONNECT`].
    pub connection: u32,
    /// `XENSTORE_ERROR_*`. Written by the store.
    pub error: u32,
}

/// An error and the name by which it travels (`struct xsd_errors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XsdError {
    /// The error.
    pub errnum: Errno,
    /// Its name, as the payload of [`XS_ERROR`] has it before the final NUL.
    pub errstring: &'static str,
}

/// Pairs an error with its own name.
macro_rules! xsd_errors {
    ($($name:ident),* $(,)?) => {
        [$(XsdError { errnum: Errno::$name, errstring: stringify!($name) }),*]
    };
}

/// The errors that the store can report.
pub const XSD_ERRORS: [XsdError; 16] = xsd_errors![
    EINVAL, EACCES, EEXIST, EISDIR, ENOENT, ENOMEM, ENOSPC, EIO, ENOTEMPTY, ENOSYS, EROFS, EBUSY, EAGAIN,
    EISCONN, E2BIG, EPERM,
];

const _: () = {
    assert!(size_of::<XsdSockmsg>() == 16);
    assert!(offset_of!(XsdSockmsg, len) == 12);
    assert!(size_of::<XenstoreDomainInterface>() == 2076);
    assert!(offset_of!(XenstoreDomainInterface, rsp) == 1024);
    assert!(offset_of!(XenstoreDomainInterface, req_cons) == 2048);
    assert!(offset_of!(XenstoreDomainInterface, req_prod) == 2052);
    assert!(offset_of!(XenstoreDomainInterface, rsp_cons) == 2056);
    assert!(offset_of!(XenstoreDomainInterface, rsp_prod) == 2060);
    assert!(offset_of!(XenstoreDomainInterface, server_features) == 2064);
    assert!(offset_of!(XenstoreDomainInterface, connection) == 2068);
    assert!(offset_of!(XenstoreDomainInterface, error) == 2072);
};
