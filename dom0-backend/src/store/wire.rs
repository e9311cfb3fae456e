//! The wire protocol: from bytes to checked requests, from results to bytes.
//!
//! Two things can be wrong with what a client sends, and they end differently. A broken *frame*
//! ([`FramingError`]) leaves nobody knowing where the next message starts, so the connection is over. A frame
//! whose *payload* makes no sense ([`Malformed`]) gets an error reply, and the next message is none the
//! worse.
//!
//! A [`Request`] borrows from the message it was parsed from. Paths in it are still raw text, because what a
//! relative one means depends on who asks.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::str::FromStr;

use hypercall_abi::io::xs_wire::{self, XENSTORE_PAYLOAD_MAX, XsdSockmsg};
use hypercall_abi::{DomainId, Errno, MachineFrame, Port};
use zerocopy::{FromBytes, IntoBytes};

use super::error::Error;
use super::permission::Permissions;

/// Bytes in a message's header.
pub const HEADER_LENGTH: usize = size_of::<XsdSockmsg>();

/// Why no message can be made of a stream of bytes. There is no way back from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// A header announces more payload than a message may have.
    PayloadTooLong {
        /// Bytes announced.
        length: u32,
    },
}

/// What is wrong with a message's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No request has this type.
    UnknownType(u32),
    /// A string does not end before the payload does.
    Unterminated,
    /// Too few strings, or bytes behind the last one.
    Arguments,
    /// A number is none, or out of range.
    Number,
    /// A permission is none.
    Permission,
    /// The end of a transaction is neither `T` nor `F`.
    TransactionEnd,
}

impl Malformed {
    /// The error's number on the wire.
    pub fn errno(self) -> Errno {
        if matches!(self, Self::UnknownType(_)) { Errno::ENOSYS } else { Errno::EINVAL }
    }
}

/// A whole message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Type, numbers and length. The length is that of the payload.
    pub header: XsdSockmsg,
    /// What followed it.
    pub payload: Vec<u8>,
}

/// A request that says what its type has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The header, from which the reply's is made.
    pub header: XsdSockmsg,
    /// What to do.
    pub operation: Operation<'a>,
}

/// What a request asks for. Texts are without the final NUL, paths not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Something with one node.
    Node {
        /// Which one.
        path: &'a [u8],
        /// What.
        operation: NodeOperation<'a>,
    },
    /// Start to tell of changes at and below a path.
    Watch {
        /// The path.
        path: &'a [u8],
        /// The client's own name for the watch.
        token: &'a [u8],
    },
    /// Tell of them no more.
    Unwatch {
        /// As in the request to watch.
        path: &'a [u8],
        /// Likewise.
        token: &'a [u8],
    },
    /// End all of the sender's watches and transactions.
    ResetWatches,
    /// Start a transaction.
    TransactionStart,
    /// End it.
    TransactionEnd {
        /// For good, or as if it never was.
        commit: bool,
    },
    /// Name a domain's home directory.
    GetDomainPath(DomainId),
    /// Something that only dom0 may ask for.
    Management(Management<'a>),
}

/// What can be done with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOperation<'a> {
    /// List the children's names.
    Directory,
    /// List them from this byte of the list on, with the list's generation.
    DirectoryPart(usize),
    /// Read the value.
    Read,
    /// Read the permissions.
    GetPermissions,
    /// Set the value, making the node if need be.
    Write(&'a [u8]),
    /// Make the node if it is not there.
    MakeDirectory,
    /// Remove it and all below it.
    Remove,
    /// Set the permissions.
    SetPermissions(Permissions),
}

/// What dom0 can ask for beside nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Management<'a> {
    /// Take up the connection to a new domain.
    Introduce {
        /// The domain.
        domain: DomainId,
        /// The frame of its store page.
        frame: MachineFrame,
        /// Its end of the event channel.
        port: Port,
    },
    /// Forget a domain.
    Release(DomainId),
    /// Say whether a domain was introduced.
    IsDomainIntroduced(DomainId),
    /// Tell of a domain's next shutdown again.
    Resume(DomainId),
    /// Give one domain the rights of another.
    SetTarget {
        /// Who gets them.
        domain: DomainId,
        /// Whose they are.
        target: DomainId,
    },
    /// A command to the store itself.
    Control {
        /// Its name.
        command: &'a [u8],
        /// What follows it.
        arguments: Vec<&'a [u8]>,
    },
}

/// Reads a header and checks that the announced payload may come.
///
/// # Errors
/// [`FramingError::PayloadTooLong`].
pub fn parse_header(bytes: &[u8; HEADER_LENGTH]) -> Result<XsdSockmsg, FramingError> {
    // The header has no padding and no forbidden value, so every sixteen bytes are one.
    let header = XsdSockmsg::read_from_bytes(bytes).unwrap_or_default();
    if header.len as usize > XENSTORE_PAYLOAD_MAX {
        return Err(FramingError::PayloadTooLong { length: header.len });
    }
    Ok(header)
}

