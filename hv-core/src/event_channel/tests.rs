//! Event channels from outside: two domains, their shared pages, and everything that can go wrong.

mod fifo;

use super::*;
use crate::{
    direct_map,
    domain::Domain,
    frame_allocator,
    hypercall::HypercallError,
    test_support::{ARGUMENTS, Guest, begin_to_die, destroy, domain, domain_with, errno, machine_of, vcpu},
    vcpu::{Vcpu, not_runnable},
};
use core::mem::offset_of;
use hypercall_abi::{
    event_channel::{
        EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_EXPAND_ARRAY, EVTCHNOP_INIT_CONTROL,
        EVTCHNOP_RESET, EVTCHNOP_SEND, EVTCHNOP_SET_PRIORITY, EVTCHNOP_STATUS, EVTCHNSTAT_CLOSED,
        EVTCHNSTAT_INTERDOMAIN, EVTCHNSTAT_IPI, EVTCHNSTAT_UNBOUND, EVTCHNSTAT_VIRQ, EvtchnAllocUnbound,
        EvtchnBindInterdomain, EvtchnReset, EvtchnSend, EvtchnStatus,
    },
    xen::{NR_VIRQS, SharedInfo, VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_DOM_EXC, VIRQ_TIMER},
};
use proptest::prelude::*;

/// Both ends of a new channel: the port of `first`, which waited, and the port of `second`, which connected.
fn connected(first: &DomainRef, second: &DomainRef) -> (Port, Port) {
    let waiting = alloc_unbound(first, second.id).unwrap();
    (waiting, bind_interdomain(second, first, waiting).unwrap())
}

fn set_mask(domain: &Domain, port: Port, is_masked: bool) {
    let offset = offset_of!(SharedInfo, evtchn_mask) + port.0 as usize / 64 * 8;
    let word = direct_map::atomic::<u64>(domain.shared_info, offset);
    let bit = 1 << (port.0 % 64);
    if is_masked {
        word.fetch_or(bit, Ordering::SeqCst)
    } else {
        word.fetch_and(!bit, Ordering::SeqCst)
    };
}

/// Takes the event at `port` as a guest does: selector first, then the bit. Says whether it had been announced to
/// `vcpu` and pending.
fn take_event(vcpu: &Vcpu, port: Port) -> (bool, bool) {
    let info = vcpu.info().unwrap();
    let upcall = info.upcall_pending().swap(0, Ordering::SeqCst) != 0;
    let selected = info.pending_selector().swap(0, Ordering::SeqCst) & 1 << (port.0 / 64) != 0;
    let was_pending = is_pending(vcpu.domain(), port);
    two_level::clear_pending(vcpu.domain(), port);
    (upcall && selected, was_pending)
}

fn state_of(domain: &Domain, port: Port) -> u32 {
    status(domain, port).unwrap().status
}

#[test]
fn a_domain_without_channels_has_no_frame_for_them_and_128_ports_take_one() {
    let _machine = machine_of(64);
    let guest = domain(1);
    let before = frame_allocator::free_frames();
    assert_eq!(guest.event_channels.used_ports(), 0);
    for number in 1..128 {
        assert_eq!(alloc_unbound(&guest, DomainId(0)), Ok(Port(number)));
    }
    assert_eq!(frame_allocator::free_frames(), before - 1);
    alloc_unbound(&guest, DomainId(0)).unwrap();
    assert_eq!(frame_allocator::free_frames(), before - 2);
}

#[test]
fn the_lowest_free_port_is_given_out_and_never_port_0() {
    let _machine = machine_of(64);
    let guest = domain(1);
    let ports: Vec<_> = (0..200).map(|_| alloc_unbound(&guest, DomainId(0)).unwrap()).collect();
    assert_eq!(ports, (1..=200).map(Port).collect::<Vec<_>>());
    close(&guest, Port(64)).unwrap();
    close(&guest, Port(7)).unwrap();
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Ok(Port(7)));
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Ok(Port(64)));
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Ok(Port(201)));
    assert_eq!(close(&guest, Port(0)), Err(Errno::EINVAL));
}

