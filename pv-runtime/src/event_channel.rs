//! Event channels: one-bit signals from other domains, from interrupts and from the hypervisor.
//!
//! The executor takes pending events between tasks. Each port has a place in a table: a flag "came since the
//! last wait" and the waker of the task that waits. Taking an event sets the flag and wakes the task; nothing
//! else happens on the way, and nothing is lost between two waits.

mod pending;

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use hypercall_abi::event_channel::{
    BIND_PIRQ__WILL_SHARE, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindPirq, EvtchnBindVirq,
    EvtchnClose, EvtchnSend, EvtchnStatus,
};
use hypercall_abi::physdev::{PhysdevEoi, PhysdevIrqStatusQuery, XENIRQSTAT_NEEDS_EOI};
use hypercall_abi::{DomainId, Errno, PhysicalIrq, Port, VcpuId};

use crate::hypercall::{event_channel_op, physdev_op};
use crate::time::time_stamp_counter;
use crate::{kernel_local, shared_info};

pub(crate) use pending::PendingEvents;

/// What is known of a port.
#[derive(Default)]
struct Slot {
    /// An event came and was not waited for yet.
    came: bool,
    /// Who waits for the next one.
    waiter: Option<Waker>,
}

kernel_local! {
    static SLOTS: RefCell<Vec<Slot>> = RefCell::new(Vec::new());
}

kernel_local! {
    static NOTIFICATIONS: Cell<u64> = Cell::new(0);
}

kernel_local! {
    static NOTIFICATION_TICKS: Cell<u64> = Cell::new(0);
}

kernel_local! {
    static EVENTS: Cell<u64> = Cell::new(0);
}

/// How often events were sent and taken since start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    /// Notifications sent: one hypercall each.
    pub notifications: u64,
    /// Ticks of the time stamp counter from before each to after it: others may have run meanwhile, for who is woken may
    /// have the CPU at once.
    pub notification_ticks: u64,
    /// Events taken, over all ports.
    pub events: u64,
    /// Upcalls: how often an event ended a block.
    pub upcalls: u64,
}

/// The counters' present values.
#[inline]
pub fn counters() -> EventCounters {
    EventCounters {
        notifications: NOTIFICATIONS.with(Cell::get),
        notification_ticks: NOTIFICATION_TICKS.with(Cell::get),
        events: EVENTS.with(Cell::get),
        upcalls: crate::traps::upcalls(),
    }
}

/// Takes all pending events and wakes who waits for them. One load if there are none.
#[inline]
pub(crate) fn dispatch() {
    shared_info::events().take(arrive);
}

/// Notes that an event came on `port`.
fn arrive(port: Port) {
    EVENTS.with(|count| count.set(count.get() + 1));
    SLOTS.with(|slots| {
        // A port nobody bound has no slot; it was bound by the domain builder and is not in use.
        let mut slots = slots.borrow_mut();
        let Some(slot) = slots.get_mut(port.0 as usize) else { return };
        slot.came = true;
        if let Some(waiter) = slot.waiter.take() {
            waiter.wake();
        }
    });
}

/// Lets `body` at the slot of a port, which is made if it is not there.
fn with_slot<R>(port: Port, body: impl FnOnce(&mut Slot) -> R) -> R {
    SLOTS.with(|slots| {
        let mut slots = slots.borrow_mut();
        let index = port.0 as usize;
        if slots.len() <= index {
            slots.resize_with(index + 1, Slot::default);
        }
        body(&mut slots[index])
    })
}

/// Masks every port. To be called at start-up, before any is bound.
#[cfg(target_os = "none")]
pub(crate) fn init() {
    shared_info::events().mask_all();
}

/// This domain's number: the hypervisor writes it into an unbound port that is offered to oneself.
///
/// # Errors
///
/// If no port can be had.
pub fn own_domain_id() -> Result<DomainId, Errno> {
    let channel = EventChannel::alloc_unbound(DomainId::SELF)?;
    let mut status = EvtchnStatus { dom: DomainId::SELF, port: channel.port(), ..Default::default() };
    event_channel_op(&mut status)?;
    Ok(status.u.dom())
}

/// A port of this domain. Dropping it closes the port, unless it came from elsewhere
/// ([`from_port`](Self::from_port)).
pub struct EventChannel {
    port: Port,
    owned: bool,
    /// The physical interrupt behind the port, if it must be told when it was dealt with.
    needs_end_of_interrupt: Option<PhysicalIrq>,
}

impl EventChannel {
    /// Takes over a bound port, unmasked.
    fn new(port: Port, owned: bool) -> Self {
        with_slot(port, |slot| *slot = Slot::default());
        let channel = Self { port, owned, needs_end_of_interrupt: None };
        channel.unmask();
        channel
    }

