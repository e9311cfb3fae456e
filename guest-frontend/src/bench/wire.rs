//! Packets, streams and requests over a wire of which this domain has both ends: counted at the near end, and checked.
//!
//! The near end is the interface that is measured. The *far* end is a card that this domain drives itself, and nobody
//! counts what it does there:
//!
//! ```text
//!   first half                      │        │ second half                     │
//!   counted                         │ not    │ counted                         │ not
//!   far: hand over what is prepared │ far:   │ far: hand over what is prepared │ far: look at what came,
//!   near: send, receive, settle     │  look  │ near: receive, settle           │  prepare the next round
//! ```
//!
//! To hand over is to ring the card's bell; the card has no interrupts, for nobody asks it for any, and sends when the
//! machine's clock says so. So the far end adds nothing to what is counted but that.

use alloc::format;
use alloc::rc::Rc;
use core::fmt;
use core::future::poll_fn;
use core::str::FromStr;
use core::time::Duration;

use ip_stack::Port;
use pv_runtime::executor::{sleep, timeout, yield_now};
use pv_runtime::println;

use super::counter::Counter;
use super::frames::{Compare, Frames};
use super::talk::Talk;
use crate::apps::{Failure, machine::Machine};

/// How long everybody has in each half to be done: longer than an acknowledgement is put off.
pub(super) const SETTLING: Duration = Duration::from_millis(20);
/// How long the near end waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long an interface may take to come up.
const START_TIME: Duration = Duration::from_secs(20);
/// Rounds after the counted ones in which every byte of what comes is compared.
pub(super) const COMPARED_ROUNDS: u32 = 4;
/// Parts of a round.
const HALVES: usize = 2;

/// What goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packets from the near end.
    Send,
    /// Packets to it.
    Receive,
    /// Packets both ways at once.
    Both,
    /// A TCP stream from the near end, in segments.
    TcpSend,
    /// A TCP stream to it.
    TcpReceive,
    /// A request over TCP from the near end, and its answer.
    Request,
}

/// As commands call them.
const NAMES: [(&str, Kind); 6] = [
    ("send", Kind::Send),
    ("receive", Kind::Receive),
    ("both", Kind::Both),
    ("tcp-send", Kind::TcpSend),
    ("tcp-receive", Kind::TcpReceive),
    ("request", Kind::Request),
];

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        NAMES.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind).ok_or(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        formatter.write_str(name)
    }
}

/// A kind of traffic, and how much of it is a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it is.
    pub kind: Kind,
    /// Bytes of a packet behind its Ethernet header, of a segment, or of a request and of its answer.
    pub bytes: usize,
    /// Packets (each way), segments or requests of a round, handed over together.
    pub count: u32,
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.kind, self.bytes, self.count)
    }
}

/// Both ends.
pub(super) struct Wire {
    /// The interface that is measured.
    pub near: Rc<dyn Port>,
    /// The card at the other end.
    pub far: Rc<dyn Port>,
}

impl Wire {
    /// From the domain's interface to the last of its cards. What was prepared earlier, or still under way, is gone.
    async fn of(machine: &Machine) -> Result<Self, Failure> {
        let near = unused_interface(machine).await?;
        let far = machine.cards().pop().filter(|far| !Rc::ptr_eq(far, &near));
        let far = far.ok_or_else(|| Failure::new("there is no card for the far end"))?;
        far.hand_over();
        sleep(SETTLING).await;
        for port in [&near, &far] {
            take_all(&**port, |_| {});
            port.hand_over();
        }
        Ok(Self { near, far })
    }
}

/// The domain's interface, connected, of which nobody else takes packets.
pub(super) async fn unused_interface(machine: &Machine) -> Result<Rc<dyn Port>, Failure> {
    if machine.stack().is_some() {
        return Err(Failure::new("TCP/IP has the network interface; start this guest with ip=none"));
    }
    let port = machine.interface();
    connected(&*port).await?;
    Ok(port)
}