#[test]
fn a_domain_has_no_more_ports_than_it_may() {
    let _machine = machine_of(256);
    let small = domain_with(1, 1, 3);
    for number in 1..=3 {
        assert_eq!(alloc_unbound(&small, DomainId(0)), Ok(Port(number)));
    }
    assert_eq!(alloc_unbound(&small, DomainId(0)), Err(Errno::ENOSPC));
    let large = domain_with(2, 1, u32::MAX);
    let given = core::iter::from_fn(|| alloc_unbound(&large, DomainId(0)).ok()).count();
    assert_eq!(given, 4095);
    assert_eq!(alloc_unbound(&large, DomainId(0)), Err(Errno::ENOSPC));
    close(&large, Port(4095)).unwrap();
    assert_eq!(alloc_unbound(&large, DomainId(0)), Ok(Port(4095)));
}

#[test]
fn without_memory_no_port_opens_and_none_is_lost() {
    let _machine = machine_of(64);
    let guest = domain(1);
    let mut taken = Vec::new();
    while let Some(frame) = frame_allocator::allocate_for_hypervisor(0) {
        taken.push(frame);
    }
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Err(Errno::ENOMEM));
    assert_eq!(guest.event_channels.used_ports(), 0);
    frame_allocator::free_from_hypervisor(taken.pop().unwrap(), 0);
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Ok(Port(1)));
}

#[test]
fn a_dying_domain_opens_no_ports() {
    let _machine = machine_of(64);
    let (guest, other) = (domain(1), domain(2));
    let waiting = alloc_unbound(&other, guest.id).unwrap();
    begin_to_die(&guest);
    assert!(close_all(&guest, 1));
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Err(Errno::EINVAL));
    assert_eq!(bind_interdomain(&guest, &other, waiting), Err(Errno::EINVAL));
    assert_eq!(state_of(&other, waiting), EVTCHNSTAT_UNBOUND);
}

#[test]
fn a_connection_is_pending_at_once_on_the_side_that_made_it() {
    let _machine = machine_of(64);
    let (first, second) = (domain(1), domain(2));
    let (waiting, connected) = connected(&first, &second);
    assert!(is_pending(&second, connected));
    assert!(!is_pending(&first, waiting));
}

#[test]
fn an_event_sets_bit_selector_and_upcall_and_wakes_the_vcpu() {
    let _machine = machine_of(64);
    let (first, second) = (domain(1), domain(2));
    let (waiting, connected) = connected(&first, &second);
    vcpu(&first, 0).paused.fetch_or(not_runnable::BLOCKED, Ordering::SeqCst);
    send(&second, connected).unwrap();
    assert_eq!(vcpu(&first, 0).paused.load(Ordering::SeqCst) & not_runnable::BLOCKED, 0);
    assert_eq!(take_event(vcpu(&first, 0), waiting), (true, true));
    send(&second, connected).unwrap();
    send(&second, connected).unwrap();
    assert_eq!(take_event(vcpu(&first, 0), waiting), (true, true));
    assert_eq!(take_event(vcpu(&first, 0), waiting), (false, false));
    assert_eq!(second.event_channels.counters.events_sent.load(Ordering::Relaxed), 3);
    assert_eq!(first.event_channels.counters.events_received.load(Ordering::Relaxed), 2);
}

#[test]
fn an_event_that_is_pending_already_wakes_nobody() {
    let _machine = machine_of(64);
    let (first, second) = (domain(1), domain(2));
    let (_, connected) = connected(&first, &second);
    send(&second, connected).unwrap();
    vcpu(&first, 0).paused.fetch_or(not_runnable::BLOCKED, Ordering::SeqCst);
    send(&second, connected).unwrap();
    assert_ne!(vcpu(&first, 0).paused.load(Ordering::SeqCst) & not_runnable::BLOCKED, 0);
}

