//! PCI configuration space through ports 0xcf8 and 0xcfc, shared between the control domain and the hypervisor.
//!
//! Two steps reach a register: write its address, then read or write its data. The control domain's address is
//! therefore kept in memory, and each data access does both steps under one lock, so the hypervisor can look at a
//! device (to program its interrupt messages) at any time without the two disturbing each other.

use crate::arch::port;
use crate::lock::Mutex;

/// Where the address goes.
const ADDRESS_PORT: u16 = 0xcf8;
/// First of the four data ports.
const DATA_PORT: u16 = 0xcfc;

/// The address the control domain wrote last.
static SELECTED: Mutex<u32> = Mutex::new(0);

/// A function's place on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Bus.
    pub bus: u8,
    /// Device in the upper five bits, function in the lower three.
    pub devfn: u8,
}

impl Function {
    fn address(self, offset: u8) -> u32 {
        1 << 31 | u32::from(self.bus) << 16 | u32::from(self.devfn) << 8 | u32::from(offset & !3)
    }

    /// Reads an aligned 32-bit register.
    pub fn read(self, offset: u8) -> u32 {
        let _selected = SELECTED.lock();
        port::write(ADDRESS_PORT, 4, self.address(offset));
        port::read(DATA_PORT, 4)
    }

    /// Writes an aligned 32-bit register.
    pub fn write(self, offset: u8, value: u32) {
        let _selected = SELECTED.lock();
        port::write(ADDRESS_PORT, 4, self.address(offset));
        port::write(DATA_PORT, 4, value);
    }

    /// Offset of a capability by its identifier, following a list that a device could make circular.
    pub fn capability(self, identifier: u8) -> Option<u8> {
        const HAS_LIST: u32 = 1 << 20;
        const MOST: usize = 48;
        if self.read(4) & HAS_LIST == 0 {
            return None;
        }
        let mut offset = self.read(0x34) as u8 & !3;
        for _ in 0..MOST {
            if offset < 0x40 {
                return None;
            }
            let header = self.read(offset);
            if header as u8 == identifier {
                return Some(offset);
            }
            offset = (header >> 8) as u8 & !3;
        }
        None
    }
}

fn is_data_port(port: u16) -> bool {
    (DATA_PORT..DATA_PORT + 4).contains(&port)
}

/// A domain reads a port it has the right to.
pub fn read_port(port: u16, width: u8) -> u32 {
    if port == ADDRESS_PORT && width == 4 {
        return *SELECTED.lock();
    }
    if is_data_port(port) {
        let selected = SELECTED.lock();
        port::write(ADDRESS_PORT, 4, *selected);
        return port::read(port, width);
    }
    port::read(port, width)
}

/// A domain writes a port it has the right to.
pub fn write_port(port: u16, width: u8, value: u32) {
    if port == ADDRESS_PORT && width == 4 {
        *SELECTED.lock() = value;
    } else if is_data_port(port) {
        let selected = SELECTED.lock();
        port::write(ADDRESS_PORT, 4, *selected);
        port::write(port, width, value);
    } else {
        port::write(port, width, value);
    }
}
