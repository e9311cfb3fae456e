//! The hypercalls as a guest makes them: requests in its own memory, through its own page tables.

use super::*;
use crate::{
    arch, descriptor, direct_map,
    domain::DomainRef,
    frame::{self, FrameType, info},
    hypercall::{Arguments, Caller, HypercallError, HypercallResult},
    lifecycle,
    machine::TestMachine,
    memory_op::memory_op,
    page_table::{Entry, test_guest::*},
};
use hypercall_abi::{DomainId, Errno, MachineFrame, PseudoPhysicalFrame, VcpuId, memory::*, xen::*};
use std::vec::Vec;
use zerocopy::{Immutable, IntoBytes};

const FRAMES: u64 = 4096;
/// Where the guest keeps its requests.
const DATA: u64 = 0x10_0000;
const DATA_PAGES: usize = 8;
/// Where the guest has the counter of completed requests.
const COUNTER: u64 = 0x20_0000 - 4096;

/// A guest with a loaded address space.
struct Running {
    guest: TestGuest,
    branch: Branch,
}

impl Running {
    fn new(id: u16) -> Self {
        let guest = TestGuest::new(id);
        let branch = guest.branch();
        let first = (DATA / 4096) as usize;
        (first..first + DATA_PAGES).chain([511]).for_each(|index| {
            write(branch.l1, index, Entry::new(guest.frame(), RW));
        });
        guest.pin(branch.l4, 4).unwrap();
        lifecycle::create_vcpus(&guest.domain, 1).unwrap();
        let running = Self { guest, branch };
        running.with_caller(|caller| {
            install_root(caller.domain, caller.context, running.branch.l4, None).unwrap();
            arch::load_page_tables(caller.context);
        });
        running
    }

    fn with_caller<T>(&self, work: impl FnOnce(&mut Caller<'_>) -> T) -> T {
        let domain = &self.guest.domain;
        let _control = domain.control.lock();
        let vcpu = domain.vcpu(VcpuId(0)).unwrap();
        let context = vcpu.paused_context().unwrap();
        work(&mut Caller { context, vcpu, domain })
    }

    /// Makes a hypercall, as often as it asks for; returns the result and how often that was.
    fn call(
        &self,
        hypercall: fn(&mut Caller<'_>, &Arguments) -> HypercallResult,
        arguments: Arguments,
    ) -> (HypercallResult, usize) {
        self.with_caller(|caller| {
            (0..).zip(arguments).for_each(|(index, value)| caller.set_argument(index, value));
            let mut calls = 1;
            loop {
                let registers = &caller.context.registers;
                let arguments =
                    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
                match hypercall(caller, &arguments) {
                    Err(HypercallError::Restart) => calls += 1,
                    result => return (result, calls),
                }
            }
        })
    }

    fn store<T: IntoBytes + Immutable>(&self, values: &[T]) -> u64 {
        assert!(size_of_val(values) <= DATA_PAGES * 4096);
        arch::guest_memory::write(DATA, values.as_bytes()).unwrap();
        DATA
    }

    fn counter(&self) -> u32 {
        let mut counter = 0u32;
        arch::guest_memory::read(COUNTER, counter.as_mut_bytes()).unwrap();
        counter
    }

    fn mmu_update(&self, requests: &[MmuUpdate], whom: u64) -> (HypercallResult, usize) {
        let address = self.store(requests);
        self.call(mmu_update, [address, requests.len() as u64, COUNTER, whom, 0, 0])
    }

    fn mmuext(&self, operations: &[MmuextOp], whom: u64) -> (HypercallResult, usize) {
        let address = self.store(operations);
        self.call(mmuext_op, [address, operations.len() as u64, COUNTER, whom, 0, 0])
    }

    fn held(&self) -> [MachineFrame; 1] {
        [self.branch.l4]
    }
}

fn request(table: MachineFrame, index: u64, entry: Entry) -> MmuUpdate {
    MmuUpdate { ptr: table.physical_address() + 8 * index, val: entry.0 }
}

fn operation(cmd: u32, frame: MachineFrame) -> MmuextOp {
    MmuextOp { cmd, arg1: frame.0, ..Default::default() }
}

fn domain_argument(id: DomainId) -> u64 {
    u64::from(id.0)
}

const SELF: u64 = DOMID_SELF as u64;

fn failed(errno: Errno) -> HypercallResult {
    Err(HypercallError::Errno(errno))
}

#[test]
fn a_batch_stops_at_its_first_error_and_says_where() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let (page, l1) = (running.guest.frame(), running.branch.l1);
    let good = Entry::new(page, RW);
    let requests = [
        request(l1, 0, good),
        request(l1, 1, good),
        request(l1, 2, Entry::new(l1, RW)),
        request(l1, 3, good),
    ];
    assert_eq!(running.mmu_update(&requests, SELF).0, failed(Errno::EBUSY));
    assert_eq!(running.counter(), 2);
    assert_eq!([0, 1, 2, 3].map(|index| read(l1, index)), [good, good, Entry(0), Entry(0)]);
    audit(&running.held());
}

#[test]
fn a_long_batch_lets_interrupts_in_and_counts_all_the_same() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let page = running.guest.frame();
    let requests: Vec<_> =
        (0..2000).map(|index| request(running.branch.l1, index % 200, Entry::new(page, RW))).collect();
    let (result, calls) = running.mmu_update(&requests, SELF);
    assert_eq!((result, running.counter()), (Ok(0), 2000));
    assert!(calls > 1, "it took {calls} calls");
    audit(&running.held());
}