#[test]
fn a_masked_event_waits_for_unmask() {
    let _machine = machine_of(64);
    let (first, second) = (domain(1), domain(2));
    let (waiting, connected) = connected(&first, &second);
    set_mask(&first, waiting, true);
    send(&second, connected).unwrap();
    let info = vcpu(&first, 0).info().unwrap();
    assert_eq!(info.upcall_pending().load(Ordering::SeqCst), 0);
    assert!(is_pending(&first, waiting));
    unmask(&first, waiting).unwrap();
    assert_eq!(take_event(vcpu(&first, 0), waiting), (true, true));
    unmask(&first, waiting).unwrap();
    assert_eq!(info.upcall_pending().load(Ordering::SeqCst), 0, "nothing was masked or pending");
    assert_eq!(unmask(&first, Port(4000)), Err(Errno::EINVAL));
    assert_eq!(unmask(&first, Port(u32::MAX)), Err(Errno::EINVAL));
}

#[test]
fn only_the_invited_domain_connects_and_only_once() {
    let _machine = machine_of(64);
    let (first, second, third) = (domain(1), domain(2), domain(3));
    let waiting = alloc_unbound(&first, second.id).unwrap();
    assert_eq!(bind_interdomain(&third, &first, waiting), Err(Errno::EINVAL));
    assert_eq!(third.event_channels.used_ports(), 0);
    assert!(bind_interdomain(&second, &first, waiting).is_ok());
    assert_eq!(bind_interdomain(&second, &first, waiting), Err(Errno::EINVAL));
    for wrong in [0, 2, 127, 128, 4095, 4096, u32::MAX] {
        assert_eq!(bind_interdomain(&second, &first, Port(wrong)), Err(Errno::EINVAL), "port {wrong}");
    }
    assert_eq!(second.event_channels.used_ports(), 1);
}

#[test]
fn a_domain_can_connect_to_itself_but_no_port_to_itself() {
    let _machine = machine_of(64);
    let guest = domain(1);
    let (first, second) = connected(&guest, &guest);
    send(&guest, first).unwrap();
    assert!(is_pending(&guest, second));
    let next_free = Port(second.0 + 1);
    assert_eq!(bind_interdomain(&guest, &guest, next_free), Err(Errno::EINVAL));
    close(&guest, first).unwrap();
    assert_eq!(state_of(&guest, second), EVTCHNSTAT_UNBOUND);
    close(&guest, second).unwrap();
}

#[test]
fn closing_one_end_leaves_the_other_waiting() {
    let _machine = machine_of(64);
    let (first, second) = (domain(1), domain(2));
    let (waiting, connected) = connected(&first, &second);
    close(&second, connected).unwrap();
    assert_eq!(close(&second, connected), Err(Errno::EINVAL));
    assert!(!is_pending(&second, connected), "a closed port is not pending");
    let left = status(&first, waiting).unwrap();
    assert_eq!((left.status, left.u.dom()), (EVTCHNSTAT_UNBOUND, second.id));
    assert_eq!(send(&first, waiting), Ok(()), "the event is lost without an error");
    assert_eq!(send(&second, connected), Err(Errno::EINVAL));
    let again = bind_interdomain(&second, &first, waiting).unwrap();
    close(&first, waiting).unwrap();
    assert_eq!(state_of(&second, again), EVTCHNSTAT_UNBOUND);
    close(&second, again).unwrap();
}

#[test]
fn what_cannot_be_signalled_is_refused() {
    let _machine = machine_of(64);
    let guest = domain(1);
    let virq = bind_virq(&guest, VIRQ_TIMER, VcpuId(0)).unwrap();
    for port in [Port(0), virq, Port(100), Port(4095), Port(4096), Port(u32::MAX)] {
        assert_eq!(send(&guest, port), Err(Errno::EINVAL), "port {port}");
    }
}

