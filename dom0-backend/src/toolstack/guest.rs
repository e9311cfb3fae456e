//! A guest as the toolstack knows it.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, Ref, RefCell};
use core::time::Duration;

use hypercall_abi::DomainId;
use pv_runtime::executor::Signal;

use super::configuration::GuestConfiguration;
use super::error::CreateError;
use super::handle::Handle;
use super::hot_plug::Plug;

/// How far a guest's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is there; it may be paused.
    Alive,
    /// It ended by itself, and will be taken apart.
    Ended,
    /// It ended by itself and is left to be looked at.
    Preserved,
    /// It is being taken apart.
    Ending,
}

/// What became of a guest.
#[derive(Debug)]
pub enum Fate {
    /// It ended by itself, as it should.
    Ended,
    /// It ended as it should not: how, as a clause that its name goes before.
    Crashed(&'static str),
    /// It ended and was started anew, as this guest.
    Restarted(Rc<Guest>),
    /// It ended and could not be started anew.
    NotRestarted(CreateError),
    /// It was taken apart while it ran.
    Destroyed,
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Its number.
    pub domain: DomainId,
    /// What it is called, which may change.
    pub name: RefCell<String>,
    /// Its handle.
    pub handle: Handle,
    /// What it is to be like; devices come and go.
    pub(super) configuration: RefCell<GuestConfiguration>,
    /// Devices that it was asked to let go.
    pub(super) leaving: RefCell<Vec<Plug>>,
    /// When it was made.
    pub made_at: Duration,
    /// How far its life has come.
    pub stage: Cell<Stage>,
    /// Whether an administrator paused it.
    pub is_paused: Cell<bool>,
    /// What became of it, for the one who waits for that.
    pub fate: Signal<Fate>,
}

impl Guest {
    /// A guest that is paused, and was made at this time.
    pub fn new(
        domain: DomainId,
        handle: Handle,
        configuration: GuestConfiguration,
        made_at: Duration,
    ) -> Self {
        Self {
            domain,
            name: RefCell::new(configuration.name.clone()),
            handle,
            configuration: RefCell::new(configuration),
            leaving: RefCell::default(),
            made_at,
            stage: Cell::new(Stage::Alive),
            is_paused: Cell::new(true),
            fate: Signal::new(),
        }
    }

    /// What it is to be like. Not to be kept while others run.
    pub fn configuration(&self) -> Ref<'_, GuestConfiguration> {
        self.configuration.borrow()
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.name.borrow().clone()
    }

    /// What it is to be like when it is made anew: called as it is called by now, and with the addresses that it has.
    pub fn next_configuration(&self) -> GuestConfiguration {
        let mut next = self.configuration().clone();
        let addresses: Vec<_> = next.addresses().collect();
        for (nic, address) in next.nics.iter_mut().zip(addresses) {
            nic.mac = Some(address);
        }
        next.name = self.name();
        next
    }
}
