//! Each rule by name: what is refused, and beside it the like that is allowed.

use super::{test_guest::*, *};
use crate::{
    frame::{self, FrameType, Progress, info},
    frame_allocator,
    hypercall::HypercallError,
    machine::TestMachine,
};
use core::cell::Cell;
use hypercall_abi::{DomainId, Errno, MachineFrame};
use std::rc::Rc;

const FRAMES: u64 = 2048;

fn type_of(frame: MachineFrame) -> FrameType {
    info(frame).unwrap().state().frame_type()
}

#[test]
fn a_pinned_tree_types_every_table_and_holds_what_it_maps() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.branch();
    let (read_only, writable) = (guest.frame(), guest.frame());
    write(branch.l1, 3, Entry::new(read_only, RO));
    write(branch.l1, 4, Entry::new(writable, RW));
    assert_eq!(guest.pin(branch.l4, 4), Ok(()));
    let types = [branch.l4, branch.l3, branch.l2, branch.l1, read_only, writable].map(type_of);
    use FrameType::*;
    assert_eq!(types, [L4, L3, L2, L1, None, Writable]);
    audit(&[]);
    assert_eq!(guest.unpin(branch.l4), Ok(()));
    assert!([branch.l4, branch.l3, branch.l2, branch.l1, writable].map(type_of).iter().all(|t| *t == None));
    audit(&[]);
}

#[test]
fn memory_of_the_hypervisor_cannot_be_mapped() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let secret = frame_allocator::allocate_for_hypervisor(0).unwrap();
    assert_eq!(guest.update(branch.l1, 0, Entry::new(secret, RO)), INVALID);
    assert_eq!(guest.update(branch.l1, 0, Entry::new(guest.frame(), RO)), Ok(()));
    audit(&[]);
}

#[test]
fn free_memory_cannot_be_mapped() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let free = (0..FRAMES)
        .map(MachineFrame)
        .find(|frame| info(*frame).unwrap().state().owner() == DomainId::INVALID);
    assert_eq!(guest.update(branch.l1, 0, Entry::new(free.unwrap(), RW)), INVALID);
}

#[test]
fn memory_of_another_domain_cannot_be_mapped() {
    let _machine = TestMachine::new(FRAMES);
    let (guest, victim) = (TestGuest::new(1), TestGuest::new(2));
    let branch = guest.pinned_branch();
    let frame = victim.frame();
    assert_eq!(guest.update(branch.l1, 0, Entry::new(frame, RO)), INVALID);
    assert_eq!(guest.update(branch.l1, 0, Entry::new(frame, RW)), INVALID);
    let tree = guest.branch();
    write(tree.l1, 7, Entry::new(frame, RO));
    assert_eq!(guest.pin(tree.l4, 4), INVALID, "nor in a tree that is validated as a whole");
    write(tree.l1, 7, Entry::new(guest.frame(), RO));
    assert_eq!(guest.pin(tree.l4, 4), Ok(()));
    audit(&[]);
}

#[test]
fn tables_of_another_domain_cannot_be_entered() {
    let _machine = TestMachine::new(FRAMES);
    let (guest, victim) = (TestGuest::new(1), TestGuest::new(2));
    let (mine, theirs) = (guest.pinned_branch(), victim.pinned_branch());
    assert_eq!(guest.update(mine.l2, 1, Entry::new(theirs.l1, RW)), INVALID);
    assert_eq!(guest.update(theirs.l1, 1, Entry::new(guest.frame(), RW)), INVALID, "nor changed");
    assert_eq!(guest.pin(theirs.l4, 4), INVALID, "nor pinned");
    assert_eq!(guest.unpin(theirs.l4), INVALID, "nor unpinned");
    audit(&[]);
}

#[test]
fn a_table_cannot_be_mapped_writable() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    for table in [branch.l1, branch.l2, branch.l3, branch.l4] {
        assert_eq!(guest.update(branch.l1, 0, Entry::new(table, RW)), BUSY);
        assert_eq!(guest.update(branch.l1, 0, Entry::new(table, RO)), Ok(()), "but it can be read");
    }
    audit(&[]);
}