impl<'a> Request<'a> {
    /// Makes sense of a whole message.
    ///
    /// # Errors
    /// What is wrong with the payload, or that there is no such type.
    pub fn parse(header: XsdSockmsg, payload: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Self { header, operation: Operation::parse(header.kind, payload)? })
    }
}

impl<'a> Operation<'a> {
    fn parse(kind: u32, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut strings = Strings { rest: payload };
        Ok(match kind {
            xs_wire::XS_WATCH => Self::Watch { path: strings.next()?, token: strings.only()? },
            xs_wire::XS_UNWATCH => Self::Unwatch { path: strings.next()?, token: strings.only()? },
            xs_wire::XS_RESET_WATCHES => Self::ResetWatches,
            xs_wire::XS_TRANSACTION_START => Self::TransactionStart,
            xs_wire::XS_TRANSACTION_END => Self::TransactionEnd { commit: strings.only().and_then(commits)? },
            xs_wire::XS_GET_DOMAIN_PATH => Self::GetDomainPath(strings.only().and_then(domain)?),
            xs_wire::XS_DIRECTORY
            | xs_wire::XS_DIRECTORY_PART
            | xs_wire::XS_READ
            | xs_wire::XS_GET_PERMS
            | xs_wire::XS_WRITE
            | xs_wire::XS_MKDIR
            | xs_wire::XS_RM
            | xs_wire::XS_SET_PERMS => {
                Self::Node { path: strings.next()?, operation: NodeOperation::parse(kind, strings)? }
            }
            _ => Self::Management(Management::parse(kind, strings)?),
        })
    }
}

impl<'a> NodeOperation<'a> {
    /// What follows the path.
    fn parse(kind: u32, mut strings: Strings<'a>) -> Result<Self, Malformed> {
        let operation = match kind {
            xs_wire::XS_DIRECTORY => Self::Directory,
            xs_wire::XS_DIRECTORY_PART => Self::DirectoryPart(strings.next().and_then(decimal)?),
            xs_wire::XS_READ => Self::Read,
            xs_wire::XS_GET_PERMS => Self::GetPermissions,
            xs_wire::XS_WRITE => return Ok(Self::Write(strings.rest)),
            xs_wire::XS_MKDIR => Self::MakeDirectory,
            xs_wire::XS_RM => Self::Remove,
            xs_wire::XS_SET_PERMS => Self::SetPermissions(Permissions::parse(strings.all()?.into_iter())?),
            unknown => return Err(Malformed::UnknownType(unknown)),
        };
        strings.end()?;
        Ok(operation)
    }
}

impl<'a> Management<'a> {
    fn parse(kind: u32, mut strings: Strings<'a>) -> Result<Self, Malformed> {
        Ok(match kind {
            xs_wire::XS_INTRODUCE => Self::parse_introduce(strings)?,
            xs_wire::XS_RELEASE => Self::Release(strings.only().and_then(domain)?),
            xs_wire::XS_IS_DOMAIN_INTRODUCED => Self::IsDomainIntroduced(strings.only().and_then(domain)?),
            xs_wire::XS_RESUME => Self::Resume(strings.only().and_then(domain)?),
            xs_wire::XS_SET_TARGET => Self::SetTarget {
                domain: strings.next().and_then(domain)?,
                target: strings.only().and_then(domain)?,
            },
            xs_wire::XS_CONTROL => Self::Control { command: strings.next()?, arguments: strings.all()? },
            unknown => return Err(Malformed::UnknownType(unknown)),
        })
    }

    /// Domain, frame and port; what may follow is reserved.
    fn parse_introduce(mut strings: Strings<'a>) -> Result<Self, Malformed> {
        let domain = strings.next().and_then(domain)?;
        let frame = MachineFrame(strings.next().and_then(decimal)?);
        let port = Port(strings.next().and_then(decimal)?);
        if port == Port(0) {
            return Err(Malformed::Number);
        }
        Ok(Self::Introduce { domain, frame, port })
    }
}

/// The NUL-terminated strings of a payload that were not yet taken.
struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Strings<'a> {
    /// The next string.
    fn next(&mut self) -> Result<&'a [u8], Malformed> {
        if self.rest.is_empty() {
            return Err(Malformed::Arguments);
        }
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(Malformed::Unterminated)?;
        let (string, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(string)
    }

    /// The next string, which must also be the last.
    fn only(&mut self) -> Result<&'a [u8], Malformed> {
        let string = self.next()?;
        self.end().map(|()| string)
    }

    /// Checks that nothing is left.
    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Arguments) }
    }

    /// All that are left, perhaps none.
    fn all(&mut self) -> Result<Vec<&'a [u8]>, Malformed> {
        let mut strings = Vec::new();
        while !self.rest.is_empty() {
            strings.push(self.next()?);
        }
        Ok(strings)
    }
}

