//! Event channels in the FIFO form: words and queues in memory of the guest's, which it fills with nonsense.
//!
//! The first of these cases begins that form, in which this kernel's own events are not taken any more; so these come
//! last of all.

use alloc::format;
use alloc::string::String;
use core::mem;
use core::sync::atomic::{AtomicU32, Ordering};

use hypercall_abi::event_channel::*;
use hypercall_abi::memory::XENMEM_DECREASE_RESERVATION;
use hypercall_abi::xen::HYPERVISOR_EVENT_CHANNEL_OP;
use hypercall_abi::{DomainId, Errno, MachineFrame, Port, VcpuId};
use pv_runtime::memory::{BuilderPage, SharedMemory};

use crate::attacker::Attacker;
use crate::calls::Answer;
use crate::entry::{WRITE, entry};
use crate::report::{Outcome, accepted, cases, expect, refused, refused_as};
use crate::slot::{Slot, page};
use crate::surroundings::Surroundings;
use crate::table::tables_of;

cases!("event-queues":
    control_blocks_that_are_not_its_own, misplaced_control_blocks, words_that_are_not_its_own, no_words_beyond_the_last,
    a_frame_of_words_as_something_else, priorities, circles_of_words, numbers_still_in_a_queue, a_control_block_of_noise,
);

const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
/// Where the control block lies in its page.
const BLOCK: u32 = 128;
/// Words in a page.
const WORDS: u32 = 1024;

fn event_op<T>(attacker: &Attacker, command: u32, argument: &mut T) -> Answer {
    attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, command, argument)
}

fn begin_at(attacker: &Attacker, vcpu: u32, frame: MachineFrame, offset: u32) -> Answer {
    let mut begin =
        EvtchnInitControl { control_gfn: frame.0, offset, vcpu: VcpuId(vcpu), ..Default::default() };
    event_op(attacker, EVTCHNOP_INIT_CONTROL, &mut begin)
}

fn add_words(attacker: &Attacker, frame: MachineFrame) -> Answer {
    event_op(attacker, EVTCHNOP_EXPAND_ARRAY, &mut EvtchnExpandArray { array_gfn: frame.0 })
}

/// A page that the hypervisor will hold for good.
fn given_page() -> Result<MachineFrame, String> {
    let page = page()?;
    let frame = page.machine_frame();
    mem::forget(page);
    Ok(frame)
}

/// The control block and the first words, from the first case on that needs them.
struct Queues {
    control: BuilderPage,
    words: BuilderPage,
}

/// The frames of the control block and of the first words, once they are given.
static GIVEN: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

impl Queues {
    /// Begins the FIFO form, or finds what was given when it began.
    fn of(attacker: &Attacker) -> Result<Self, String> {
        if GIVEN[0].load(Ordering::Relaxed) == 0 {
            let (control, words) = (given_page()?, given_page()?);
            accepted("a control block", begin_at(attacker, 0, control, BLOCK))?;
            accepted("a page of words", add_words(attacker, words))?;
            GIVEN[0].store(control.0 as u32, Ordering::Relaxed);
            GIVEN[1].store(words.0 as u32, Ordering::Relaxed);
        }
        let find = |given: &AtomicU32| {
            let frame = MachineFrame(u64::from(given.load(Ordering::Relaxed)));
            BuilderPage::find(frame).map_err(|errno| format!("a page is gone: {errno}"))
        };
        Ok(Self { control: find(&GIVEN[0])?, words: find(&GIVEN[1])? })
    }

    fn word(&self, port: Port) -> &AtomicU32 {
        &self.words.words()[port.0 as usize]
    }

    fn block(&self) -> &[AtomicU32] {
        &self.control.words()[BLOCK as usize / 4..][..size_of::<EvtchnFifoControlBlock>() / 4]
    }

    /// Forgets every queue, as a guest does that has read them all.
    fn clear(&self) {
        self.words.words().iter().for_each(|word| word.store(0, Ordering::SeqCst));
        self.block()[0].store(0, Ordering::SeqCst);
    }
}

/// A port connected to another of this domain's; closed by hand.
struct Pair {
    from: Port,
    to: Port,
}

