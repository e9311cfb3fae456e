//! Guests that do anything at all, in any order, with too little budget and from several CPUs.
//!
//! After each step everything is counted anew ([`audit_with`]), and a model of the TLB is asked whether a CPU could
//! still remember a translation that would now let a guest reach what it must not. The model remembers every
//! translation that was ever in force, until the hypervisor flushes the domain.

use super::{test_guest::*, *};
use crate::{
    arch,
    frame::{self, FrameType, Progress, info},
    frame_allocator::{self, Limit},
    hypercall::HypercallError,
    machine::TestMachine,
};
use core::cell::RefCell;
use hypercall_abi::{DomainId, MachineFrame};
use proptest::prelude::*;
use std::{collections::BTreeMap, rc::Rc, thread_local, vec, vec::Vec};

const GUESTS: usize = 3;
const POOL: usize = 14;

/// A frame as an operation names it: whose, and which of its frames.
type Name = (usize, usize);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A guest writes an entry into memory of its own that it may write.
    Write {
        guest: usize,
        frame: usize,
        index: usize,
        named: Name,
        flags: u64,
    },
    /// A guest asks for an entry to be changed.
    Update {
        guest: usize,
        table: Name,
        index: usize,
        named: Name,
        flags: u64,
    },
    /// The control domain, guest 0, maps a frame of the domain under construction, guest 1.
    MapForeign {
        table: usize,
        index: usize,
        frame: usize,
        flags: u64,
    },
    Pin {
        guest: usize,
        frame: Name,
        level: u8,
    },
    Unpin {
        guest: usize,
        frame: Name,
    },
    SwitchRoot {
        guest: usize,
        root: Name,
    },
    GiveUp {
        guest: usize,
        frame: Name,
    },
    Allocate {
        guest: usize,
    },
    Hold {
        frame: Name,
        written: bool,
    },
    LetGo {
        which: usize,
    },
}

/// Mostly the frames that start as a tree and one that it maps: there is where things happen.
fn which() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..4usize, 4 => POOL - 2..POOL, 1 => 4..POOL - 2]
}

fn name() -> impl Strategy<Value = Name> {
    // Mostly frames of one's own: the others are refused soon.
    (prop_oneof![8 => Just(GUESTS), 1 => 0..GUESTS], which())
}

fn index() -> impl Strategy<Value = usize> {
    prop_oneof![8 => Just(0usize), 4 => Just(1), 1 => prop_oneof![Just(255usize), Just(256), Just(272), Just(511)]]
}

fn flags() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => Just(RW),
        4 => Just(RO),
        2 => Just(0),
        1 => Just(RW | Entry::LARGE),
        1 => Just(RO | Entry::GLOBAL),
        1 => Just(RW | Entry::GRANT),
        1 => Just(RW | Entry::CACHE_DISABLE),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let guest = 0..GUESTS;
    prop_oneof![
        6 => (guest.clone(), which(), index(), name(), flags())
            .prop_map(|(guest, frame, index, named, flags)| Step::Write { guest, frame, index, named, flags }),
        6 => (guest.clone(), name(), index(), name(), flags())
            .prop_map(|(guest, table, index, named, flags)| Step::Update { guest, table, index, named, flags }),
        2 => (Just(3usize), index(), POOL - 2..POOL, flags())
            .prop_map(|(table, index, frame, flags)| Step::MapForeign { table, index, frame, flags }),
        4 => (guest.clone(), name(), 1..=4u8).prop_map(|(guest, frame, level)| Step::Pin { guest, frame, level }),
        2 => (guest.clone(), name()).prop_map(|(guest, frame)| Step::Unpin { guest, frame }),
        2 => (guest.clone(), name()).prop_map(|(guest, root)| Step::SwitchRoot { guest, root }),
        2 => (guest.clone(), name()).prop_map(|(guest, frame)| Step::GiveUp { guest, frame }),
        1 => guest.prop_map(|guest| Step::Allocate { guest }),
        1 => (name(), any::<bool>()).prop_map(|(frame, written)| Step::Hold { frame, written }),
        1 => any::<usize>().prop_map(|which| Step::LetGo { which }),
    ]
}

/// How a translation that a CPU remembers uses a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Read,
    Written,
    Table(u8),
}

