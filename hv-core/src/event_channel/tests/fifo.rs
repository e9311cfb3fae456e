//! The FIFO form, read by a guest that goes by the rules and by guests that do not.

use super::*;
use crate::{frame, machine::TestMachine};
use hypercall_abi::{
    MachineFrame,
    event_channel::{
        EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED,
        EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, EvtchnExpandArray, EvtchnInitControl,
        EvtchnSetPriority,
    },
};

const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
const WORDS: u32 = 1024;

/// A guest with two vCPUs that reads its queues.
struct Reader {
    guest: Guest,
    /// Another domain, whose ports its own are connected to.
    peer: DomainRef,
    control: [MachineFrame; 2],
    pages: Vec<MachineFrame>,
}

impl Reader {
    /// Still with two levels.
    fn new() -> Self {
        let guest = Guest::new(1);
        crate::lifecycle::create_vcpus(guest.domain(), 2).unwrap();
        let control = [guest.inner.frame(), guest.inner.frame()];
        Self { guest, peer: domain(2), control, pages: Vec::new() }
    }

    fn begun() -> Self {
        let mut reader = Self::new();
        reader.begin();
        reader
    }

    fn begin(&mut self) {
        for (id, frame) in (0..).zip(self.control) {
            init_control(self.domain(), VcpuId(id), frame, 64).unwrap();
        }
        self.add_page();
    }

    fn domain(&self) -> &DomainRef {
        self.guest.domain()
    }

    /// A page of words, none of them masked.
    fn add_page(&mut self) {
        self.pages.push(self.guest.inner.frame());
        expand_array(self.domain(), *self.pages.last().unwrap()).unwrap();
    }

    fn word(&self, port: Port) -> &'static AtomicU32 {
        direct_map::atomic::<u32>(self.pages[(port.0 / WORDS) as usize], (port.0 % WORDS) as usize * 4)
    }

    /// A new port of the guest's, and the peer's end of it.
    fn port(&self) -> (Port, Port) {
        let (own, far) = connected(self.domain(), &self.peer);
        (own, far)
    }

    fn event(&self, far: Port) {
        send(&self.peer, far).unwrap();
    }

    fn has_upcall(&self, id: u32) -> bool {
        let info = vcpu(self.domain(), id).info().unwrap();
        info.upcall_pending().swap(0, Ordering::SeqCst) != 0
    }

    /// Takes everything from the queues of vCPU `id` as a guest does, the most urgent first.
    fn take_all(&self, id: u32) -> Vec<Port> {
        let control = self.control[id as usize];
        let ready = direct_map::atomic::<u32>(control, 64);
        let mut taken = Vec::new();
        let mut left = ready.swap(0, Ordering::SeqCst);
        while left != 0 {
            let priority = left.trailing_zeros() as usize;
            left &= left - 1;
            let head = direct_map::atomic::<u32>(control, 64 + 8 + priority * 4);
            let mut port = Port(head.load(Ordering::SeqCst));
            while port.0 != 0 {
                let word = self.word(port);
                let before = word.fetch_and(!(LINKED | BUSY | EVTCHN_FIFO_LINK_MASK), Ordering::SeqCst);
                if before & MASKED == 0 && word.fetch_and(!PENDING, Ordering::SeqCst) & PENDING != 0 {
                    taken.push(port);
                }
                port = Port(before & EVTCHN_FIFO_LINK_MASK);
            }
            left |= ready.swap(0, Ordering::SeqCst);
        }
        taken
    }
}

#[test]
fn events_come_in_order_and_each_once() {
    let _machine = machine_of(256);
    let reader = Reader::begun();
    let ends: Vec<_> = (0..5).map(|_| reader.port()).collect();
    for (_, far) in &ends {
        reader.event(*far);
        reader.event(*far);
    }
    assert!(reader.has_upcall(0) && !reader.has_upcall(1));
    let own: Vec<_> = ends.iter().map(|(own, _)| *own).collect();
    assert_eq!(reader.take_all(0), own);
    assert_eq!(reader.take_all(0), []);
    reader.event(ends[3].1);
    assert!(reader.has_upcall(0));
    assert_eq!(reader.take_all(0), [own[3]]);
    assert_eq!(reader.domain().event_channels.counters.events_received.load(Ordering::Relaxed), 6);
}

#[test]
fn an_upcall_is_asked_for_only_when_a_queue_was_empty() {
    let _machine = machine_of(256);
    let reader = Reader::begun();
    let (first, second) = (reader.port(), reader.port());
    reader.event(first.1);
    assert!(reader.has_upcall(0));
    reader.event(second.1);
    assert!(!reader.has_upcall(0));
    assert_eq!(reader.take_all(0), [first.0, second.0]);
}

