//! A domain: a virtual machine and everything it owns.
//!
//! The idea to hold: a domain dies in steps, and each step is visible. It is *dying* from the first call that
//! destroys it (nothing new can be given to it), it gives back what it owns in bounded pieces, and it is gone
//! when the last holder of a [`DomainRef`] lets go.

use crate::{
    event_channel::EventChannels,
    frame::DomainMemory,
    frame_object::{FrameArc, FrameBox},
    grant_table::GrantTable,
    hypercall::HypercallError,
    io_rights::IoRights,
    layout::PAGE_SIZE,
    lock::{Mutex, MutexGuard, Once, RwLock},
    machine::machine,
    memory_op::MemoryMap,
    scheduler::Budget,
    vcpu::Vcpu,
};
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use hypercall_abi::{DomainId, Errno, MachineFrame, VcpuId, xen::VcpuInfo};

/// Most vCPUs a domain can have: those with a place in `shared_info` (`XEN_LEGACY_MAX_VCPUS`).
pub const MAX_VCPUS: usize = 32;
/// Domain numbers below this can exist; the rest of the range is Xen's reserved identifiers.
pub const MAX_DOMAINS: usize = 0x7ff0;

/// A counted reference to a domain: while it is held the domain's memory stays.
pub type DomainRef = FrameArc<Domain>;

/// How far a domain's life has gone; the values are ordered.
pub mod stage {
    /// Its builder may still map its frames.
    pub const UNDER_CONSTRUCTION: u32 = 0;
    /// It has run, so nobody but itself reaches its memory any more.
    pub const ALIVE: u32 = 1;
    /// It is being taken apart.
    pub const DYING: u32 = 2;
    /// All it owned has been given back.
    pub const DEAD: u32 = 3;
}

/// A virtual machine.
pub struct Domain {
    /// Its number.
    pub id: DomainId,
    /// The control domain: may use the control interface.
    pub is_privileged: bool,
    /// Identifier chosen by the toolstack (a UUID).
    pub handle: Mutex<[u8; 16]>,
    /// One of [`stage`]; only ever grows.
    pub stage: AtomicU32,
    /// Times the control domain has paused it.
    pub pause_count: AtomicU32,
    /// It called `SCHEDOP_shutdown`; the reason is in `shutdown_reason`.
    pub is_shut_down: AtomicBool,
    /// `SHUTDOWN_*` of sched.h, or [`NO_REASON`].
    pub shutdown_reason: AtomicU32,
    /// `VMASST_TYPE_*` bits the guest enabled.
    pub vm_assist: AtomicU64,
    /// Frames it owns and may own.
    pub memory: DomainMemory,
    /// Its `shared_info` page.
    pub shared_info: MachineFrame,
    /// The memory map it is told, if its builder has made one.
    pub memory_map: Mutex<Option<FrameBox<MemoryMap>>>,
    /// Its event channels.
    pub event_channels: EventChannels,
    /// What it grants and what it has mapped.
    pub grant_table: GrantTable,
    /// I/O ports, memory and interrupts it may use.
    pub io_rights: IoRights,
    /// Serialises the control interface on this domain.
    pub control: Mutex<()>,
    /// The set of CPUs whose TLBs may know its translations: those that have one of its address spaces loaded.
    pub cpus: AtomicU32,
    /// What its vCPUs may use of the CPUs at most.
    pub budget: Budget,
    /// The hypervisor has let go of `shared_info`.
    pub shared_info_released: AtomicBool,
    vcpus: [Once<FrameBox<Vcpu>>; MAX_VCPUS],
    vcpu_count: AtomicU32,
}

const _: () = assert!(size_of::<Domain>() <= PAGE_SIZE as usize, "a guest more is not to take a frame more");

/// `shutdown_reason` of a domain that has not given one.
pub const NO_REASON: u32 = u32::MAX;

/// What a domain is put together from.
pub struct Parts {
    /// Its number.
    pub id: DomainId,
    /// The control domain?
    pub is_privileged: bool,
    /// Chosen by the toolstack.
    pub handle: [u8; 16],
    /// No frames yet.
    pub memory: DomainMemory,
    /// A frame that is shared with the domain.
    pub shared_info: MachineFrame,
    /// No channels yet.
    pub event_channels: EventChannels,
    /// No grants yet.
    pub grant_table: GrantTable,
    /// What I/O it may do.
    pub io_rights: IoRights,
}