#[test]
fn requests_and_counters_are_the_guests_own_memory() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let nowhere = 1 << 40;
    let hypervisor = 0xffff_8300_0000_0000;
    for bad in [nowhere, hypervisor, u64::MAX - 3] {
        assert_eq!(running.call(mmu_update, [bad, 1, 0, SELF, 0, 0]).0, failed(Errno::EFAULT));
        assert_eq!(running.call(mmu_update, [DATA, 0, bad, SELF, 0, 0]).0, failed(Errno::EFAULT));
        assert_eq!(running.call(mmuext_op, [bad, 1, 0, SELF, 0, 0]).0, failed(Errno::EFAULT));
    }
    assert_eq!(running.call(mmu_update, [DATA, 0, COUNTER, SELF, 0, 0]).0, Ok(0));
    let huge = running.call(mmu_update, [DATA, (1 << 31) - 1, COUNTER, SELF, 0, 0]).0;
    assert_eq!(huge, failed(Errno::EINVAL), "zeroes name no table");
}

#[test]
fn memory_that_is_no_table_is_written_like_any() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let page = running.guest.frame();
    let value = Entry(0x1234_5678_9abc_def0);
    assert_eq!(running.mmu_update(&[request(page, 8, value)], SELF).0, Ok(0));
    assert_eq!((read(page, 8), info(page).unwrap().state().frame_type()), (value, FrameType::None));
    assert_eq!(running.mmu_update(&[request(other.frame(), 8, value)], SELF).0, failed(Errno::EINVAL));
    let outside = MmuUpdate { ptr: !3, val: 0 };
    assert_eq!(running.mmu_update(&[outside], SELF).0, failed(Errno::EINVAL));
}

#[test]
fn physical_numbers_are_set_by_their_owner() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let number =
        |frame: MachineFrame| MmuUpdate { ptr: frame.physical_address() | MMU_MACHPHYS_UPDATE, val: 77 };
    let (own, foreign) = (running.guest.frame(), other.frame());
    assert_eq!(running.mmu_update(&[number(own)], SELF).0, Ok(0));
    assert_eq!(frame::machine_to_physical(own), Some(PseudoPhysicalFrame(77)));
    assert_eq!(running.mmu_update(&[number(foreign)], SELF).0, failed(Errno::EINVAL));
    assert_eq!(running.mmu_update(&[number(foreign)], 2).0, failed(Errno::EPERM));
    assert_eq!(frame::machine_to_physical(foreign), None);
}

#[test]
fn an_address_is_mapped_and_unmapped() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let entry = Entry::new(running.guest.frame(), RW);
    let map = |address: u64, entry: Entry| running.call(update_va_mapping, [address, entry.0, 2, 0, 0, 0]).0;
    assert_eq!(map(0x5000, entry), Ok(0));
    assert_eq!(arch::guest_memory::write(0x5008, &[1; 8]), Ok(()));
    assert_eq!(read(entry.frame(), 1), Entry(0x0101_0101_0101_0101));
    assert_eq!(map(0x5000, Entry(0)), Ok(0));
    assert_eq!(arch::guest_memory::write(0x5008, &[1; 8]), Err(Errno::EFAULT));
    assert_eq!(map(1 << 40, entry), failed(Errno::EINVAL), "no table covers it");
    assert_eq!(map(0xffff_8300_0000_0000, entry), failed(Errno::EINVAL));
    audit(&running.held());
}