#[test]
fn urgent_events_come_first() {
    let _machine = machine_of(256);
    let reader = Reader::begun();
    let (slow, usual, fast) = (reader.port(), reader.port(), reader.port());
    set_priority(reader.domain(), slow.0, 15).unwrap();
    set_priority(reader.domain(), fast.0, 0).unwrap();
    for (_, far) in [slow, usual, fast] {
        reader.event(far);
    }
    assert_eq!(reader.take_all(0), [fast.0, usual.0, slow.0]);
    assert_eq!(set_priority(reader.domain(), fast.0, 16), Err(Errno::EINVAL));
    for port in [Port(0), Port(100), Port(5000), Port(u32::MAX)] {
        assert_eq!(set_priority(reader.domain(), port, 1), Err(Errno::EINVAL));
    }
    close(reader.domain(), fast.0).unwrap();
    let again = reader.port();
    assert_eq!(again.0, fast.0);
    reader.event(usual.1);
    reader.event(again.1);
    assert_eq!(reader.take_all(0), [usual.0, again.0], "a new port has the usual priority");
}

#[test]
fn a_masked_event_waits_until_it_is_unmasked() {
    let _machine = machine_of(256);
    let reader = Reader::begun();
    let (own, far) = reader.port();
    reader.word(own).fetch_or(MASKED, Ordering::SeqCst);
    reader.event(far);
    assert!(is_pending(reader.domain(), own));
    assert!(!reader.has_upcall(0));
    unmask(reader.domain(), own).unwrap();
    assert!(reader.has_upcall(0));
    assert_eq!(reader.take_all(0), [own]);
    unmask(reader.domain(), own).unwrap();
    assert!(!reader.has_upcall(0), "nothing was pending");
}

#[test]
fn a_port_that_moves_leaves_its_old_queue_intact() {
    let _machine = machine_of(256);
    let reader = Reader::begun();
    let (mover, stayer) = (reader.port(), reader.port());
    reader.event(mover.1);
    assert_eq!(reader.take_all(0), [mover.0], "it is the last of the old queue");
    bind_vcpu(reader.domain(), mover.0, VcpuId(1)).unwrap();
    reader.event(mover.1);
    reader.event(stayer.1);
    assert_eq!(reader.take_all(1), [mover.0]);
    assert_eq!(reader.take_all(0), [stayer.0]);
}

#[test]
fn what_is_pending_is_taken_over() {
    let _machine = machine_of(256);
    let mut reader = Reader::new();
    let (before, quiet, later) = (reader.port(), reader.port(), reader.port());
    reader.event(before.1);
    init_control(reader.domain(), VcpuId(0), reader.control[0], 64).unwrap();
    reader.event(later.1);
    assert_eq!(set_priority(reader.domain(), before.0, 3), Ok(()));
    reader.add_page();
    let mut taken = reader.take_all(0);
    taken.sort();
    assert_eq!(taken, [before.0, later.0]);
    reader.event(quiet.1);
    assert_eq!(reader.take_all(0), [quiet.0]);
    let word = direct_map::atomic::<u64>(reader.domain().shared_info, offset_of!(SharedInfo, evtchn_pending));
    assert_eq!(word.load(Ordering::SeqCst), 0);
}

#[test]
fn an_event_of_a_port_that_closed_before_it_had_a_word_is_forgotten() {
    let _machine = machine_of(256);
    let mut reader = Reader::new();
    let (own, far) = reader.port();
    reader.event(far);
    init_control(reader.domain(), VcpuId(0), reader.control[0], 64).unwrap();
    close(reader.domain(), own).unwrap();
    assert_eq!(reader.port().0, own);
    reader.add_page();
    assert_eq!(reader.take_all(0), []);
}

#[test]
fn there_are_131_071_ports() {
    let _machine = TestMachine::new(2048);
    let reader = Reader::begun();
    let large = reader.domain();
    let given = core::iter::from_fn(|| alloc_unbound(large, DomainId(0)).ok()).count();
    assert_eq!(given as u32, EVTCHN_FIFO_NR_CHANNELS - 1);
    assert_eq!(alloc_unbound(large, DomainId(0)), Err(Errno::ENOSPC));
    assert_eq!(large.event_channels.used_ports(), EVTCHN_FIFO_NR_CHANNELS - 1);
    for port in [Port(70_000), Port(127), Port(131_071)] {
        close(large, port).unwrap();
    }
    for port in [Port(127), Port(70_000), Port(131_071)] {
        assert_eq!(alloc_unbound(large, DomainId(0)), Ok(port));
    }
    while !close_all(large, 1000) {}
    assert_eq!(large.event_channels.used_ports(), 0);
    assert_eq!(alloc_unbound(large, DomainId(0)), Ok(Port(1)));
}

