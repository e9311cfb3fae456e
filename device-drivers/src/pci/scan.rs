//! Finding what is plugged in: a walk over the buses, from bus 0 through every bridge.
//!
//! Firmware has numbered the buses. Nothing guarantees that it did so well, so a bus is walked once however
//! many bridges claim to lead to it.

use alloc::vec::Vec;

use super::config_space::*;

/// What a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Who made it.
    pub vendor: u16,
    /// Which of the maker's devices it is.
    pub device: u16,
    /// Maker of the board.
    pub subsystem_vendor: u16,
    /// Which board.
    pub subsystem: u16,
    /// Class, subclass and programming interface, in 24 bits.
    pub class: u32,
    /// The maker's revision.
    pub revision: u8,
}

/// Everything that answers, in the order of discovery.
pub fn scan(config: &impl ConfigSpace) -> Vec<Function> {
    let mut scan = Scan { config, walked: [false; 256], waiting: Vec::new(), found: Vec::new() };
    scan.waiting.extend(root_buses(config));
    while let Some(bus) = scan.waiting.pop() {
        scan.walk_bus(bus);
    }
    scan.found
}

/// The buses that no bridge leads to: bus 0, or one for each function of the host bridge.
fn root_buses(config: &impl ConfigSpace) -> impl Iterator<Item = u8> {
    let host_bridge = Address::new(0, 0, 0);
    let several = config.read_u16(host_bridge, VENDOR_ID) != NO_DEVICE
        && config.read_u8(host_bridge, HEADER_TYPE) & HEADER_MULTIFUNCTION != 0;
    let last = if several { FUNCTIONS_PER_DEVICE - 1 } else { 0 };
    let exists = move |bus: &u8| config.read_u16(Address::new(0, 0, *bus), VENDOR_ID) != NO_DEVICE;
    // Popped from the end, so the last pushed comes first.
    (1..=last).rev().filter(exists).chain([0])
}

struct Scan<'a, C> {
    config: &'a C,
    walked: [bool; 256],
    waiting: Vec<u8>,
    found: Vec<Function>,
}

impl<C: ConfigSpace> Scan<'_, C> {
    fn walk_bus(&mut self, bus: u8) {
        if core::mem::replace(&mut self.walked[usize::from(bus)], true) {
            return;
        }
        for device in 0..DEVICES_PER_BUS {
            self.walk_device(bus, device);
        }
    }

    fn walk_device(&mut self, bus: u8, device: u8) {
        let first = Address::new(bus, device, 0);
        if !self.look_at(first) {
            return;
        }
        if self.config.read_u8(first, HEADER_TYPE) & HEADER_MULTIFUNCTION == 0 {
            return;
        }
        for function in 1..FUNCTIONS_PER_DEVICE {
            self.look_at(Address::new(bus, device, function));
        }
    }

    /// Notes the function, and the bus behind it if it is a bridge. Says whether there is a function.
    fn look_at(&mut self, address: Address) -> bool {
        let vendor = self.config.read_u16(address, VENDOR_ID);
        if vendor == NO_DEVICE {
            return false;
        }
        self.found.push(read_function(self.config, address, vendor));
        if self.config.read_u8(address, HEADER_TYPE) & !HEADER_MULTIFUNCTION == HEADER_BRIDGE {
            self.waiting.push(self.config.read_u8(address, SECONDARY_BUS));
        }
        true
    }
}

fn read_function(config: &impl ConfigSpace, address: Address, vendor: u16) -> Function {
    let class_and_revision = config.read_u32(address, CLASS_AND_REVISION);
    Function {
        address,
        vendor,
        device: config.read_u16(address, DEVICE_ID),
        subsystem_vendor: config.read_u16(address, SUBSYSTEM_VENDOR_ID),
        subsystem: config.read_u16(address, SUBSYSTEM_ID),
        class: class_and_revision >> 8,
        revision: class_and_revision as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeConfigSpace;
    use super::*;

    fn addresses(config: &FakeConfigSpace) -> Vec<Address> {
        scan(config).iter().map(|function| function.address).collect()
    }

    #[test]
    fn an_empty_machine_has_no_functions() {
        assert_eq!(scan(&FakeConfigSpace::default()), []);
    }

    #[test]
    fn functions_beyond_the_first_need_the_multifunction_bit() {
        let mut config = FakeConfigSpace::default();
        let (lonely, hidden) = (Address::new(0, 3, 0), Address::new(0, 3, 1));
        config.add_device(lonely, 0x1af4, 0x1041);
        config.add_device(hidden, 0x1af4, 0x1042);
        assert_eq!(addresses(&config), [lonely]);
        config.set(lonely, HEADER_TYPE, &[HEADER_MULTIFUNCTION]);
        assert_eq!(addresses(&config), [lonely, hidden]);
    }

    #[test]
    fn buses_behind_bridges_are_walked() {
        let mut config = FakeConfigSpace::default();
        let (port, behind) = (Address::new(0, 2, 0), Address::new(5, 0, 0));
        config.add_bridge(port, 5);
        config.add_device(behind, 0x1af4, 0x1042);
        assert_eq!(addresses(&config), [port, behind]);
    }

    #[test]
    fn bridges_that_lead_in_a_circle_end_the_walk() {
        let mut config = FakeConfigSpace::default();
        config.add_bridge(Address::new(0, 1, 0), 1);
        config.add_bridge(Address::new(1, 0, 0), 0);
        config.add_bridge(Address::new(1, 1, 0), 1);
        assert_eq!(addresses(&config).len(), 3);
    }

    #[test]
    fn a_host_bridge_with_functions_opens_further_root_buses() {
        let mut config = FakeConfigSpace::default();
        config.add_device(Address::new(0, 0, 0), 0x8086, 0x29c0);
        config.set(Address::new(0, 0, 0), HEADER_TYPE, &[HEADER_MULTIFUNCTION]);
        config.add_device(Address::new(0, 0, 3), 0x8086, 0x29c0);
        config.add_device(Address::new(3, 7, 0), 0x1af4, 0x1041);
        assert_eq!(addresses(&config).last(), Some(&Address::new(3, 7, 0)));
    }

    #[test]
    fn what_a_function_says_of_itself_is_reported() {
        let mut config = FakeConfigSpace::default();
        let address = Address::new(0, 4, 0);
        config.add_device(address, 0x1af4, 0x1042);
        config.set(address, CLASS_AND_REVISION, &0x0100_0001_u32.to_le_bytes());
        config.set(address, SUBSYSTEM_ID, &0x1100_u16.to_le_bytes());
        let [function] = scan(&config)[..] else { panic!("one function") };
        assert_eq!((function.vendor, function.device), (0x1af4, 0x1042));
        assert_eq!((function.class, function.revision, function.subsystem), (0x01_0000, 1, 0x1100));
    }
}