/// What CPUs may remember of each domain: uses of frames, and who owned the frame then.
#[derive(Default)]
struct Tlb {
    roots: Vec<Option<MachineFrame>>,
    remembered: Vec<BTreeMap<(MachineFrame, Use), DomainId>>,
}

thread_local! {
    static TLB: Rc<RefCell<Tlb>> = Rc::default();
}

impl Tlb {
    fn remember(&mut self, guest: usize) {
        if let Some(root) = self.roots[guest] {
            remember_table(&mut self.remembered[guest], root, 4);
        }
    }

    fn flush(&mut self, guest: usize) {
        self.remembered[guest].clear();
        self.remember(guest);
    }

    /// Nothing that is remembered may do harm: what is read still has its owner, what is written is no table, and what is
    /// walked as a table still is one.
    fn check(&self) {
        for ((frame, used), owner) in self.remembered.iter().flatten() {
            let state = info(*frame).unwrap().state();
            assert_eq!(
                state.owner(),
                *owner,
                "frame {frame} changed hands while a CPU may remember {used:?}"
            );
            match used {
                Use::Read => (),
                Use::Written => assert!(matches!(state.frame_type(), FrameType::None | FrameType::Writable)),
                Use::Table(level) => assert_eq!(state.frame_type(), FrameType::table(*level)),
            }
        }
    }
}

fn remember_table(remembered: &mut BTreeMap<(MachineFrame, Use), DomainId>, table: MachineFrame, level: u8) {
    let owner = |frame: MachineFrame| info(frame).unwrap().state().owner();
    remembered.insert((table, Use::Table(level)), owner(table));
    for index in (0..ENTRIES).filter(|index| !is_hypervisor_slot(level, *index)) {
        let entry = read(table, index);
        if !entry.is_present() || frame::is_io(entry.frame()) {
            continue;
        }
        match level {
            1 => {
                let used = if entry.has(Entry::WRITABLE) { Use::Written } else { Use::Read };
                remembered.insert((entry.frame(), used), owner(entry.frame()));
            }
            _ => remember_table(remembered, entry.frame(), level - 1),
        }
    }
}

/// The domains of one run, and what the test holds of them.
struct World {
    guests: Vec<TestGuest>,
    pools: Vec<Vec<MachineFrame>>,
    roots: Vec<Option<MachineFrame>>,
    read: Vec<MachineFrame>,
    written: Vec<MachineFrame>,
}

impl World {
    fn new() -> Self {
        let guests = vec![TestGuest::new(0), TestGuest::under_construction(1), TestGuest::new(2)];
        let pools = guests.iter().map(|guest| (0..POOL).map(|_| guest.frame()).collect()).collect();
        let world = Self { guests, pools, roots: vec![None; GUESTS], read: vec![], written: vec![] };
        for guest in 0..GUESTS {
            world.give_branch(guest);
        }
        world
    }

    /// The first four frames of each pool start as a tree, so that not all runs end where they begin.
    fn give_branch(&self, guest: usize) {
        let [l4, l3, l2, l1, ..] = self.pools[guest][..] else { return };
        write(l4, 0, Entry::new(l3, RW));
        write(l3, 0, Entry::new(l2, RW));
        write(l2, 0, Entry::new(l1, RW));
        write(l1, 0, Entry::new(self.pools[guest][POOL - 1], RW));
    }

    /// A frame by its name; `GUESTS` stands for the acting guest itself.
    fn frame(&self, guest: usize, (owner, which): Name) -> MachineFrame {
        let owner = if owner == GUESTS { guest } else { owner };
        self.pools[owner][which]
    }

    fn entry(&self, guest: usize, named: Name, flags: u64) -> Entry {
        Entry::new(self.frame(guest, named), flags)
    }

