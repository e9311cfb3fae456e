#![expect(unsafe_code, reason = "configuration space is reached through I/O ports")]
//! Configuration space through two I/O ports (the specification's mechanism #1).
//!
//! One port takes the address, the other gives a window of four bytes onto the registers there. The
//! hypervisor watches both: it keeps an address of our own for us and lets no other domain near.

use core::arch::asm;

use hypercall_abi::Errno;
use hypercall_abi::physdev::PhysdevSetIopl;
use pv_runtime::hypercall::physdev_op;

use super::config_space::{Address, ConfigSpace};

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const ADDRESS_VALID: u32 = 1 << 31;

/// The configuration ports.
///
/// There is one address port for all, so the two steps of an access must not be torn apart: the type is not
/// `Sync`, and nothing interrupts a task.
#[derive(Debug)]
pub struct ConfigPorts {
    _one_thread: core::marker::PhantomData<*const ()>,
}

impl ConfigPorts {
    /// Asks for the right to use I/O ports, which only the initial domain is given.
    ///
    /// # Errors
    ///
    /// Whatever the hypervisor answers, [`Errno::EPERM`] above all.
    pub fn open() -> Result<Self, Errno> {
        physdev_op(&mut PhysdevSetIopl { iopl: 1 })?;
        Ok(Self { _one_thread: core::marker::PhantomData })
    }
}

/// Points the window at a register and returns the port that shows its first byte.
fn select(function: Address, register: u8) -> u16 {
    let address =
        u32::from(function.bus) << 16 | u32::from(function.devfn) << 8 | u32::from(register & !0b11);
    // SAFETY: writing the address port changes nothing but what the data port shows. The right to do so was
    // given when the only `ConfigPorts` was made.
    unsafe {
        asm!("out dx, eax", in("dx") ADDRESS_PORT, in("eax") ADDRESS_VALID | address,
            options(nomem, nostack, preserves_flags));
    }
    DATA_PORT + u16::from(register & 0b11)
}

impl ConfigSpace for ConfigPorts {
    fn read_u8(&self, function: Address, register: u8) -> u8 {
        let port = select(function, register);
        let value: u8;
        // SAFETY: reading a configuration register of the header or a capability has no effect on memory.
        unsafe {
            asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
        };
        value
    }

    fn read_u16(&self, function: Address, register: u8) -> u16 {
        let port = select(function, register);
        let value: u16;
        // SAFETY: as for eight bits.
        unsafe {
            asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
        };
        value
    }

    fn read_u32(&self, function: Address, register: u8) -> u32 {
        let port = select(function, register);
        let value: u32;
        // SAFETY: as for eight bits.
        unsafe {
            asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
        };
        value
    }

    fn write_u16(&self, function: Address, register: u8, value: u16) {
        let port = select(function, register);
        // SAFETY: a function's registers decide where it answers and whether it may use memory on its own
        // account. Neither touches memory that Rust knows: ranges stay where firmware put them, and a device
        // is told of memory only through its own registers, by the drivers.
        unsafe {
            asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
        };
    }

    fn write_u32(&self, function: Address, register: u8, value: u32) {
        let port = select(function, register);
        // SAFETY: as for sixteen bits.
        unsafe {
            asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
        };
    }
}
