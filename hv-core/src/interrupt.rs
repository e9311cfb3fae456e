//! Interrupts from devices, and who gets them.
//!
//! A *physical interrupt* (Xen's pirq) is a number for a line of an I/O APIC (the line's own number) or for one
//! message of a device (a number from [`FIRST_MESSAGE`] on). A domain that may use it binds it to an event
//! channel; when it strikes, the hypervisor acknowledges it and sends the event. A level-triggered line stays
//! masked until the domain says it has handled the device (`PHYSDEVOP_eoi`); a message needs no such thing.

use crate::lock::Mutex;
use crate::{
    arch::{self, io_apic, msi},
    cpu::{self, Cpu},
    domain::{self, Domain},
    event_channel,
    machine::machine,
    pci_config::Function,
};
use hypercall_abi::{DomainId, Errno, PhysicalIrq, Port};

/// Physical interrupts there can be.
pub const MOST_INTERRUPTS: usize = 192;
/// The first number given to message-signalled interrupts; lower ones are I/O APIC lines.
pub const FIRST_MESSAGE: u32 = 48;
/// Vector of physical interrupt 0; the others follow.
pub const FIRST_VECTOR: u8 = 0x30;

const _: () = assert!(FIRST_VECTOR as usize + MOST_INTERRUPTS <= 0xf0);

/// Where a physical interrupt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line of an I/O APIC, set to level or edge and polarity.
    Line {
        /// Level-triggered: masked from the interrupt to `PHYSDEVOP_eoi`.
        is_level: bool,
        /// Active low.
        is_active_low: bool,
    },
    /// One message of a PCI device.
    Message(msi::Message),
}

#[derive(Clone, Copy)]
struct Binding {
    source: Option<Source>,
    domain: DomainId,
    port: Option<Port>,
    needs_end: bool,
}

impl Binding {
    const FREE: Self = Self { source: None, domain: DomainId::INVALID, port: None, needs_end: false };

    fn is_level(&self) -> bool {
        matches!(self.source, Some(Source::Line { is_level: true, .. }))
    }
}

/// All physical interrupts.
pub struct InterruptTable {
    bindings: Mutex<[Binding; MOST_INTERRUPTS]>,
}

impl InterruptTable {
    /// A table in which nothing is bound.
    pub const fn new() -> Self {
        Self { bindings: Mutex::new([Binding::FREE; MOST_INTERRUPTS]) }
    }
}

impl Default for InterruptTable {
    fn default() -> Self {
        Self::new()
    }
}

fn vector(interrupt: PhysicalIrq) -> u8 {
    FIRST_VECTOR + interrupt.0 as u8
}

/// Says how an I/O APIC line behaves (`PHYSDEVOP_setup_gsi`); lines start as the ISA bus has them.
///
/// # Errors
/// `EINVAL` for a line that does not exist, `EBUSY` when it is bound.
pub fn configure_line(interrupt: PhysicalIrq, is_level: bool, is_active_low: bool) -> Result<(), Errno> {
    if interrupt.0 >= FIRST_MESSAGE || !io_apic::has_line(interrupt.0) {
        return Err(Errno::EINVAL);
    }
    let mut bindings = machine().interrupts.bindings.lock();
    let binding = &mut bindings[interrupt.0 as usize];
    if binding.port.is_some() {
        return Err(Errno::EBUSY);
    }
    binding.source = Some(Source::Line { is_level, is_active_low });
    Ok(())
}

/// Gives a number to a device's message (`PHYSDEVOP_map_pirq`).
///
/// # Errors
/// `ENOSPC` when all numbers are in use.
pub fn add_message(owner: DomainId, message: msi::Message) -> Result<PhysicalIrq, Errno> {
    let mut bindings = machine().interrupts.bindings.lock();
    let source = Some(Source::Message(message));
    let messages = FIRST_MESSAGE as usize..MOST_INTERRUPTS;
    let free = messages.clone().find(|&number| bindings[number].source == source);
    let number = free.or_else(|| messages.clone().find(|&number| bindings[number].source.is_none()));
    let number = number.ok_or(Errno::ENOSPC)?;
    if bindings[number].source.is_some() && bindings[number].domain != owner {
        return Err(Errno::EBUSY);
    }
    bindings[number] = Binding { source, domain: owner, ..Binding::FREE };
    Ok(PhysicalIrq(number as u32))
}

/// Gives a number back (`PHYSDEVOP_unmap_pirq`).
///
/// # Errors
/// `EINVAL` for a number that is not the domain's, `EBUSY` while it is bound.
pub fn remove(owner: DomainId, interrupt: PhysicalIrq) -> Result<(), Errno> {
    let mut bindings = machine().interrupts.bindings.lock();
    let binding = bindings.get_mut(interrupt.0 as usize).ok_or(Errno::EINVAL)?;
    if interrupt.0 < FIRST_MESSAGE {
        return Ok(());
    }
    if binding.source.is_none() || binding.domain != owner {
        return Err(Errno::EINVAL);
    }
    if binding.port.is_some() {
        return Err(Errno::EBUSY);
    }
    *binding = Binding::FREE;
    Ok(())
}

