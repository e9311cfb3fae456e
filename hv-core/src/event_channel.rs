//! Event channels: one-bit signals to a domain, from another domain, from itself, or from an interrupt.
//!
//! The idea to hold: a port is a small state machine in hypervisor memory, and the guest sees of it only a
//! pending bit and a mask bit. A connected port holds a counted reference to the domain at its other end, so
//! [`send`] finds the peer without a search, and a peer cannot vanish under it: to disconnect a channel one
//! must lock both of its ends, and a sender holds the lock of its own end.
//!
//! Locks, outermost first; nobody takes them in another order:
//!
//! 1. one domain's `ports` (never two), held from the choice of a free port until the port has its state;
//! 2. channels, singly or two in the order of their addresses (`lock_pair`);
//! 3. a domain's FIFO queues;
//! 4. the scheduler's, inside [`crate::scheduler::wake`].
//!
//! [`crate::interrupt::bind`] is called under `ports`, [`crate::interrupt::unbind`] under no lock of this module;
//! interrupts are signalled with [`notify_physical`], which takes one channel's lock.
//!
//! A guest sees its ports in one of two forms (`form`): two levels of bits (`two_level`), in which every domain begins,
//! or queues of words (`fifo`), which has more ports and priorities.

mod binding;
mod fifo;
mod form;
mod hypercall;
mod polling;
mod ports;
mod signal;
mod two_level;

#[cfg(test)]
mod tests;

pub use binding::{
    alloc_unbound, bind_interdomain, bind_ipi, bind_pirq, bind_vcpu, bind_virq, close, close_all, status,
};
pub use form::{end_fifo, expand_array, init_control, is_pending, set_priority};
pub use hypercall::event_channel_op;
pub use polling::{start_polling, stop_polling};
pub use signal::{notify_global_virq, notify_physical, notify_virq, raise_all, send, unmask};

use crate::lock::{Mutex, Once};
use crate::{
    domain::{DomainRef, MAX_VCPUS},
    frame_object::FrameBox,
    layout::PAGE_SIZE,
};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use fifo::Fifo;
use form::PortForm;
use hypercall_abi::{
    DomainId, Errno, PhysicalIrq, Port, VcpuId,
    event_channel::{EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_PRIORITY_DEFAULT},
};
use ports::{Directory, PortSet};

/// Closed ports still in a guest's queue that are passed over in the search for a free one.
const MOST_PASSED_OVER: u32 = 1024;

/// What a port is.
enum State {
    /// Nothing; the port may be given out.
    Free,
    /// Waits for that domain to connect.
    Unbound { remote: DomainId },
    /// Connected. Signals sent here appear at `port` of `peer`.
    Interdomain { peer: DomainRef, port: Port },
    /// Shows a physical interrupt.
    PhysicalInterrupt(PhysicalIrq),
    /// Shows a virtual interrupt of the vCPU it was bound on.
    VirtualInterrupt { virq: u32, bound_on: VcpuId },
    /// For signals between the domain's own vCPUs.
    InterProcessor,
}

/// One port.
struct Channel {
    state: Mutex<State>,
    /// The vCPU that is told when the port becomes pending; valid for the domain, or 0.
    vcpu: AtomicU8,
    /// Its queue on that vCPU, in the FIFO form.
    priority: AtomicU8,
    /// An event happened while the port had no event word yet, in the FIFO form.
    awaits_word: AtomicBool,
    /// The queue it was put into last; see [`Self::last_queue`].
    last_queue: AtomicU16,
}

const _: () = assert!((PAGE_SIZE as usize).is_multiple_of(size_of::<Channel>()));

impl Channel {
    const fn free() -> Self {
        Self {
            state: Mutex::new(State::Free),
            vcpu: AtomicU8::new(0),
            priority: AtomicU8::new(EVTCHN_FIFO_PRIORITY_DEFAULT as u8),
            awaits_word: AtomicBool::new(false),
            last_queue: AtomicU16::new(0),
        }
    }

    /// Makes it as new, but for the queue in which the guest may still have it.
    fn renew(&self, vcpu: VcpuId) {
        self.set_vcpu(vcpu);
        self.priority.store(EVTCHN_FIFO_PRIORITY_DEFAULT as u8, Ordering::Relaxed);
        self.awaits_word.store(false, Ordering::SeqCst);
    }