#[test]
fn flags_alone_cannot_make_a_table_writable() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let plain = guest.frame();
    guest.update(branch.l1, 0, Entry::new(branch.l2, RO)).unwrap();
    guest.update(branch.l1, 1, Entry::new(plain, RO)).unwrap();
    assert_eq!(guest.update(branch.l1, 0, Entry::new(branch.l2, RW)), BUSY);
    assert_eq!(read(branch.l1, 0), Entry::new(branch.l2, RO), "and nothing has changed");
    assert_eq!(guest.update(branch.l1, 1, Entry::new(plain, RW)), Ok(()), "plain memory can");
    assert_eq!(type_of(plain), FrameType::Writable);
    assert_eq!(guest.update(branch.l1, 1, Entry::new(plain, RO | Entry::ACCESSED)), Ok(()));
    assert_eq!(type_of(plain), FrameType::None);
    audit(&[]);
}

#[test]
fn writable_memory_cannot_become_a_table() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let page = guest.frame();
    guest.update(branch.l1, 0, Entry::new(page, RW)).unwrap();
    assert_eq!(guest.pin(page, 1), BUSY);
    assert_eq!(guest.update(branch.l2, 1, Entry::new(page, RW)), BUSY);
    guest.update(branch.l1, 0, Entry::new(page, RO)).unwrap();
    assert_eq!(guest.pin(page, 1), Ok(()), "read-only it can");
    audit(&[]);
}

#[test]
fn a_table_cannot_map_itself_writable() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let table = guest.frame();
    write(table, 9, Entry::new(table, RW));
    assert_eq!(guest.pin(table, 1), BUSY);
    assert_eq!(type_of(table), FrameType::None);
    write(table, 9, Entry::new(table, RO));
    assert_eq!(guest.pin(table, 1), Ok(()));
    audit(&[]);
}

#[test]
fn device_memory_needs_the_right_to_it() {
    let _machine = TestMachine::new(FRAMES);
    let (guest, control) = (TestGuest::new(1), TestGuest::new(0));
    let device = MachineFrame(0xfebd0);
    let branch = guest.pinned_branch();
    assert_eq!(guest.update(branch.l1, 0, Entry::new(device, RW)), FORBIDDEN);
    let uncached = RW | Entry::CACHE_DISABLE;
    assert_eq!(guest.update(branch.l1, 0, Entry::new(device, uncached)), FORBIDDEN);
    let branch = control.pinned_branch();
    assert_eq!(control.update(branch.l1, 0, Entry::new(device, uncached)), Ok(()));
    assert_eq!(control.update(branch.l1, 0, Entry(0)), Ok(()));
    audit(&[]);
}

#[test]
fn memory_is_always_cached_the_ordinary_way() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let page = guest.frame();
    guest.update(branch.l1, 0, Entry::new(page, RW)).unwrap();
    for attribute in [Entry::CACHE_DISABLE, Entry::WRITE_THROUGH, Entry::LARGE] {
        assert_eq!(guest.update(branch.l1, 1, Entry::new(page, RW | attribute)), INVALID);
        assert_eq!(
            guest.update(branch.l1, 0, Entry::new(page, RW | attribute)),
            INVALID,
            "not by flags either"
        );
    }
    audit(&[]);
}

#[test]
fn large_pages_are_refused() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let page = frame_allocator::allocate_for_domain(&guest.domain, 9, frame_allocator::Limit::Any).unwrap();
    let large = Entry::new(page, RW | Entry::LARGE);
    assert_eq!(guest.update(branch.l2, 1, large), INVALID);
    assert_eq!(guest.update(branch.l3, 1, large), INVALID);
    assert_eq!(
        guest.update(branch.l2, 0, Entry::new(branch.l1, RW | Entry::LARGE)),
        INVALID,
        "not by flags either"
    );
    let tree = guest.branch();
    write(tree.l2, 1, large);
    assert_eq!(guest.pin(tree.l4, 4), INVALID);
    audit(&[]);
}