/// A number of decimal digits and nothing else.
pub(super) fn decimal<T: FromStr>(text: &[u8]) -> Result<T, Malformed> {
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Number);
    }
    let text = core::str::from_utf8(text).map_err(|_| Malformed::Number)?;
    text.parse().map_err(|_| Malformed::Number)
}

fn domain(text: &[u8]) -> Result<DomainId, Malformed> {
    decimal(text).map(DomainId)
}

/// Whether the end of a transaction is for good.
fn commits(text: &[u8]) -> Result<bool, Malformed> {
    match text {
        b"T" => Ok(true),
        b"F" => Ok(false),
        _ => Err(Malformed::TransactionEnd),
    }
}

/// A message as bytes.
///
/// # Panics
/// If the payload is longer than [`XENSTORE_PAYLOAD_MAX`].
pub fn encode(kind: u32, request: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= XENSTORE_PAYLOAD_MAX, "{} bytes are too long for a message", payload.len());
    let len = payload.len() as u32;
    let header = XsdSockmsg { kind, req_id: request, tx_id: transaction, len };
    [header.as_bytes(), payload].concat()
}

/// The reply to a request: what it asked for, or the error's name.
pub(super) fn encode_reply(header: &XsdSockmsg, result: Result<&[u8], Error>) -> Vec<u8> {
    let fits = |payload: &[u8]| payload.len() <= XENSTORE_PAYLOAD_MAX;
    let result =
        result.and_then(|payload| if fits(payload) { Ok(payload) } else { Err(Error::ReplyTooLong) });
    let reply = |kind, payload: &[u8]| encode(kind, header.req_id, header.tx_id, payload);
    match result {
        Ok(payload) => reply(header.kind, payload),
        Err(error) => reply(xs_wire::XS_ERROR, &terminated(error.wire_name())),
    }
}

/// A watch event's payload, or nothing if it would be longer than a message may be.
pub(super) fn event_payload(path: &str, token: &[u8]) -> Option<Vec<u8>> {
    let payload = [path.as_bytes(), b"\0", token, b"\0"].concat();
    (payload.len() <= XENSTORE_PAYLOAD_MAX).then_some(payload)
}

