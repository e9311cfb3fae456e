//! A configuration space for tests: bytes, with base address registers that can be sized.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::config_space::*;

/// Registers that keep only some of the bits written to them.
#[derive(Clone, Copy)]
struct Mask {
    register: u8,
    writable: u32,
}

#[derive(Default)]
struct FakeFunction {
    bytes: Vec<u8>,
    masks: Vec<Mask>,
}

/// Functions that a test put in.
#[derive(Default)]
pub struct FakeConfigSpace {
    functions: RefCell<BTreeMap<Address, FakeFunction>>,
    /// Every write, in order.
    pub writes: RefCell<Vec<(Address, u8, u32)>>,
}

impl FakeConfigSpace {
    /// Adds an ordinary function.
    pub fn add_device(&mut self, address: Address, vendor: u16, device: u16) {
        let fresh = FakeFunction { bytes: alloc::vec![0; 256], masks: Vec::new() };
        self.functions.borrow_mut().insert(address, fresh);
        self.set(address, VENDOR_ID, &vendor.to_le_bytes());
        self.set(address, DEVICE_ID, &device.to_le_bytes());
    }

    /// Adds a bridge to `bus`.
    pub fn add_bridge(&mut self, address: Address, bus: u8) {
        self.add_device(address, 0x1b36, 0x000c);
        self.set(address, HEADER_TYPE, &[HEADER_BRIDGE]);
        self.set(address, SECONDARY_BUS, &[bus]);
    }

    /// Puts bytes into a function's registers, whatever is writable.
    pub fn set(&mut self, address: Address, register: u8, bytes: &[u8]) {
        let functions = self.functions.get_mut();
        let function = functions.get_mut(&address).expect("a test sets registers of what it added");
        function.bytes[usize::from(register)..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Makes a 32-bit register keep only the bits of `writable`.
    pub fn set_writable(&mut self, address: Address, register: u8, writable: u32) {
        let functions = self.functions.get_mut();
        let function = functions.get_mut(&address).expect("a test sets registers of what it added");
        function.masks.push(Mask { register, writable });
    }

    /// Puts a capability at `register` and links it in front of the list.
    pub fn add_capability(&mut self, address: Address, register: u8, id: u8, body: &[u8]) {
        let next = self.read_u8(address, CAPABILITIES);
        self.set(address, register, &[id, next]);
        self.set(address, register + 2, body);
        self.set(address, CAPABILITIES, &[register]);
        self.set(address, STATUS, &STATUS_CAPABILITIES.to_le_bytes());
    }

    fn read<const N: usize>(&self, address: Address, register: u8) -> [u8; N] {
        assert_eq!(usize::from(register) % N, 0, "an access must be aligned");
        match self.functions.borrow().get(&address) {
            Some(function) => core::array::from_fn(|index| function.bytes[usize::from(register) + index]),
            None => [0xff; N],
        }
    }

    fn write(&self, address: Address, register: u8, bytes: &[u8], value: u32) {
        assert_eq!(usize::from(register) % bytes.len(), 0, "an access must be aligned");
        self.writes.borrow_mut().push((address, register, value));
        let mut functions = self.functions.borrow_mut();
        let Some(function) = functions.get_mut(&address) else { return };
        let place = &mut function.bytes[usize::from(register)..][..bytes.len()];
        match function.masks.iter().find(|mask| mask.register == register) {
            Some(mask) => {
                let old = u32::from_le_bytes(place.try_into().expect("masked registers have 32 bits"));
                let new = (old & !mask.writable) | (value & mask.writable);
                place.copy_from_slice(&new.to_le_bytes());
            }
            None => place.copy_from_slice(bytes),
        }
    }
}

impl ConfigSpace for FakeConfigSpace {
    fn read_u8(&self, function: Address, register: u8) -> u8 {
        u8::from_le_bytes(self.read(function, register))
    }

    fn read_u16(&self, function: Address, register: u8) -> u16 {
        u16::from_le_bytes(self.read(function, register))
    }

    fn read_u32(&self, function: Address, register: u8) -> u32 {
        u32::from_le_bytes(self.read(function, register))
    }

    fn write_u16(&self, function: Address, register: u8, value: u16) {
        self.write(function, register, &value.to_le_bytes(), u32::from(value));
    }

    fn write_u32(&self, function: Address, register: u8, value: u32) {
        self.write(function, register, &value.to_le_bytes(), value);
    }
}