    /// Does what needs a session, over and over with a small budget if it stops half-way.
    fn in_session(
        &self,
        guest: usize,
        budget: u32,
        work: impl Fn(&mut TableSession<'_>) -> Result<(), HypercallError>,
    ) -> Result<(), HypercallError> {
        let once = || {
            let mut session = TableSession::open(&self.guests[guest].domain, budget)?;
            work(&mut session)
        };
        match once() {
            // Every third one is never continued.
            Err(HypercallError::Restart) if !budget.is_multiple_of(3) => (0..10_000)
                .map(|_| once())
                .find(|outcome| *outcome != Err(HypercallError::Restart))
                .expect("an end"),
            outcome => outcome,
        }
    }

    fn perform(&mut self, step: Step, budget: u32) {
        match step {
            Step::Write { guest, frame, index, named, flags } => {
                let frame = self.pools[guest][frame];
                let state = info(frame).unwrap().state();
                let can_write = matches!(state.frame_type(), FrameType::None | FrameType::Writable);
                if can_write && state.owner() == self.guests[guest].id() {
                    write(frame, index, self.entry(guest, named, flags));
                }
            }
            Step::Update { guest, table, index, named, flags } => {
                let (table, entry) = (self.frame(guest, table), self.entry(guest, named, flags));
                let _ = self.in_session(guest, budget, |session| {
                    session.update((table, index), entry, Write::Plain).unwrap_or(INVALID)
                });
            }
            Step::MapForeign { table, index, frame, flags } => {
                let (table, entry) = (self.pools[0][table], Entry::new(self.pools[1][frame], flags));
                let built = self.guests[1].domain.clone();
                let mut session = TableSession::open_for_pages(&self.guests[0].domain);
                session.set_mappable(Mappable::Foreign(&built));
                let _ = session.update_page((table, index), entry, Write::Plain);
            }
            Step::Pin { guest, frame, level } => {
                let frame = self.frame(guest, frame);
                let _ = self.in_session(guest, budget, |session| session.pin(frame, level));
            }
            Step::Unpin { guest, frame } => {
                let frame = self.frame(guest, frame);
                let _ = self.in_session(guest, budget, |session| session.unpin(frame));
            }
            Step::SwitchRoot { guest, root } => self.switch_root(guest, self.frame(guest, root), budget),
            Step::GiveUp { guest, frame } => {
                let _ = frame::give_up(&self.guests[guest].domain, self.frame(guest, frame));
            }
            Step::Allocate { guest } => self.replace_lost(guest),
            Step::Hold { frame, written } => self.hold(self.frame(0, frame), written),
            Step::LetGo { which } => self.let_go(which),
        }
    }

    fn switch_root(&mut self, guest: usize, root: MachineFrame, budget: u32) {
        if self.in_session(guest, budget, |session| session.get_root(root)).is_err() {
            return;
        }
        let old = self.roots[guest].replace(root);
        // Loading a root makes the CPU forget the old one.
        TLB.with(|tlb| {
            let mut tlb = tlb.borrow_mut();
            tlb.roots[guest] = Some(root);
            tlb.flush(guest);
        });
        if let Some(old) = old {
            let mut session = self.guests[guest].session();
            session.put_table(old);
        }
    }

    /// Takes a fresh frame for the first one in the pool that the guest no longer possesses.
    fn replace_lost(&mut self, guest: usize) {
        let domain = &self.guests[guest].domain;
        let is_lost = |frame: &&mut MachineFrame| {
            let state = info(**frame).unwrap().state();
            !(state.owner() == domain.id && state.is_allocated())
        };
        if let Some(slot) = self.pools[guest].iter_mut().find(is_lost)
            && let Ok(frame) = frame_allocator::allocate_for_domain(domain, 0, Limit::Any)
        {
            *slot = frame;
        }
    }

    fn hold(&mut self, frame: MachineFrame, written: bool) {
        let Some(owner) = frame::owner(frame) else { return };
        if written && frame::get_writable(frame, owner).is_ok() {
            self.written.push(frame);
        } else if frame::get(frame, owner).is_ok() {
            self.read.push(frame);
        }
    }

    fn let_go(&mut self, which: usize) {
        let count = self.read.len() + self.written.len();
        if count == 0 {
            return;
        }
        match (which % count).checked_sub(self.read.len()) {
            None => frame::put(self.read.swap_remove(which % count)),
            Some(which) => frame::put_writable(self.written.swap_remove(which)),
        }
    }

    fn audit(&self) {
        let roots: Vec<_> = self.roots.iter().copied().flatten().collect();
        audit_with(&roots, &self.read, &self.written);
    }

    /// Ends every domain and sees that all its memory comes back.
    fn end(mut self) {
        while !self.read.is_empty() || !self.written.is_empty() {
            self.let_go(0);
        }
        for (guest, root) in self.guests.iter().zip(&mut self.roots) {
            if let Some(root) = root.take() {
                guest.session().put_table(root);
            }
        }
        let domains: Vec<_> = self.guests.iter().map(|guest| guest.domain.clone()).collect();
        self.guests.into_iter().for_each(|guest| {
            guest.destroy(77);
        });
        assert!(domains.iter().all(|domain| frame::release_some(domain, 100) == Progress::Done));
        assert_eq!(frame::recount().owned, 0);
        audit(&[]);
    }
}

fn watch_flushes() -> Rc<RefCell<Tlb>> {
    let tlb = TLB.with(Rc::clone);
    *tlb.borrow_mut() = Tlb { roots: vec![None; GUESTS], remembered: vec![BTreeMap::new(); GUESTS] };
    let observed = Rc::clone(&tlb);
    arch::tlb::observe(move |domain| observed.borrow_mut().flush(usize::from(domain.0)));
    tlb
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_guests_do_the_books_balance(
        steps in prop::collection::vec((step(), prop_oneof![Just(u32::MAX), 16..1200u32]), 1..160)
    ) {
        let _machine = TestMachine::new(256);
        let tlb = watch_flushes();
        let mut world = World::new();
        for guest in 0..GUESTS {
            world.switch_root(guest, world.pools[guest][0], u32::MAX);
        }
        for (step, budget) in steps {
            world.perform(step, budget);
            world.audit();
            tlb.borrow().check();
            (0..GUESTS).for_each(|guest| tlb.borrow_mut().remember(guest));
        }
        world.end();
    }
}

/// A cheap random sequence, different for each seed.
fn random(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 20) as usize
}

