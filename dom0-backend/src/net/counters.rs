//! What interfaces and the switch have done, for whoever watches them.

use core::cell::Cell;

use crate::backend::Cost;

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
    /// What the rounds cost that the guest gave rise to. They take what it sends all the way to its receivers.
    pub cost: Cost,
}

impl VifCounters {
    /// Packets in both directions.
    pub fn packets(&self) -> u64 {
        self.tx_packets.get() + self.rx_packets.get()
    }
}

/// Numbers of the switch as a whole.
#[derive(Debug, Default)]
pub struct SwitchCounters {
    /// Packets that went to all ports of their virtual network.
    pub flooded: Cell<u64>,
    /// Packets that were cut into segments here.
    pub segmented: Cell<u64>,
    /// Checksums that were completed here.
    pub checksums: Cell<u64>,
    /// Packets that nobody could be given: no place, no buffers, or headers that make no sense.
    pub dropped: Cell<u64>,
    /// Frames for the machine's interface that were dropped while it had no link.
    pub unlinked: Cell<u64>,
    /// Frames sent by the machine's interface.
    pub sent: Cell<u64>,
    /// Frames received by it.
    pub received: Cell<u64>,
    /// What serving it cost. What comes in is taken all the way to its receivers.
    pub cost: Cost,
}

/// Adds to a counter.
#[inline]
pub fn add(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get().wrapping_add(amount));
}