#[test]
fn ports_beyond_4096_carry_events() {
    let _machine = machine_of(512);
    let mut reader = Reader::begun();
    (0..4200).for_each(|_| {
        alloc_unbound(reader.domain(), DomainId(0)).unwrap();
    });
    let (own, far) = reader.port();
    assert!(own.0 > 4096);
    reader.event(far);
    for _ in 0..4 {
        reader.add_page();
    }
    assert_eq!(reader.take_all(0), [own], "the event from before it had a word");
    reader.event(far);
    assert_eq!(reader.take_all(0), [own]);
}

#[test]
fn a_number_still_in_a_queue_is_not_given_out() {
    let _machine = machine_of(256);
    let mut reader = Reader::begun();
    let (own, far) = reader.port();
    reader.event(far);
    close(reader.domain(), own).unwrap();
    let next = alloc_unbound(reader.domain(), DomainId(0)).unwrap();
    assert_ne!(next, own);
    assert_eq!(reader.take_all(0), [], "the event went with the port");
    assert_eq!(alloc_unbound(reader.domain(), DomainId(0)), Ok(own));
    // A guest that says so of all numbers gets none, soon.
    reader.add_page();
    for port in 1..2 * WORDS {
        reader.word(Port(port)).store(LINKED, Ordering::SeqCst);
    }
    assert_eq!(alloc_unbound(reader.domain(), DomainId(0)), Err(Errno::ENOSPC));
}

#[test]
fn a_reset_gives_the_frames_back_and_two_levels() {
    let _machine = machine_of(256);
    let mut reader = Reader::begun();
    let held = |frame: MachineFrame| frame::info(frame).unwrap().state().typed();
    assert_eq!((held(reader.control[0]), held(reader.pages[0])), (1, 1));
    let (_, far) = reader.port();
    reader.event(far);
    reader.guest.call(event_channel_op, EVTCHNOP_RESET, &mut [EvtchnReset { dom: DomainId::SELF }]).unwrap();
    assert_eq!((held(reader.control[0]), held(reader.pages[0])), (0, 0));
    let (own, far) = reader.port();
    reader.event(far);
    assert_eq!(take_event(vcpu(reader.domain(), 0), own), (true, true));
    assert_eq!(expand_array(reader.domain(), reader.pages[0]), Err(Errno::EOPNOTSUPP));
    reader.pages.clear();
    reader.begin();
    reader.event(far);
    assert_eq!(reader.take_all(0).len(), 1, "and it begins anew");
    destroy(&[reader.domain().clone()]);
    assert_eq!(held(reader.control[0]), 0);
}

#[test]
fn only_frames_the_guest_may_write_will_do() {
    let _machine = machine_of(256);
    let reader = Reader::new();
    let (guest, table) = (reader.domain(), reader.guest.branch.l1);
    let other = Guest::new(5);
    let foreign = other.inner.frame();
    let bad = [
        table,
        reader.guest.branch.l4,
        foreign,
        MachineFrame(0),
        MachineFrame(1 << 40),
        MachineFrame(u64::MAX),
    ];
    for frame in bad {
        assert_eq!(init_control(guest, VcpuId(0), frame, 0), Err(Errno::EINVAL), "{frame}");
    }
    let good = reader.control[0];
    for offset in [4, 4, 4090, 4096 - 64, 4096, 1 << 31, 0xffff_fff8] {
        assert_eq!(init_control(guest, VcpuId(0), good, offset), Err(Errno::EINVAL), "{offset}");
    }
    assert_eq!(init_control(guest, VcpuId(2), good, 0), Err(Errno::ENOENT));
    assert_eq!(init_control(guest, VcpuId(u32::MAX), good, 0), Err(Errno::ENOENT));
    assert_eq!(expand_array(guest, good), Err(Errno::EOPNOTSUPP));
    assert_eq!(set_priority(guest, Port(1), 1), Err(Errno::ENOSYS));
    assert!(guest.event_channels.fifo().is_none(), "nothing has begun");
    init_control(guest, VcpuId(0), good, 4096 - 72).unwrap();
    assert_eq!(init_control(guest, VcpuId(0), good, 0), Err(Errno::EINVAL), "it has one");
    for frame in bad {
        assert_eq!(expand_array(guest, frame), Err(Errno::EINVAL), "{frame}");
    }
    for _ in 0..128 {
        expand_array(guest, good).unwrap();
    }
    assert_eq!(expand_array(guest, good), Err(Errno::ENOSPC));
    assert!(reader.guest.inner.pin(good, 1).is_err(), "a frame of words becomes no table");
}