impl Domain {
    /// A paused domain without vCPUs.
    pub fn new(parts: Parts) -> Self {
        Self {
            id: parts.id,
            is_privileged: parts.is_privileged,
            handle: Mutex::new(parts.handle),
            stage: AtomicU32::new(stage::UNDER_CONSTRUCTION),
            pause_count: AtomicU32::new(1),
            is_shut_down: AtomicBool::new(false),
            shutdown_reason: AtomicU32::new(NO_REASON),
            vm_assist: AtomicU64::new(0),
            memory: parts.memory,
            shared_info: parts.shared_info,
            memory_map: Mutex::new(None),
            event_channels: parts.event_channels,
            grant_table: parts.grant_table,
            io_rights: parts.io_rights,
            control: Mutex::new(()),
            cpus: AtomicU32::new(0),
            budget: Budget::new(),
            shared_info_released: AtomicBool::new(false),
            vcpus: [const { Once::new() }; MAX_VCPUS],
            vcpu_count: AtomicU32::new(0),
        }
    }

    /// Makes the next vCPU: offline, and paused as its domain is. The caller holds the control lock.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` for any number but the next.
    pub fn add_vcpu(&self, id: VcpuId) -> Result<&Vcpu, Errno> {
        let slot = self.vcpus.get(id.0 as usize).ok_or(Errno::EINVAL)?;
        if id.0 != self.vcpu_count() {
            return Err(Errno::EINVAL);
        }
        let vcpu = self.new_vcpu(id)?;
        vcpu.set_info(self.shared_info, id.0 as usize * size_of::<VcpuInfo>());
        if let Some(info) = vcpu.info() {
            // A kernel's first instructions have no handler to be interrupted by.
            info.upcall_mask().store(1, Ordering::Relaxed);
        }
        let vcpu = slot.call_once(|| vcpu);
        self.vcpu_count.fetch_add(1, Ordering::Release);
        Ok(vcpu)
    }

    /// By itself: for as long as it is made, a vCPU lies on the stack.
    #[inline(never)]
    fn new_vcpu(&self, id: VcpuId) -> Result<FrameBox<Vcpu>, Errno> {
        FrameBox::try_new(Vcpu::new(self, id)?).ok_or(Errno::ENOMEM)
    }

    /// The control lock, for one of the domain's own vCPUs. It does not wait: whoever has the lock may be waiting for
    /// that vCPU to leave its CPU.
    ///
    /// # Errors
    /// `Restart` when somebody else has it.
    pub fn try_control(&self) -> Result<MutexGuard<'_, ()>, HypercallError> {
        self.control.try_lock().ok_or(HypercallError::Restart)
    }

    /// True from the first call that destroys it.
    #[inline]
    pub fn is_dying(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= stage::DYING
    }

    /// True until it is first unpaused: its builder may map its frames.
    pub fn is_under_construction(&self) -> bool {
        self.stage.load(Ordering::Acquire) == stage::UNDER_CONSTRUCTION
    }

    /// The vCPU of this number, if it has been created.
    #[inline]
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(id.0 as usize)?.get().map(|vcpu| &**vcpu)
    }

    /// Its vCPUs, in order.
    pub fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        self.vcpus.iter().map_while(|slot| slot.get().map(|vcpu| &**vcpu))
    }

    /// Number of vCPUs created.
    pub fn vcpu_count(&self) -> u32 {
        self.vcpu_count.load(Ordering::Acquire)
    }
}

/// Domains in one leaf of the table: as many references as fit a frame.
const LEAF: usize = 512;

type Leaf = FrameBox<[Option<DomainRef>; LEAF]>;

/// All domains, by number.
pub struct DomainTable {
    leaves: RwLock<[Option<Leaf>; MAX_DOMAINS.div_ceil(LEAF)]>,
    /// The number given out last.
    last_given: AtomicU16,
}

impl DomainTable {
    /// A table without domains.
    pub const fn new() -> Self {
        Self {
            leaves: RwLock::new([const { None }; MAX_DOMAINS.div_ceil(LEAF)]),
            last_given: AtomicU16::new(0),
        }
    }

