//! Base address registers: where a function's own memory and ports lie in the machine's address space.
//!
//! A register's size is found by writing ones and looking which stick. Meanwhile the function must not answer
//! at addresses that it does not own, so it is switched off the bus for those few instructions.

use super::config_space::*;

/// Base address registers of an ordinary device.
pub const BASE_ADDRESS_COUNT: u8 = 6;

const SPACE_IO: u32 = 1 << 0;
const MEMORY_TYPE_MASK: u32 = 0b11 << 1;
const MEMORY_TYPE_64_BIT: u32 = 0b10 << 1;
const MEMORY_FLAGS: u32 = 0xf;
const PORT_FLAGS: u32 = 0b11;

/// A range of physical addresses that a function answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Physical address of the first byte.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
}

impl MemoryRange {
    /// The physical address `offset` bytes into the range, if `length` bytes from there on lie in it.
    pub fn part(&self, offset: u64, length: u64) -> Option<u64> {
        let end = offset.checked_add(length)?;
        if end > self.size {
            return None;
        }
        self.address.checked_add(offset)
    }
}

/// The memory that base address register `index` describes; `None` if it is not implemented, was given no
/// address, or is for ports.
pub fn memory_range(config: &impl ConfigSpace, function: Address, index: u8) -> Option<MemoryRange> {
    if index >= BASE_ADDRESS_COUNT {
        return None;
    }
    let register = BASE_ADDRESS + 4 * index;
    let low = config.read_u32(function, register);
    if low & SPACE_IO != 0 {
        return None;
    }
    let is_wide = low & MEMORY_TYPE_MASK == MEMORY_TYPE_64_BIT;
    if is_wide && index + 1 == BASE_ADDRESS_COUNT {
        return None;
    }
    let high = if is_wide { config.read_u32(function, register + 4) } else { 0 };
    let address = join(high, low & !MEMORY_FLAGS);
    let size = measure(config, function, register, is_wide);
    (address != 0 && size.is_power_of_two() && address.checked_add(size).is_some())
        .then_some(MemoryRange { address, size })
}