#[test]
fn a_virtual_interrupt_has_one_port_a_vcpu() {
    let _machine = machine_of(64);
    let guest = domain(1);
    let first = bind_virq(&guest, VIRQ_TIMER, VcpuId(0)).unwrap();
    let second = bind_virq(&guest, VIRQ_TIMER, VcpuId(1)).unwrap();
    assert_eq!(bind_virq(&guest, VIRQ_TIMER, VcpuId(1)), Err(Errno::EEXIST));
    assert_eq!(bind_virq(&guest, VIRQ_CONSOLE, VcpuId(1)), Err(Errno::EINVAL), "global ones are vCPU 0's");
    assert_eq!(bind_virq(&guest, NR_VIRQS, VcpuId(0)), Err(Errno::EINVAL));
    assert_eq!(bind_virq(&guest, u32::MAX, VcpuId(0)), Err(Errno::EINVAL));
    assert_eq!(bind_virq(&guest, VIRQ_DEBUG, VcpuId(2)), Err(Errno::ENOENT));
    notify_virq(vcpu(&guest, 1), VIRQ_TIMER);
    assert!(!is_pending(&guest, first));
    assert_eq!(take_event(vcpu(&guest, 1), second), (true, true));
    close(&guest, second).unwrap();
    notify_virq(vcpu(&guest, 1), VIRQ_TIMER);
    assert!(!is_pending(&guest, second));
    assert_eq!(bind_virq(&guest, VIRQ_TIMER, VcpuId(1)), Ok(second));
}

#[test]
fn a_virtual_interrupt_does_not_reach_a_port_that_became_another_thing() {
    let _machine = machine_of(64);
    let guest = domain(1);
    let port = bind_virq(&guest, VIRQ_TIMER, VcpuId(0)).unwrap();
    close(&guest, port).unwrap();
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Ok(port));
    // A source that learnt the number before the port was closed.
    vcpu(&guest, 0).virq_ports[VIRQ_TIMER as usize].store(port.0, Ordering::SeqCst);
    notify_virq(vcpu(&guest, 0), VIRQ_TIMER);
    notify_physical(&guest, port);
    assert!(!is_pending(&guest, port));
}

#[test]
fn global_interrupts_go_to_the_control_domain() {
    let _machine = machine_of(64);
    notify_global_virq(VIRQ_DOM_EXC);
    let (control, guest) = (domain(0), domain(1));
    let port = bind_virq(&control, VIRQ_DOM_EXC, VcpuId(0)).unwrap();
    let other = bind_virq(&guest, VIRQ_DOM_EXC, VcpuId(0)).unwrap();
    bind_vcpu(&control, port, VcpuId(1)).unwrap();
    notify_global_virq(VIRQ_DOM_EXC);
    assert_eq!(take_event(vcpu(&control, 1), port), (true, true));
    assert!(!is_pending(&guest, other));
}

#[test]
fn ports_between_vcpus_stay_with_their_vcpu() {
    let _machine = machine_of(64);
    let guest = domain(1);
    assert_eq!(bind_ipi(&guest, VcpuId(2)), Err(Errno::ENOENT));
    let port = bind_ipi(&guest, VcpuId(1)).unwrap();
    send(&guest, port).unwrap();
    assert_eq!(take_event(vcpu(&guest, 0), port), (false, true));
    assert_eq!(bind_vcpu(&guest, port, VcpuId(0)), Err(Errno::EINVAL));
    let timer = bind_virq(&guest, VIRQ_TIMER, VcpuId(0)).unwrap();
    assert_eq!(bind_vcpu(&guest, timer, VcpuId(1)), Err(Errno::EINVAL));
    let waiting = alloc_unbound(&guest, DomainId(0)).unwrap();
    assert_eq!(bind_vcpu(&guest, waiting, VcpuId(1)), Ok(()));
    assert_eq!(status(&guest, waiting).unwrap().vcpu, VcpuId(1));
    assert_eq!(bind_vcpu(&guest, waiting, VcpuId(9)), Err(Errno::ENOENT));
    assert_eq!(bind_vcpu(&guest, Port(99), VcpuId(0)), Err(Errno::EINVAL));
    close(&guest, waiting).unwrap();
    let reused = alloc_unbound(&guest, DomainId(0)).unwrap();
    assert_eq!((reused, status(&guest, reused).unwrap().vcpu), (waiting, VcpuId(0)));
}

#[test]
fn a_physical_interrupt_that_is_refused_leaves_no_port() {
    let _machine = machine_of(64);
    let guest = domain(1);
    assert_eq!(bind_pirq(&guest, PhysicalIrq(4), 0), Err(Errno::EPERM));
    assert_eq!(guest.event_channels.used_ports(), 0);
    assert_eq!(state_of(&guest, Port(1)), EVTCHNSTAT_CLOSED);
    assert_eq!(alloc_unbound(&guest, DomainId(0)), Ok(Port(1)));
}

