//! Which I/O memory, ports and interrupts a domain may touch.
//!
//! The control domain may use everything except what the hypervisor drives itself (interrupt controllers, the
//! timer, the serial port). Any other domain may use exactly what the control domain has given it.

use crate::frame_object::FrameBox;
use crate::lock::Mutex;
use crate::machine::machine;
use core::ops::RangeInclusive;
use hypercall_abi::{Errno, MachineFrame, PhysicalIrq};

/// What a range of numbers means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Machine frames of I/O memory.
    Memory,
    /// I/O ports.
    Port,
    /// Physical interrupts.
    Interrupt,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Grant {
    resource: Resource,
    first: u64,
    last: u64,
}

impl Grant {
    fn covers(&self, resource: Resource, first: u64, last: u64) -> bool {
        self.resource == resource && self.first <= first && last <= self.last
    }

    fn touches(&self, resource: Resource, first: u64, last: u64) -> bool {
        self.resource == resource && self.first <= last && first <= self.last
    }
}

/// Ranges a domain can be given; a device needs at most six.
const MOST_GRANTS: usize = 24;

/// A list of ranges. Few domains are ever given one, so it has a frame of its own only then.
struct Grants(Option<FrameBox<[Option<Grant>; MOST_GRANTS]>>);

impl Grants {
    const fn new() -> Self {
        Self(None)
    }

    fn add(&mut self, grant: Grant) -> Result<(), Errno> {
        if self.any(|known| *known == grant) {
            return Ok(());
        }
        if self.0.is_none() {
            self.0 = FrameBox::try_new([None; MOST_GRANTS]);
        }
        let slots = self.0.as_mut().ok_or(Errno::ENOMEM)?;
        let slot = slots.iter_mut().find(|slot| slot.is_none()).ok_or(Errno::ENOSPC)?;
        *slot = Some(grant);
        Ok(())
    }

    fn any(&self, test: impl Fn(&Grant) -> bool) -> bool {
        self.0.iter().flat_map(|slots| slots.iter()).flatten().any(test)
    }
}

/// What one domain may touch.
pub struct IoRights {
    everything: bool,
    granted: Mutex<Grants>,
}

impl IoRights {
    /// No rights.
    pub const fn none() -> Self {
        Self { everything: false, granted: Mutex::new(Grants::new()) }
    }

    /// Everything the hypervisor does not drive itself.
    pub const fn control_domain() -> Self {
        Self { everything: true, granted: Mutex::new(Grants::new()) }
    }

    /// Gives a range.
    ///
    /// # Errors
    /// `EPERM` when the hypervisor uses part of it, `ENOSPC` when the domain has too many ranges.
    pub fn give(&self, resource: Resource, range: RangeInclusive<u64>) -> Result<(), Errno> {
        if machine().reserved_io.touches(resource, *range.start(), *range.end()) {
            return Err(Errno::EPERM);
        }
        self.granted.lock().add(Grant { resource, first: *range.start(), last: *range.end() })
    }

    /// Takes a range back; it must be one that was given as such.
    ///
    /// # Errors
    /// `ENOENT` when it was not.
    pub fn take(&self, resource: Resource, range: RangeInclusive<u64>) -> Result<(), Errno> {
        let grant = Grant { resource, first: *range.start(), last: *range.end() };
        let mut granted = self.granted.lock();
        let mut slots = granted.0.iter_mut().flat_map(|slots| slots.iter_mut());
        let slot = slots.find(|slot| **slot == Some(grant)).ok_or(Errno::ENOENT)?;
        *slot = None;
        Ok(())
    }

    fn allows(&self, resource: Resource, first: u64, last: u64) -> bool {
        if self.everything {
            return !machine().reserved_io.touches(resource, first, last);
        }
        self.granted.lock().any(|grant| grant.covers(resource, first, last))
    }

    /// The domain may use no device.
    pub fn is_none(&self) -> bool {
        !self.everything && !self.granted.lock().any(|_| true)
    }

    /// May the domain map this frame of I/O memory?
    pub fn allows_memory(&self, frame: MachineFrame) -> bool {
        self.allows(Resource::Memory, frame.0, frame.0)
    }

    /// May the domain use `width` ports from `port` on?
    pub fn allows_ports(&self, port: u16, width: u8) -> bool {
        self.allows(Resource::Port, u64::from(port), u64::from(port) + u64::from(width) - 1)
    }

    /// May the domain bind this interrupt?
    pub fn allows_interrupt(&self, interrupt: PhysicalIrq) -> bool {
        self.allows(Resource::Interrupt, u64::from(interrupt.0), u64::from(interrupt.0))
    }
}

/// What the hypervisor drives itself, so that no domain may.
pub struct ReservedIo(Mutex<Grants>);

impl ReservedIo {
    /// Nothing reserved.
    pub const fn new() -> Self {
        Self(Mutex::new(Grants::new()))
    }

    /// Keeps a range for the hypervisor. Called while booting, with fewer ranges than there is room for.
    ///
    /// # Errors
    /// `ENOSPC` when there is no room.
    pub fn reserve(&self, resource: Resource, range: RangeInclusive<u64>) -> Result<(), Errno> {
        self.0.lock().add(Grant { resource, first: *range.start(), last: *range.end() })
    }

    fn touches(&self, resource: Resource, first: u64, last: u64) -> bool {
        self.0.lock().any(|grant| grant.touches(resource, first, last))
    }
}

impl Default for ReservedIo {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::TestMachine;

    #[test]
    fn a_guest_has_exactly_what_it_was_given() {
        let _machine = TestMachine::new(256);
        let rights = IoRights::none();
        assert!(!rights.allows_ports(0x60, 1));
        rights.give(Resource::Port, 0x60..=0x64).expect("nobody else uses it");
        assert!(rights.allows_ports(0x60, 4));
        assert!(!rights.allows_ports(0x62, 4), "the last of four ports is not its");
        rights.take(Resource::Port, 0x60..=0x64).expect("given above");
        assert!(!rights.allows_ports(0x60, 1));
        assert_eq!(rights.take(Resource::Port, 0x60..=0x64), Err(Errno::ENOENT));
    }

    #[test]
    fn nobody_gets_what_the_hypervisor_drives() {
        let _machine = TestMachine::new(256);
        machine().reserved_io.reserve(Resource::Memory, 0xfee00..=0xfee00).expect("room");
        assert!(!IoRights::control_domain().allows_memory(MachineFrame(0xfee00)));
        assert!(IoRights::control_domain().allows_memory(MachineFrame(0xfee01)));
        assert_eq!(IoRights::none().give(Resource::Memory, 0xfed00..=0xfefff), Err(Errno::EPERM));
    }

    #[test]
    fn a_full_list_refuses_and_keeps_what_it_has() {
        let _machine = TestMachine::new(256);
        let rights = IoRights::none();
        for port in 0..MOST_GRANTS as u64 {
            rights.give(Resource::Port, port..=port).expect("there is room");
        }
        assert_eq!(rights.give(Resource::Port, 999..=999), Err(Errno::ENOSPC));
        assert!(rights.allows_ports(0, 1));
    }
}