impl Pair {
    fn new(attacker: &Attacker) -> Result<Self, String> {
        let mut open =
            EvtchnAllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::SELF, ..Default::default() };
        accepted("opening a port", event_op(attacker, EVTCHNOP_ALLOC_UNBOUND, &mut open))?;
        let mut bind = EvtchnBindInterdomain {
            remote_dom: DomainId::SELF,
            remote_port: open.port,
            ..Default::default()
        };
        accepted("connecting to it", event_op(attacker, EVTCHNOP_BIND_INTERDOMAIN, &mut bind))?;
        Ok(Self { from: bind.local_port, to: open.port })
    }

    fn send(&self, attacker: &Attacker) -> Outcome {
        accepted("sending", event_op(attacker, EVTCHNOP_SEND, &mut EvtchnSend { port: self.from })).map(drop)
    }

    fn close(&self, attacker: &Attacker) -> Outcome {
        for port in [self.from, self.to] {
            accepted("closing", event_op(attacker, EVTCHNOP_CLOSE, &mut EvtchnClose { port }))?;
        }
        Ok(())
    }
}

/// An event comes as it should: pending, in the queue's head, and announced.
fn works(attacker: &Attacker, queues: &Queues) -> Outcome {
    queues.clear();
    let pair = Pair::new(attacker)?;
    queues.clear();
    pair.send(attacker)?;
    let word = queues.word(pair.to).load(Ordering::SeqCst);
    let priority = EVTCHN_FIFO_PRIORITY_DEFAULT as usize;
    let (ready, head) = (&queues.block()[0], &queues.block()[2 + priority]);
    expect(word & (PENDING | LINKED) == PENDING | LINKED, format!("the word is {word:#x}"))?;
    expect(ready.load(Ordering::SeqCst) & 1 << priority != 0, "the queue is not ready")?;
    expect(head.load(Ordering::SeqCst) == pair.to.0, "the queue's head is another port")?;
    queues.clear();
    pair.close(attacker)
}

/// Frames that are not this domain's to write: of others, of nobody, tables, and what is no memory.
fn bad_frames(attacker: &Attacker) -> Result<alloc::vec::Vec<MachineFrame>, String> {
    let slot = Slot::new(attacker)?;
    let surroundings = Surroundings::look(attacker)?;
    let mut frames = surroundings.samples();
    frames.extend(tables_of(attacker, slot.address())?);
    frames.extend([surroundings.last.0 + 1, 0xfee00, 1 << 40, 1 << 52, u64::MAX].map(MachineFrame));
    Ok(frames)
}

fn control_blocks_that_are_not_its_own(attacker: &Attacker) -> Outcome {
    for frame in bad_frames(attacker)? {
        refused(format!("a control block in frame {frame}"), begin_at(attacker, 0, frame, 0))?;
    }
    works(attacker, &Queues::of(attacker)?)
}

fn misplaced_control_blocks(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    let frame = given_page()?;
    for offset in [1, 4, 4096 - 64, 4095, 4096, 1 << 31, 0xffff_fff8] {
        refused(format!("a control block at {offset:#x}"), begin_at(attacker, 0, frame, offset))?;
    }
    refused("a second control block", begin_at(attacker, 0, frame, 0))?;
    for vcpu in [1, 31, 32, 255, 1 << 31, u32::MAX] {
        refused_as(
            format!("a control block of virtual CPU {vcpu}"),
            &[Errno::ENOENT],
            begin_at(attacker, vcpu, frame, 0),
        )?;
    }
    works(attacker, &queues)
}

fn words_that_are_not_its_own(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    for frame in bad_frames(attacker)? {
        refused(format!("words in frame {frame}"), add_words(attacker, frame))?;
    }
    works(attacker, &queues)
}

/// The same frame may hold the words of all ports, to this guest's own confusion; but no more than there are ports.
fn no_words_beyond_the_last(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    let frame = given_page()?;
    let count = (0..1000).take_while(|_| add_words(attacker, frame).is_ok()).count();
    expect(count as u32 == EVTCHN_FIFO_NR_CHANNELS / WORDS - 1, format!("{count} more pages were taken"))?;
    refused_as("one more", &[Errno::ENOSPC], add_words(attacker, frame))?;
    works(attacker, &queues)
}

