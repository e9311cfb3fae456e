//! A PCI device for a guest as its configuration says: `BB:DD.F`, with `permissive=1` behind it.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use device_drivers::pci::Address;

use super::Toolstack;
use super::configuration::GuestConfiguration;
use super::guest::Guest;
use crate::pci::PciProblem;

/// A device for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPci {
    /// Which.
    pub address: Address,
    /// Whether it is given although nothing keeps it from the memory of others.
    pub is_permissive: bool,
}

/// What is wrong with a device's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciError {
    /// Not `BB:DD.F`.
    Address(String),
    /// No option is called so, or not with this value.
    Option(String),
    /// The same device twice.
    Same(Address),
}

impl fmt::Display for PciError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text) => write!(formatter, "pci: {text:?} is no address, such as 00:04.0"),
            Self::Option(text) => write!(formatter, "pci: {text:?}: the only option is permissive=0 or 1"),
            Self::Same(address) => write!(formatter, "pci: {address} is there twice"),
        }
    }
}

impl FromStr for GuestPci {
    type Err = PciError;

    fn from_str(text: &str) -> Result<Self, PciError> {
        let mut words = text.split(',').map(str::trim);
        let address = words.next().unwrap_or_default();
        let address = address.parse().map_err(|_| PciError::Address(address.to_owned()))?;
        let mut is_permissive = false;
        for word in words {
            is_permissive = match word {
                "permissive=1" | "permissive" => true,
                "permissive=0" => false,
                _ => return Err(PciError::Option(word.to_owned())),
            };
        }
        Ok(Self { address, is_permissive })
    }
}

impl Toolstack {
    /// Every device is there, for guests, nobody else's, and its risk is accepted.
    ///
    /// # Errors
    ///
    /// [`PciProblem`], of the first that is not.
    pub(super) fn check_pci(&self, configuration: &GuestConfiguration) -> Result<(), PciProblem> {
        for device in &configuration.pci {
            self.functions().check(device.address)?;
            if let Some(guest) = self.user_of_pci(device.address, &configuration.name) {
                return Err(PciProblem::InUse(device.address, guest));
            }
            if !device.is_permissive {
                return Err(PciProblem::NotPermissive(device.address));
            }
        }
        Ok(())
    }

    /// A guest other than `guest` that has a device, or is to have it.
    pub fn user_of_pci(&self, address: Address, guest: &str) -> Option<String> {
        let has = |other: &GuestConfiguration| other.pci.iter().any(|device| device.address == address);
        self.others(guest).into_iter().find_map(|(name, other)| has(&other).then_some(name))
    }
}

impl Guest {
    /// The PCI devices that it has.
    pub fn pci(&self) -> alloc::vec::Vec<GuestPci> {
        self.configuration().pci.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_an_address_and_a_word() {
        let address = Address::new(0, 4, 0);
        assert_eq!("00:04.0".parse(), Ok(GuestPci { address, is_permissive: false }));
        assert_eq!("0000:00:04.0, permissive=1".parse(), Ok(GuestPci { address, is_permissive: true }));
        assert_eq!("04".parse::<GuestPci>(), Err(PciError::Address("04".into())));
        assert_eq!(
            "00:04.0,msitranslate=1".parse::<GuestPci>(),
            Err(PciError::Option("msitranslate=1".into()))
        );
    }
}
