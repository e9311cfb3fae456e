//! The network cable of a machine: whatever its network card sends is kept here, and frames can be put on it.
//!
//! QEMU sends each frame as a datagram. They are taken off at once by a thread of its own, because a card whose frames
//! nobody takes stops sending.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// The largest frame.
const FRAME_LIMIT: usize = 64 << 10;
/// How often the thread looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(200);
/// How long may pass between the machine's opening of its end and a frame for it.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// One end of a cable; the other is in a machine.
pub struct Wire {
    socket: UnixDatagram,
    machine: PathBuf,
    here: PathBuf,
    frames: Receiver<Frame>,
}

/// A frame, as it is on the cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    /// A question for an address of IP version 4 to everybody, in this virtual network or in none.
    pub fn question(vlan: Option<u16>, from: [u8; 6], from_ip: [u8; 4], for_ip: [u8; 4]) -> Self {
        let tag = vlan.map_or(Vec::new(), |vlan| [[0x81, 0], vlan.to_be_bytes()].concat());
        let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &from, &from_ip, &[0; 6], &for_ip, &[0; 18]].concat();
        Self([&[0xff; 6][..], &from, &tag, &[8, 6], &body].concat())
    }

    /// Who sent it.
    pub fn source(&self) -> [u8; 6] {
        self.0[6..12].try_into().expect("a frame has addresses")
    }

    /// Who it is for.
    pub fn destination(&self) -> [u8; 6] {
        self.0[..6].try_into().expect("a frame has addresses")
    }

    /// The virtual network of its tag, if it has one.
    pub fn vlan(&self) -> Option<u16> {
        (self.0[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([self.0[14], self.0[15]]) & 0xfff)
    }

    /// Whether it answers a question for an address.
    pub fn is_answer(&self) -> bool {
        let body = if self.vlan().is_some() { &self.0[16..] } else { &self.0[12..] };
        body.starts_with(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2])
    }
}

impl Wire {
    /// A cable with its end in this directory.
    ///
    /// # Panics
    ///
    /// If there can be none.
    pub fn new(directory: &Path) -> Self {
        let (here, machine) = (directory.join("wire"), directory.join("card"));
        let socket = UnixDatagram::bind(&here).expect("the directory takes a socket");
        socket.set_read_timeout(Some(LOOK)).expect("a timeout is no problem");
        let listening = socket.try_clone().expect("a socket can be shared");
        let (sender, frames) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = vec![0; FRAME_LIMIT];
            loop {
                match listening.recv(&mut bytes) {
                    Ok(length) if sender.send(Frame(bytes[..length].to_vec())).is_err() => return,
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        // An empty frame asks whether anybody is still there.
                        if sender.send(Frame(Vec::new())).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        });
        Self { socket, machine, here, frames }
    }

    /// What QEMU calls the other end.
    pub fn backend(&self) -> String {
        let (local, remote) = (self.machine.display(), self.here.display());
        format!("dgram,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}")
    }

    /// Puts a frame on the cable.
    ///
    /// # Panics
    ///
    /// If the machine does not take it.
    #[expect(clippy::disallowed_methods, reason = "nothing tells when the machine takes frames again")]
    pub fn send(&self, frame: &Frame) {
        let begun = Instant::now();
        while let Err(error) = self.socket.send_to(&frame.0, &self.machine) {
            assert!(begun.elapsed() < OPEN_LIMIT, "{}: {error}", self.machine.display());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The frames that the machine has sent and nobody has looked at yet.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.try_iter().filter(|frame| !frame.0.is_empty()).collect()
    }

    /// Waits so long for a frame of this kind; passes over those before it.
    pub fn wait_for(&self, limit: Duration, accept: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.frames.recv_timeout(left).ok()?;
            if !frame.0.is_empty() && accept(&frame) {
                return Some(frame);
            }
        }
    }
}