#[test]
fn a_root_cannot_contain_itself() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.branch();
    write(branch.l4, 5, Entry::new(branch.l4, RO));
    assert_eq!(guest.pin(branch.l4, 4), BUSY);
    write(branch.l4, 5, Entry(0));
    assert_eq!(guest.pin(branch.l4, 4), Ok(()));
    assert_eq!(guest.update(branch.l4, 5, Entry::new(branch.l4, RO)), BUSY);
    audit(&[]);
}

#[test]
fn a_table_has_one_level() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    assert_eq!(guest.update(branch.l3, 1, Entry::new(branch.l1, RW)), BUSY);
    assert_eq!(guest.update(branch.l4, 1, Entry::new(branch.l2, RW)), BUSY);
    assert_eq!(guest.update(branch.l2, 1, Entry::new(branch.l3, RW)), BUSY);
    assert_eq!(guest.pin(branch.l1, 4), BUSY);
    assert_eq!(guest.update(branch.l2, 1, Entry::new(branch.l1, RW)), Ok(()), "a second place at its level");
    audit(&[]);
}

#[test]
fn the_hypervisors_slots_are_its_own() {
    let _machine = TestMachine::new(FRAMES);
    set_hypervisor_slots(&core::array::from_fn(|slot| (0x1000 * slot as u64) | 1));
    let guest = TestGuest::new(1);
    let branch = guest.branch();
    write(branch.l4, 256, Entry::new(guest.frame(), RW));
    write(branch.l4, 271, Entry(0xdead_beef));
    assert_eq!(guest.pin(branch.l4, 4), Ok(()));
    assert_eq!((read(branch.l4, 256), read(branch.l4, 271)), (Entry(1), Entry(0xf001)));
    for slot in 256..=271 {
        assert_eq!(guest.update(branch.l4, slot, Entry(0)), INVALID);
        assert_eq!(guest.update(branch.l4, slot, Entry::new(branch.l3, RW)), INVALID);
    }
    for slot in [255, 272] {
        assert_eq!(guest.update(branch.l4, slot, Entry::new(branch.l3, RW)), Ok(()));
    }
    guest.unpin(branch.l4).unwrap();
    assert_eq!(read(branch.l4, 256), Entry(0), "nor can they be read afterwards");
    audit(&[]);
}

#[test]
fn present_entries_are_for_ring_3_and_never_global() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let tree = guest.branch();
    let page = guest.frame();
    let kernel_only = Entry::PRESENT | Entry::WRITABLE | Entry::GLOBAL | Entry::NO_EXECUTE;
    write(tree.l1, 0, Entry::new(page, kernel_only));
    write(tree.l2, 0, Entry::new(tree.l1, Entry::PRESENT));
    guest.pin(tree.l4, 4).unwrap();
    let adjusted = Entry::new(page, RW | Entry::NO_EXECUTE);
    assert_eq!((read(tree.l1, 0), read(tree.l2, 0)), (adjusted, Entry::new(tree.l1, RO)));
    guest.update(tree.l1, 1, Entry::new(page, kernel_only)).unwrap();
    assert_eq!(read(tree.l1, 1), adjusted);
    audit(&[]);
}

#[test]
fn accessed_and_dirty_bits_stay_when_asked_for() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let page = guest.frame();
    guest.update(branch.l1, 0, Entry::new(page, RW | Entry::ACCESSED | Entry::DIRTY)).unwrap();
    let update =
        |write: Write| guest.session().update_page((branch.l1, 0), Entry::new(page, RO), write).unwrap();
    update(Write::PreserveAccessedDirty);
    assert_eq!(read(branch.l1, 0), Entry::new(page, RO | Entry::ACCESSED | Entry::DIRTY));
    update(Write::Plain);
    assert_eq!(read(branch.l1, 0), Entry::new(page, RO));
    audit(&[]);
}

