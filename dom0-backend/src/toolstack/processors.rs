//! What a guest has of the processors: its weight against others, a cap, and on which processors it runs.

use core::fmt;
use core::ops::Range;

use hypercall_abi::domctl::{DomctlGetdomaininfo, DomctlSchedCredit2, XEN_INVALID_MAX_VCPU_ID};
use hypercall_abi::{DomainId, Errno, VcpuId};

use super::configuration::{DEFAULT_WEIGHT, GuestConfiguration};
use super::control::{self, Affinity};
use super::cpus::{CpuSet, CpuSetError};

/// The processor to which the devices' interrupts come.
const OF_INTERRUPTS: u32 = 0;

/// The numbers of a domain's virtual CPUs. One that is only just being made has none.
pub fn vcpu_numbers(info: &DomctlGetdomaininfo) -> Range<u32> {
    match info.max_vcpu_id {
        XEN_INVALID_MAX_VCPU_ID => 0..0,
        highest => 0..highest.saturating_add(1),
    }
}

/// The processors that there are.
///
/// # Errors
///
/// What the hypervisor answers.
pub fn present() -> Result<CpuSet, Errno> {
    Ok(CpuSet::first(control::physical_info()?.nr_cpus))
}

/// Where virtual CPUs are to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinOrder {
    /// Which; all if none is named.
    pub vcpu: Option<u32>,
    /// Where they may, if that is to change.
    pub hard: Option<CpuSet>,
    /// Where they should, if that is to change.
    pub soft: Option<CpuSet>,
    /// Nobody else may there.
    pub is_dedicated: bool,
}

/// Why a virtual CPU cannot run where it is to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinError {
    /// The processors are none.
    Cpus(CpuSetError),
    /// The guest does not have this virtual CPU; how many it has.
    NoVcpu(u32, u32),
    /// More than one processor for one virtual CPU, or more than one virtual CPU for one processor.
    NotOne,
    /// Interrupts come to the processor.
    TakesInterrupts,
    /// The processor is another virtual CPU's alone.
    Taken(u32, Holder),
    /// The processor cannot be dedicated because another virtual CPU is bound to it.
    Shared(u32, Holder),
    /// The hypervisor refused.
    Refused(Errno),
}

/// A virtual CPU of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    domain: DomainId,
    vcpu: VcpuId,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "virtual CPU {} of domain {}", self.vcpu.0, self.domain)
    }
}

impl fmt::Display for PinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus(error) => error.fmt(formatter),
            Self::NoVcpu(number, count) => {
                write!(formatter, "there is no virtual CPU {number}; the domain has {count}")
            }
            Self::NotOne => formatter.write_str("one virtual CPU can have one CPU to itself"),
            Self::TakesInterrupts => {
                write!(formatter, "CPU {OF_INTERRUPTS} takes the devices' interrupts: nobody has it alone")
            }
            Self::Taken(cpu, holder) => write!(formatter, "CPU {cpu} is dedicated to {holder}"),
            Self::Shared(cpu, holder) => {
                write!(formatter, "CPU {cpu} is also for {holder}, which is bound to it")
            }
            Self::Refused(errno) => write!(formatter, "the hypervisor refused: {errno}"),
        }
    }
}

impl core::error::Error for PinError {}

impl From<CpuSetError> for PinError {
    fn from(error: CpuSetError) -> Self {
        Self::Cpus(error)
    }
}

impl From<Errno> for PinError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl PinError {
    /// Of what kind it is, in a word that does not change.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpus(_) | Self::NotOne | Self::TakesInterrupts => "cpus",
            Self::NoVcpu(..) => "no-vcpu",
            Self::Taken(..) | Self::Shared(..) => "cpu-in-use",
            Self::Refused(_) => "hypervisor",
        }
    }
}

/// Has virtual CPUs of a domain run where an order says.
///
/// # Errors
///
/// [`PinError`]. Those before the one that could not be bound are bound.
pub fn pin(info: &DomctlGetdomaininfo, order: &PinOrder) -> Result<(), PinError> {
    let present = present()?;
    let among = |set: Option<CpuSet>| set.map(|set| set.among(present)).transpose();
    let order = PinOrder { hard: among(order.hard)?, soft: among(order.soft)?, ..*order };
    let all = vcpu_numbers(info);
    let chosen = match order.vcpu {
        Some(number) if !all.contains(&number) => return Err(PinError::NoVcpu(number, all.end)),
        Some(number) => number..number + 1,
        None => all,
    };
    if order.is_dedicated {
        check_dedication(&order, chosen.len())?;
    }
    chosen.map(VcpuId).try_for_each(|vcpu| pin_one(info.domain, vcpu, &order))
}

