//! Event channels. There is nobody to send events, so a port stands for the timer, for a device's interrupt, or for
//! nothing. Who is told is in the page that the kernel takes for the one it shares with a hypervisor.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use hypercall_abi::xen::{SharedInfo, VcpuInfo};
use hypercall_abi::{Errno, MachineFrame, PAGE_SIZE, PhysicalIrq, Port};

/// Ports there are, of which the first is none.
const PORTS: usize = 64;
const WORDS: usize = PAGE_SIZE / 8;

/// The page that a hypervisor would share with the kernel.
#[repr(C, align(4096))]
struct SharedPage([AtomicU64; WORDS]);

static SHARED: SharedPage = SharedPage([const { AtomicU64::new(0) }; WORDS]);

/// Where in the page the first word of the pending bits is, and so on. All ports are in the first word.
const PENDING: usize = offset_of!(SharedInfo, evtchn_pending) / 8;
const MASK: usize = offset_of!(SharedInfo, evtchn_mask) / 8;
const VCPU: usize = offset_of!(SharedInfo, vcpu_info) / 8;
const SELECTOR: usize = VCPU + offset_of!(VcpuInfo, evtchn_pending_sel) / 8;
const TIME: usize = VCPU + offset_of!(VcpuInfo, time) / 8;

/// What a port stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing that ever happens.
    Nothing,
    /// The timer.
    Timer,
    /// A device's message.
    Message(PhysicalIrq),
}

impl Source {
    const FREE: u32 = 0;

    fn encoded(self) -> u32 {
        match self {
            Self::Nothing => 1,
            Self::Timer => 2,
            Self::Message(irq) => 3 + irq.0,
        }
    }
}

/// What each port stands for, [`Source::FREE`] if it is free.
static USES: [AtomicU32; PORTS] = [const { AtomicU32::new(Source::FREE) }; PORTS];

/// The page's frame.
pub fn shared_info_frame() -> MachineFrame {
    MachineFrame::containing((&raw const SHARED) as u64)
}

/// Masks every port, as before any is bound.
pub fn mask_all() {
    SHARED.0[MASK..MASK + 64].iter().for_each(|word| word.store(u64::MAX, Relaxed));
}

/// Publishes the clock: ticks at time zero, multiplier and shift.
pub fn set_clock(ticks_at_zero: u64, multiplier: u32, shift: i8) {
    SHARED.0[TIME + 1].store(ticks_at_zero, Relaxed);
    SHARED.0[TIME + 2].store(0, Relaxed);
    SHARED.0[TIME + 3].store(u64::from(multiplier) | u64::from(shift as u8) << 32, Relaxed);
}

/// Takes a port for something.
///
/// # Errors
///
/// `ENOSPC` if none is free.
pub fn bind(source: Source) -> Result<Port, Errno> {
    let free = (1..PORTS).find(|&port| USES[port].load(Relaxed) == Source::FREE).ok_or(Errno::ENOSPC)?;
    USES[free].store(source.encoded(), Relaxed);
    Ok(Port(free as u32))
}

/// Gives a port back.
///
/// # Errors
///
/// `EINVAL` if there is no such port.
pub fn close(port: Port) -> Result<(), Errno> {
    USES.get(port.0 as usize).ok_or(Errno::EINVAL)?.store(Source::FREE, Relaxed);
    Ok(())
}

/// It happened.
pub fn raise(source: Source) {
    let used = source.encoded();
    let Some(port) = USES.iter().position(|word| word.load(Relaxed) == used) else { return };
    let bit = 1 << port;
    let before = SHARED.0[PENDING].fetch_or(bit, Relaxed);
    if before & bit == 0 && SHARED.0[MASK].load(Relaxed) & bit == 0 {
        SHARED.0[SELECTOR].fetch_or(1, Relaxed);
        // The flag is the word's first byte; the kernel alone changes the second, and not now.
        SHARED.0[VCPU].fetch_or(1, Relaxed);
    }
}

/// Whether the kernel has something to look at.
pub fn is_pending() -> bool {
    SHARED.0[VCPU].load(Relaxed) & 0xff != 0
}
