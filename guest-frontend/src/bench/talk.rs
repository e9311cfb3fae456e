//! TCP over a wire of which this domain has both ends: a stack at each, of which the far one takes a turn only when it is
//! told to, and leaves to others when what it sends is handed over.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::task::{Context, Poll};
use core::time::Duration;

use ip_stack::{AddressPlan, Buffers, ConnectionError, Port, Stack, TcpStream, Turn};
use pv_runtime::executor::{join, sleep, spawn, timeout};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, Ipv4Address, Ipv4Cidr};

use super::wire::{Ends, Half, Kind, PATIENCE, SETTLING, Wire, Workload};
use crate::apps::Failure;
use crate::apps::pattern::Pattern;

/// The ends' addresses, and where the far one listens.
const NEAR: Ipv4Address = Ipv4Address::new(10, 99, 0, 1);
const FAR: Ipv4Address = Ipv4Address::new(10, 99, 0, 2);
const PREFIX: u8 = 24;
const PORT: u16 = 9;
/// How often the far stack takes a turn before anything is counted.
const TURN_INTERVAL: Duration = Duration::from_millis(1);
/// What is sent each way before anything is counted, in pieces, so that both ends dare to send much at once.
const WARMING_PIECE: usize = 256 << 10;
const WARMING_PIECES: usize = 16;
/// What the data is.
const SEED: u64 = 0x7a1c;

/// A connection and both of its ends.
pub(super) struct Talk {
    stacks: Stacks,
    near: TcpStream,
    far: TcpStream,
    kind: Kind,
    /// What is sent in a round.
    data: Vec<u8>,
    /// What came to the near end, for the far end to compare.
    came: Vec<u8>,
}

/// The stacks of both ends. At the end the near interface is left to others.
struct Stacks {
    near: Stack,
    far: Stack,
}

impl Drop for Stacks {
    fn drop(&mut self) {
        self.near.stop();
    }
}

impl Talk {
    /// Connects the ends, and sends so much that the connection has found its pace.
    pub(super) async fn begin(wire: &Wire, workload: Workload) -> Result<Self, Failure> {
        let Workload { kind, bytes, count } = workload;
        if kind == Kind::Request && count > 1 {
            return Err(Failure::new("requests are made one at a time"));
        }
        let held = Rc::new(Held(Rc::clone(&wire.far)));
        let stacks = Stacks {
            near: Stack::start(Rc::clone(&wire.near), plan(NEAR)),
            far: Stack::by_hand(held, plan(FAR)),
        };
        let pump = spawn(pump(stacks.far.clone(), Rc::clone(&wire.far)));
        // Both have taken a first turn when they are needed.
        sleep(SETTLING).await;
        let ends = timeout(PATIENCE, connect(&stacks)).await;
        pump.cancel();
        let (near, far) = ends.map_err(|_| Failure::new("the ends do not find each other"))??;
        let mut data = vec![0; bytes * count as usize];
        Pattern::new(SEED).fill(&mut data);
        Ok(Self { stacks, near, far, kind, data, came: Vec::new() })
    }

    /// Receives at the near end as much as is sent.
    async fn receive(&mut self) -> Result<(), Failure> {
        self.came.clear();
        let all = receive_all(&mut self.near, &mut self.came, self.data.len());
        timeout(PATIENCE, all).await.map_err(|_| Failure::new("not all data came"))??;
        Ok(())
    }

    /// Takes what came to the far end.
    fn take(&mut self) -> Result<Vec<u8>, Failure> {
        self.stacks.far.take_turn();
        let mut came = Vec::new();
        while let Some(1..) = self.far.receive_now(|data| take_into(&mut came, data))? {}
        self.stacks.far.take_turn();
        Ok(came)
    }

    /// Has the far end send in the next half.
    fn prepare(&mut self) -> Result<(), Failure> {
        let data = &self.data;
        let sent = self.far.send_now(|room| {
            let length = room.len().min(data.len());
            room[..length].copy_from_slice(&data[..length]);
            length
        })?;
        self.stacks.far.take_turn();
        if sent == data.len() { Ok(()) } else { Err(Failure::new("there is no room for so much data")) }
    }