fn check_dedication(order: &PinOrder, vcpus: usize) -> Result<(), PinError> {
    match order.hard.and_then(CpuSet::only) {
        Some(OF_INTERRUPTS) => Err(PinError::TakesInterrupts),
        Some(_) if vcpus == 1 => Ok(()),
        _ => Err(PinError::NotOne),
    }
}

fn pin_one(domain: DomainId, vcpu: VcpuId, order: &PinOrder) -> Result<(), PinError> {
    let mut affinity = control::affinity(domain, vcpu)?;
    if let Some(hard) = order.hard {
        affinity = Affinity { hard, is_dedicated: order.is_dedicated, ..affinity };
    }
    affinity.soft = order.soft.unwrap_or(affinity.soft);
    control::set_affinity(domain, vcpu, affinity).map_err(|errno| match errno {
        Errno::EBUSY => in_the_way(Holder { domain, vcpu }, affinity).unwrap_or(PinError::Refused(errno)),
        errno => PinError::Refused(errno),
    })
}

/// Who keeps a virtual CPU from running where it is to.
fn in_the_way(newcomer: Holder, wanted: Affinity) -> Option<PinError> {
    let present = present().ok()?;
    let domains = control::list_domains().ok()?;
    let vcpus = domains.iter().flat_map(|info| {
        vcpu_numbers(info).map(|number| Holder { domain: info.domain, vcpu: VcpuId(number) })
    });
    vcpus.filter(|holder| *holder != newcomer).find_map(|holder| {
        let has = control::affinity(holder.domain, holder.vcpu).ok()?;
        let cpu = CpuSet(has.hard.0 & wanted.hard.0).0.trailing_zeros();
        match has.hard.meets(wanted.hard) && has.hard != present {
            true if has.is_dedicated => Some(PinError::Taken(cpu, holder)),
            true if wanted.is_dedicated => Some(PinError::Shared(cpu, holder)),
            _ => None,
        }
    })
}

/// Makes sure that the machine has the processors that a guest is to run on.
///
/// # Errors
///
/// [`PinError`].
pub fn check(configuration: &GuestConfiguration) -> Result<(), PinError> {
    let mut sets = configuration.cpus.iter().chain(&configuration.cpus_soft).peekable();
    if sets.peek().is_none() {
        return Ok(());
    }
    let present = present()?;
    sets.try_for_each(|set| Ok(set.among(present).map(drop)?))
}

/// Gives a new domain its share of the processors, if it is not the usual one, and has it run where it is to.
///
/// # Errors
///
/// [`PinError`].
pub fn share_out(domain: DomainId, configuration: &GuestConfiguration) -> Result<(), PinError> {
    let (weight, cap) = (configuration.weight, configuration.cap);
    if (weight, cap) != (DEFAULT_WEIGHT, 0) {
        control::set_share(domain, DomctlSchedCredit2 { weight, cap })?;
    }
    let info = control::domain_info(domain)?;
    for number in vcpu_numbers(&info) {
        let of = |sets: &[CpuSet]| sets.get(number as usize).copied();
        let (hard, soft) = (of(&configuration.cpus), of(&configuration.cpus_soft));
        if hard.is_some() || soft.is_some() {
            pin(&info, &PinOrder { vcpu: Some(number), hard, soft, is_dedicated: false })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_domain_without_virtual_cpus_has_none() {
        let numbers = |max_vcpu_id| vcpu_numbers(&DomctlGetdomaininfo { max_vcpu_id, ..Default::default() });
        assert_eq!((numbers(0), numbers(3)), (0..1, 0..4));
        assert!(numbers(XEN_INVALID_MAX_VCPU_ID).is_empty());
    }

    #[test]
    fn one_virtual_cpu_can_have_one_processor_to_itself() {
        let check = |cpus, vcpus| {
            let order = PinOrder { hard: Some(CpuSet(cpus)), is_dedicated: true, ..PinOrder::default() };
            check_dedication(&order, vcpus)
        };
        assert_eq!(check(2, 1), Ok(()));
        assert_eq!(check(2, 2), Err(PinError::NotOne));
        assert_eq!(check(6, 1), Err(PinError::NotOne));
        assert_eq!(check(1, 1), Err(PinError::TakesInterrupts));
    }

    #[test]
    fn who_is_in_the_way_is_named() {
        let holder = Holder { domain: DomainId(3), vcpu: VcpuId(1) };
        assert_eq!(PinError::Taken(2, holder).to_string(), "CPU 2 is dedicated to virtual CPU 1 of domain 3");
        assert_eq!(
            PinError::Shared(2, holder).to_string(),
            "CPU 2 is also for virtual CPU 1 of domain 3, which is bound to it"
        );
    }
}
