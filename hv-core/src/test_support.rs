//! Domains for tests that talk to each other: paused, on the test thread's machine, and able to make hypercalls
//! from an address space of their own.

use crate::{
    arch,
    domain::{DomainRef, stage},
    event_channel, frame_allocator, grant_table,
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    layout::PAGE_SIZE,
    lifecycle::{self, Configuration},
    machine::{TestMachine, machine},
    mmu,
    page_table::{
        Entry,
        test_guest::{Branch, RW, TestGuest, write},
    },
    vcpu::Vcpu,
};
use core::sync::atomic::Ordering;
use hypercall_abi::{DomainId, MachineFrame, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A machine whose frame 0 is nobody's, as on real ones.
pub fn machine_of(frames: u64) -> TestMachine {
    let machine = TestMachine::new(frames);
    let lowest = frame_allocator::allocate_for_hypervisor(0);
    assert_eq!(lowest, Some(MachineFrame(0)), "the allocator starts at the bottom");
    machine
}

/// A domain of this number with two vCPUs; number 0 is the control domain.
pub fn domain(id: u16) -> DomainRef {
    domain_with(id, 2, u32::MAX)
}

/// A domain with that many vCPUs and no port above `highest_port`.
pub fn domain_with(id: u16, vcpus: u32, highest_port: u32) -> DomainRef {
    let configuration = Configuration {
        id: DomainId(id),
        is_privileged: id == 0,
        handle: [0; 16],
        highest_port,
        grant_frames: 4,
        maptrack_frames: 4,
        newest_grants: crate::grant_table::Version::Two,
    };
    let domain = lifecycle::create(&configuration).expect("a domain");
    lifecycle::create_vcpus(&domain, vcpus).expect("its vCPUs");
    domain
}

/// The domain's vCPU of this number.
pub fn vcpu(domain: &DomainRef, number: u32) -> &Vcpu {
    domain.vcpu(VcpuId(number)).expect("a vCPU of that number")
}

/// Marks the domain as dying.
pub fn begin_to_die(domain: &DomainRef) {
    domain.stage.store(stage::DYING, Ordering::Release);
}

/// Takes domains apart as far as channels and grants go, and out of the machine's table.
pub fn destroy(domains: &[DomainRef]) {
    for domain in domains {
        begin_to_die(domain);
        while !event_channel::close_all(domain, 16) {}
        event_channel::end_fifo(domain);
        while !grant_table::release_all(domain, 16) {}
        machine().domains.remove(domain.id);
    }
}

/// The error of a hypercall that must not succeed or restart.
pub fn errno(result: HypercallResult) -> hypercall_abi::Errno {
    match result {
        Err(HypercallError::Errno(errno)) => errno,
        other => panic!("expected an error, got {other:?}"),
    }
}

/// A hypercall's implementation.
pub type Handler = fn(&mut Caller<'_>, &Arguments) -> HypercallResult;

/// A domain with an address space: one table of each level, and in the lowest one two pages for the arguments of
/// hypercalls.
pub struct Guest {
    /// Itself, with what it takes to change its tables.
    pub inner: TestGuest,
    /// Its tables. Entry `n` of the lowest maps address `n` pages.
    pub branch: Branch,
    arguments: [MachineFrame; 2],
}

/// Where the first argument page is.
pub const ARGUMENTS: u64 = PAGE_SIZE;

impl Guest {
    /// A guest of this number; number 0 is the control domain.
    pub fn new(id: u16) -> Self {
        let inner = TestGuest::new(id);
        lifecycle::create_vcpus(&inner.domain, 1).expect("a vCPU");
        let branch = inner.branch();
        let arguments = [inner.frame(), inner.frame()];
        write(branch.l1, 1, Entry::new(arguments[0], RW));
        write(branch.l1, 2, Entry::new(arguments[1], RW));
        let guest = Self { inner, branch, arguments };
        guest.as_caller(|caller| {
            mmu::install_root(caller.domain, caller.context, branch.l4, None).expect("a good address space");
        });
        guest
    }

    /// The domain.
    pub fn domain(&self) -> &DomainRef {
        &self.inner.domain
    }

    /// Does something as the guest's vCPU, in its address space.
    pub fn as_caller<T>(&self, act: impl FnOnce(&mut Caller<'_>) -> T) -> T {
        let domain = self.domain();
        let _control = domain.control.lock();
        let vcpu = vcpu(domain, 0);
        let context = vcpu.paused_context().expect("a paused vCPU");
        arch::load_page_tables(context);
        act(&mut Caller { context, vcpu, domain })
    }

    /// One execution of a hypercall; says as well what it left in its pointer and count arguments.
    pub fn execute(&self, handler: Handler, arguments: [u64; 3]) -> (HypercallResult, u64, u64) {
        let [first, second, third] = arguments;
        self.as_caller(|caller| {
            (caller.context.registers.rsi, caller.context.registers.rdx) = (second, third);
            let result = handler(caller, &[first, second, third, 0, 0, 0]);
            (result, caller.context.registers.rsi, caller.context.registers.rdx)
        })
    }

    /// A hypercall on an array in the argument pages, executed until it does not restart.
    pub fn call<T>(&self, handler: Handler, command: u32, array: &mut [T]) -> HypercallResult
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        self.write_arguments(array);
        let (mut pointer, mut count) = (ARGUMENTS, array.len() as u64);
        let result = loop {
            let (result, next, left) = self.execute(handler, [u64::from(command), pointer, count]);
            if result != Err(HypercallError::Restart) {
                break result;
            }
            (pointer, count) = (next, left);
        };
        self.read_arguments(array);
        result
    }

    /// Puts an array into the argument pages.
    pub fn write_arguments<T: IntoBytes + Immutable>(&self, array: &[T]) {
        for (frame, page) in self.arguments.iter().zip(array.as_bytes().chunks(PAGE_SIZE as usize)) {
            crate::direct_map::write_bytes(*frame, 0, page);
        }
    }

    /// Takes an array out of the argument pages.
    pub fn read_arguments<T: FromBytes + IntoBytes>(&self, array: &mut [T]) {
        for (frame, page) in self.arguments.iter().zip(array.as_mut_bytes().chunks_mut(PAGE_SIZE as usize)) {
            crate::direct_map::read_bytes(*frame, 0, page);
        }
    }
}
