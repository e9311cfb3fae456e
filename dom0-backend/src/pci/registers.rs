//! A function's configuration space as the guest that has it sees it.
//!
//! Most registers are the function's own. The guest reads, but does not write, what decides where the function answers
//! and where its interrupts go; where it measures a base address register, the answer is made up here, so that the
//! function stays where it is. There is no interrupt line: the function is to use messages.

use alloc::vec::Vec;
use core::ops::Range;

use device_drivers::pci::{
    Address, BASE_ADDRESS, BASE_ADDRESS_COUNT, CAPABILITY_MSI, CAPABILITY_MSIX, COMMAND, COMMAND_BUS_MASTER,
    COMMAND_IO, COMMAND_MEMORY, COMMAND_NO_INTERRUPT_LINE, ConfigSpace, HEADER_TYPE, capabilities,
    memory_range, port_range,
};

/// What of [`COMMAND`] is the guest's to decide.
const COMMAND_BITS: u16 = COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTERRUPT_LINE;
const BASE_ADDRESSES: Range<u16> = BASE_ADDRESS as u16..BASE_ADDRESS as u16 + 4 * BASE_ADDRESS_COUNT as u16;
/// The base address of a function's own firmware, of which the guest sees none.
const FIRMWARE: Range<u16> = 0x30..0x34;
/// Which line the function interrupts by.
const INTERRUPT_PIN: u16 = 0x3d;
/// Where the registers end that are the same for all functions.
const HEADER_END: u16 = 0x40;
/// Bytes that the capabilities for interrupt messages may take.
const MSI_BYTES: u16 = 24;
const MSIX_BYTES: u16 = 12;
/// In [`HEADER_TYPE`]: there are further functions. The guest has this one only.
const MULTIFUNCTION: u32 = 0x80;

/// Why an access is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such register, or not of this size.
    Offset,
    /// It is not the guest's to write.
    Write,
}

/// A function's configuration space, for its guest.
#[derive(Debug)]
pub struct Registers {
    function: Address,
    /// What each base address register answers when it is measured.
    measures: [u32; BASE_ADDRESS_COUNT as usize],
    /// Which of them are being measured.
    is_measured: [bool; BASE_ADDRESS_COUNT as usize],
    /// Registers that decide where interrupts go.
    protected: Vec<Range<u16>>,
}

impl Registers {
    /// Looks at a function, which nobody uses at the moment.
    pub fn of(config: &impl ConfigSpace, function: Address) -> Self {
        let mut measures = [0; BASE_ADDRESS_COUNT as usize];
        for index in 0..BASE_ADDRESS_COUNT {
            let register = config.read_u32(function, BASE_ADDRESS + 4 * index);
            let place = usize::from(index);
            if let Some((_, count)) = port_range(config, function, index) {
                measures[place] = u32::from(count).wrapping_neg() | register & 0b11;
            } else if let Some(range) = memory_range(config, function, index) {
                let mask = range.size.wrapping_neg();
                measures[place] = mask as u32 | register & 0xf;
                let is_wide = register & 0b110 == 0b100;
                if is_wide && let Some(high) = measures.get_mut(place + 1) {
                    *high = (mask >> 32) as u32;
                }
            }
        }
        let protected = capabilities(config, function).filter_map(|capability| {
            let bytes = match capability.id {
                CAPABILITY_MSI => MSI_BYTES,
                CAPABILITY_MSIX => MSIX_BYTES,
                _ => return None,
            };
            Some(u16::from(capability.register)..u16::from(capability.register) + bytes)
        });
        Self { function, measures, is_measured: Default::default(), protected: protected.collect() }
    }

    /// Reads a register of 1, 2 or 4 bytes.
    ///
    /// # Errors
    ///
    /// [`Refused::Offset`].
    pub fn read(&self, config: &impl ConfigSpace, offset: i32, size: i32) -> Result<u32, Refused> {
        let (register, bytes) = place(offset, size)?;
        let word = self.word(config, register & !3);
        let shift = u32::from(register & 3) * 8;
        let mask = u32::MAX >> (32 - 8 * u32::from(bytes));
        Ok(word >> shift & mask)
    }

    /// The aligned four bytes at `register`.
    fn word(&self, config: &impl ConfigSpace, register: u16) -> u32 {
        if FIRMWARE.contains(&register) {
            return 0;
        }
        if BASE_ADDRESSES.contains(&register) {
            let index = usize::from((register - BASE_ADDRESSES.start) / 4);
            if self.is_measured[index] {
                return self.measures[index];
            }
        }
        let word = config.read_u32(self.function, register as u8);
        if register == INTERRUPT_PIN & !3 {
            return word & 0xffff_00ff;
        }
        if register == u16::from(HEADER_TYPE) & !3 {
            return word & !(MULTIFUNCTION << (8 * u32::from(HEADER_TYPE & 3)));
        }
        word
    }

