//! The machine's functions, and what is done with each.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use device_drivers::pci::{Address, Function};

/// What is done with a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Domain 0 drives it, as this.
    Driven(String),
    /// Nothing: there is no driver for it.
    Nothing,
    /// It can be given to a guest.
    Assignable,
    /// Nothing can be: it cannot be brought back to its first state.
    NoReset,
}

/// Why a function is not given to a guest, or not made ready for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciProblem {
    /// The machine has none there.
    Absent(Address),
    /// Domain 0 drives it, as this.
    Driven(Address, String),
    /// It is not for guests yet.
    NotAssignable(Address),
    /// It cannot be reset.
    NoReset(Address),
    /// This guest has it.
    InUse(Address, String),
    /// The risk is not accepted.
    NotPermissive(Address),
}

impl PciProblem {
    /// Of what kind it is, in a word that does not change.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Absent(_) => "no-device",
            Self::Driven(..) | Self::InUse(..) => "device-in-use",
            Self::NotAssignable(_) => "not-assignable",
            Self::NoReset(_) => "no-reset",
            Self::NotPermissive(_) => "not-permissive",
        }
    }
}

impl fmt::Display for PciProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(address) => write!(formatter, "the machine has no PCI device {address}"),
            Self::Driven(address, name) => write!(
                formatter,
                "{address} is {name}, which domain 0 drives; start the machine with hide={address} on domain 0's command line to keep it for guests"
            ),
            Self::NotAssignable(address) => {
                write!(formatter, "{address} is not for guests; `pci-assignable-add {address}` makes it so")
            }
            Self::NoReset(address) => {
                write!(formatter, "{address} cannot be reset, so it cannot be taken back from a guest")
            }
            Self::InUse(address, guest) => write!(formatter, "{address} is in use by {guest}"),
            Self::NotPermissive(address) => write!(
                formatter,
                "{address}: there is no IOMMU support, so through it the guest could read and write all memory, the hypervisor's and other guests' too; {address},permissive=1 gives it all the same"
            ),
        }
    }
}

impl core::error::Error for PciProblem {}

/// All functions.
#[derive(Debug, Default)]
pub struct PciFunctions(RefCell<BTreeMap<Address, (Function, Use)>>);

impl PciFunctions {
    /// Notes a function, and what is done with it.
    pub fn add(&self, function: Function, used: Use) {
        self.0.borrow_mut().insert(function.address, (function, used));
    }

    /// What is done with a function.
    pub fn used_as(&self, address: Address) -> Option<Use> {
        self.0.borrow().get(&address).map(|(_, used)| used.clone())
    }

    /// The function there.
    pub fn function(&self, address: Address) -> Option<Function> {
        self.0.borrow().get(&address).map(|(function, _)| *function)
    }

    /// Those that can be given to guests.
    pub fn assignable(&self) -> Vec<Function> {
        let known = self.0.borrow();
        known.values().filter(|(_, used)| *used == Use::Assignable).map(|(function, _)| *function).collect()
    }

    /// Makes a function that nobody drives one for guests.
    ///
    /// # Errors
    ///
    /// [`PciProblem`].
    pub fn make_assignable(&self, address: Address) -> Result<(), PciProblem> {
        let mut known = self.0.borrow_mut();
        let (_, used) = known.get_mut(&address).ok_or(PciProblem::Absent(address))?;
        match used {
            Use::Driven(name) => Err(PciProblem::Driven(address, name.clone())),
            Use::NoReset => Err(PciProblem::NoReset(address)),
            Use::Nothing | Use::Assignable => {
                *used = Use::Assignable;
                Ok(())
            }
        }
    }

    /// Takes a function from those for guests, none of whom may have it.
    ///
    /// # Errors
    ///
    /// [`PciProblem`].
    pub fn make_unassignable(&self, address: Address) -> Result<(), PciProblem> {
        self.check(address)?;
        if let Some((_, used)) = self.0.borrow_mut().get_mut(&address) {
            *used = Use::Nothing;
        }
        Ok(())
    }

    /// Gives a function to nobody any more, for it could not be reset.
    pub fn give_up(&self, address: Address) {
        if let Some((_, used)) = self.0.borrow_mut().get_mut(&address) {
            *used = Use::NoReset;
        }
    }

    /// Whether a function is there and for guests.
    ///
    /// # Errors
    ///
    /// [`PciProblem`].
    pub fn check(&self, address: Address) -> Result<(), PciProblem> {
        match self.used_as(address) {
            None => Err(PciProblem::Absent(address)),
            Some(Use::Driven(name)) => Err(PciProblem::Driven(address, name)),
            Some(Use::NoReset) => Err(PciProblem::NoReset(address)),
            Some(Use::Nothing) => Err(PciProblem::NotAssignable(address)),
            Some(Use::Assignable) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn functions() -> PciFunctions {
        let functions = PciFunctions::default();
        let used = [Use::Driven("disk0".into()), Use::Nothing, Use::Assignable, Use::NoReset];
        for (device, used) in (1..).zip(used) {
            let function = Function {
                address: Address::new(0, device, 0),
                vendor: 0x1af4,
                device: 0x1042,
                subsystem_vendor: 0,
                subsystem: 0,
                class: 0x01_0000,
                revision: 1,
            };
            functions.add(function, used);
        }
        functions
    }

    #[test]
    fn only_what_nobody_drives_becomes_assignable() {
        let functions = functions();
        let add =
            |device| functions.make_assignable(Address::new(0, device, 0)).map_err(|error| error.kind());
        assert_eq!(add(1), Err("device-in-use"));
        assert_eq!(add(2), Ok(()));
        assert_eq!(add(3), Ok(()), "it is already");
        assert_eq!(add(4), Err("no-reset"));
        assert_eq!(add(5), Err("no-device"));
        assert_eq!(functions.assignable().len(), 2);
        let remove =
            |device| functions.make_unassignable(Address::new(0, device, 0)).map_err(|error| error.kind());
        assert_eq!(remove(2), Ok(()));
        assert_eq!(remove(2), Err("not-assignable"));
        functions.give_up(Address::new(0, 3, 0));
        assert_eq!(functions.check(Address::new(0, 3, 0)).map_err(|error| error.kind()), Err("no-reset"));
    }

    #[test]
    fn a_refusal_says_what_can_be_done() {
        let address = Address::new(0, 4, 0);
        let text = PciProblem::NotPermissive(address).to_string();
        assert!(text.contains("all memory") && text.contains("00:04.0,permissive=1"), "{text}");
        let text = PciProblem::Driven(address, "disk0".into()).to_string();
        assert!(text.contains("hide=00:04.0"), "{text}");
    }
}