#[test]
fn other_domains_frames_are_mapped_by_their_builder_only() {
    let _machine = TestMachine::new(FRAMES);
    let (control, nosy) = (Running::new(0), TestGuest::new(2));
    let (built, alive) = (TestGuest::under_construction(1), TestGuest::new(3));
    let map = |running: &Running, frame: MachineFrame, whom: DomainId| {
        let arguments = [0x5000, Entry::new(frame, RW).0, 0, domain_argument(whom), 0, 0];
        running.call(update_va_mapping_otherdomain, arguments).0
    };
    assert_eq!(map(&control, alive.frame(), alive.id()), failed(Errno::EPERM));
    assert_eq!(map(&control, built.frame(), DomainId(9)), failed(Errno::ESRCH));
    assert_eq!(map(&control, built.frame(), built.id()), Ok(0));
    assert_eq!(map(&control, nosy.frame(), built.id()), failed(Errno::EINVAL));
    assert_eq!(map(&control, MachineFrame(0xfebd0), DomainId::IO), Ok(0));
    assert_eq!(
        map(&control, control.guest.frame(), DomainId::IO),
        failed(Errno::EPERM),
        "memory is no device"
    );
    audit(&control.held());
    drop(nosy);
    let ordinary = Running::new(4);
    assert_eq!(map(&ordinary, built.frame(), built.id()), failed(Errno::EPERM));
    assert_eq!(map(&ordinary, MachineFrame(0xfebd0), DomainId::IO), failed(Errno::EPERM));
}

#[test]
fn a_builder_pins_the_tables_of_a_domain_under_construction() {
    let _machine = TestMachine::new(FRAMES);
    let (control, built) = (Running::new(0), TestGuest::under_construction(1));
    let tree = built.branch();
    write(tree.l1, 0, Entry::new(control.guest.frame(), RW));
    let pin = [operation(MMUEXT_PIN_L4_TABLE, tree.l4)];
    assert_eq!(
        control.mmuext(&pin, domain_argument(built.id())).0,
        failed(Errno::EINVAL),
        "the builder's own frame"
    );
    write(tree.l1, 0, Entry::new(built.frame(), RW));
    assert_eq!(control.mmuext(&pin, SELF).0, failed(Errno::EINVAL));
    assert_eq!(control.mmuext(&pin, domain_argument(built.id())).0, Ok(0));
    let entry = Entry::new(built.frame(), RO);
    let whom = u64::from(foreign_domain(built.id(), Some(built.id())));
    assert_eq!(control.mmu_update(&[request(tree.l1, 1, entry)], whom).0, Ok(0));
    let whom = u64::from(foreign_domain(control.guest.id(), Some(built.id())));
    let entry = Entry::new(control.guest.frame(), RO);
    assert_eq!(control.mmu_update(&[request(tree.l1, 2, entry)], whom).0, failed(Errno::EPERM));
    built.domain.memory.seal().unwrap();
    assert_eq!(control.mmuext(&pin, domain_argument(built.id())).0, failed(Errno::EPERM));
    audit(&control.held());
}

#[test]
fn large_trees_are_pinned_and_unpinned_over_several_calls() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let tree = running.guest.branch();
    for index in 1..200 {
        let table = running.guest.frame();
        write(table, 5, Entry::new(running.guest.frame(), RW));
        write(tree.l2, index, Entry::new(table, RW));
    }
    let (result, calls) = running.mmuext(&[operation(MMUEXT_PIN_L4_TABLE, tree.l4)], SELF);
    assert_eq!((result, running.counter()), (Ok(0), 1));
    assert!(calls > 3, "it took {calls} calls");
    audit(&running.held());
    let (result, calls) = running.mmuext(&[operation(MMUEXT_UNPIN_TABLE, tree.l4)], SELF);
    assert_eq!((result, running.counter()), (Ok(0), 1));
    assert!(calls > 3, "it took {calls} calls");
    assert_eq!(info(tree.l1).unwrap().state().frame_type(), FrameType::None);
    audit(&running.held());
}