    fn vcpu_id(&self) -> VcpuId {
        VcpuId(u32::from(self.vcpu.load(Ordering::Relaxed)))
    }

    /// Chooses who is told; the caller has checked that the vCPU exists.
    fn set_vcpu(&self, id: VcpuId) {
        const { assert!(MAX_VCPUS <= 1 << u8::BITS) };
        self.vcpu.store(id.0 as u8, Ordering::Relaxed);
    }

    /// The vCPU and the priority of the queue the port was put into last.
    fn last_queue(&self) -> (usize, usize) {
        let queue = usize::from(self.last_queue.load(Ordering::Relaxed));
        (queue / EVTCHN_FIFO_MAX_QUEUES, queue % EVTCHN_FIFO_MAX_QUEUES)
    }

    fn set_last_queue(&self, vcpu: VcpuId, priority: usize) {
        const { assert!(MAX_VCPUS * EVTCHN_FIFO_MAX_QUEUES <= 1 << u16::BITS) };
        self.last_queue
            .store((vcpu.0 as usize * EVTCHN_FIFO_MAX_QUEUES + priority) as u16, Ordering::Relaxed);
    }
}

/// How often a domain did what, for benchmarks.
#[derive(Default)]
pub struct Counters {
    /// `EVTCHNOP_send` that found a channel to signal.
    pub events_sent: AtomicU64,
    /// Ports of this domain that went from not pending to pending.
    pub events_received: AtomicU64,
}

impl Counters {
    /// Sets all to zero.
    pub fn reset(&self) {
        self.events_sent.store(0, Ordering::Relaxed);
        self.events_received.store(0, Ordering::Relaxed);
    }
}

/// A domain's event channels. Takes no frame before the first port is used, and then one for 128 ports.
pub struct EventChannels {
    ports: Mutex<PortSet>,
    directory: Directory,
    /// The guest sees its ports as words in queues.
    is_fifo: AtomicBool,
    /// What is kept for that, from the first time on that the guest chose it.
    fifo: Once<FrameBox<Mutex<Fifo>>>,
    /// Bit for each vCPU that polls.
    pollers: AtomicU32,
    /// For each polling vCPU the port it waits for, or 0 for any.
    polled_ports: [AtomicU32; MAX_VCPUS],
    /// What was done with them.
    pub counters: Counters,
}

const _: () = assert!(MAX_VCPUS <= u32::BITS as usize, "`pollers` has a bit for every vCPU");

impl EventChannels {
    /// No channels yet, and never a port above `highest_port` (`max_evtchn_port` of `XEN_DOMCTL_createdomain`).
    pub fn new(highest_port: u32) -> Self {
        Self {
            ports: Mutex::new(PortSet::new(highest_port)),
            directory: Directory::new(),
            is_fifo: AtomicBool::new(false),
            fifo: Once::new(),
            pollers: AtomicU32::new(0),
            polled_ports: [const { AtomicU32::new(0) }; MAX_VCPUS],
            counters: Counters::default(),
        }
    }

    /// The channel at `port`, if any port near it has ever been used.
    #[inline]
    fn channel(&self, port: Port) -> Option<&Channel> {
        self.directory.channel(port)
    }

    /// Takes the lowest free port and lets `connect` give its channel a state, all under `ports`: whoever sees
    /// the port taken finds it in that state. Notifies `vcpu`.
    fn open(
        &self,
        vcpu: VcpuId,
        connect: impl FnOnce(Port, &Channel) -> Result<(), Errno>,
    ) -> Result<Port, Errno> {
        let mut ports = self.ports.lock();
        let (port, channel) = self.free_channel(&ports)?;
        channel.renew(vcpu);
        connect(port, channel)?;
        ports.take(&self.directory, port);
        Ok(port)
    }

    /// The lowest free port, but for those that the guest still has in a queue: `ENOSPC` when that are too many.
    fn free_channel(&self, ports: &PortSet) -> Result<(Port, &Channel), Errno> {
        let mut from = Port(0);
        for _ in 0..MOST_PASSED_OVER {
            let port = ports.first_free(&self.directory, from)?;
            if !self.is_queued(port) {
                return Ok((port, self.directory.channel_or_new(port)?));
            }
            from = Port(port.0 + 1);
        }
        Err(Errno::ENOSPC)
    }

    /// Number of ports in use.
    pub fn used_ports(&self) -> u32 {
        self.ports.lock().count(&self.directory)
    }
}