#[test]
fn status_tells_each_kind() {
    let _machine = machine_of(64);
    let (first, second) = (domain(1), domain(2));
    let (waiting, connected) = connected(&first, &second);
    let seen = status(&first, waiting).unwrap();
    assert_eq!((seen.status, seen.u.dom(), seen.u.port), (EVTCHNSTAT_INTERDOMAIN, second.id, connected));
    let timer = bind_virq(&first, VIRQ_TIMER, VcpuId(1)).unwrap();
    let seen = status(&first, timer).unwrap();
    assert_eq!((seen.status, seen.u.irq(), seen.vcpu), (EVTCHNSTAT_VIRQ, VIRQ_TIMER, VcpuId(1)));
    let own = bind_ipi(&first, VcpuId(1)).unwrap();
    assert_eq!(state_of(&first, own), EVTCHNSTAT_IPI);
    assert_eq!(state_of(&first, Port(0)), EVTCHNSTAT_CLOSED);
    assert_eq!(status(&first, Port(4096)).err(), Some(Errno::EINVAL));
}

#[test]
fn a_poller_is_woken_by_its_port_even_if_masked_and_by_no_other() {
    let _machine = machine_of(64);
    let (first, second) = (domain(1), domain(2));
    let (awaited, awaited_far) = connected(&first, &second);
    let (other, other_far) = connected(&first, &second);
    set_mask(&first, awaited, true);
    set_mask(&first, other, true);
    let poller = vcpu(&first, 1);
    let sleeps = || poller.paused.load(Ordering::SeqCst) & not_runnable::POLLING != 0;
    poller.paused.fetch_or(not_runnable::POLLING, Ordering::SeqCst);
    start_polling(poller, Some(awaited));
    send(&second, other_far).unwrap();
    assert!(sleeps());
    send(&second, awaited_far).unwrap();
    assert!(!sleeps());

    two_level::clear_pending(&first, other);
    poller.paused.fetch_or(not_runnable::POLLING, Ordering::SeqCst);
    start_polling(poller, None);
    stop_polling(poller);
    send(&second, other_far).unwrap();
    assert!(sleeps(), "it had stopped polling");
    two_level::clear_pending(&first, other);
    start_polling(poller, None);
    send(&second, other_far).unwrap();
    assert!(!sleeps());
    assert!(!is_pending(&first, Port(4096)) && !is_pending(&first, Port(u32::MAX)));
}

#[test]
fn a_moved_vcpu_info_hears_of_everything() {
    let _machine = machine_of(64);
    let guest = domain(1);
    raise_all(vcpu(&guest, 1));
    let info = vcpu(&guest, 1).info().unwrap();
    assert_eq!(info.pending_selector().load(Ordering::SeqCst), u64::MAX);
    assert_eq!(info.upcall_pending().load(Ordering::SeqCst), 1);
}

#[test]
fn a_dying_domain_closes_in_pieces_and_lets_its_peer_go() {
    let _machine = machine_of(128);
    let _bystander = domain(9);
    let free = frame_allocator::free_frames() + crate::frame::recount().owned;
    {
        let (first, second) = (domain(1), domain(2));
        let ends: Vec<_> = (0..150).map(|_| connected(&first, &second)).collect();
        begin_to_die(&first);
        let mut pieces = 1;
        while !close_all(&first, 16) {
            pieces += 1;
        }
        assert_eq!(pieces, 10);
        assert_eq!(first.event_channels.used_ports(), 0);
        assert!(ends.iter().all(|(_, far)| state_of(&second, *far) == EVTCHNSTAT_UNBOUND));
        destroy(&[first, second]);
    }
    // What the domains took of the hypervisor's frames is back: no channel keeps a domain alive.
    assert_eq!(frame_allocator::free_frames() + crate::frame::recount().owned, free);
}