#[test]
fn tables_of_a_refused_tree_are_plain_memory_at_once() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let tree = running.guest.branch();
    write(tree.l1, 511, Entry::new(other.frame(), RO));
    let pin = [operation(MMUEXT_PIN_L4_TABLE, tree.l4)];
    for table in [tree.l4, tree.l3, tree.l2, tree.l1] {
        assert_eq!(running.mmuext(&pin, SELF).0, failed(Errno::EINVAL));
        let map = [0x5000, Entry::new(table, RW).0, 0, 0, 0, 0];
        assert_eq!(running.call(update_va_mapping, map).0, Ok(0), "mapped writable");
        assert_eq!(running.call(update_va_mapping, [0x5000, 0, 0, 0, 0, 0]).0, Ok(0));
        assert_eq!(info(table).unwrap().state().frame_type(), FrameType::None);
    }
    audit(&running.held());
}

#[test]
fn tables_of_a_large_refused_tree_are_undone_before_one_is_mapped() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let tree = running.guest.branch();
    for index in 1..200 {
        let table = running.guest.frame();
        write(table, 5, Entry::new(running.guest.frame(), RW));
        write(tree.l2, index, Entry::new(table, RW));
    }
    let bad = running.guest.frame();
    write(bad, 0, Entry::new(other.frame(), RO));
    write(tree.l2, 200, Entry::new(bad, RW));
    assert_eq!(running.mmuext(&[operation(MMUEXT_PIN_L4_TABLE, tree.l4)], SELF).0, failed(Errno::EINVAL));
    let (result, calls) = running.call(update_va_mapping, [0x5000, Entry::new(tree.l2, RW).0, 0, 0, 0, 0]);
    assert_eq!(result, Ok(0));
    assert!(calls > 1, "it took {calls} calls");
    audit(&running.held());
}

#[test]
fn address_spaces_are_switched() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let next = running.guest.branch();
    (0..512).for_each(|index| write(next.l1, index, Entry(read(running.branch.l1, index).0)));
    let switch =
        [operation(MMUEXT_NEW_BASEPTR, next.l4), operation(MMUEXT_NEW_USER_BASEPTR, running.branch.l4)];
    assert_eq!(running.mmuext(&switch, SELF).0, Ok(0));
    audit(&[next.l4, running.branch.l4]);
    assert_eq!(running.mmuext(&[operation(MMUEXT_UNPIN_TABLE, running.branch.l4)], SELF).0, Ok(0));
    audit(&[next.l4, running.branch.l4]);
    assert_eq!(running.mmuext(&[operation(MMUEXT_NEW_USER_BASEPTR, MachineFrame(0))], SELF).0, Ok(0));
    assert_eq!(info(running.branch.l4).unwrap().state().frame_type(), FrameType::None);
    let bad = [operation(MMUEXT_NEW_BASEPTR, running.guest.frame()), operation(MMUEXT_NEW_BASEPTR, next.l1)];
    assert_eq!(running.mmuext(&bad[1..], SELF).0, failed(Errno::EBUSY));
    audit(&[next.l4]);
    running.with_caller(|caller| release_vcpu(caller.domain, caller.context).unwrap());
    audit(&[]);
}

#[test]
fn pages_are_cleared_and_copied_within_the_domain() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let (from, to) = (running.guest.frame(), running.guest.frame());
    write(from, 99, Entry(7));
    let copy = |destination: MachineFrame, source: MachineFrame| {
        let copy =
            MmuextOp { cmd: MMUEXT_COPY_PAGE, arg1: destination.0, arg2: source.0, ..Default::default() };
        running.mmuext(&[copy], SELF).0
    };
    assert_eq!(copy(to, from), Ok(0));
    assert_eq!(read(to, 99), Entry(7));
    assert_eq!(running.mmuext(&[operation(MMUEXT_CLEAR_PAGE, to)], SELF).0, Ok(0));
    assert_eq!(read(to, 99), Entry(0));
    assert_eq!(copy(to, other.frame()), failed(Errno::EINVAL));
    assert_eq!(copy(running.branch.l1, from), failed(Errno::EBUSY));
    let clear = [operation(MMUEXT_CLEAR_PAGE, running.branch.l1)];
    assert_eq!(running.mmuext(&clear, SELF).0, failed(Errno::EBUSY));
    audit(&running.held());
}