/// One CPU's share of the work: a guest that works on its tables, or a peer that takes and drops grants of the frames.
fn work_on_tables(guest: &TestGuest, pool: &[MachineFrame], seed: u64) {
    let mut seed = seed;
    for _ in 0..3_000 {
        let mut pick = || pool[random(&mut seed) % pool.len()];
        let (table, frame) = (pick(), pick());
        let (what, level) = (random(&mut seed) % 8, (random(&mut seed) % 4 + 1) as u8);
        let entry = Entry::new(frame, if random(&mut seed).is_multiple_of(2) { RW } else { RO });
        let budget = 1 + random(&mut seed) as u32 % 2000;
        let Ok(mut session) = TableSession::open(&guest.domain, budget) else { continue };
        match what {
            0 | 1 => drop(session.pin(table, level)),
            2 => drop(session.unpin(table)),
            3 => drop(session.update((table, level.into()), Entry(0), Write::Plain)),
            _ => drop(session.update((table, level.into()), entry, Write::PreserveAccessedDirty)),
        }
    }
}

fn take_grants(owner: DomainId, pool: &[MachineFrame], seed: u64) {
    let mut seed = seed;
    for _ in 0..20_000 {
        let frame = pool[random(&mut seed) % pool.len()];
        if frame::get_writable(frame, owner).is_ok() {
            assert_eq!(info(frame).unwrap().state().frame_type(), FrameType::Writable);
            frame::put_writable(frame);
        }
        if frame::get(frame, owner).is_ok() {
            frame::put(frame);
        }
    }
}

#[test]
fn cpus_that_race_leave_the_books_balanced() {
    let machine = TestMachine::new(256);
    let guest = TestGuest::new(1);
    let pool: Vec<_> = (0..POOL).map(|_| guest.frame()).collect();
    let id = guest.id();
    machine.in_parallel(&[
        &|| work_on_tables(&guest, &pool, 0x1234_5678_9abc_def1),
        &|| work_on_tables(&guest, &pool, 0x0fed_cba9_8765_4321),
        &|| take_grants(id, &pool, 0x1111_2222_3333_4447),
    ]);
    drop(guest.session());
    audit(&[]);
    let domain = guest.domain.clone();
    guest.destroy(100);
    assert_eq!(frame::release_some(&domain, 100), Progress::Done);
    audit(&[]);
}