/// The ports that base address register `index` describes, the first and how many; `None` if it is for memory, or was
/// given none.
pub fn port_range(config: &impl ConfigSpace, function: Address, index: u8) -> Option<(u16, u16)> {
    if index >= BASE_ADDRESS_COUNT {
        return None;
    }
    let register = BASE_ADDRESS + 4 * index;
    let value = config.read_u32(function, register);
    if value & SPACE_IO == 0 {
        return None;
    }
    let command = change_command(config, function, 0, COMMAND_IO | COMMAND_MEMORY);
    let kept = ones_kept(config, function, register) & !PORT_FLAGS;
    config.write_u16(function, COMMAND, command);
    // Devices may leave the upper half of the mask out.
    let (first, count) = ((value & !PORT_FLAGS) as u16, (kept as u16).wrapping_neg());
    (first != 0 && count.is_power_of_two() && first.checked_add(count - 1).is_some())
        .then_some((first, count))
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The size in bytes, with the function off the bus while its address is not its own.
fn measure(config: &impl ConfigSpace, function: Address, register: u8, is_wide: bool) -> u64 {
    let command = change_command(config, function, 0, COMMAND_IO | COMMAND_MEMORY);
    let low = ones_kept(config, function, register) & !MEMORY_FLAGS;
    let high = if is_wide { ones_kept(config, function, register + 4) } else { u32::MAX };
    config.write_u16(function, COMMAND, command);
    join(high, low).wrapping_neg()
}

/// Which bits of a register can be set; the register is as before afterwards.
fn ones_kept(config: &impl ConfigSpace, function: Address, register: u8) -> u32 {
    let before = config.read_u32(function, register);
    config.write_u32(function, register, u32::MAX);
    let kept = config.read_u32(function, register);
    config.write_u32(function, register, before);
    kept
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeConfigSpace;
    use super::*;

    const FUNCTION: Address = Address::new(0, 4, 0);

    fn device() -> FakeConfigSpace {
        let mut config = FakeConfigSpace::default();
        config.add_device(FUNCTION, 0x1af4, 0x1042);
        config.set(FUNCTION, COMMAND, &(COMMAND_MEMORY | COMMAND_IO).to_le_bytes());
        config
    }

    fn set_register(config: &mut FakeConfigSpace, index: u8, value: u32, writable: u32) {
        config.set(FUNCTION, BASE_ADDRESS + 4 * index, &value.to_le_bytes());
        config.set_writable(FUNCTION, BASE_ADDRESS + 4 * index, writable);
    }

    #[test]
    fn a_32_bit_range_is_measured_and_left_as_it_was() {
        let mut config = device();
        set_register(&mut config, 1, 0xfebd_1000, 0xffff_f000);
        let range = memory_range(&config, FUNCTION, 1);
        assert_eq!(range, Some(MemoryRange { address: 0xfebd_1000, size: 0x1000 }));
        assert_eq!(config.read_u32(FUNCTION, BASE_ADDRESS + 4), 0xfebd_1000);
        assert_eq!(config.read_u16(FUNCTION, COMMAND), COMMAND_MEMORY | COMMAND_IO);
    }

    #[test]
    fn a_64_bit_range_takes_two_registers() {
        let mut config = device();
        set_register(&mut config, 4, 0xfe00_000c, 0xffff_c000);
        set_register(&mut config, 5, 0x0000_00c0, 0xffff_ffff);
        let range = memory_range(&config, FUNCTION, 4);
        assert_eq!(range, Some(MemoryRange { address: 0xc0_fe00_0000, size: 0x4000 }));
    }

    #[test]
    fn the_function_is_off_the_bus_while_it_is_measured() {
        let mut config = device();
        set_register(&mut config, 1, 0xfebd_1000, 0xffff_f000);
        memory_range(&config, FUNCTION, 1);
        let writes = config.writes.borrow();
        let first = writes.first().expect("measuring writes");
        let last = writes.last().expect("measuring writes");
        assert_eq!(*first, (FUNCTION, COMMAND, 0));
        assert_eq!((last.0, last.1), (FUNCTION, COMMAND));
        assert!(writes[1..writes.len() - 1].iter().all(|write| write.1 != COMMAND));
    }

    #[test]
    fn ports_are_measured_too() {
        let mut config = device();
        set_register(&mut config, 0, 0xc001, 0xffff_ffe0);
        assert_eq!(port_range(&config, FUNCTION, 0), Some((0xc000, 32)));
        assert_eq!(config.read_u32(FUNCTION, BASE_ADDRESS), 0xc001);
        assert_eq!(port_range(&config, FUNCTION, 1), None);
    }

    #[test]
    fn no_memory_in_an_absent_a_port_or_an_unassigned_register() {
        let mut config = device();
        set_register(&mut config, 0, 0, 0);
        set_register(&mut config, 1, 0xc001, 0xffff_ffe0);
        set_register(&mut config, 2, 0, 0xffff_f000);
        for index in 0..=u8::MAX {
            assert_eq!(memory_range(&config, FUNCTION, index), None, "register {index}");
        }
    }

    #[test]
    fn a_wide_register_at_the_end_has_no_other_half() {
        let mut config = device();
        set_register(&mut config, 5, 0xfe00_000c, 0xffff_c000);
        assert_eq!(memory_range(&config, FUNCTION, 5), None);
    }

    #[test]
    fn a_part_must_lie_inside() {
        let range = MemoryRange { address: 0x1000, size: 0x100 };
        assert_eq!(range.part(0x80, 0x80), Some(0x1080));
        assert_eq!(range.part(0x81, 0x80), None);
        assert_eq!(range.part(u64::MAX, 2), None);
    }
}