#[test]
fn superpage_marks_and_unknown_operations_are_refused() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let refusal = |cmd| running.mmuext(&[operation(cmd, running.branch.l1)], SELF).0;
    for cmd in [14, 99, u32::MAX] {
        assert_eq!(refusal(cmd), failed(Errno::ENOSYS));
    }
    for cmd in [MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER] {
        assert_eq!(refusal(cmd), failed(Errno::EOPNOTSUPP));
    }
    for cmd in [MMUEXT_FLUSH_CACHE, MMUEXT_FLUSH_CACHE_GLOBAL] {
        assert_eq!(refusal(cmd), failed(Errno::EACCES), "it has no device");
    }
    for cmd in [MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_ALL] {
        assert_eq!(running.mmuext(&[operation(cmd, MachineFrame(0x5000))], SELF).0, Ok(0));
    }
}

/// Executes `code` at a fault on `address`; true when it has been done for the guest.
fn trap(running: &Running, address: u64, code: &[u8], error_code: u32) -> bool {
    running.store(code);
    running.with_caller(|caller| {
        caller.context.registers.rip = DATA;
        let done = crate::emulate::table_write(caller, address, error_code);
        assert_eq!(caller.context.registers.rip - DATA, if done { code.len() as u64 } else { 0 });
        done
    })
}

#[test]
fn a_write_to_a_page_table_is_made_for_the_guest() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let (l1, page) = (running.branch.l1, running.guest.frame());
    running.guest.update(l1, 6, Entry::new(l1, RO)).unwrap();
    let here = |index: u64| 0x6000 + 8 * index;
    let store_rax = [0x48, 0x89, 0x03];
    let set_rax = |value: Entry| running.with_caller(|caller| caller.context.registers.rax = value.0);
    const WRITE_TO_PRESENT: u32 = 0b0111;
    set_rax(Entry::new(page, RW | Entry::DIRTY));
    assert!(trap(&running, here(5), &store_rax, WRITE_TO_PRESENT));
    assert_eq!(read(l1, 5), Entry::new(page, RW | Entry::DIRTY));
    let clear_writable = [0xf0, 0x48, 0x0f, 0xba, 0x33, 0x01];
    assert!(trap(&running, here(5), &clear_writable, WRITE_TO_PRESENT));
    assert_eq!(read(l1, 5), Entry::new(page, RO | Entry::DIRTY));
    assert_eq!(info(page).unwrap().state().frame_type(), FrameType::None);
    audit(&running.held());
}

#[test]
fn a_trapped_write_is_checked_like_any_other() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let (l1, page) = (running.branch.l1, running.guest.frame());
    running.guest.update(l1, 6, Entry::new(l1, RO)).unwrap();
    running.guest.update(l1, 7, Entry::new(running.branch.l2, RO)).unwrap();
    running.guest.update(l1, 8, Entry::new(page, RO)).unwrap();
    let store_rax = [0x48, 0x89, 0x03];
    let attempt = |address: u64, value: Entry, error_code: u32| {
        running.with_caller(|caller| caller.context.registers.rax = value.0);
        trap(&running, address, &store_rax, error_code)
    };
    let good = Entry::new(page, RO);
    assert!(!attempt(0x6000, Entry::new(l1, RW), 7), "a table, writable");
    assert!(!attempt(0x6000, Entry::new(other.frame(), RO), 7), "another domain's frame");
    assert!(!attempt(0x7000, good, 7), "not level 1");
    assert!(!attempt(0x8000, good, 7), "plain memory");
    assert!(!attempt(1 << 40, good, 7), "nothing");
    assert!(!attempt(0xffff_8000_0000_0000, good, 7), "the hypervisor's");
    for not_a_plain_write in [0b0110, 0b0101, 0b1111, 0b1_0111] {
        assert!(!attempt(0x6000, good, not_a_plain_write));
    }
    assert!(!trap(&running, 0x6000, &[0x48, 0xab], 7), "an instruction that is not known");
    running.with_caller(|caller| caller.context.in_kernel = false);
    assert!(!attempt(0x6000, good, 7), "user mode");
    running.with_caller(|caller| caller.context.in_kernel = true);
    assert!(attempt(0x6000, good, 7));
    audit(&running.held());
}

const CODE: u64 = 0x00af_9b00_0000_ffff;
const TASK_SEGMENT: u64 = 0x0000_8900_0000_0067;

