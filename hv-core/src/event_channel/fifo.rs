//! The FIFO form: a word for each port in pages of the guest's, and for each vCPU sixteen queues of ports, one a
//! priority, of which the guest finds the heads in the vCPU's control block.
//!
//! ```text
//!  control block          event word
//!  ready  ····1··         ┌─────────┬────────┬────────┬──────┬──────────┐
//!  head 0 ──► port 17 ──► │ PENDING │ MASKED │ LINKED │ BUSY │ link: 23 │ ──► word of port 23 ──► …
//!  …                      └─────────┴────────┴────────┴──────┴──────────┘
//! ```
//!
//! The idea to hold: the hypervisor only ever appends. It keeps the last port of each queue itself and follows no link,
//! so words that a guest makes into circles or nonsense cost the hypervisor nothing; whatever it does for one event
//! is a fixed number of accesses to frames that it holds as the guest's writable memory. A guest that breaks the
//! rules loses events of its own.
//!
//! All of this is under one lock a domain, the innermost of this module's.

use super::{Channel, form::request_upcall};
use crate::{
    direct_map,
    domain::{Domain, MAX_VCPUS},
    frame,
    layout::PAGE_SIZE,
};
use core::{
    mem::{self, offset_of},
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};
use hypercall_abi::{
    Errno, MachineFrame, Port, VcpuId,
    event_channel::{
        EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED,
        EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, EvtchnFifoControlBlock,
    },
};

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

/// Event words in a frame.
const WORDS: u32 = PAGE_SIZE as u32 / size_of::<u32>() as u32;
/// Frames of event words there can be.
const MOST_PAGES: usize = (EVTCHN_FIFO_NR_CHANNELS / WORDS) as usize;

/// Attempts to change a word that the guest changes at the same time. A guest may change a word in a queue in four
/// ways: mask it, unmask it, take the event, take it out of the queue.
const ATTEMPTS: u32 = 4;

/// Where a vCPU's control block is.
#[derive(Clone, Copy)]
struct ControlBlock {
    frame: MachineFrame,
    offset: u16,
}

impl ControlBlock {
    fn word(self, offset: usize) -> &'static AtomicU32 {
        direct_map::atomic::<u32>(self.frame, usize::from(self.offset) + offset)
    }

    fn ready(self) -> &'static AtomicU32 {
        self.word(offset_of!(EvtchnFifoControlBlock, ready))
    }

    fn head(self, priority: usize) -> &'static AtomicU32 {
        self.word(offset_of!(EvtchnFifoControlBlock, head) + priority * size_of::<u32>())
    }
}

/// The queues of one vCPU.
#[derive(Clone, Copy)]
struct Queues {
    control: Option<ControlBlock>,
    /// The port that was put last into each queue, or 0.
    tails: [u32; EVTCHN_FIFO_MAX_QUEUES],
}

impl Queues {
    const NONE: Self = Self { control: None, tails: [0; EVTCHN_FIFO_MAX_QUEUES] };
}

/// What the hypervisor keeps of a domain's queues: where the guest's words are, and the ends.
pub(super) struct Fifo {
    /// Frames of event words, each held as writable memory.
    pages: [MachineFrame; MOST_PAGES],
    page_count: usize,
    queues: [Queues; MAX_VCPUS],
}

const _: () = assert!(size_of::<crate::lock::Mutex<Fifo>>() <= PAGE_SIZE as usize, "it lies in one frame");

/// Holds a frame that the guest names as its own memory to write.
fn hold(domain: &Domain, frame: MachineFrame) -> Result<(), Errno> {
    frame::get_writable(frame, domain.id).map_err(|_| Errno::EINVAL)
}

impl Fifo {
    pub const fn new() -> Self {
        Self { pages: [MachineFrame(0); MOST_PAGES], page_count: 0, queues: [Queues::NONE; MAX_VCPUS] }
    }

    /// Sets the control block of a vCPU that exists and has none.
    pub fn set_control_block(
        &mut self,
        domain: &Domain,
        id: VcpuId,
        frame: MachineFrame,
        offset: u32,
    ) -> Result<(), Errno> {
        let last = PAGE_SIZE as usize - size_of::<EvtchnFifoControlBlock>();
        let queues = self.queues.get_mut(id.0 as usize).ok_or(Errno::ENOENT)?;
        if offset as usize > last || !offset.is_multiple_of(8) || queues.control.is_some() {
            return Err(Errno::EINVAL);
        }
        hold(domain, frame)?;
        queues.control = Some(ControlBlock { frame, offset: offset as u16 });
        Ok(())
    }

    /// Adds a frame of words, and says for which ports.
    pub fn add_words(&mut self, domain: &Domain, frame: MachineFrame) -> Result<Range<u32>, Errno> {
        let page = self.pages.get_mut(self.page_count).ok_or(Errno::ENOSPC)?;
        hold(domain, frame)?;
        *page = frame;
        let first = self.page_count as u32 * WORDS;
        self.page_count += 1;
        Ok(first..first + WORDS)
    }

