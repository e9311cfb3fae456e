//! Commands about PCI devices: which can be given to guests, and who has them.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use device_drivers::pci::Address;
use serde_json::json;

use super::Admin;
use super::answer::{Answer, Failure};
use super::command::PciCommand;
use crate::pci::PciProblem;

impl From<PciProblem> for Failure {
    fn from(problem: PciProblem) -> Self {
        Self::new(problem.kind(), format!("{problem}"))
    }
}

impl Admin {
    /// Does one of these commands.
    pub(super) fn pci(&self, command: &PciCommand) -> Result<Answer, Failure> {
        let functions = self.toolstack().functions();
        match command {
            PciCommand::MakeAssignable(address) => functions.make_assignable(*address)?,
            PciCommand::MakeUnassignable(address) => {
                if let Some(guest) = self.toolstack().user_of_pci(*address, "") {
                    return Err(PciProblem::InUse(*address, guest).into());
                }
                functions.make_unassignable(*address)?;
            }
            PciCommand::Assignable => return Ok(self.assignable()),
            PciCommand::Of(guest) => return self.pci_of(guest),
        }
        Ok(Answer::default())
    }

    /// As `xl` lists them: those that no guest has.
    fn assignable(&self) -> Answer {
        let addresses =
            self.toolstack().functions().assignable().into_iter().map(|function| function.address);
        let free = addresses.filter(|&address| self.toolstack().user_of_pci(address, "").is_none());
        let names: Vec<String> = free.map(name).collect();
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        Answer::new(text, json!(names))
    }

    fn pci_of(&self, guest: &str) -> Result<Answer, Failure> {
        let guest = self.toolstack().find(guest).ok_or_else(|| Failure::no_guest(guest))?;
        let mut text = "Vdev Device\n".to_owned();
        let mut devices = Vec::new();
        for (slot, device) in guest.pci().iter().enumerate() {
            let (slot, device) = (format!("{slot:02x}.0"), name(device.address));
            text += &format!("{slot} {device}\n");
            devices.push(json!({ "vdev": slot, "device": device }));
        }
        Ok(Answer::new(text, json!(devices)))
    }
}

/// An address with its segment.
fn name(address: Address) -> String {
    format!("0000:{address}")
}