#[test]
fn descriptor_tables_are_checked_and_read_only() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let table = running.guest.frame();
    write(table, 2, Entry(CODE));
    let list = running.store(&[table.0]);
    assert_eq!(running.call(descriptor::set_gdt, [list, 512, 0, 0, 0, 0]).0, Ok(0));
    assert_eq!(read(table, 2), Entry(CODE | 3 << 45), "the guest's level is 3");
    assert_eq!(running.guest.update(running.branch.l1, 0, Entry::new(table, RW)), BUSY);
    assert_eq!(frame::give_up(&running.guest.domain, table), Err(Errno::EBUSY));
    let change = |value: u64| {
        let arguments = [table.physical_address() + 24, value, 0, 0, 0, 0];
        running.call(descriptor::update_descriptor, arguments).0
    };
    assert_eq!(change(TASK_SEGMENT), failed(Errno::EINVAL));
    assert_eq!((change(CODE), read(table, 3)), (Ok(0), Entry(CODE | 3 << 45)));
    let bad = running.guest.frame();
    write(bad, 511, Entry(TASK_SEGMENT));
    let list = running.store(&[table.0, bad.0]);
    assert_eq!(running.call(descriptor::set_gdt, [list, 1024, 0, 0, 0, 0]).0, failed(Errno::EINVAL));
    assert_eq!(info(bad).unwrap().state().frame_type(), FrameType::None);
    assert_eq!(running.call(descriptor::set_gdt, [list, 7169, 0, 0, 0, 0]).0, failed(Errno::EINVAL));
    assert_eq!(running.call(descriptor::set_gdt, [list, 0, 0, 0, 0, 0]).0, Ok(0));
    assert_eq!(info(table).unwrap().state().frame_type(), FrameType::None);
    audit(&running.held());
}

#[test]
fn descriptors_reach_no_page_table() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    for frame in [running.branch.l1, running.branch.l4, other.frame(), MachineFrame(1 << 41)] {
        let arguments = [frame.physical_address() + 8, CODE, 0, 0, 0, 0];
        assert_eq!(running.call(descriptor::update_descriptor, arguments).0, failed(Errno::EINVAL));
    }
    let plain = running.guest.frame();
    let arguments = [plain.physical_address() + 8, CODE, 0, 0, 0, 0];
    assert_eq!(running.call(descriptor::update_descriptor, arguments).0, Ok(0));
    audit(&running.held());
}

#[test]
fn a_local_descriptor_table_is_what_its_address_maps_to() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let table = running.guest.frame();
    let set = |base: u64, entries: u64| {
        let set = MmuextOp { cmd: MMUEXT_SET_LDT, arg1: base, arg2: entries, ..Default::default() };
        running.mmuext(&[set], SELF).0
    };
    assert_eq!(set(0x5000, 16), failed(Errno::EINVAL), "nothing is mapped there");
    running.guest.update(running.branch.l1, 5, Entry::new(table, RW)).unwrap();
    assert_eq!(set(0x5000, 16), failed(Errno::EBUSY), "writable");
    running.guest.update(running.branch.l1, 5, Entry::new(table, RO)).unwrap();
    assert_eq!(set(0x5008, 16), failed(Errno::EINVAL));
    assert_eq!(set(0x5000, 8193), failed(Errno::EINVAL));
    assert_eq!(set(0x5000, 16), Ok(0));
    assert_eq!(running.guest.update(running.branch.l1, 5, Entry::new(table, RW)), BUSY);
    assert_eq!(set(0, 0), Ok(0));
    assert_eq!(running.guest.update(running.branch.l1, 5, Entry::new(table, RW)), Ok(()));
    audit(&running.held());
}

/// Asks for or gives extents in the data page behind the argument.
fn reservation(
    running: &Running,
    command: u32,
    extents: &[u64],
    order: u32,
    domid: DomainId,
) -> HypercallResult {
    let argument = MemoryReservation {
        extent_start: DATA + 4096,
        nr_extents: extents.len() as u64,
        extent_order: order,
        domid,
        ..Default::default()
    };
    running.store(&[argument]);
    arch::guest_memory::write(DATA + 4096, extents.as_bytes()).unwrap();
    running.call(memory_op, [u64::from(command), DATA, 0, 0, 0, 0]).0
}

fn extents(count: usize) -> Vec<u64> {
    let mut extents = std::vec![0u64; count];
    arch::guest_memory::read(DATA + 4096, extents.as_mut_bytes()).unwrap();
    extents
}