#[test]
fn an_entry_that_the_cpu_has_changed_meanwhile_stays() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let (page, other) = (guest.frame(), guest.frame());
    let seen = Entry::new(page, RO);
    let now = Entry::new(page, RO | Entry::ACCESSED);
    guest.update(branch.l1, 0, now).unwrap();
    for new in [Entry(0), Entry::new(page, RW), Entry::new(page, RO), Entry::new(other, RW)] {
        let place = (branch.l1, 0);
        assert_eq!(guest.session().update_page(place, new, Write::IfStill(seen)), Err(Errno::EAGAIN));
        assert_eq!(read(branch.l1, 0), now);
        audit(&[]);
    }
    assert_eq!(guest.session().update_page((branch.l1, 0), Entry(0), Write::IfStill(now)), Ok(()));
    audit(&[]);
}

#[test]
fn entries_above_level_1_are_no_pages() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let page = Entry::new(guest.frame(), RW);
    let update = |table: MachineFrame| guest.session().update_page((table, 1), page, Write::Plain);
    assert_eq!(update(branch.l2), Err(Errno::EINVAL));
    assert_eq!(update(guest.frame()), Err(Errno::EINVAL));
    assert_eq!(update(branch.l1), Ok(()));
    audit(&[]);
}

#[test]
fn a_table_in_use_cannot_be_given_up() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    for table in [branch.l1, branch.l2, branch.l3, branch.l4] {
        assert_eq!(frame::give_up(&guest.domain, table), Err(Errno::EBUSY));
    }
    guest.unpin(branch.l4).unwrap();
    let free = frame_allocator::free_frames();
    assert_eq!(frame::give_up(&guest.domain, branch.l4), Ok(()));
    assert_eq!(frame_allocator::free_frames(), free + 1);
    assert_eq!(frame::give_up(&guest.domain, branch.l4), Err(Errno::EINVAL), "and only once");
    audit(&[]);
}

#[test]
fn a_mapped_frame_that_is_given_up_is_freed_with_its_last_mapping() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let page = guest.frame();
    guest.update(branch.l1, 0, Entry::new(page, RW)).unwrap();
    guest.update(branch.l1, 1, Entry::new(page, RO)).unwrap();
    frame::give_up(&guest.domain, page).unwrap();
    let free = frame_allocator::free_frames();
    audit(&[]);
    guest.update(branch.l1, 0, Entry(0)).unwrap();
    assert_eq!(frame_allocator::free_frames(), free);
    guest.update(branch.l1, 1, Entry(0)).unwrap();
    assert_eq!(frame_allocator::free_frames(), free + 1);
    assert_eq!(frame::owner(page), None);
    audit(&[]);
}

#[test]
fn a_frame_that_was_given_up_cannot_be_pinned() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let (branch, page) = (guest.pinned_branch(), guest.frame());
    guest.update(branch.l1, 0, Entry::new(page, RO)).unwrap();
    frame::give_up(&guest.domain, page).unwrap();
    assert_eq!(guest.pin(page, 1), BUSY);
    let domain = guest.domain.clone();
    guest.destroy(1000);
    assert_eq!(frame::release_some(&domain, 1000), Progress::Done);
}

#[test]
fn counts_overflow_into_an_error() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let (page, branch) = (guest.frame(), guest.pinned_branch());
    for _ in 0..frame::MAX_TYPED {
        frame::get_writable(page, guest.id()).unwrap();
    }
    assert_eq!(frame::get_writable(page, guest.id()), Err(Errno::EBUSY));
    assert_eq!(guest.update(branch.l1, 0, Entry::new(page, RW)), BUSY);
    assert_eq!(guest.update(branch.l1, 0, Entry::new(page, RO)), Ok(()));
    (0..frame::MAX_TYPED).for_each(|_| frame::put_writable(page));
    for _ in info(page).unwrap().state().references()..frame::MAX_REFERENCES {
        frame::get(page, guest.id()).unwrap();
    }
    assert_eq!(frame::get(page, guest.id()), Err(Errno::EBUSY));
    assert_eq!(guest.update(branch.l1, 1, Entry::new(page, RO)), BUSY);
}

