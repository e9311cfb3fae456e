//! Event channels (`event_channel.h`): one-bit signals between domains, and from interrupts to domains.
//!
//! A port is a number local to its domain. In the two-level form a pending bit and a mask bit for each port
//! lie in [`crate::xen::SharedInfo`]; in the FIFO form each port has an event word in pages the guest
//! gives, and ready words are linked into queues, one a priority.

use crate::{DomainId, PhysicalIrq, Port, VcpuId};

/// Connect to another domain's unbound port.
pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
/// Bind a virtual interrupt.
pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
/// Bind a physical interrupt.
pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
/// Close a port.
pub const EVTCHNOP_CLOSE: u32 = 3;
/// Signal the other end.
pub const EVTCHNOP_SEND: u32 = 4;
/// What a port is.
pub const EVTCHNOP_STATUS: u32 = 5;
/// Open a port that a named domain may connect to.
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// Open a port for signals between the domain's own virtual CPUs.
pub const EVTCHNOP_BIND_IPI: u32 = 7;
/// Choose which virtual CPU a port notifies.
pub const EVTCHNOP_BIND_VCPU: u32 = 8;
/// Clear a mask bit and deliver what was pending.
pub const EVTCHNOP_UNMASK: u32 = 9;
/// Close all ports.
pub const EVTCHNOP_RESET: u32 = 10;
/// Switch to the FIFO form and give a virtual CPU's control block.
pub const EVTCHNOP_INIT_CONTROL: u32 = 11;
/// Add a page of event words.
pub const EVTCHNOP_EXPAND_ARRAY: u32 = 12;
/// Set a port's priority.
pub const EVTCHNOP_SET_PRIORITY: u32 = 13;

/// In [`EvtchnBindPirq::flags`]: other domains may bind the interrupt too.
pub const BIND_PIRQ__WILL_SHARE: u32 = 1;

/// The port is free.
pub const EVTCHNSTAT_CLOSED: u32 = 0;
/// The port waits for a peer.
pub const EVTCHNSTAT_UNBOUND: u32 = 1;
/// The port is connected to another domain's.
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
/// The port is bound to a physical interrupt.
pub const EVTCHNSTAT_PIRQ: u32 = 3;
/// The port is bound to a virtual interrupt.
pub const EVTCHNSTAT_VIRQ: u32 = 4;
/// The port is for the domain's own virtual CPUs.
pub const EVTCHNSTAT_IPI: u32 = 5;

/// Ports in the two-level form.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;

/// The most urgent priority.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// The priority of a new port.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// The least urgent priority.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// Queues of a virtual CPU.
pub const EVTCHN_FIFO_MAX_QUEUES: usize = 16;
/// Bit number in an event word: an event happened.
pub const EVTCHN_FIFO_PENDING: u32 = 31;
/// Bit number in an event word: do not tell me.
pub const EVTCHN_FIFO_MASKED: u32 = 30;
/// Bit number in an event word: the word is in a queue.
pub const EVTCHN_FIFO_LINKED: u32 = 29;
/// Bit number in an event word: the hypervisor is changing the link.
pub const EVTCHN_FIFO_BUSY: u32 = 28;
/// Bits of an event word that name the next port in the queue.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// Mask of the link.
pub const EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
/// Ports in the FIFO form.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;