    fn compare(&self, came: &[u8]) -> Result<(), Failure> {
        if came == self.data { Ok(()) } else { Err(Failure::new("what came is not what was sent")) }
    }
}

impl Ends for Talk {
    async fn near(&mut self, half: Half) -> Result<(), Failure> {
        let (sends, receives) = match (self.kind, half) {
            (Kind::TcpSend | Kind::Request, Half::First) => (true, false),
            (Kind::TcpReceive, Half::First) | (Kind::Request, Half::Second) => (false, true),
            _ => (false, false),
        };
        if sends {
            self.near.send_all(&self.data).await?;
        }
        if receives {
            self.receive().await?;
        }
        Ok(())
    }

    fn far(&mut self, half: Half) -> Result<(), Failure> {
        let came = self.take()?;
        match (self.kind, half) {
            (Kind::TcpSend, Half::First) => self.compare(&came),
            (Kind::Request, Half::First) => {
                self.compare(&came)?;
                self.prepare()
            }
            (Kind::TcpReceive, Half::First) => self.compare(&self.came),
            (Kind::TcpReceive, Half::Second) => self.prepare(),
            _ => Ok(()),
        }
    }
}

const fn plan(address: Ipv4Address) -> AddressPlan {
    AddressPlan::Fixed { address: Ipv4Cidr::new(address, PREFIX), gateway: None }
}

/// Lets the far end take turns by itself.
async fn pump(stack: Stack, card: Rc<dyn Port>) {
    loop {
        stack.take_turn();
        card.hand_over();
        sleep(TURN_INTERVAL).await;
    }
}

async fn connect(stacks: &Stacks) -> Result<(TcpStream, TcpStream), ConnectionError> {
    let (near, far) = join(
        TcpStream::connect(&stacks.near, FAR, PORT, Buffers::BULK),
        TcpStream::accept(&stacks.far, PORT, Buffers::BULK),
    )
    .await;
    let (mut near, mut far) = (near?, far?);
    let data = vec![0; WARMING_PIECE];
    for _ in 0..WARMING_PIECES {
        exchange(&mut near, &mut far, &data).await?;
        exchange(&mut far, &mut near, &data).await?;
    }
    // The last acknowledgements.
    sleep(SETTLING).await;
    Ok((near, far))
}

async fn exchange(from: &mut TcpStream, to: &mut TcpStream, data: &[u8]) -> Result<(), ConnectionError> {
    let mut came = Vec::new();
    let (sent, received) = join(from.send_all(data), receive_all(to, &mut came, data.len())).await;
    sent.and(received)
}

async fn receive_all(
    stream: &mut TcpStream,
    into: &mut Vec<u8>,
    length: usize,
) -> Result<(), ConnectionError> {
    while into.len() < length {
        let taken = stream.receive_with(|data| take_into(into, data)).await?;
        taken.ok_or(ConnectionError::Lost)?;
    }
    Ok(())
}

fn take_into(into: &mut Vec<u8>, data: &[u8]) -> usize {
    into.extend_from_slice(data);
    data.len()
}

/// A card whose frames are handed over by somebody else, and that nobody waits for.
struct Held(Rc<dyn Port>);

impl Port for Held {
    fn address(&self) -> EthernetAddress {
        self.0.address()
    }

    fn connections(&self) -> u32 {
        self.0.connections()
    }

    fn is_connected(&self) -> bool {
        self.0.is_connected()
    }

    fn make_interface(&self, config: Config, now: Instant) -> Interface {
        self.0.make_interface(config, now)
    }

    fn poll(&self, interface: &mut Interface, sockets: &mut SocketSet<'static>, now: Instant) {
        self.0.poll(interface, sockets, now);
    }

    fn put_frames(&self, length: usize, count: u32, fill: &mut dyn FnMut(u32, &mut [u8])) -> u32 {
        self.0.put_frames(length, count, fill)
    }

    fn take_frames(&self, take: &mut dyn FnMut(&[u8])) {
        self.0.take_frames(take);
    }

    fn hand_over(&self) {}

    fn ask_for_event(&self) -> Turn {
        Turn { may_wait: true, is_starved: false }
    }

    fn poll_event(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