#[test]
fn the_hypercall_refuses_what_it_should() {
    let _machine = machine_of(128);
    let (control, guest) = (Guest::new(0), Guest::new(1));
    for command in [14, 15, u32::MAX] {
        assert_eq!(errno(guest.call(event_channel_op, command, &mut [0u64; 3])), Errno::ENOSYS);
    }
    for bad_address in [0xffff_8000_0000_0000, 0, u64::MAX, 3 * 4096 - 1] {
        let (result, ..) = guest.execute(event_channel_op, [u64::from(EVTCHNOP_SEND), bad_address, 0]);
        assert_eq!(errno(result), Errno::EFAULT, "{bad_address:#x}");
    }
    let foreign = EvtchnAllocUnbound { dom: DomainId(0), remote_dom: DomainId::SELF, port: Port(0) };
    assert_eq!(errno(guest.call(event_channel_op, EVTCHNOP_ALLOC_UNBOUND, &mut [foreign])), Errno::EPERM);
    let missing = EvtchnAllocUnbound { dom: DomainId(77), ..foreign };
    assert_eq!(errno(control.call(event_channel_op, EVTCHNOP_ALLOC_UNBOUND, &mut [missing])), Errno::ESRCH);
    let mut reset = [EvtchnReset { dom: DomainId(1) }];
    assert_eq!(guest.call(event_channel_op, EVTCHNOP_RESET, &mut reset), Ok(0));
    guest.domain().pause_count.store(0, Ordering::SeqCst);
    let result = control.call(event_channel_op, EVTCHNOP_RESET, &mut reset);
    assert_eq!(errno(result), Errno::EINVAL, "the domain is not paused");
}

#[test]
fn a_connection_is_made_and_used_by_hypercall() {
    let _machine = machine_of(128);
    let (control, guest) = (Guest::new(0), Guest::new(1));
    let mut open = [EvtchnAllocUnbound { dom: DomainId(1), remote_dom: DomainId::SELF, port: Port(0) }];
    control.call(event_channel_op, EVTCHNOP_ALLOC_UNBOUND, &mut open).unwrap();
    let port = open[0].port;
    let mut status = [EvtchnStatus { dom: DomainId::SELF, port, ..EvtchnStatus::default() }];
    guest.call(event_channel_op, EVTCHNOP_STATUS, &mut status).unwrap();
    assert_eq!((status[0].status, status[0].u.dom()), (EVTCHNSTAT_UNBOUND, DomainId(0)));
    let mut bind = [EvtchnBindInterdomain {
        remote_dom: DomainId(1),
        remote_port: port,
        ..EvtchnBindInterdomain::default()
    }];
    control.call(event_channel_op, EVTCHNOP_BIND_INTERDOMAIN, &mut bind).unwrap();
    control.call(event_channel_op, EVTCHNOP_SEND, &mut [EvtchnSend { port: bind[0].local_port }]).unwrap();
    assert!(is_pending(guest.domain(), port));
}

#[test]
fn a_reset_closes_everything_in_pieces() {
    let _machine = machine_of(128);
    let guest = Guest::new(1);
    for _ in 0..100 {
        alloc_unbound(guest.domain(), DomainId(0)).unwrap();
    }
    guest.write_arguments(&[EvtchnReset { dom: DomainId::SELF }]);
    let arguments = [u64::from(EVTCHNOP_RESET), ARGUMENTS, 0];
    assert_eq!(guest.execute(event_channel_op, arguments).0, Err(HypercallError::Restart));
    assert_eq!(guest.domain().event_channels.used_ports(), 36);
    assert_eq!(guest.execute(event_channel_op, arguments).0, Ok(0));
    assert_eq!(guest.domain().event_channels.used_ports(), 0);
}