layout! {
    /// Argument of [`EVTCHNOP_ALLOC_UNBOUND`] (`evtchn_alloc_unbound`).
    pub struct EvtchnAllocUnbound [8] {
        /// Who gets the port.
        0 => dom: DomainId,
        /// Who may connect to it.
        2 => remote_dom: DomainId,
        /// Out: the port.
        4 => port: Port,
    }

    /// Argument of [`EVTCHNOP_BIND_INTERDOMAIN`] (`evtchn_bind_interdomain`).
    pub struct EvtchnBindInterdomain [12] {
        /// The peer.
        0 => remote_dom: DomainId,
        /// Padding.
        2 => _pad: u16,
        /// The peer's unbound port.
        4 => remote_port: Port,
        /// Out: the caller's port.
        8 => local_port: Port,
    }

    /// Argument of [`EVTCHNOP_BIND_VIRQ`] (`evtchn_bind_virq`).
    pub struct EvtchnBindVirq [12] {
        /// `VIRQ_*`.
        0 => virq: u32,
        /// The virtual CPU to notify; must be 0 for global ones.
        4 => vcpu: VcpuId,
        /// Out: the port.
        8 => port: Port,
    }

    /// Argument of [`EVTCHNOP_BIND_PIRQ`] (`evtchn_bind_pirq`).
    pub struct EvtchnBindPirq [12] {
        /// The interrupt.
        0 => pirq: PhysicalIrq,
        /// [`BIND_PIRQ__WILL_SHARE`].
        4 => flags: u32,
        /// Out: the port.
        8 => port: Port,
    }

    /// Argument of [`EVTCHNOP_BIND_IPI`] (`evtchn_bind_ipi`).
    pub struct EvtchnBindIpi [8] {
        /// The virtual CPU to notify.
        0 => vcpu: VcpuId,
        /// Out: the port.
        4 => port: Port,
    }

    /// Argument of [`EVTCHNOP_CLOSE`] (`evtchn_close`).
    pub struct EvtchnClose [4] {
        /// The port.
        0 => port: Port,
    }

    /// Argument of [`EVTCHNOP_SEND`] (`evtchn_send`).
    pub struct EvtchnSend [4] {
        /// The caller's end.
        0 => port: Port,
    }

    /// What [`EvtchnStatus`] says beyond the state; which accessor holds depends on the state.
    pub struct EvtchnStatusDetail [8] {
        /// A domain (in the low half) or an interrupt.
        0 => dom_or_irq: u32,
        /// The peer's port.
        4 => port: Port,
    }

    /// Argument of [`EVTCHNOP_STATUS`] (`evtchn_status`).
    pub struct EvtchnStatus [24] {
        /// Whose port.
        0 => dom: DomainId,
        /// Padding.
        2 => _pad: u16,
        /// Which port.
        4 => port: Port,
        /// Out: `EVTCHNSTAT_*`.
        8 => status: u32,
        /// Out: the virtual CPU it notifies.
        12 => vcpu: VcpuId,
        /// Out: more, depending on the state.
        16 => u: EvtchnStatusDetail,
    }

    /// Argument of [`EVTCHNOP_BIND_VCPU`] (`evtchn_bind_vcpu`).
    pub struct EvtchnBindVcpu [8] {
        /// The port.
        0 => port: Port,
        /// The virtual CPU to notify from now on.
        4 => vcpu: VcpuId,
    }

    /// Argument of [`EVTCHNOP_UNMASK`] (`evtchn_unmask`).
    pub struct EvtchnUnmask [4] {
        /// The port.
        0 => port: Port,
    }

    /// Argument of [`EVTCHNOP_RESET`] (`evtchn_reset`).
    pub struct EvtchnReset [2] {
        /// Whose ports.
        0 => dom: DomainId,
    }

    /// Argument of [`EVTCHNOP_INIT_CONTROL`] (`evtchn_init_control`).
    pub struct EvtchnInitControl [24] {
        /// The frame that holds the control block.
        0 => control_gfn: u64,
        /// Offset of the control block in the frame, in bytes.
        8 => offset: u32,
        /// Whose control block.
        12 => vcpu: VcpuId,
        /// Out: how many bits a link has.
        16 => link_bits: u8,
        /// Padding.
        17 => _pad: [u8; 7],
    }

    /// Argument of [`EVTCHNOP_EXPAND_ARRAY`] (`evtchn_expand_array`).
    pub struct EvtchnExpandArray [8] {
        /// The frame that holds the new event words.
        0 => array_gfn: u64,
    }

    /// Argument of [`EVTCHNOP_SET_PRIORITY`] (`evtchn_set_priority`).
    pub struct EvtchnSetPriority [8] {
        /// The port.
        0 => port: Port,
        /// 0 is the most urgent, 15 the least.
        4 => priority: u32,
    }

    /// A virtual CPU's queues in the FIFO form (`evtchn_fifo_control_block`). Live shared memory.
    pub struct EvtchnFifoControlBlock [72] {
        /// One bit a queue: it is not empty.
        0 => ready: u32,
        /// Reserved.
        4 => _rsvd: u32,
        /// The first port of each queue.
        8 => head: [u32; EVTCHN_FIFO_MAX_QUEUES],
    }
}

impl EvtchnStatusDetail {
    /// For [`EVTCHNSTAT_UNBOUND`]: who may connect.
    pub const fn unbound(dom: DomainId) -> Self {
        Self { dom_or_irq: dom.0 as u32, port: Port(0) }
    }

    /// For [`EVTCHNSTAT_INTERDOMAIN`]: the peer and its port.
    pub const fn interdomain(dom: DomainId, port: Port) -> Self {
        Self { dom_or_irq: dom.0 as u32, port }
    }

    /// For [`EVTCHNSTAT_PIRQ`] and [`EVTCHNSTAT_VIRQ`]: the interrupt.
    pub const fn interrupt(number: u32) -> Self {
        Self { dom_or_irq: number, port: Port(0) }
    }

    /// The domain, for [`EVTCHNSTAT_UNBOUND`] and [`EVTCHNSTAT_INTERDOMAIN`].
    pub const fn dom(&self) -> DomainId {
        DomainId(self.dom_or_irq as u16)
    }

    /// The interrupt, for [`EVTCHNSTAT_PIRQ`] and [`EVTCHNSTAT_VIRQ`].
    pub const fn irq(&self) -> u32 {
        self.dom_or_irq
    }
}