#[test]
fn a_failed_validation_leaves_nothing_behind() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let tree = guest.branch();
    let (other_l2, other_l1) = (guest.frame(), guest.frame());
    write(tree.l3, 100, Entry::new(other_l2, RW));
    write(other_l2, 511, Entry::new(other_l1, RW));
    (0..200).for_each(|index| write(tree.l1, index, Entry::new(guest.frame(), RW)));
    write(other_l1, 511, Entry::new(MachineFrame(1 << 39), RW));
    assert_eq!(guest.pin(tree.l4, 4), FORBIDDEN);
    let all = [tree.l4, tree.l3, tree.l2, tree.l1, other_l2, other_l1];
    assert!(all.map(type_of).iter().all(|frame_type| *frame_type == FrameType::None));
    audit(&[]);
}

/// A tree with `tables` tables of level 1, each mapping `pages` pages.
fn wide_tree(guest: &TestGuest, tables: usize, pages: usize) -> Branch {
    let branch = guest.branch();
    for index in 0..tables {
        let table = guest.frame();
        write(branch.l2, index, Entry::new(table, RW));
        (0..pages).for_each(|page| write(table, page, Entry::new(guest.frame(), RW)));
    }
    branch
}

#[test]
fn large_trees_are_validated_and_undone_in_pieces() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let tree = wide_tree(&guest, 64, 8);
    let mut restarts = 0;
    let restart = Err(HypercallError::Restart);
    while TableSession::open(&guest.domain, 700).and_then(|mut session| session.pin(tree.l4, 4)) == restart {
        audit(&[]);
        restarts += 1;
    }
    assert!(restarts > 10, "{restarts} restarts");
    assert!(info(tree.l4).unwrap().state().is_validated());
    TableSession::open(&guest.domain, 1).unwrap().unpin(tree.l4).unwrap();
    let mut restarts = 0;
    while TableSession::open(&guest.domain, 700).is_err() {
        audit(&[]);
        restarts += 1;
    }
    assert!(restarts > 10, "{restarts} restarts");
    assert_eq!(type_of(tree.l2), FrameType::None);
    audit(&[]);
}

#[test]
fn a_validation_that_is_not_continued_can_be_dropped() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let tree = wide_tree(&guest, 64, 2);
    let stopped = TableSession::open(&guest.domain, 1500).and_then(|mut session| session.pin(tree.l4, 4));
    assert_eq!(stopped, Err(HypercallError::Restart));
    assert_eq!(frame::give_up(&guest.domain, tree.l4), Err(Errno::EBUSY));
    assert_eq!(guest.update(tree.l4, 1, Entry(0)), INVALID, "it is no table yet");
    assert_eq!(guest.unpin(tree.l2), Ok(()));
    assert_eq!(guest.unpin(tree.l3), Ok(()));
    assert_eq!(guest.unpin(tree.l4), Ok(()));
    assert!([tree.l4, tree.l3, tree.l2].map(type_of).iter().all(|frame_type| *frame_type == FrameType::None));
    audit(&[]);
}

#[test]
fn a_table_is_undone_before_it_is_taken_into_use_again() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let mut session = guest.session();
    session.update((branch.l4, 0), Entry(0), Write::Plain).unwrap().unwrap();
    assert!(info(branch.l3).unwrap().state().is_half_done(), "it waits to be undone");
    session.update((branch.l4, 1), Entry::new(branch.l3, RW), Write::Plain).unwrap().unwrap();
    session.update((branch.l4, 1), Entry(0), Write::Plain).unwrap().unwrap();
    session.pin(branch.l3, 3).unwrap();
    session.unpin(branch.l4).unwrap();
    session.get_root(branch.l4).unwrap();
    session.put_table(branch.l4);
    session.finish_undoing().unwrap();
    drop(session);
    assert_eq!((type_of(branch.l3), type_of(branch.l4)), (FrameType::L3, FrameType::None));
    audit(&[]);
}