/// The frames stay writable memory, and stay this domain's, whatever it does with them.
fn a_frame_of_words_as_something_else(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    let slot = Slot::new(attacker)?;
    for given in &GIVEN {
        let frame = MachineFrame(u64::from(given.load(Ordering::Relaxed)));
        for level in 1..=4 {
            refused(format!("frame {frame} as table of level {level}"), attacker.pin(frame, level))?;
        }
        accepted("mapping it once more", slot.map(entry(frame, WRITE)))?;
        accepted("and not any more", slot.restore())?;
        let mut extents = [frame.0];
        if attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut extents, 0) == Ok(1) {
            refused("a table of a frame given up", attacker.pin(frame, 1))?;
        }
    }
    works(attacker, &queues)
}

fn priorities(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    let pair = Pair::new(attacker)?;
    let set = |port: Port, priority: u32| {
        event_op(attacker, EVTCHNOP_SET_PRIORITY, &mut EvtchnSetPriority { port, priority })
    };
    accepted("the least urgent", set(pair.to, EVTCHN_FIFO_PRIORITY_MIN))?;
    for priority in [16, 17, 31, 256, 1 << 31, u32::MAX] {
        refused(format!("priority {priority}"), set(pair.to, priority))?;
    }
    for port in [3000, 4096, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS + 1, u32::MAX].map(Port) {
        refused(format!("the priority of port {port}"), set(port, 1))?;
    }
    pair.close(attacker)?;
    works(attacker, &queues)
}

/// Every word links to itself, to its neighbour, to port 0, beyond the last: the hypervisor follows no link.
fn circles_of_words(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    let pairs = [Pair::new(attacker)?, Pair::new(attacker)?, Pair::new(attacker)?];
    let links: [fn(u32) -> u32; 5] =
        [|port| port, |port| port ^ 1, |_| 0, |_| EVTCHN_FIFO_LINK_MASK, |port| !port];
    for link in links {
        for flags in [LINKED, LINKED | BUSY, LINKED | PENDING, BUSY, !EVTCHN_FIFO_LINK_MASK, 0] {
            for (port, word) in (0..).zip(queues.words.words()) {
                word.store(flags | link(port) & EVTCHN_FIFO_LINK_MASK, Ordering::SeqCst);
            }
            for pair in pairs.iter().chain(&pairs) {
                pair.send(attacker)?;
                queues.word(pair.to).store(flags, Ordering::SeqCst);
                let mut unmask = EvtchnUnmask { port: pair.to };
                accepted("unmasking", event_op(attacker, EVTCHNOP_UNMASK, &mut unmask))?;
            }
        }
    }
    queues.clear();
    pairs.iter().try_for_each(|pair| pair.close(attacker))?;
    works(attacker, &queues)
}

/// A number that the guest still has in a queue is not given out, and looking for another comes to an end.
fn numbers_still_in_a_queue(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    let pair = Pair::new(attacker)?;
    queues.word(pair.to).store(LINKED, Ordering::SeqCst);
    pair.close(attacker)?;
    let other = Pair::new(attacker)?;
    expect(other.to != pair.to && other.from != pair.to, "a number in a queue was given out")?;
    other.close(attacker)?;
    for word in queues.words.words() {
        word.store(LINKED, Ordering::SeqCst);
    }
    // All pages but the first have words in one and the same frame, which says that none is in a queue.
    let far = Pair::new(attacker)?;
    expect(far.to.0 >= WORDS, "a number in a queue was given out")?;
    far.close(attacker)?;
    works(attacker, &queues)
}

fn a_control_block_of_noise(attacker: &Attacker) -> Outcome {
    let queues = Queues::of(attacker)?;
    let pair = Pair::new(attacker)?;
    for noise in [u32::MAX, 0, 1, 1 << 16, EVTCHN_FIFO_LINK_MASK, 0x8000_0001] {
        queues.words.words().iter().for_each(|word| word.store(0, Ordering::SeqCst));
        queues.block().iter().for_each(|word| word.store(noise, Ordering::SeqCst));
        for _ in 0..3 {
            pair.send(attacker)?;
            queues.word(pair.to).store(0, Ordering::SeqCst);
        }
    }
    queues.clear();
    pair.close(attacker)?;
    works(attacker, &queues)
}