/// Text as the wire has it, with a NUL behind it.
pub(super) fn terminated(text: impl ToString) -> Vec<u8> {
    let mut bytes = text.to_string().into_bytes();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: u32, payload: &[u8]) -> Result<Operation<'_>, Malformed> {
        let header = XsdSockmsg { kind, req_id: 1, tx_id: 2, len: payload.len() as u32 };
        Request::parse(header, payload).map(|request| request.operation)
    }

    #[test]
    fn a_header_may_announce_a_full_payload_and_no_more() {
        let header = |length: usize| encode(xs_wire::XS_READ, 1, 2, &vec![b'a'; length]);
        let full = parse_header(header(XENSTORE_PAYLOAD_MAX).first_chunk().unwrap()).unwrap();
        assert_eq!(full, XsdSockmsg { kind: xs_wire::XS_READ, req_id: 1, tx_id: 2, len: 4096 });
        let mut bytes = header(0);
        bytes[12..16].copy_from_slice(&4097u32.to_le_bytes());
        let error = FramingError::PayloadTooLong { length: 4097 };
        assert_eq!(parse_header(bytes.first_chunk().unwrap()), Err(error));
    }

    #[test]
    fn every_request_is_understood() {
        let (domain, path) = (DomainId(3), &b"/a"[..]);
        let node = |operation| Operation::Node { path, operation };
        let management = Operation::Management;
        let (frame, port) = (MachineFrame(500), Port(7));
        let arguments = [&b"3"[..]].to_vec();
        let permissions = Permissions::private(domain);
        let cases: [(u32, &[u8], Operation); 20] = [
            (xs_wire::XS_DIRECTORY, b"/a\0", node(NodeOperation::Directory)),
            (xs_wire::XS_DIRECTORY_PART, b"/a\x0017\0", node(NodeOperation::DirectoryPart(17))),
            (xs_wire::XS_READ, b"/a\0", node(NodeOperation::Read)),
            (xs_wire::XS_GET_PERMS, b"/a\0", node(NodeOperation::GetPermissions)),
            (xs_wire::XS_WRITE, b"/a\0x\0y", node(NodeOperation::Write(b"x\0y"))),
            (xs_wire::XS_MKDIR, b"/a\0", node(NodeOperation::MakeDirectory)),
            (xs_wire::XS_RM, b"/a\0", node(NodeOperation::Remove)),
            (xs_wire::XS_SET_PERMS, b"/a\0n3\0", node(NodeOperation::SetPermissions(permissions))),
            (xs_wire::XS_WATCH, b"/a\0t\0", Operation::Watch { path, token: b"t" }),
            (xs_wire::XS_UNWATCH, b"/a\0\0", Operation::Unwatch { path, token: b"" }),
            (xs_wire::XS_RESET_WATCHES, b"\0", Operation::ResetWatches),
            (xs_wire::XS_TRANSACTION_START, b"\0", Operation::TransactionStart),
            (xs_wire::XS_TRANSACTION_END, b"T\0", Operation::TransactionEnd { commit: true }),
            (xs_wire::XS_TRANSACTION_END, b"F\0", Operation::TransactionEnd { commit: false }),
            (xs_wire::XS_GET_DOMAIN_PATH, b"3\0", Operation::GetDomainPath(domain)),
            (
                xs_wire::XS_INTRODUCE,
                b"3\x00500\x007\0",
                management(Management::Introduce { domain, frame, port }),
            ),
            (xs_wire::XS_RELEASE, b"3\0", management(Management::Release(domain))),
            (xs_wire::XS_IS_DOMAIN_INTRODUCED, b"3\0", management(Management::IsDomainIntroduced(domain))),
            (xs_wire::XS_RESUME, b"3\0", management(Management::Resume(domain))),
            (
                xs_wire::XS_SET_TARGET,
                b"3\x004\0",
                management(Management::SetTarget { domain, target: DomainId(4) }),
            ),
        ];
        let control = management(Management::Control { command: b"quota", arguments });
        assert_eq!(parse(xs_wire::XS_CONTROL, b"quota\x003\0"), Ok(control));
        for (kind, payload, operation) in cases {
            assert_eq!(parse(kind, payload), Ok(operation));
        }
    }

    #[test]
    fn types_that_no_client_may_send_are_unknown() {
        for kind in
            [xs_wire::XS_WATCH_EVENT, xs_wire::XS_ERROR, 20, xs_wire::XS_TYPE_COUNT, xs_wire::XS_INVALID]
        {
            assert_eq!(parse(kind, b"/a\0"), Err(Malformed::UnknownType(kind)));
            assert_eq!(Malformed::UnknownType(kind).errno(), Errno::ENOSYS);
        }
    }

    #[test]
    fn malformed_payloads_are_refused_by_name() {
        let cases: [(u32, &[u8], Malformed); 17] = [
            (xs_wire::XS_READ, b"", Malformed::Arguments),
            (xs_wire::XS_READ, b"/a", Malformed::Unterminated),
            (xs_wire::XS_READ, b"/a\0b", Malformed::Arguments),
            (xs_wire::XS_READ, b"/a\0\0", Malformed::Arguments),
            (xs_wire::XS_WRITE, b"/a", Malformed::Unterminated),
            (xs_wire::XS_DIRECTORY_PART, b"/a\0", Malformed::Arguments),
            (xs_wire::XS_DIRECTORY_PART, b"/a\0-1\0", Malformed::Number),
            (xs_wire::XS_SET_PERMS, b"/a\0", Malformed::Arguments),
            (xs_wire::XS_SET_PERMS, b"/a\0q1\0", Malformed::Permission),
            (xs_wire::XS_SET_PERMS, b"/a\0r1", Malformed::Unterminated),
            (xs_wire::XS_WATCH, b"/a\0", Malformed::Arguments),
            (xs_wire::XS_WATCH, b"/a\0t\0u\0", Malformed::Arguments),
            (xs_wire::XS_TRANSACTION_END, b"X\0", Malformed::TransactionEnd),
            (xs_wire::XS_RELEASE, b"\0", Malformed::Number),
            (xs_wire::XS_RELEASE, b"65536\0", Malformed::Number),
            (xs_wire::XS_INTRODUCE, b"3\x00500\x000\0", Malformed::Number),
            (xs_wire::XS_INTRODUCE, b"3\x00-1\x005\0", Malformed::Number),
        ];
        for (kind, payload, malformed) in cases {
            assert_eq!(parse(kind, payload), Err(malformed), "{kind} {payload:?}");
            assert_eq!(malformed.errno(), Errno::EINVAL);
        }
    }

    #[test]
    fn a_reply_repeats_the_numbers_and_fits_a_message() {
        let header = XsdSockmsg { kind: xs_wire::XS_READ, req_id: 9, tx_id: 4, len: 77 };
        assert_eq!(encode_reply(&header, Ok(b"x")), encode(xs_wire::XS_READ, 9, 4, b"x"));
        let error = encode_reply(&header, Err(Error::NotFound));
        assert_eq!(error, encode(xs_wire::XS_ERROR, 9, 4, b"ENOENT\0"));
        let long = encode_reply(&header, Ok(&[0; 4097]));
        assert_eq!(long, encode(xs_wire::XS_ERROR, 9, 4, b"E2BIG\0"));
    }
}
