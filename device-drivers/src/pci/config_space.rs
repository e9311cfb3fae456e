//! PCI configuration space: 256 bytes of registers for every function, and the way to them.

use core::fmt;
use core::str::FromStr;

/// Register (16 bits): who made the device. [`NO_DEVICE`] where there is none.
pub const VENDOR_ID: u8 = 0x00;
/// Register (16 bits): which of the maker's devices it is.
pub const DEVICE_ID: u8 = 0x02;
/// Register (16 bits): `COMMAND_*`.
pub const COMMAND: u8 = 0x04;
/// Register (16 bits): `STATUS_*`.
pub const STATUS: u8 = 0x06;
/// Register (32 bits): class, subclass, programming interface and, lowest, the revision.
pub const CLASS_AND_REVISION: u8 = 0x08;
/// Register (8 bits): the layout of what follows, and [`HEADER_MULTIFUNCTION`].
pub const HEADER_TYPE: u8 = 0x0e;
/// Register (32 bits): the first base address.
pub const BASE_ADDRESS: u8 = 0x10;
/// Register (8 bits) of a bridge: the bus behind it.
pub const SECONDARY_BUS: u8 = 0x19;
/// Register (16 bits): who made the board or, for virtual devices, defined the interface.
pub const SUBSYSTEM_VENDOR_ID: u8 = 0x2c;
/// Register (16 bits): which board, or which kind of virtual device.
pub const SUBSYSTEM_ID: u8 = 0x2e;
/// Register (8 bits): where the list of capabilities starts.
pub const CAPABILITIES: u8 = 0x34;

/// [`VENDOR_ID`] of a function that is not there.
pub const NO_DEVICE: u16 = 0xffff;

/// In [`COMMAND`]: answer accesses to I/O ports.
pub const COMMAND_IO: u16 = 1 << 0;
/// In [`COMMAND`]: answer accesses to memory.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// In [`COMMAND`]: read and write memory on the device's own account.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// In [`COMMAND`]: do not use the interrupt line.
pub const COMMAND_NO_INTERRUPT_LINE: u16 = 1 << 10;

/// In [`STATUS`]: there is a list of capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// In [`HEADER_TYPE`]: the device has further functions.
pub const HEADER_MULTIFUNCTION: u8 = 1 << 7;
/// In [`HEADER_TYPE`], the multifunction bit apart: a bridge to another bus.
pub const HEADER_BRIDGE: u8 = 1;

/// Devices on a bus.
pub const DEVICES_PER_BUS: u8 = 32;
/// Functions of a device.
pub const FUNCTIONS_PER_DEVICE: u8 = 8;

/// One function of one device on one bus of segment 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The bus.
    pub bus: u8,
    /// Device (five bits) and function (three bits), as the hardware and the hypervisor have them.
    pub devfn: u8,
}

impl Address {
    /// The function `function` of the device `device`; only the low five and three bits count.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self { bus, devfn: (device << 3) | (function & 7) }
    }

    /// The device's number on its bus.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function's number in its device.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:02x}:{:02x}.{}", self.bus, self.device(), self.function())
    }
}

/// No address of a function: `BB:DD.F`, in hexadecimal, perhaps with the segment 0000 before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let text = text.strip_prefix("0000:").unwrap_or(text);
        let parts = text.split_once(':').and_then(|(bus, rest)| Some((bus, rest.split_once('.')?)));
        let (bus, (device, function)) = parts.ok_or(NoAddress)?;
        let number = |digits: &str, most: u8| {
            let number = u8::from_str_radix(digits, 16).map_err(|_| NoAddress)?;
            let is_plain = digits.len() <= 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            if number <= most && is_plain { Ok(number) } else { Err(NoAddress) }
        };
        let device = number(device, DEVICES_PER_BUS - 1)?;
        Ok(Self::new(number(bus, u8::MAX)?, device, number(function, FUNCTIONS_PER_DEVICE - 1)?))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Access to configuration space, one naturally aligned register at a time.
///
/// The width of an access matters: a hypervisor may watch single registers, the control word of an interrupt
/// capability above all, and refuses an access that takes its neighbour along.
pub trait ConfigSpace {
    /// Reads eight bits.
    fn read_u8(&self, function: Address, register: u8) -> u8;
    /// Reads sixteen bits.
    fn read_u16(&self, function: Address, register: u8) -> u16;
    /// Reads thirty-two bits.
    fn read_u32(&self, function: Address, register: u8) -> u32;
    /// Writes sixteen bits.
    fn write_u16(&self, function: Address, register: u8, value: u16);
    /// Writes thirty-two bits.
    fn write_u32(&self, function: Address, register: u8, value: u32);
}

/// Sets and clears bits of [`COMMAND`] and returns what it was before.
pub fn change_command(config: &impl ConfigSpace, function: Address, set: u16, clear: u16) -> u16 {
    let before = config.read_u16(function, COMMAND);
    config.write_u16(function, COMMAND, (before & !clear) | set);
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["00:04.0", "ff:1f.7"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.into()));
        }
        assert_eq!("0000:00:1f.2".parse(), Ok(Address::new(0, 0x1f, 2)));
        for text in
            ["", "4", "00:04", "00:20.0", "00:04.8", "0001:00:04.0", "100:00.0", "00:+4.0", "00:04.0 "]
        {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
    }
}