/// Waits until an interface is connected.
pub(super) async fn connected(port: &dyn Port) -> Result<(), Failure> {
    let connection = async {
        while !port.is_connected() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(START_TIME, connection).await.map_err(|_| Failure::new("the network does not come up"))
}

/// Takes frames until there are none.
pub(super) fn take_all(port: &dyn Port, mut take: impl FnMut(&[u8])) {
    let mut has_more = true;
    while has_more {
        has_more = false;
        port.take_frames(&mut |frame| {
            has_more = true;
            take(frame);
        });
    }
}

/// What both ends do, half by half.
pub(super) trait Ends {
    /// What the near end does in a half.
    async fn near(&mut self, half: Half) -> Result<(), Failure>;

    /// What the far end does after it: looks at what came, and prepares what it sends in the next half.
    fn far(&mut self, half: Half) -> Result<(), Failure>;

    /// From now on every byte is compared.
    fn compare_all(&mut self) {}
}

/// The halves of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Has rounds counted. A kernel that is alone prints what a round takes, less an empty one.
///
/// # Errors
///
/// If there are not two ends, nobody who counts, or something is lost or wrong.
pub(super) async fn count(machine: &Machine, workload: Workload, rounds: u32) -> Result<(), Failure> {
    let wire = Wire::of(machine).await?;
    if machine.store.is_some() {
        let mut counter = Counter::of(machine.store.as_ref()).await?;
        return measure(&wire, workload, rounds, &mut counter).await;
    }
    let mut ticks = [0; 2];
    for (ticks, count) in ticks.iter_mut().zip([0, workload.count]) {
        let mut counter = Counter::own();
        measure(&wire, Workload { count, ..workload }, rounds, &mut counter).await?;
        *ticks = counter.least(HALVES);
    }
    let [empty, full] = ticks;
    println!("bench: {}/{} {workload}: guest ticks", full.saturating_sub(empty), workload.count);
    Ok(())
}

async fn measure(wire: &Wire, workload: Workload, rounds: u32, counter: &mut Counter) -> Result<(), Failure> {
    match workload.kind {
        Kind::Send | Kind::Receive | Kind::Both => {
            all_rounds(&mut Packets::new(wire, workload)?, wire, rounds, counter).await?;
        }
        Kind::TcpSend | Kind::TcpReceive | Kind::Request => {
            let mut talk = Talk::begin(wire, workload).await?;
            all_rounds(&mut talk, wire, rounds, counter).await?;
        }
    }
    if workload.count > 0 {
        let rounds = u64::from(rounds + COMPARED_ROUNDS);
        println!("checked {} of them: {workload}", rounds * u64::from(workload.count));
    }
    Ok(())
}

/// Counted rounds, then compared ones.
async fn all_rounds(
    ends: &mut impl Ends,
    wire: &Wire,
    rounds: u32,
    counter: &mut Counter,
) -> Result<(), Failure> {
    ends.far(Half::Second)?;
    for _ in 0..rounds {
        round(ends, wire, counter).await?;
    }
    ends.compare_all();
    for _ in 0..COMPARED_ROUNDS {
        round(ends, wire, &mut Counter::own()).await?;
    }
    Ok(())
}

async fn round(ends: &mut impl Ends, wire: &Wire, counter: &mut Counter) -> Result<(), Failure> {
    for half in [Half::First, Half::Second] {
        counter.begin().await?;
        wire.far.hand_over();
        ends.near(half).await?;
        sleep(SETTLING).await;
        counter.end().await?;
        ends.far(half)?;
    }
    Ok(())
}

/// Streams of packets.
struct Packets<'a> {
    wire: &'a Wire,
    /// Packets of a round from the near end, and to it.
    sent: u32,
    received: u32,
    /// What the near end sends, and what is expected at the far end.
    forth: [Frames; 2],
    /// What the far end sends, and what is expected at the near end.
    back: [Frames; 2],
    compare: Compare,
    is_wrong: bool,
}

impl<'a> Packets<'a> {
    fn new(wire: &'a Wire, Workload { kind, bytes, count }: Workload) -> Result<Self, Failure> {
        let (near, far) = (wire.near.address(), wire.far.address());
        let forth = || Frames::new(near, far, bytes);
        let back = || Frames::new(far, near, bytes);
        Ok(Self {
            wire,
            sent: if kind == Kind::Receive { 0 } else { count },
            received: if kind == Kind::Send { 0 } else { count },
            forth: [forth()?, forth()?],
            back: [back()?, back()?],
            compare: Compare::Numbers,
            is_wrong: false,
        })
    }

    /// Whether all that was sent has come, each as it was.
    fn judge(&self, [made, expected]: &[Frames; 2]) -> Result<(), Failure> {
        if self.is_wrong || made.number() != expected.number() {
            let (made, came) = (made.number(), expected.number());
            return Err(Failure::new(format!(
                "of {made} packets sent {came} came, or came as they should not"
            )));
        }
        Ok(())
    }
}

impl Ends for Packets<'_> {
    async fn near(&mut self, half: Half) -> Result<(), Failure> {
        if half == Half::Second {
            return Ok(());
        }
        send(&*self.wire.near, &mut self.forth[0], self.sent)?;
        self.wire.near.hand_over();
        let [made, expected] = &mut self.back;
        let (until, compare, is_wrong) = (made.number(), self.compare, &mut self.is_wrong);
        let accept = |frame: &[u8]| {
            *is_wrong |= !expected.accept(frame, compare);
            expected.number() >= until
        };
        if self.received > 0 {
            let packets = receive(&*self.wire.near, accept);
            timeout(PATIENCE, packets).await.map_err(|_| Failure::new("not all packets came"))?;
        }
        Ok(())
    }

    fn far(&mut self, half: Half) -> Result<(), Failure> {
        let far = &*self.wire.far;
        if half == Half::Second {
            return send(far, &mut self.back[0], self.received);
        }
        take_all(far, |frame| self.is_wrong |= !self.forth[1].accept(frame, Compare::All));
        self.judge(&self.forth)?;
        self.judge(&self.back)
    }

    fn compare_all(&mut self) {
        self.compare = Compare::All;
    }
}

/// Puts packets where the interface will find them.
pub(super) fn send(port: &dyn Port, frames: &mut Frames, count: u32) -> Result<(), Failure> {
    let sent = port.put_frames(frames.length(), count, &mut |_, frame| frames.fill(frame));
    if sent < count { Err(Failure::new("there is no room for so many packets")) } else { Ok(()) }
}

/// Shows packets that come to `accept`, until it says that it has all.
pub(super) async fn receive(port: &dyn Port, mut accept: impl FnMut(&[u8]) -> bool) {
    let mut is_done = false;
    loop {
        port.take_frames(&mut |frame| is_done |= accept(frame));
        port.hand_over();
        if is_done {
            return;
        }
        match port.ask_for_event().may_wait {
            true => poll_fn(|context| port.poll_event(context)).await,
            false => yield_now().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for (name, kind) in NAMES {
            assert_eq!((name.parse(), &*format!("{kind}")), (Ok(kind), name));
        }
        assert_eq!("sending".parse::<Kind>(), Err(()));
    }
}