    /// The word of a port, if the guest has given one.
    #[inline]
    fn word(&self, port: Port) -> Option<&'static AtomicU32> {
        let page = self.pages[..self.page_count].get((port.0 / WORDS) as usize)?;
        Some(direct_map::atomic::<u32>(*page, (port.0 % WORDS) as usize * size_of::<u32>()))
    }

    fn has(&self, port: Port, bit: u32) -> bool {
        self.word(port).is_some_and(|word| word.load(Ordering::SeqCst) & bit != 0)
    }

    pub fn is_pending(&self, port: Port) -> bool {
        self.has(port, PENDING)
    }

    /// True when the guest has not yet taken the port out of the queue it was put into.
    pub fn is_queued(&self, port: Port) -> bool {
        self.has(port, LINKED)
    }

    /// Makes a port pending, and puts it into its queue unless it is masked or in one. Says whether the event is new.
    #[inline]
    pub fn set_pending(&mut self, domain: &Domain, port: Port, channel: &Channel) -> bool {
        let Some(word) = self.word(port) else {
            channel.awaits_word.store(true, Ordering::SeqCst);
            return false;
        };
        let before = word.fetch_or(PENDING, Ordering::SeqCst);
        if before & (MASKED | LINKED) == 0 {
            self.enqueue(domain, port, channel, word);
        }
        before & PENDING == 0
    }

    /// Forgets an event. The port stays in its queue, where the guest will find nothing.
    pub fn clear_pending(&self, port: Port) {
        if let Some(word) = self.word(port) {
            word.fetch_and(!PENDING, Ordering::SeqCst);
        }
    }

    /// Clears the mask, and puts the port into its queue if that uncovers an event.
    pub fn unmask(&mut self, domain: &Domain, port: Port, channel: &Channel) {
        let Some(word) = self.word(port) else { return };
        let before = word.fetch_and(!MASKED, Ordering::SeqCst);
        if before & (PENDING | LINKED) == PENDING {
            self.enqueue(domain, port, channel, word);
        }
    }

    /// Appends a port to the queue of its vCPU and priority. A vCPU without a control block has no queues, and the
    /// guest no business to unmask its events.
    fn enqueue(&mut self, domain: &Domain, port: Port, channel: &Channel, word: &AtomicU32) {
        let (target, priority) = (channel.vcpu_id(), usize::from(channel.priority.load(Ordering::Relaxed)));
        let Some(control) = self.queues[target.0 as usize].control else { return };
        if word.fetch_or(LINKED, Ordering::SeqCst) & LINKED != 0 {
            return;
        }
        self.leave_last_queue(port, channel);
        channel.set_last_queue(target, priority);
        let behind = mem::replace(&mut self.queues[target.0 as usize].tails[priority], port.0);
        if behind != 0 && self.word(Port(behind)).is_some_and(|tail| append(tail, port)) {
            return;
        }
        control.head(priority).store(port.0, Ordering::SeqCst);
        let bit = 1 << priority;
        let was_empty = control.ready().fetch_or(bit, Ordering::SeqCst) & bit == 0;
        if let Some(vcpu) = domain.vcpu(target).filter(|_| was_empty) {
            request_upcall(vcpu);
        }
    }

    /// The guest has taken the port out of the queue where it was last. If it was the last there, that queue is empty;
    /// to append to the port would join two queues.
    fn leave_last_queue(&mut self, port: Port, channel: &Channel) {
        let (vcpu, priority) = channel.last_queue();
        let tail = &mut self.queues[vcpu].tails[priority];
        if *tail == port.0 {
            *tail = 0;
        }
    }

    /// Lets go of the guest's frames, and forgets all queues.
    pub fn let_go(&mut self) {
        for queues in &mut self.queues {
            let control = mem::replace(queues, Queues::NONE).control;
            control.into_iter().for_each(|control| frame::put_writable(control.frame));
        }
        let count = mem::take(&mut self.page_count);
        self.pages[..count].iter().for_each(|page| frame::put_writable(*page));
    }
}

/// Lets the word of a queue's last port name `next`. False when that port is in no queue any more.
fn append(tail: &AtomicU32, next: Port) -> bool {
    if let Some(is_appended) = try_append(tail, next) {
        return is_appended;
    }
    // A guest that goes by the rules leaves a busy word masked or as it is, so now one of a few attempts succeeds.
    tail.fetch_or(BUSY, Ordering::SeqCst);
    let is_appended = try_append(tail, next) == Some(true);
    if !is_appended {
        tail.fetch_and(!BUSY, Ordering::SeqCst);
    }
    is_appended
}

/// `None` when the guest changed the word each time.
fn try_append(tail: &AtomicU32, next: Port) -> Option<bool> {
    let mut seen = tail.load(Ordering::SeqCst);
    for _ in 0..ATTEMPTS {
        if seen & LINKED == 0 {
            return Some(false);
        }
        let new = seen & !(BUSY | EVTCHN_FIFO_LINK_MASK) | next.0;
        match tail.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return Some(true),
            Err(now) => seen = now,
        }
    }
    None
}