/// Every connected channel's peer points back, and taken ports are those that are something.
fn check(domains: &[DomainRef]) {
    for domain in domains {
        for port in (1..200).map(Port) {
            let Ok(seen) = status(domain, port) else { continue };
            let channels = &domain.event_channels;
            let is_taken = channels.ports.lock().first_taken(&channels.directory, port) == Some(port);
            assert_eq!(is_taken, seen.status != EVTCHNSTAT_CLOSED);
            if seen.status == EVTCHNSTAT_INTERDOMAIN {
                let peer = domains.iter().find(|peer| peer.id == seen.u.dom()).unwrap();
                let back = status(peer, seen.u.port).unwrap();
                assert_eq!(
                    (back.status, back.u.dom(), back.u.port),
                    (EVTCHNSTAT_INTERDOMAIN, domain.id, port)
                );
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Alloc(usize, usize),
    Bind(usize, usize, u32),
    Ipi(usize),
    Virq(usize, u32),
    Send(usize, u32),
    Close(usize, u32),
    Unmask(usize, u32),
    Move(usize, u32, u32),
}

fn any_action() -> impl Strategy<Value = Action> {
    let (who, port) = (0..3usize, 0..20u32);
    prop_oneof![
        (who.clone(), who.clone()).prop_map(|(a, b)| Action::Alloc(a, b)),
        (who.clone(), who.clone(), port.clone()).prop_map(|(a, b, p)| Action::Bind(a, b, p)),
        who.clone().prop_map(Action::Ipi),
        (who.clone(), 0..NR_VIRQS).prop_map(|(a, v)| Action::Virq(a, v)),
        (who.clone(), port.clone()).prop_map(|(a, p)| Action::Send(a, p)),
        (who.clone(), port.clone()).prop_map(|(a, p)| Action::Close(a, p)),
        (who.clone(), port.clone()).prop_map(|(a, p)| Action::Unmask(a, p)),
        (who, port, 0..3u32).prop_map(|(a, p, v)| Action::Move(a, p, v)),
    ]
}

fn act(domains: &[DomainRef], action: &Action) {
    let _ = match *action {
        Action::Alloc(owner, remote) => alloc_unbound(&domains[owner], domains[remote].id).map(|_| ()),
        Action::Bind(owner, remote, port) => {
            bind_interdomain(&domains[owner], &domains[remote], Port(port)).map(|_| ())
        }
        Action::Ipi(owner) => bind_ipi(&domains[owner], VcpuId(1)).map(|_| ()),
        Action::Virq(owner, virq) => bind_virq(&domains[owner], virq, VcpuId(0)).map(|_| ()),
        Action::Send(owner, port) => send(&domains[owner], Port(port)),
        Action::Close(owner, port) => close(&domains[owner], Port(port)),
        Action::Unmask(owner, port) => unmask(&domains[owner], Port(port)),
        Action::Move(owner, port, vcpu) => bind_vcpu(&domains[owner], Port(port), VcpuId(vcpu)),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_sequence_keeps_both_ends_in_step(actions in prop::collection::vec(any_action(), 1..120)) {
        let _machine = machine_of(128);
        let _bystander = domain(9);
        let free = frame_allocator::free_frames() + crate::frame::recount().owned;
        {
            let domains = [domain(1), domain(2), domain(3)];
            for action in &actions {
                act(&domains, action);
            }
            check(&domains);
            destroy(&domains);
            prop_assert!(domains.iter().all(|domain| domain.event_channels.used_ports() == 0));
        }
        prop_assert_eq!(frame_allocator::free_frames() + crate::frame::recount().owned, free);
    }
}

/// One thread connects and closes, the other closes the far ends and sends on whatever there is: nothing hangs,
/// and both sides agree in the end.
#[test]
fn two_cpus_connect_close_and_send_at_once() {
    let machine = machine_of(128);
    let domains = [domain(1), domain(2)];
    let [first, second] = &domains;
    let connect = || {
        for _ in 0..20_000 {
            let Ok(port) = alloc_unbound(first, second.id) else { continue };
            let _ = bind_interdomain(second, first, port);
            let _ = send(first, port);
            let _ = close(first, port);
        }
    };
    let disturb = || {
        for round in 0..40_000u32 {
            let port = Port(round % 8);
            let _ = send(second, port);
            let _ = bind_interdomain(second, first, port);
            if round % 3 == 0 {
                let _ = close(second, port);
            }
            let _ = bind_vcpu(second, port, VcpuId(round % 2));
        }
    };
    machine.in_parallel(&[&connect, &disturb]);
    check(&domains);
    destroy(&domains);
    assert_eq!((first.event_channels.used_ports(), second.event_channels.used_ports()), (0, 0));
}