#[test]
fn cpus_forget_a_table_before_it_is_plain_memory_again() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let empty = guest.frame();
    for (table, level) in [(branch.l2, 1), (branch.l3, 2), (branch.l4, 3)] {
        guest.update(table, 7, Entry::new(empty, RW)).unwrap();
        let flushed = Rc::new(Cell::new(false));
        let (seen, expected) = (Rc::clone(&flushed), FrameType::table(level));
        crate::arch::tlb::observe(move |_| {
            assert_eq!(type_of(empty), expected);
            seen.set(true);
        });
        guest.update(table, 7, Entry(0)).unwrap();
        assert!(flushed.get(), "level {level}");
        assert_eq!(type_of(empty), FrameType::None);
    }
}

#[test]
fn a_pin_counts_once() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    assert_eq!(guest.pin(branch.l4, 4), INVALID);
    assert_eq!(guest.pin(branch.l1, 1), Ok(()), "a table below can have a pin of its own");
    assert_eq!(guest.unpin(branch.l4), Ok(()));
    assert_eq!(guest.unpin(branch.l4), INVALID);
    assert_eq!((type_of(branch.l2), type_of(branch.l1)), (FrameType::None, FrameType::L1));
    audit(&[]);
}

#[test]
fn a_root_on_a_cpu_outlives_its_pin() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    guest.session().get_root(branch.l4).unwrap();
    guest.unpin(branch.l4).unwrap();
    assert_eq!(type_of(branch.l4), FrameType::L4);
    audit(&[branch.l4]);
    guest.session().put_table(branch.l4);
    drop(guest.session());
    assert_eq!(type_of(branch.l4), FrameType::None);
    audit(&[]);
}

#[test]
fn a_dying_domain_gives_everything_back_in_pieces() {
    let _machine = TestMachine::new(FRAMES);
    drop(TestGuest::new(63));
    let before = frame_allocator::free_frames();
    let guest = TestGuest::new(1);
    let overhead = before - frame_allocator::free_frames();
    let tree = wide_tree(&guest, 32, 8);
    guest.pin(tree.l4, 4).unwrap();
    let half = wide_tree(&guest, 32, 8);
    let stopped = TableSession::open(&guest.domain, 1500).and_then(|mut session| session.pin(half.l4, 4));
    assert_eq!(stopped, Err(HypercallError::Restart));
    let pieces = guest.destroy(300);
    assert!(pieces > 10, "{pieces} pieces");
    audit(&[]);
    assert_eq!(
        frame_allocator::free_frames(),
        before - overhead + 1,
        "all but the domain's own frames, less its shared one"
    );
}

#[test]
fn a_frame_that_others_use_outlives_its_dying_owner() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let page = guest.frame();
    frame::get(page, guest.id()).unwrap();
    let domain = guest.domain.clone();
    guest.destroy(1000);
    assert_eq!(frame::release_some(&domain, 1000), Progress::Waiting);
    assert_eq!(frame::owner(page), Some(domain.id));
    audit_lingering(page);
    frame::put(page);
    assert_eq!(frame::owner(page), None);
    assert_eq!(frame::release_some(&domain, 1000), Progress::Done);
    audit(&[]);
}

fn audit_lingering(page: MachineFrame) {
    let state = info(page).unwrap().state();
    assert!(!state.is_allocated() && state.references() == 1);
}

#[test]
fn a_dying_domain_gets_no_memory() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let domain = guest.domain.clone();
    guest.destroy(1000);
    let limit = frame_allocator::Limit::Any;
    assert_eq!(frame_allocator::allocate_for_domain(&domain, 0, limit), Err(Errno::EINVAL));
    assert_eq!(frame::share_new(&domain), Err(Errno::EINVAL));
    audit(&[]);
}