    /// Writes a register. What is not the guest's to decide is passed over where drivers write it as a matter of course.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn write(
        &mut self,
        config: &impl ConfigSpace,
        offset: i32,
        size: i32,
        value: u32,
    ) -> Result<(), Refused> {
        let (register, bytes) = place(offset, size)?;
        if register == u16::from(COMMAND) {
            let before = config.read_u16(self.function, COMMAND);
            let command = before & !COMMAND_BITS | value as u16 & COMMAND_BITS;
            config.write_u16(self.function, COMMAND, command);
            return Ok(());
        }
        if BASE_ADDRESSES.contains(&register) {
            // Nothing that is written moves the function; all ones ask for its size.
            let index = usize::from((register - BASE_ADDRESSES.start) / 4);
            self.is_measured[index] = bytes == 4 && value >= !0x7ff;
            return Ok(());
        }
        let touched = register..register + bytes;
        let is_protected = |range: &Range<u16>| range.start < touched.end && touched.start < range.end;
        if register < HEADER_END || self.protected.iter().any(is_protected) {
            return Ok(());
        }
        match bytes {
            2 => config.write_u16(self.function, register as u8, value as u16),
            4 => config.write_u32(self.function, register as u8, value),
            _ => return Err(Refused::Write),
        }
        Ok(())
    }
}

/// A register and its size, if they make sense.
fn place(offset: i32, size: i32) -> Result<(u16, u16), Refused> {
    let register = u16::try_from(offset).map_err(|_| Refused::Offset)?;
    let bytes = match size {
        1 | 2 | 4 => size as u16,
        _ => return Err(Refused::Offset),
    };
    if register > 0x100 - bytes || !register.is_multiple_of(bytes) {
        return Err(Refused::Offset);
    }
    Ok((register, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use device_drivers::pci::fake::FakeConfigSpace;

    const FUNCTION: Address = Address::new(0, 4, 0);

    fn device() -> (FakeConfigSpace, Registers) {
        let mut config = FakeConfigSpace::default();
        config.add_device(FUNCTION, 0x1af4, 0x1042);
        config.set(FUNCTION, 0x0e, &[0x80]);
        config.set(FUNCTION, 0x3c, &[11, 1]);
        config.set(FUNCTION, 0x30, &0xfeb0_0000_u32.to_le_bytes());
        config.set(FUNCTION, BASE_ADDRESS + 4, &0xfebd_1000_u32.to_le_bytes());
        config.set_writable(FUNCTION, BASE_ADDRESS + 4, 0xffff_f000);
        config.add_capability(FUNCTION, 0x98, CAPABILITY_MSIX, &[0x02, 0x40, 0x01, 0x08, 0, 0]);
        let registers = Registers::of(&config, FUNCTION);
        (config, registers)
    }

    #[test]
    fn the_identity_is_the_functions_own_but_it_stands_alone() {
        let (config, registers) = device();
        assert_eq!(registers.read(&config, 0, 4), Ok(0x1042_1af4));
        assert_eq!(registers.read(&config, 2, 2), Ok(0x1042));
        assert_eq!(registers.read(&config, 0x0e, 1), Ok(0));
        assert_eq!(registers.read(&config, 0x3d, 1), Ok(0), "no interrupt line");
        assert_eq!(registers.read(&config, 0x30, 4), Ok(0), "no firmware");
    }

    #[test]
    fn measuring_moves_nothing() {
        let (config, mut registers) = device();
        config.writes.borrow_mut().clear();
        registers.write(&config, 0x14, 4, u32::MAX).unwrap();
        assert_eq!(registers.read(&config, 0x14, 4), Ok(0xffff_f000));
        registers.write(&config, 0x14, 4, 0x1234_5000).unwrap();
        assert_eq!(registers.read(&config, 0x14, 4), Ok(0xfebd_1000));
        assert!(config.writes.borrow().is_empty());
    }

    #[test]
    fn interrupts_and_the_header_are_not_the_guests_to_write() {
        let (config, mut registers) = device();
        config.writes.borrow_mut().clear();
        for (offset, size) in [(0x98, 4), (0x9a, 2), (0xa0, 4), (0x3c, 1), (0, 4), (0x30, 4)] {
            registers.write(&config, offset, size, u32::MAX).unwrap();
        }
        assert!(config.writes.borrow().is_empty());
        registers.write(&config, 4, 2, 0xffff).unwrap();
        assert_eq!(config.read_u16(FUNCTION, COMMAND), COMMAND_BITS);
        registers.write(&config, 0xb0, 2, 7).unwrap();
        assert_eq!(registers.read(&config, 0xb0, 2), Ok(7), "the rest is");
    }

    #[test]
    fn what_is_no_register_is_refused() {
        let (config, mut registers) = device();
        for (offset, size) in
            [(-4, 4), (0x100, 1), (0xfe, 4), (1, 2), (2, 4), (0, 0), (0, 3), (0, 8), (i32::MAX, 4)]
        {
            assert_eq!(registers.read(&config, offset, size), Err(Refused::Offset), "{offset}, {size}");
            assert_eq!(registers.write(&config, offset, size, 0), Err(Refused::Offset), "{offset}, {size}");
        }
        assert_eq!(registers.write(&config, 0xb1, 1, 0), Err(Refused::Write));
    }
}
