//! A vCPU's debug registers: four addresses, and what happens when one is reached.
//!
//! The idea to hold: the CPU compares *linear* addresses, also while the hypervisor runs. So a breakpoint may lie only
//! where a guest's memory can be, and what the CPU gets to see is never more than that: breakpoints on I/O ports are
//! kept for the guest to read but not armed, since ports are accessed by the hypervisor.

use crate::trap::is_guest_code;
use hypercall_abi::Errno;

/// Bits of register 6 that always read as one; a cause is set in one of the others.
pub const STATUS_RESET: u64 = 0xffff_0ff0;
/// Bit of register 6 that always reads as zero.
const STATUS_ZERO: u64 = 1 << 12;
/// Causes: the four breakpoints, access to debug registers, single step, task switch.
const STATUS_CAUSES: u64 = 0xf | 1 << 13 | 1 << 14 | 1 << 15;

/// Register 7 after reset: its one bit that always reads as one.
pub const CONTROL_RESET: u64 = 1 << 10;
/// Bits that always read as zero: the upper half among them.
const CONTROL_ZERO: u64 = 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15 | 0xffff_ffff_0000_0000;
/// Any access to a debug register would trap.
const GENERAL_DETECT: u64 = 1 << 13;
/// Two bits for each breakpoint, locally and globally enabled.
const ENABLES: u64 = 0xff;

/// Kind of a breakpoint: on access to an I/O port.
const PORT_ACCESS: u64 = 2;

/// Registers 0 to 3, 6 and 7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    status: u64,
    control: u64,
}

impl DebugRegisters {
    /// No breakpoints.
    pub const fn new() -> Self {
        Self { addresses: [0; 4], status: STATUS_RESET, control: CONTROL_RESET }
    }

    /// The register of this number.
    pub fn read(&self, number: u64) -> Option<u64> {
        match number {
            0..=3 => Some(self.addresses[number as usize]),
            6 => Some(self.status),
            7 => Some(self.control),
            _ => None,
        }
    }

    /// Sets a register; bits that are reserved get the value they have.
    ///
    /// # Errors
    /// `EINVAL` for a number without a register, `EPERM` for an address that is not the guest's and for what would trap
    /// the guest's own access to these registers.
    pub fn write(&mut self, number: u64, value: u64) -> Result<(), Errno> {
        match number {
            0..=3 if !is_guest_code(value) => return Err(Errno::EPERM),
            0..=3 => self.addresses[number as usize] = value,
            6 => self.status = value & 0xffff_ffff & !STATUS_ZERO | STATUS_RESET,
            7 if value & GENERAL_DETECT != 0 => return Err(Errno::EPERM),
            7 => self.control = value & !CONTROL_ZERO | CONTROL_RESET,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// The CPU stopped the guest for the causes in its own register 6.
    pub fn stopped(&mut self, status: u64) {
        self.status |= status & STATUS_CAUSES;
    }

    /// What register 7 of the CPU is to be; [`CONTROL_RESET`] when nothing is armed.
    pub fn armed(&self) -> u64 {
        let is_port = |index: u64| self.control >> (16 + 4 * index) & 3 == PORT_ACCESS;
        let ports = (0..4).filter(|index| is_port(*index)).fold(0, |mask, index| mask | 3 << (2 * index));
        let control = self.control & !ports;
        if control & ENABLES == 0 { CONTROL_RESET } else { control }
    }

    /// Addresses of the breakpoints.
    pub fn addresses(&self) -> [u64; 4] {
        self.addresses
    }
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watch on four bytes that are written, by breakpoint 0.
    const WATCH: u64 = 1 | 1 << 16 | 3 << 18;

    #[test]
    fn reserved_bits_have_their_values() {
        let mut registers = DebugRegisters::new();
        registers.write(7, WATCH).expect("a watch");
        assert_eq!(registers.read(7), Some(WATCH | CONTROL_RESET));
        registers.write(7, !GENERAL_DETECT).expect("all breakpoints");
        assert_eq!(registers.read(7), Some(0xffff_07ff));
        registers.write(6, 0).expect("no cause");
        assert_eq!(registers.read(6), Some(STATUS_RESET));
        registers.write(6, !0).expect("all causes");
        assert_eq!(registers.read(6), Some(0xffff_efff));
    }

    #[test]
    fn a_breakpoint_in_the_hypervisor_is_refused() {
        let mut registers = DebugRegisters::new();
        for address in [0xffff_8000_0000_0000, 0xffff_82d0_8000_0000, 0xffff_87ff_ffff_ffff, 1 << 47] {
            assert_eq!(registers.write(0, address), Err(Errno::EPERM), "{address:#x}");
        }
        assert_eq!(registers, DebugRegisters::new());
        assert_eq!(registers.write(3, 0xffff_8880_0000_0000), Ok(()));
    }

    #[test]
    fn access_to_the_registers_cannot_be_made_to_trap() {
        let mut registers = DebugRegisters::new();
        assert_eq!(registers.write(7, WATCH | GENERAL_DETECT), Err(Errno::EPERM));
        assert_eq!(registers.armed(), CONTROL_RESET);
        for number in [4, 5, 8, u64::MAX] {
            assert_eq!((registers.write(number, 0), registers.read(number)), (Err(Errno::EINVAL), None));
        }
    }

    #[test]
    fn watches_of_ports_are_remembered_but_not_armed() {
        let mut registers = DebugRegisters::new();
        let port = 1 << 2 | 2 << 20;
        registers.write(7, WATCH | port).expect("a watch of each kind");
        assert_eq!(registers.read(7), Some(WATCH | port | CONTROL_RESET));
        assert_eq!(registers.armed() & ENABLES, 1);
        registers.write(7, port).expect("the port alone");
        assert_eq!(registers.armed(), CONTROL_RESET);
    }

    #[test]
    fn causes_add_up_until_the_guest_clears_them() {
        let mut registers = DebugRegisters::new();
        registers.stopped(STATUS_RESET | 1 << 14);
        registers.stopped(STATUS_RESET | 1);
        assert_eq!(registers.read(6), Some(STATUS_RESET | 1 << 14 | 1));
        registers.stopped(!0);
        assert_eq!(registers.read(6), Some(STATUS_RESET | STATUS_CAUSES));
    }
}