#[test]
fn a_freed_frame_is_zeroed_before_the_next_domain_has_it() {
    let _machine = TestMachine::new(FRAMES);
    let (guest, next) = (TestGuest::new(1), TestGuest::new(2));
    let page = guest.frame();
    write(page, 77, Entry(0x5ec2e7));
    frame::give_up(&guest.domain, page).unwrap();
    assert_eq!(next.frame(), page, "the allocator gives the last freed frame first");
    assert_eq!(read(page, 77), Entry(0));
}

#[test]
fn a_builder_maps_a_domain_under_construction_and_no_other() {
    let _machine = TestMachine::new(FRAMES);
    let (control, guest) = (TestGuest::new(0), TestGuest::under_construction(1));
    let (branch, page) = (control.pinned_branch(), guest.frame());
    let map = |entry: Entry| {
        let mut session = control.session();
        session.set_mappable(Mappable::Foreign(&guest.domain));
        session.update((branch.l1, 0), entry, Write::Plain).unwrap()
    };
    assert_eq!(
        map(Entry::new(control.frame(), RW)),
        INVALID,
        "the frame is to be the one domain's that is named"
    );
    assert_eq!(map(Entry::new(page, RW)), Ok(()));
    assert_eq!(guest.pin(page, 1), BUSY, "it is writable for somebody");
    assert_eq!(guest.domain.memory.seal(), Err(Errno::EBUSY));
    audit(&[]);
    assert_eq!(map(Entry(0)), Ok(()));
    assert_eq!(guest.pin(page, 1), Ok(()));
    assert_eq!(guest.domain.memory.seal(), Ok(()));
    assert_eq!(map(Entry::new(guest.frame(), RO)), FORBIDDEN);
    audit(&[]);
}

#[test]
fn a_foreign_mapping_outlives_the_domain_it_maps() {
    let _machine = TestMachine::new(FRAMES);
    let (control, guest) = (TestGuest::new(0), TestGuest::under_construction(1));
    let (branch, page) = (control.pinned_branch(), guest.frame());
    let mut session = control.session();
    session.set_mappable(Mappable::Foreign(&guest.domain));
    session.update((branch.l1, 0), Entry::new(page, RW), Write::Plain).unwrap().unwrap();
    drop(session);
    let domain = guest.domain.clone();
    guest.destroy(1000);
    assert_eq!(frame::release_some(&domain, 1000), Progress::Waiting);
    control.update(branch.l1, 0, Entry(0)).unwrap();
    assert_eq!(frame::release_some(&domain, 1000), Progress::Done);
    audit(&[]);
}

#[test]
fn entries_of_grants_are_left_to_the_grant_table() {
    let _machine = TestMachine::new(FRAMES);
    let (guest, granter) = (TestGuest::new(1), TestGuest::new(2));
    let (branch, granted) = (guest.pinned_branch(), granter.frame());
    frame::get_writable(granted, granter.id()).unwrap();
    let own = guest.frame();
    guest.update(branch.l1, 0, Entry::new(own, RW)).unwrap();
    let place = locate_entry(branch.l4, 0).unwrap();
    assert_eq!(place, entry_location_of(branch.l1.physical_address(), &guest.domain).unwrap());
    set_grant_entry(&guest.domain, place, granted, RW).unwrap();
    assert_eq!(type_of(own), FrameType::None, "what was mapped there before is released");
    assert_eq!(guest.update(branch.l1, 0, Entry(0)), INVALID);
    assert_eq!(guest.update(branch.l1, 0, Entry::new(own, RW)), INVALID);
    assert_eq!(set_grant_entry(&guest.domain, place, granted, RW), Err(Errno::EINVAL));
    assert_eq!(
        guest.update(branch.l1, 1, Entry::new(own, RW | Entry::GRANT)),
        INVALID,
        "nobody else marks one"
    );
    assert_eq!(clear_grant_entry(&guest.domain, place, own), Err(Errno::EINVAL));
    assert_eq!(clear_grant_entry(&guest.domain, place, granted), Ok(()));
    frame::put_writable(granted);
    assert_eq!(guest.update(branch.l1, 0, Entry::new(own, RW)), Ok(()));
    audit(&[]);
}