#[test]
fn a_domain_grows_to_its_maximum_and_shrinks_again() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let memory = &running.guest.domain.memory;
    let before = memory.total();
    memory.set_maximum(before + 1000);
    let places: Vec<u64> = (5000..7000).collect();
    assert_eq!(reservation(&running, XENMEM_POPULATE_PHYSMAP, &places, 0, DomainId::SELF), Ok(1000));
    let frames = extents(1000);
    assert!(frames.iter().zip(5000..).all(|(frame, place)| {
        frame::machine_to_physical(MachineFrame(*frame)) == Some(PseudoPhysicalFrame(place))
    }));
    audit(&running.held());
    assert_eq!(reservation(&running, XENMEM_DECREASE_RESERVATION, &frames, 0, DomainId::SELF), Ok(1000));
    assert_eq!(memory.total(), before);
    assert_eq!(
        reservation(&running, XENMEM_DECREASE_RESERVATION, &frames, 0, DomainId::SELF),
        Ok(0),
        "only once"
    );
    audit(&running.held());
}

#[test]
fn extents_are_contiguous_and_aligned() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    assert_eq!(reservation(&running, XENMEM_POPULATE_PHYSMAP, &[0x1000, 0x2000], 5, DomainId::SELF), Ok(2));
    let frames = extents(2);
    assert!(frames.iter().all(|frame| frame.is_multiple_of(32)));
    let last = MachineFrame(frames[1] + 31);
    assert_eq!(frame::machine_to_physical(last), Some(PseudoPhysicalFrame(0x201f)));
    let refused = reservation(&running, XENMEM_POPULATE_PHYSMAP, &[0x3000], 11, DomainId::SELF);
    assert_eq!(refused, Ok(0), "larger than any extent can be");
    audit(&running.held());
}

/// Exchanges the frames in `old` for extents of `order`.
fn exchange(running: &Running, old: &[u64], order: u32, places: &[u64]) -> (HypercallResult, u64) {
    let extents = |address: u64, count: usize, order: u32| MemoryReservation {
        extent_start: address,
        nr_extents: count as u64,
        extent_order: order,
        domid: DomainId::SELF,
        ..Default::default()
    };
    let (old_list, new_list) = (DATA + 4096, DATA + 3 * 4096);
    let mut argument = MemoryExchange {
        r#in: extents(old_list, old.len(), 0),
        out: extents(new_list, places.len(), order),
        nr_exchanged: 0,
    };
    running.store(&[argument]);
    arch::guest_memory::write(old_list, old.as_bytes()).unwrap();
    arch::guest_memory::write(new_list, places.as_bytes()).unwrap();
    let result = running.call(memory_op, [u64::from(XENMEM_EXCHANGE), DATA, 0, 0, 0, 0]).0;
    arch::guest_memory::read(DATA, argument.as_mut_bytes()).unwrap();
    (result, argument.nr_exchanged)
}

#[test]
fn scattered_frames_are_exchanged_for_contiguous_ones() {
    let _machine = TestMachine::new(FRAMES);
    let running = Running::new(1);
    let old: Vec<u64> = (0..64).map(|_| running.guest.frame().0).collect();
    old.iter().for_each(|frame| write(MachineFrame(*frame), 0, Entry(0x5ec2e7)));
    let total = running.guest.domain.memory.total();
    assert_eq!(exchange(&running, &old, 4, &[0x100, 0x200, 0x300, 0x400]), (Ok(0), 64));
    let mut firsts = [0u64; 4];
    arch::guest_memory::read(DATA + 3 * 4096, firsts.as_mut_bytes()).unwrap();
    for (first, place) in firsts.into_iter().zip([0x100, 0x200, 0x300, 0x400]) {
        assert!(first.is_multiple_of(16));
        let last = MachineFrame(first + 15);
        assert_eq!(frame::machine_to_physical(last), Some(PseudoPhysicalFrame(place + 15)));
        assert_eq!((frame::owner(last), read(MachineFrame(first), 0)), (Some(running.guest.id()), Entry(0)));
    }
    assert_eq!(running.guest.domain.memory.total(), total);
    audit(&running.held());
}