    /// A port that `remote` may connect one of its own to.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if no port is free, `ESRCH` if there is no such domain.
    pub fn alloc_unbound(remote: DomainId) -> Result<Self, Errno> {
        let mut operation =
            EvtchnAllocUnbound { dom: DomainId::SELF, remote_dom: remote, ..Default::default() };
        event_channel_op(&mut operation)?;
        Ok(Self::new(operation.port, true))
    }

    /// Connects a new port to one that `remote` holds out to this domain. An event is pending at once.
    ///
    /// # Errors
    ///
    /// `EINVAL` if that port is not held out to this domain.
    pub fn bind_interdomain(remote: DomainId, remote_port: Port) -> Result<Self, Errno> {
        let mut operation = EvtchnBindInterdomain { remote_dom: remote, remote_port, ..Default::default() };
        event_channel_op(&mut operation)?;
        Ok(Self::new(operation.local_port, true))
    }

    /// Binds a virtual interrupt (`hypercall_abi::xen::VIRQ_*`).
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is bound already.
    pub fn bind_virq(virq: u32) -> Result<Self, Errno> {
        let mut operation = EvtchnBindVirq { virq, vcpu: VcpuId(0), ..Default::default() };
        event_channel_op(&mut operation)?;
        Ok(Self::new(operation.port, true))
    }

    /// Binds a physical interrupt. Others may share the line.
    ///
    /// # Errors
    ///
    /// `EPERM` if the interrupt is not this domain's.
    pub fn bind_pirq(pirq: PhysicalIrq) -> Result<Self, Errno> {
        let mut operation = EvtchnBindPirq { pirq, flags: BIND_PIRQ__WILL_SHARE, ..Default::default() };
        event_channel_op(&mut operation)?;
        let mut channel = Self::new(operation.port, true);
        let mut query = PhysdevIrqStatusQuery { irq: pirq, ..Default::default() };
        physdev_op(&mut query)?;
        if query.flags & XENIRQSTAT_NEEDS_EOI != 0 {
            channel.needs_end_of_interrupt = Some(pirq);
            // An interrupt that came before it was bound would wait for ever to be dealt with.
            channel.end_of_interrupt()?;
        }
        Ok(channel)
    }

    /// A port that the domain builder bound, for the console or the store. Dropping this does not close it.
    pub fn from_port(port: Port) -> Self {
        Self::new(port, false)
    }

    /// The port's number.
    #[inline]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sends an event to the other end.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the port has no other end.
    #[inline]
    pub fn notify(&self) -> Result<(), Errno> {
        let start = time_stamp_counter();
        let sent = event_channel_op(&mut EvtchnSend { port: self.port });
        let ticks = time_stamp_counter().wrapping_sub(start);
        NOTIFICATIONS.with(|count| count.set(count.get() + 1));
        NOTIFICATION_TICKS.with(|total| total.set(total.get().wrapping_add(ticks)));
        sent
    }

    /// Whether an event came since the last wait; if so, it counts as waited for.
    #[inline]
    pub fn take_pending(&self) -> bool {
        with_slot(self.port, |slot| core::mem::take(&mut slot.came))
    }

    /// Takes an event that came since the last wait, or registers to be woken by the next. One task at a time
    /// may wait; a later one takes the place of an earlier one.
    #[inline]
    pub fn poll_wait(&self, context: &mut Context<'_>) -> Poll<()> {
        with_slot(self.port, |slot| {
            if core::mem::take(&mut slot.came) {
                return Poll::Ready(());
            }
            match &mut slot.waiter {
                Some(waiter) if waiter.will_wake(context.waker()) => {}
                waiter => *waiter = Some(context.waker().clone()),
            }
            Poll::Pending
        })
    }

    /// Waits until an event has come since the last wait.
    pub async fn wait(&self) {
        poll_fn(|context| self.poll_wait(context)).await;
    }

    /// Lets no event through until [`unmask`](Self::unmask); it is kept for then.
    pub fn mask(&self) {
        shared_info::events().mask(self.port);
    }

    /// Lets events through again, at once if one came meanwhile.
    pub fn unmask(&self) {
        if shared_info::events().unmask(self.port) {
            arrive(self.port);
        }
    }

    /// Says that the physical interrupt behind the port was dealt with. Costs nothing where the interrupt does
    /// not ask for it.
    ///
    /// # Errors
    ///
    /// What the hypervisor answers.
    pub fn end_of_interrupt(&self) -> Result<(), Errno> {
        match self.needs_end_of_interrupt {
            Some(irq) => physdev_op(&mut PhysdevEoi { irq }),
            None => Ok(()),
        }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        self.mask();
        if self.owned
            && let Err(errno) = event_channel_op(&mut EvtchnClose { port: self.port })
        {
            log::error!("event channel {} cannot be closed: {errno}", self.port);
        }
        // The waiter is dropped outside of the table: it may own event channels itself.
        let waiter = with_slot(self.port, core::mem::take).waiter;
        drop(waiter);
    }
}

impl fmt::Debug for EventChannel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "EventChannel({})", self.port)
    }
}