#[test]
fn the_hypercalls_say_how_long_a_link_is() {
    let _machine = machine_of(256);
    let reader = Reader::new();
    let guest = &reader.guest;
    let mut begin = [EvtchnInitControl { control_gfn: reader.control[0].0, offset: 8, ..Default::default() }];
    assert_eq!(guest.call(event_channel_op, EVTCHNOP_INIT_CONTROL, &mut begin), Ok(0));
    assert_eq!(begin[0].link_bits, 17);
    let mut words = [EvtchnExpandArray { array_gfn: reader.control[1].0 }];
    assert_eq!(guest.call(event_channel_op, EVTCHNOP_EXPAND_ARRAY, &mut words), Ok(0));
    let (own, _) = reader.port();
    let mut priority = [EvtchnSetPriority { port: own, priority: 2 }];
    assert_eq!(guest.call(event_channel_op, EVTCHNOP_SET_PRIORITY, &mut priority), Ok(0));
}

/// What a guest that does not go by the rules may write into words and control blocks.
fn any_word() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0..40u32).prop_map(|link| LINKED | link),
        (0..40u32).prop_map(|link| LINKED | BUSY | PENDING | link),
        Just(0),
        Just(u32::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the guest writes where and when, only its own frames change, and once it goes by the rules again
    /// its events come.
    #[test]
    fn nonsense_in_words_hurts_nobody_else(
        steps in prop::collection::vec((0..12u32, any_word(), 0..4u8), 1..200)
    ) {
        let _machine = machine_of(256);
        let reader = Reader::begun();
        let ends: Vec<_> = (0..10).map(|_| reader.port()).collect();
        for (index, value, what) in steps {
            let (own, far) = ends[index as usize % ends.len()];
            match what {
                0 => reader.word(Port(index)).store(value, Ordering::SeqCst),
                1 => reader.event(far),
                2 => unmask(reader.domain(), own).unwrap(),
                _ => {
                    let offset = 64 + (value % 18) as usize * 4;
                    direct_map::atomic::<u32>(reader.control[0], offset).store(value, Ordering::SeqCst);
                }
            }
        }
        for port in 0..WORDS {
            reader.word(Port(port)).store(0, Ordering::SeqCst);
        }
        direct_map::atomic::<u32>(reader.control[0], 64).store(0, Ordering::SeqCst);
        ends.iter().for_each(|(_, far)| reader.event(*far));
        let mut taken = reader.take_all(0);
        taken.sort();
        let own: Vec<_> = ends.iter().map(|(own, _)| *own).collect();
        prop_assert_eq!(taken, own);
    }

    /// Events, masks, moves and closings in any order: no event of an open port is lost, and none comes from nowhere.
    #[test]
    fn every_event_comes(steps in prop::collection::vec((0..6usize, 0..7u8), 1..200)) {
        let _machine = machine_of(256);
        let reader = Reader::begun();
        let ends: Vec<_> = (0..6).map(|_| reader.port()).collect();
        let mut expected = [false; 6];
        let take = |expected: &mut [bool; 6]| {
            for port in reader.take_all(0).into_iter().chain(reader.take_all(1)) {
                let index = ends.iter().position(|(own, _)| *own == port).unwrap();
                assert!(core::mem::take(&mut expected[index]), "port {port} came without an event");
            }
        };
        for (index, what) in steps {
            let (own, far) = ends[index];
            match what {
                0 | 1 => {
                    reader.event(far);
                    expected[index] = true;
                }
                2 => drop(reader.word(own).fetch_or(MASKED, Ordering::SeqCst)),
                3 => unmask(reader.domain(), own).unwrap(),
                4 => bind_vcpu(reader.domain(), own, VcpuId(index as u32 % 2)).unwrap(),
                5 => set_priority(reader.domain(), own, index as u32 * 2).unwrap(),
                _ => take(&mut expected),
            }
        }
        ends.iter().for_each(|(own, _)| unmask(reader.domain(), *own).unwrap());
        take(&mut expected);
        prop_assert_eq!(expected, [false; 6]);
    }
}
