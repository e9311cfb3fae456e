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
//! 3. the scheduler's, inside [`crate::scheduler::wake`].
//!
//! [`crate::interrupt::bind`] is called under `ports`, [`crate::interrupt::unbind`] under no lock of this module;
//! interrupts are signalled with [`notify_physical`], which takes one channel's lock.
//!
//! Signals use the two-level form (`two_level`). The FIFO form is not built: the operations that would
//! start it answer `ENOSYS`, on which guests stay with two levels.

mod binding;
mod hypercall;
mod signal;
mod two_level;

#[cfg(test)]
mod tests;

pub use binding::{
    alloc_unbound, bind_interdomain, bind_ipi, bind_pirq, bind_vcpu, bind_virq, close, close_all, status,
};
pub use hypercall::event_channel_op;
pub use signal::{
    notify_global_virq, notify_physical, notify_virq, raise_all, send, start_polling, stop_polling, unmask,
};
pub use two_level::is_pending;

use crate::lock::{Mutex, Once};
use crate::{
    domain::{DomainRef, MAX_VCPUS},
    frame_object::FrameBox,
    layout::PAGE_SIZE,
};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use hypercall_abi::{DomainId, Errno, PhysicalIrq, Port, VcpuId, event_channel::EVTCHN_2L_NR_CHANNELS};

/// Ports in the table.
const PORTS: usize = EVTCHN_2L_NR_CHANNELS as usize;
/// Channels in one bucket, which is one frame.
const BUCKET: usize = PAGE_SIZE as usize / size_of::<Channel>();
/// Buckets in the table.
const BUCKETS: usize = PORTS / BUCKET;

type Bucket = FrameBox<[Channel; BUCKET]>;

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
}

const _: () =
    assert!((PAGE_SIZE as usize).is_multiple_of(size_of::<Channel>()) && PORTS.is_multiple_of(BUCKET));

impl Channel {
    const fn free() -> Self {
        Self { state: Mutex::new(State::Free), vcpu: AtomicU8::new(0) }
    }

    fn vcpu_id(&self) -> VcpuId {
        VcpuId(u32::from(self.vcpu.load(Ordering::Relaxed)))
    }

    /// Chooses who is told; the caller has checked that the vCPU exists.
    fn set_vcpu(&self, id: VcpuId) {
        const { assert!(MAX_VCPUS <= 1 << u8::BITS) };
        self.vcpu.store(id.0 as u8, Ordering::Relaxed);
    }
}

/// Which ports are taken. Finds the lowest free one with two bit searches.
struct PortSet {
    taken: [u64; PORTS / 64],
    /// Bit `n` is set when word `n` of `taken` is full.
    full: u64,
    /// Ports from here on may not be used.
    limit: u32,
    /// The domain is dying: no more ports.
    is_closed: bool,
}

const _: () = assert!(PORTS / 64 == u64::BITS as usize, "one summary word covers all ports");

impl PortSet {
    const fn new(limit: u32) -> Self {
        let mut taken = [0; PORTS / 64];
        // Port 0 never is a channel: guests use it for "none".
        taken[0] = 1;
        Self { taken, full: 0, limit, is_closed: false }
    }

    /// The lowest free port: `EINVAL` when the domain is dying, `ENOSPC` when it has as many as it may.
    fn lowest_free(&self) -> Result<Port, Errno> {
        if self.is_closed {
            return Err(Errno::EINVAL);
        }
        let word = self.full.trailing_ones();
        let bits = self.taken.get(word as usize).ok_or(Errno::ENOSPC)?;
        let port = word * 64 + bits.trailing_ones();
        if port < self.limit { Ok(Port(port)) } else { Err(Errno::ENOSPC) }
    }

    fn take(&mut self, port: Port) {
        let word = port.0 as usize / 64;
        self.taken[word] |= 1 << (port.0 % 64);
        if self.taken[word] == u64::MAX {
            self.full |= 1 << word;
        }
    }

    fn release(&mut self, port: Port) {
        let word = port.0 as usize / 64;
        self.taken[word] &= !(1 << (port.0 % 64));
        self.full &= !(1 << word);
    }

    /// The lowest taken port that is at least `from`.
    fn first_taken(&self, from: Port) -> Option<Port> {
        let first_word = from.0 as usize / 64;
        let visible = |word: usize| if word == first_word { u64::MAX << (from.0 % 64) } else { u64::MAX };
        (first_word..self.taken.len()).find_map(|word| {
            let bits = self.taken[word] & visible(word);
            (bits != 0).then(|| Port(word as u32 * 64 + bits.trailing_zeros()))
        })
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
    buckets: [Once<Bucket>; BUCKETS],
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
        let limit = highest_port.min(EVTCHN_2L_NR_CHANNELS - 1) + 1;
        Self {
            ports: Mutex::new(PortSet::new(limit)),
            buckets: [const { Once::new() }; BUCKETS],
            pollers: AtomicU32::new(0),
            polled_ports: [const { AtomicU32::new(0) }; MAX_VCPUS],
            counters: Counters::default(),
        }
    }

    /// The channel at `port`, if any port near it has ever been used.
    #[inline]
    fn channel(&self, port: Port) -> Option<&Channel> {
        let number = port.0 as usize;
        Some(&self.buckets.get(number / BUCKET)?.get()?[number % BUCKET])
    }

    /// The channel at `port`, in a new bucket if need be; `ENOMEM` when there is no frame for it.
    fn channel_or_new(&self, port: Port) -> Result<&Channel, Errno> {
        let number = port.0 as usize;
        let bucket = self.buckets[number / BUCKET]
            .try_call_once(|| FrameBox::try_from_fn(|_| Channel::free()).ok_or(Errno::ENOMEM))?;
        Ok(&bucket[number % BUCKET])
    }

    /// Takes the lowest free port and lets `connect` give its channel a state, all under `ports`: whoever sees
    /// the port taken finds it in that state. Notifies `vcpu`.
    fn open(
        &self,
        vcpu: VcpuId,
        connect: impl FnOnce(Port, &Channel) -> Result<(), Errno>,
    ) -> Result<Port, Errno> {
        let mut ports = self.ports.lock();
        let port = ports.lowest_free()?;
        let channel = self.channel_or_new(port)?;
        channel.set_vcpu(vcpu);
        connect(port, channel)?;
        ports.take(port);
        Ok(port)
    }

    /// Number of ports in use.
    pub fn used_ports(&self) -> u32 {
        self.ports.lock().taken.iter().map(|word| word.count_ones()).sum::<u32>() - 1
    }
}