#[test]
fn an_exchange_takes_a_whole_piece_or_nothing() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let old: Vec<u64> = (0..16).map(|_| running.guest.frame().0).collect();
    let free = crate::frame_allocator::free_frames();
    for (last, errno) in [
        (running.branch.l1, Errno::EBUSY),
        (other.frame(), Errno::EINVAL),
        (MachineFrame(old[0]), Errno::EINVAL),
    ] {
        let free = crate::frame_allocator::free_frames();
        let mut bad = old.clone();
        bad[15] = last.0;
        assert_eq!(exchange(&running, &bad, 4, &[0x100]), (failed(errno), 0));
        assert_eq!(crate::frame_allocator::free_frames(), free);
        audit(&running.held());
    }
    assert_eq!(exchange(&running, &old, 4, &[0x100, 0x200]).0, failed(Errno::EINVAL), "more than is given");
    assert_eq!(exchange(&running, &old, 10, &[0x100]).0, failed(Errno::EPERM));
    assert_eq!(exchange(&running, &old, 4, &[0x100]), (Ok(0), 16));
    assert_eq!(crate::frame_allocator::free_frames(), free - 1, "one went to the other domain");
}

#[test]
fn only_the_control_domain_changes_anothers_memory() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let frame = other.frame();
    let refused = reservation(&running, XENMEM_POPULATE_PHYSMAP, &[1], 0, other.id());
    assert_eq!(refused, failed(Errno::EPERM));
    assert_eq!(reservation(&running, XENMEM_DECREASE_RESERVATION, &[frame.0], 0, DomainId::SELF), Ok(0));
    assert_eq!(frame::owner(frame), Some(other.id()));
    let control = Running::new(0);
    assert_eq!(reservation(&control, XENMEM_POPULATE_PHYSMAP, &[1], 0, other.id()), Ok(1));
    assert_eq!(frame::owner(MachineFrame(extents(1)[0])), Some(other.id()));
}

#[test]
fn what_the_domain_has_can_be_asked() {
    let _machine = TestMachine::new(FRAMES);
    let (running, other) = (Running::new(1), TestGuest::new(2));
    let ask = |command: u32, whom: DomainId| {
        running.store(&[MemoryDomain { domid: whom }]);
        running.call(memory_op, [u64::from(command), DATA, 0, 0, 0, 0]).0
    };
    let memory = &running.guest.domain.memory;
    assert_eq!(ask(XENMEM_CURRENT_RESERVATION, DomainId::SELF), Ok(memory.total()));
    assert_eq!(ask(XENMEM_MAXIMUM_RESERVATION, DomainId::SELF), Ok(memory.maximum()));
    assert_eq!(ask(XENMEM_CURRENT_RESERVATION, other.id()), failed(Errno::EPERM));
    assert_eq!(ask(XENMEM_MAXIMUM_RAM_PAGE, DomainId::SELF), Ok(direct_map::frame_count() - 1));
    assert_eq!(ask(XENMEM_MACHINE_MEMORY_MAP, DomainId::SELF), failed(Errno::EPERM));
    assert_eq!(ask(63, DomainId::SELF), failed(Errno::ENOSYS));
}

#[test]
fn claimed_memory_waits_for_its_domain() {
    let _machine = TestMachine::new(FRAMES);
    let (control, built) = (Running::new(0), TestGuest::under_construction(1));
    let claim = |domain: &DomainRef, frames: u64| {
        let argument = MemoryReservation { nr_extents: frames, domid: domain.id, ..Default::default() };
        control.store(&[argument]);
        control.call(memory_op, [u64::from(XENMEM_CLAIM_PAGES), DATA, 0, 0, 0, 0]).0
    };
    let free = crate::frame_allocator::free_frames();
    assert_eq!(claim(&built.domain, free + 1), failed(Errno::ENOMEM));
    assert_eq!(claim(&built.domain, free), Ok(0));
    assert_eq!(
        reservation(&control, XENMEM_POPULATE_PHYSMAP, &[1], 0, DomainId::SELF),
        Ok(0),
        "nothing is left"
    );
    assert_eq!(reservation(&control, XENMEM_POPULATE_PHYSMAP, &[1], 3, built.id()), Ok(1));
    assert_eq!(crate::frame_allocator::claimed_frames(), free - 8);
    assert_eq!(claim(&built.domain, 0), Ok(0));
    assert_eq!(crate::frame_allocator::claimed_frames(), 0);
    assert_eq!(reservation(&control, XENMEM_POPULATE_PHYSMAP, &[1], 0, DomainId::SELF), Ok(1));
    assert_eq!(claim(&built.domain, 16), Ok(0));
    assert_eq!(crate::frame_allocator::claimed_frames(), 8);
    let _ = crate::lifecycle::destroy(&built.domain);
    assert_eq!(crate::frame_allocator::claimed_frames(), 0, "nobody waits for a dying domain");
    audit(&control.held());
}