/// Forgets the messages of a PCI function that goes; those still bound are silenced with their channels.
pub fn remove_messages_of(function: Function) {
    let mut bindings = machine().interrupts.bindings.lock();
    for binding in bindings.iter_mut().filter(|binding| binding.port.is_none()) {
        if matches!(binding.source, Some(Source::Message(message)) if message.function == function) {
            *binding = Binding::FREE;
        }
    }
}

/// Sends `interrupt` to `port` of `domain` from now on (`EVTCHNOP_bind_pirq`).
///
/// # Errors
/// `EPERM` without the right to it, `EINVAL` for a number without a source, `EBUSY` when it is bound already.
pub fn bind(domain: &Domain, interrupt: PhysicalIrq, port: Port, _flags: u32) -> Result<(), Errno> {
    if !domain.io_rights.allows_interrupt(interrupt) {
        return Err(Errno::EPERM);
    }
    let mut bindings = machine().interrupts.bindings.lock();
    let binding = bindings.get_mut(interrupt.0 as usize).ok_or(Errno::EINVAL)?;
    if binding.port.is_some() {
        return Err(Errno::EBUSY);
    }
    let source = match binding.source {
        Some(source) => source,
        None if io_apic::has_line(interrupt.0) => Source::Line { is_level: false, is_active_low: false },
        None => return Err(Errno::EINVAL),
    };
    match source {
        Source::Line { is_level, is_active_low } => {
            io_apic::enable(interrupt.0, vector(interrupt), is_level, is_active_low);
        }
        Source::Message(message) => {
            if binding.domain != domain.id {
                return Err(Errno::EPERM);
            }
            msi::enable(message, vector(interrupt))?;
        }
    }
    *binding = Binding { source: Some(source), domain: domain.id, port: Some(port), needs_end: false };
    Ok(())
}

/// Silences `interrupt` and forgets its port; what it comes from stays known.
pub fn unbind(domain: &Domain, interrupt: PhysicalIrq) {
    let mut bindings = machine().interrupts.bindings.lock();
    let Some(binding) = bindings.get_mut(interrupt.0 as usize) else { return };
    if binding.domain != domain.id || binding.port.is_none() {
        return;
    }
    match binding.source {
        Some(Source::Line { .. }) => io_apic::mask(interrupt.0),
        Some(Source::Message(message)) => msi::disable(message),
        None => {}
    }
    binding.port = None;
    binding.needs_end = false;
}

/// Takes every interrupt from a domain that goes.
pub fn release_all(domain: &Domain) {
    for number in 0..MOST_INTERRUPTS as u32 {
        unbind(domain, PhysicalIrq(number));
        let mut bindings = machine().interrupts.bindings.lock();
        let binding = &mut bindings[number as usize];
        if binding.domain == domain.id {
            *binding = Binding::FREE;
        }
    }
}

/// True when the domain must say it has handled the interrupt.
pub fn needs_end_of_interrupt(interrupt: PhysicalIrq) -> bool {
    machine().interrupts.bindings.lock().get(interrupt.0 as usize).is_some_and(Binding::is_level)
}

/// The domain has handled the device (`PHYSDEVOP_eoi`): a level-triggered line may strike again.
///
/// # Errors
/// `EINVAL` for a number that is not the domain's.
pub fn end(domain: &Domain, interrupt: PhysicalIrq) -> Result<(), Errno> {
    let mut bindings = machine().interrupts.bindings.lock();
    let binding = bindings.get_mut(interrupt.0 as usize).ok_or(Errno::EINVAL)?;
    if binding.domain != domain.id || binding.port.is_none() {
        return Err(Errno::EINVAL);
    }
    if core::mem::take(&mut binding.needs_end) {
        io_apic::unmask(interrupt.0);
    }
    Ok(())
}

/// A device's interrupt arrived on `vector` of this CPU.
pub fn handle(cpu: &Cpu, vector: u8) {
    cpu::count(&cpu.counters.interrupts);
    let number = usize::from(vector - FIRST_VECTOR);
    let target = {
        let mut bindings = machine().interrupts.bindings.lock();
        let Some(binding) = bindings.get_mut(number) else { return };
        if binding.is_level() {
            io_apic::mask(number as u32);
            binding.needs_end = true;
        }
        binding.port.map(|port| (binding.domain, port))
    };
    arch::local_apic::end_of_interrupt();
    if let Some((id, port)) = target
        && let Some(domain) = domain::find(id)
    {
        event_channel::notify_physical(&domain, port);
    }
}