#[test]
fn a_grants_entry_can_be_replaced_by_one_that_moves() {
    let _machine = TestMachine::new(FRAMES);
    let (guest, granter) = (TestGuest::new(1), TestGuest::new(2));
    let (branch, granted) = (guest.pinned_branch(), granter.frame());
    frame::get(granted, granter.id()).unwrap();
    set_grant_entry(&guest.domain, (branch.l1, 0), granted, RO).unwrap();
    let own = Entry::new(guest.frame(), RW);
    guest.update(branch.l1, 1, own).unwrap();
    let (place, source) = ((branch.l1, 0), (branch.l1, 1));
    assert_eq!(
        replace_grant_entry(&guest.domain, place, granted, place),
        Err(Errno::EINVAL),
        "not by itself"
    );
    assert_eq!(
        replace_grant_entry(&guest.domain, source, granted, place),
        Err(Errno::EINVAL),
        "no grant there"
    );
    assert_eq!(replace_grant_entry(&guest.domain, place, granted, source), Ok(()));
    frame::put(granted);
    assert_eq!((read(branch.l1, 0), read(branch.l1, 1)), (own, Entry(0)));
    audit(&[]);
}

#[test]
fn entry_locations_are_in_tables_in_use() {
    let _machine = TestMachine::new(FRAMES);
    let (guest, other) = (TestGuest::new(1), TestGuest::new(2));
    let branch = guest.pinned_branch();
    let at = |frame: MachineFrame| entry_location_of(frame.physical_address() + 16, &guest.domain);
    assert_eq!(at(branch.l1), Ok((branch.l1, 2)));
    assert_eq!(at(branch.l2), Err(Errno::EINVAL));
    assert_eq!(at(guest.frame()), Err(Errno::EINVAL));
    assert_eq!(at(other.pinned_branch().l1), Err(Errno::EINVAL));
    assert_eq!(at(MachineFrame(1 << 40)), Err(Errno::EINVAL));
    assert_eq!(entry_location_of(branch.l1.physical_address() + 3, &guest.domain), Err(Errno::EINVAL));
}

#[test]
fn walks_survive_whatever_they_read() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.branch();
    assert_eq!(locate_entry(branch.l4, 0x5000), Ok((branch.l1, 5)));
    assert_eq!(locate_entry(branch.l4, 1 << 40), Err(Errno::EINVAL));
    assert_eq!(locate_entry(branch.l4, 0xffff_8000_0000_0000), Err(Errno::EINVAL));
    assert_eq!(locate_entry(branch.l4, 0x8000_0000_0000_0000), Err(Errno::EINVAL), "not canonical");
    assert_eq!(locate_entry(MachineFrame(u64::MAX >> 12), 0x5000), Err(Errno::EINVAL));
    write(branch.l2, 0, Entry(!Entry::LARGE));
    assert_eq!(locate_entry(branch.l4, 0x5000), Err(Errno::EINVAL));
}

#[test]
fn a_frame_shared_by_the_hypervisor_is_mapped_but_never_a_table() {
    let _machine = TestMachine::new(FRAMES);
    let guest = TestGuest::new(1);
    let branch = guest.pinned_branch();
    let shared = frame::share_new(&guest.domain).unwrap();
    assert_eq!(guest.pin(shared, 1), BUSY);
    assert_eq!(frame::give_up(&guest.domain, shared), Err(Errno::EINVAL));
    assert_eq!(guest.update(branch.l1, 0, Entry::new(shared, RW)), Ok(()));
    audit(&[]);
    frame::unshare(&guest.domain, shared);
    assert_eq!(frame::owner(shared), Some(guest.id()), "still mapped");
    audit(&[]);
    guest.update(branch.l1, 0, Entry(0)).unwrap();
    assert_eq!(frame::owner(shared), None);
    audit(&[]);
}
