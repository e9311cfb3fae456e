//! What interfaces and the switch have done, for whoever watches them.

use core::cell::Cell;

/// Numbers of one guest's interface since it connected. *tx* is what the guest sends, *rx* what it receives.
#[derive(Debug, Default)]
pub struct VifCounters {
    /// Packets that the guest sent.
    pub tx_packets: Cell<u64>,
    /// Their bytes.
    pub tx_bytes: Cell<u64>,
    /// Packets of the guest that were not accepted or could not be copied.
    pub tx_errors: Cell<u64>,
    /// Packets that the guest sent from an address that is not its interface's.
    pub spoofed: Cell<u64>,
    /// Packets of the guest with a tag of a virtual network.
    pub tagged: Cell<u64>,
    /// Packets that the guest received.
    pub rx_packets: Cell<u64>,
    /// Their bytes.
    pub rx_bytes: Cell<u64>,
    /// Packets for the guest that could not be copied to it.
    pub rx_errors: Cell<u64>,
    /// Packets for the guest that were dropped because it did not take them in time.
    pub rx_dropped: Cell<u64>,
    /// Events sent to the guest.
    pub notifications: Cell<u64>,
    /// Rounds of work that the guest or a packet for it gave rise to.
    pub rounds: Cell<u64>,
    /// Ticks of the time stamp counter that these rounds took, hypercalls included.
    pub ticks: Cell<u64>,
}

/// Numbers of the switch as a whole.
#[derive(Debug, Default)]
pub struct SwitchCounters {
    /// Hypercalls that copied.
    pub copy_calls: Cell<u64>,
    /// Ticks of the time stamp counter that they took.
    pub copy_ticks: Cell<u64>,
    /// Copies that they made.
    pub copies: Cell<u64>,
    /// Packets that went to all ports of their virtual network.
    pub flooded: Cell<u64>,
    /// Packets that were cut into segments here.
    pub segmented: Cell<u64>,
    /// Checksums that were completed here.
    pub checksums: Cell<u64>,
    /// Packets that nobody could be given: no place, no buffers, or headers that make no sense.
    pub dropped: Cell<u64>,
    /// Frames sent by the machine's interface.
    pub sent: Cell<u64>,
    /// Frames received by it.
    pub received: Cell<u64>,
    /// Ticks of the time stamp counter that serving it took, hypercalls included.
    pub ticks: Cell<u64>,
}

/// Adds to a counter.
#[inline]
pub fn add(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get().wrapping_add(amount));
}