    /// The domain of this number.
    pub fn get(&self, id: DomainId) -> Option<DomainRef> {
        let number = id.0 as usize;
        self.leaves.read().get(number / LEAF)?.as_ref()?[number % LEAF].clone()
    }

    /// Enters a domain under its number.
    ///
    /// # Errors
    /// `EINVAL` for a reserved number, `EEXIST` when the number is taken, `ENOMEM`.
    pub fn insert(&self, domain: DomainRef) -> Result<(), Errno> {
        let number = domain.id.0 as usize;
        if number >= MAX_DOMAINS {
            return Err(Errno::EINVAL);
        }
        let mut leaves = self.leaves.write();
        let slot = leaves.get_mut(number / LEAF).ok_or(Errno::EINVAL)?;
        if slot.is_none() {
            *slot = Some(FrameBox::try_new([const { None }; LEAF]).ok_or(Errno::ENOMEM)?);
        }
        let entry = &mut slot.as_mut().ok_or(Errno::ENOMEM)?[number % LEAF];
        if entry.is_some() {
            return Err(Errno::EEXIST);
        }
        *entry = Some(domain);
        Ok(())
    }

    /// Takes a domain out; its memory goes when the last holder lets go.
    pub fn remove(&self, id: DomainId) -> Option<DomainRef> {
        let number = id.0 as usize;
        self.leaves.write().get_mut(number / LEAF)?.as_mut()?[number % LEAF].take()
    }

    /// The first domain whose number is at least `id`.
    pub fn next_from(&self, id: DomainId) -> Option<DomainRef> {
        let leaves = self.leaves.read();
        let first = usize::from(id.0);
        let in_leaf = |leaf: usize| {
            let start = if leaf == first / LEAF { first % LEAF } else { 0 };
            leaves[leaf].as_ref()?[start..].iter().find_map(Clone::clone)
        };
        (first / LEAF..leaves.len()).find_map(in_leaf)
    }

    /// A number that no domain has. Numbers are given out upwards and reused as late as possible, so that what still
    /// speaks of a domain that is gone is not taken to speak of another.
    pub fn free_id(&self) -> Option<DomainId> {
        let leaves = self.leaves.read();
        let is_free = |number: &usize| match &leaves[number / LEAF] {
            Some(leaf) => leaf[number % LEAF].is_none(),
            None => true,
        };
        let last = usize::from(self.last_given.load(Ordering::Relaxed));
        let number = (last + 1..MAX_DOMAINS).chain(1..=last).find(is_free)? as u16;
        self.last_given.store(number, Ordering::Relaxed);
        Some(DomainId(number))
    }
}

impl Default for DomainTable {
    fn default() -> Self {
        Self::new()
    }
}

/// The domain of this number, if it exists and is not yet dead.
pub fn find(id: DomainId) -> Option<DomainRef> {
    machine().domains.get(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame_allocator,
        grant_table::Version,
        lifecycle::{self, Configuration},
        test_support::machine_of,
    };

    #[test]
    fn reserved_numbers_are_no_domains() {
        let _machine = machine_of(256);
        let create = |number: u16| {
            lifecycle::create(&Configuration {
                id: DomainId(number),
                is_privileged: false,
                handle: [0; 16],
                highest_port: 1,
                grant_frames: 1,
                maptrack_frames: 1,
                newest_grants: Version::One,
            })
        };
        let before = frame_allocator::free_frames();
        for reserved in (0x7ff0..=0x8000).chain([u16::MAX]) {
            assert_eq!(create(reserved).err(), Some(Errno::EINVAL), "{reserved:#x}");
        }
        assert_eq!(frame_allocator::free_frames(), before, "and leave nothing behind");
        assert!(create(0x7fef).is_ok());
    }

    #[test]
    fn numbers_are_given_upwards_and_wrap_around() {
        let table = DomainTable::new();
        assert_eq!(table.free_id(), Some(DomainId(1)), "0 is the control domain's");
        assert_eq!(table.free_id(), Some(DomainId(2)), "though nobody took 1");
        table.last_given.store(MAX_DOMAINS as u16 - 1, Ordering::Relaxed);
        assert_eq!(table.free_id(), Some(DomainId(1)));
    }
}
