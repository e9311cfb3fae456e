//! Bringing a function back to the state in which it was switched on, so that whoever gets it next starts afresh, and
//! nothing that it was told before is done any more.

use core::time::Duration;

use pv_runtime::executor::sleep;

use super::capability::capabilities;
use super::config_space::*;
use super::scan::Function;
use crate::virtio::{DeviceKind, SetupError, reset};

const CAPABILITY_POWER: u8 = 0x01;
const CAPABILITY_EXPRESS: u8 = 0x10;

/// In the device capabilities of [`CAPABILITY_EXPRESS`]: one function can be reset alone.
const CAN_RESET: u32 = 1 << 28;
/// In its device control: do it.
const START_RESET: u16 = 1 << 15;
/// In the control word of [`CAPABILITY_POWER`]: the state, and that waking up is no reset.
const POWER_STATE: u16 = 0b11;
const NO_SOFT_RESET: u16 = 1 << 3;
/// How long a function may take to come back.
const SETTLING: Duration = Duration::from_millis(100);

/// Registers that firmware has filled in and a reset clears: base addresses, interrupt line, cache line.
const KEPT: [u8; 8] = [0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x3c];

/// A way to reset a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// By its capability for that, at this register.
    FunctionLevel(u8),
    /// By the register that every virtio device has.
    Virtio,
    /// By switching it off and on, with the capability at this register.
    Power(u8),
}

impl Reset {
    /// The best way that a function offers; `None` if it cannot be reset alone.
    pub fn find(config: &impl ConfigSpace, function: &Function) -> Option<Self> {
        let address = function.address;
        let find =
            |id| capabilities(config, address).find(|found| found.id == id).map(|found| found.register);
        let express = find(CAPABILITY_EXPRESS)
            .filter(|&register| register <= 0xf4 && config.read_u32(address, register + 4) & CAN_RESET != 0);
        let power = find(CAPABILITY_POWER).filter(|&register| {
            register <= 0xf8 && config.read_u16(address, register + 4) & NO_SOFT_RESET == 0
        });
        let virtio = DeviceKind::of(function).map(|_| Self::Virtio);
        express.map(Self::FunctionLevel).or(virtio).or(power.map(Self::Power))
    }

    /// Takes the function off the bus and resets it. Afterwards it uses no memory and answers nobody.
    ///
    /// # Errors
    ///
    /// If it does not do what it was told; it is off the bus all the same.
    pub async fn run(self, config: &impl ConfigSpace, function: Address) -> Result<(), SetupError> {
        let off = COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER;
        change_command(config, function, 0, off);
        let kept = KEPT.map(|register| config.read_u32(function, register));
        let done = match self {
            Self::FunctionLevel(register) => {
                let control = config.read_u16(function, register + 8);
                config.write_u16(function, register + 8, control | START_RESET);
                sleep(SETTLING).await;
                Ok(())
            }
            Self::Virtio => reset(config, function),
            Self::Power(register) => {
                let control = config.read_u16(function, register + 4) & !POWER_STATE;
                config.write_u16(function, register + 4, control | POWER_STATE);
                sleep(SETTLING).await;
                config.write_u16(function, register + 4, control);
                sleep(SETTLING).await;
                Ok(())
            }
        };
        for (register, value) in KEPT.into_iter().zip(kept) {
            config.write_u32(function, register, value);
        }
        change_command(config, function, 0, off);
        done
    }
}
