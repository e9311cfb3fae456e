#![expect(unsafe_code, reason = "destroys what this kernel stands on")]
//! Ways for a guest to end badly, or not to end at all. Each must hurt this domain alone.
//!
//! One is chosen by `mode=<name>` on the command line; [`ENDINGS`] has their names. It is announced by
//! `hostile: ending by <name>`. Those that end the domain print `FAIL` if they come back; those that go on for ever
//! are for others to watch, and end when the domain is destroyed.

use alloc::vec::Vec;
use core::arch::{asm, global_asm};
use core::time::Duration;

use hypercall_abi::DomainId;
use hypercall_abi::arch_x86::{
    FLAT_KERNEL_CS, FLAT_KERNEL_SS, TrapInfo, VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext, xen_pfn_to_cr3,
};
use hypercall_abi::callback::*;
use hypercall_abi::event_channel::{EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_SEND, EvtchnAllocUnbound, EvtchnSend};
use hypercall_abi::memory::XENMEM_POPULATE_PHYSMAP;
use hypercall_abi::sched::*;
use hypercall_abi::vcpu::{VCPUOP_DOWN, VCPUOP_INITIALISE, VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo};
use hypercall_abi::xen::*;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::sleep;
use pv_runtime::memory::{Page, SharedMemory};
use pv_runtime::println;

use crate::attacker::{Attacker, address_of};
use crate::table::tables_of;

/// An ending.
type Ending = fn(&Attacker);

/// Those that end the domain.
const ENDINGS: [(&str, Ending); 22] = [
    ("no-handler", no_handler),
    ("no-stack", no_stack),
    ("stack-in-the-hypervisor", stack_in_the_hypervisor),
    ("no-return-frame", no_return_frame),
    ("no-user-table", no_user_table),
    ("no-failsafe", no_failsafe),
    ("failsafe-without-stack", failsafe_without_stack),
    ("handler-nowhere", handler_nowhere),
    ("handler-that-faults", handler_that_faults),
    ("event-handler-nowhere", event_handler_nowhere),
    ("event-without-stack", event_without_stack),
    ("user-without-kernel-stack", user_without_kernel_stack),
    ("code-unmapped", code_unmapped),
    ("crash", |attacker| shut_down(attacker, SHUTDOWN_CRASH)),
    ("suspend", |attacker| shut_down(attacker, SHUTDOWN_SUSPEND)),
    ("watchdog", |attacker| shut_down(attacker, SHUTDOWN_WATCHDOG)),
    ("odd-reason", |attacker| shut_down(attacker, u32::MAX)),
    ("in-a-multicall", in_a_multicall),
    ("shared-data-moved", shared_data_moved),
    ("second-cpu-nowhere", |attacker| second_cpu_at(attacker, 1 << 47, 0)),
    ("second-cpu-in-the-hypervisor", |attacker| second_cpu_at(attacker, HYPERVISOR, 0)),
    ("second-cpu-without-stack", |attacker| second_cpu_at(attacker, fault as *const () as u64, 1 << 63)),
];

/// Those that never end.
const ENDLESS: [(&str, Ending); 9] = [
    ("spin", |_| spin()),
    ("yield", yield_for_ever),
    ("hypercalls", hypercalls_for_ever),
    ("long-hypercalls", long_hypercalls_for_ever),
    ("faults", faults_for_ever),
    ("timer", timer_for_ever),
    ("down", go_down),
    ("block", block_for_ever),
    ("hog", hog),
];

/// Ends this domain.
pub async fn end(attacker: &Attacker, name: &str) {
    println!("hostile: ending by {name}");
    // The line is to be seen before there is nobody to print it.
    sleep(Duration::from_millis(10)).await;
    let all = ENDINGS.iter().chain(&ENDLESS);
    match all.into_iter().find(|(known, _)| *known == name) {
        Some((_, ending)) => ending(attacker),
        None => println!("hostile: there is no such ending"),
    }
    println!("FAIL  {name}: the domain is still there");
}

global_asm!(
    r#"
# hostile_fault_on(rdi: stack): raises an exception on a stack.
.global hostile_fault_on
hostile_fault_on:
    mov rsp, rdi
    ud2

# hostile_return_from(rdi: frame): makes the hypercall iret with the stack pointer anywhere.
.global hostile_return_from
hostile_return_from:
    mov rsp, rdi
    mov eax, {iret}
    syscall
    ud2

# hostile_call_on(rdi: stack, rsi: hypercall, rdx, rcx: its arguments): makes a hypercall on a stack.
.global hostile_call_on
hostile_call_on:
    mov rsp, rdi
    mov rax, rsi
    mov rdi, rdx
    mov rsi, rcx
    syscall
    ud2

# A handler that faults itself.
.global hostile_bad_handler
hostile_bad_handler:
    ud2
"#,
    iret = const HYPERVISOR_IRET,
);

unsafe extern "C" {
    fn hostile_fault_on(stack: u64) -> !;
    fn hostile_return_from(frame: u64) -> !;
    fn hostile_call_on(stack: u64, number: u64, first: u64, second: u64) -> !;
    static hostile_bad_handler: u8;
}

/// An address at which nothing is mapped.
const NOWHERE: u64 = 0x10_0000_0000;
/// An address of the hypervisor's.
const HYPERVISOR: u64 = 0xffff_8300_0000_1000;
/// Code of user mode, which has privilege 3 where the kernel's has 0.
const USER_CODE: u64 = 0xe033;
const STACK_SELECTOR: u64 = 0xe02b;

fn fault() {
    // SAFETY: nothing comes after it.
    unsafe { asm!("ud2") };
}

/// A frame for `iret`, kept for ever.
fn frame(rip: u64, cs: u64, rsp: u64) -> u64 {
    let frame = hypercall_abi::arch_x86::IretContext {
        rip,
        cs,
        rflags: 2,
        rsp,
        ss: STACK_SELECTOR,
        ..Default::default()
    };
    alloc::boxed::Box::leak(alloc::boxed::Box::new(frame)) as *mut _ as u64
}

/// The upper end of a page that is kept for ever.
fn stack() -> u64 {
    let page = Page::new().expect("there is memory");
    let top = page.virtual_address() as u64 + 4096;
    core::mem::forget(page);
    top
}

/// Registers a callback.
fn register(attacker: &Attacker, kind: u16, address: u64) {
    let mut callback = CallbackRegister { r#type: kind, address, ..Default::default() };
    let _ = attacker.command(HYPERVISOR_CALLBACK_OP, CALLBACKOP_REGISTER, &mut callback);
}

fn no_handler(attacker: &Attacker) {
    let _ = attacker.call(HYPERVISOR_SET_TRAP_TABLE, &[0]);
    fault();
}

fn no_stack(_: &Attacker) {
    // SAFETY: nothing comes after it.
    unsafe { hostile_fault_on(NOWHERE) }
}

fn stack_in_the_hypervisor(_: &Attacker) {
    // SAFETY: nothing comes after it.
    unsafe { hostile_fault_on(HYPERVISOR) }
}

fn no_return_frame(_: &Attacker) {
    // SAFETY: nothing comes after it.
    unsafe { hostile_return_from(HYPERVISOR) }
}

/// To user mode, for which there is no page table.
fn no_user_table(_: &Attacker) {
    // SAFETY: nothing comes after it.
    unsafe { hostile_return_from(frame(NOWHERE, USER_CODE, stack())) }
}

fn no_failsafe(attacker: &Attacker) {
    let mut callback = CallbackUnregister { r#type: CALLBACKTYPE_FAILSAFE, ..Default::default() };
    let _ = attacker.command(HYPERVISOR_CALLBACK_OP, CALLBACKOP_UNREGISTER, &mut callback);
    // SAFETY: nothing comes after it.
    unsafe { hostile_return_from(frame(1 << 47, 0xe008, stack())) }
}

fn failsafe_without_stack(_: &Attacker) {
    // SAFETY: nothing comes after it.
    unsafe { hostile_return_from(frame(1 << 47, 0xe008, NOWHERE)) }
}

/// Makes one handler that of all exceptions.
fn handle_all(attacker: &Attacker, address: u64) {
    let handlers =
        (0..32).map(|vector| TrapInfo { vector, cs: FLAT_KERNEL_CS, address, ..Default::default() });
    let mut table: Vec<_> = handlers.collect();
    table.push(TrapInfo::default());
    let _ = attacker.call(HYPERVISOR_SET_TRAP_TABLE, &[table.as_mut_ptr() as u64]);
}

/// Fetching its first instruction faults, and so on until the stack ends.
fn handler_nowhere(attacker: &Attacker) {
    handle_all(attacker, NOWHERE);
    fault();
}

fn handler_that_faults(attacker: &Attacker) {
    handle_all(attacker, (&raw const hostile_bad_handler) as u64);
    fault();
}

/// An event that is pending when they are unmasked.
fn pending_event(attacker: &Attacker) {
    let mut open =
        EvtchnAllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::SELF, ..Default::default() };
    let _ = attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &mut open);
    let receiver = EventChannel::from_port(open.port);
    if let Ok(sender) = EventChannel::bind_interdomain(DomainId::SELF, open.port) {
        receiver.unmask();
        let mut send = EvtchnSend { port: sender.port() };
        let _ = attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut send);
        // Dropped, they would be closed, and the event gone.
        core::mem::forget((sender, receiver));
    }
}

fn event_handler_nowhere(attacker: &Attacker) {
    register(attacker, CALLBACKTYPE_EVENT, NOWHERE);
    handle_all(attacker, NOWHERE);
    pending_event(attacker);
    let _ = attacker.call(HYPERVISOR_SCHED_OP, &[u64::from(SCHEDOP_BLOCK), 0]);
}

fn event_without_stack(attacker: &Attacker) {
    pending_event(attacker);
    // SAFETY: nothing comes after it.
    unsafe { hostile_call_on(NOWHERE, HYPERVISOR_SCHED_OP, u64::from(SCHEDOP_BLOCK), 0) }
}

fn user_without_kernel_stack(attacker: &Attacker) {
    let _ = attacker.mmuext(MMUEXT_NEW_USER_BASEPTR, attacker.root.0, 0);
    let _ = attacker.call(HYPERVISOR_STACK_SWITCH, &[STACK_SELECTOR, HYPERVISOR]);
    // SAFETY: nothing comes after it.
    unsafe { hostile_return_from(frame(NOWHERE, USER_CODE, stack())) }
}

/// The tables of this very code are taken out of the root.
fn code_unmapped(attacker: &Attacker) {
    let here = code_unmapped as Ending as usize as u64;
    if let Ok([root, ..]) = tables_of(attacker, here) {
        let place = crate::entry::place_of(root, crate::entry::index_of(here, 4));
        let _ = attacker.set_entry(place, 0);
    }
}

/// Starts a second virtual CPU at an address and with a stack that are none; it has no handler for what comes of it.
fn second_cpu_at(attacker: &Attacker, address: u64, stack: u64) {
    let mut state = VcpuGuestContext { flags: VGCF_IN_KERNEL | VGCF_ONLINE, ..Default::default() };
    (state.user_regs.rip, state.user_regs.rsp) = (address, stack);
    (state.user_regs.cs, state.user_regs.ss) = (FLAT_KERNEL_CS, FLAT_KERNEL_SS);
    state.ctrlreg[3] = xen_pfn_to_cr3(attacker.root.0);
    let arguments = [u64::from(VCPUOP_INITIALISE), 1, address_of(&mut state)];
    let _ = attacker.call(HYPERVISOR_VCPU_OP, &arguments);
    // This one waits for its end, and lets the other one come to it.
    for _ in 0..100_000 {
        let _ = attacker.call(HYPERVISOR_SCHED_OP, &[u64::from(SCHEDOP_YIELD), 0]);
    }
}

fn shut_down(attacker: &Attacker, reason: u32) {
    let mut argument = SchedShutdown { reason };
    let _ = attacker.command(HYPERVISOR_SCHED_OP, SCHEDOP_SHUTDOWN, &mut argument);
}

/// The domain ends in the middle of a list of calls.
fn in_a_multicall(attacker: &Attacker) {
    let mut argument = SchedShutdown { reason: SHUTDOWN_CRASH };
    let call = |op: u64, first: u64, second: u64| MulticallEntry {
        op,
        args: [first, second, 0, 0, 0, 0],
        result: 1,
    };
    let mut entries = [
        call(HYPERVISOR_SCHED_OP, u64::from(SCHEDOP_SHUTDOWN), address_of(&mut argument)),
        call(HYPERVISOR_SCHED_OP, u64::from(SCHEDOP_BLOCK), 0),
        call(HYPERVISOR_SCHED_OP, u64::from(SCHEDOP_YIELD), 0),
    ];
    let _ = attacker.call(HYPERVISOR_MULTICALL, &[address_of(&mut entries), 3]);
}

/// Shared data can be moved once, to a page of the domain's own, which then cannot become a table. The domain then
/// switches itself off.
fn shared_data_moved(attacker: &Attacker) {
    let page = Page::new().expect("there is memory");
    let register = |mfn: u64| {
        let mut place = VcpuRegisterVcpuInfo { mfn, offset: 64, rsvd: 0 };
        attacker.call(HYPERVISOR_VCPU_OP, &[u64::from(VCPUOP_REGISTER_VCPU_INFO), 0, address_of(&mut place)])
    };
    let frame = page.machine_frame();
    let first = register(frame.0);
    let second = register(frame.0);
    let pinned = attacker.pin(frame, 1);
    let is_right = first.is_ok() && second.is_err() && pinned.is_err() && page.read::<u8>(64) == 1;
    core::mem::forget(page);
    shut_down(attacker, if is_right { SHUTDOWN_POWEROFF } else { SHUTDOWN_CRASH });
}

fn spin() {
    loop {
        core::hint::spin_loop();
    }
}

fn yield_for_ever(attacker: &Attacker) {
    loop {
        let _ = attacker.call(HYPERVISOR_SCHED_OP, &[u64::from(SCHEDOP_YIELD), 0]);
    }
}

fn hypercalls_for_ever(attacker: &Attacker) {
    loop {
        let _ = attacker.call(HYPERVISOR_XEN_VERSION, &[0, 0]);
    }
}

/// Calls that take long, one after the other.
fn long_hypercalls_for_ever(attacker: &Attacker) {
    let mut updates: Vec<MmuUpdate> = Vec::new();
    let request = MmuUpdate { ptr: attacker.root.physical_address() + 8 * 100, val: 0 };
    updates.resize(100_000, request);
    loop {
        let arguments = [updates.as_mut_ptr() as u64, updates.len() as u64, 0, u64::from(DomainId::SELF.0)];
        let _ = attacker.call(HYPERVISOR_MMU_UPDATE, &arguments);
    }
}

fn faults_for_ever(attacker: &Attacker) {
    loop {
        let _ = attacker.read(HYPERVISOR);
    }
}

fn timer_for_ever(attacker: &Attacker) {
    loop {
        let _ = attacker.call(HYPERVISOR_SET_TIMER_OP, &[1]);
    }
}

fn go_down(attacker: &Attacker) {
    let _ = attacker.call(HYPERVISOR_VCPU_OP, &[u64::from(VCPUOP_DOWN), 0, 0]);
}

/// Waits for a port that nothing is ever sent on. Any other event ends a wait too, such as the console's.
fn block_for_ever(attacker: &Attacker) {
    let mut port = 4000u32;
    let mut poll = SchedPoll { ports: address_of(&mut port), nr_ports: 1, ..Default::default() };
    loop {
        let _ = attacker.command(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
    }
}

/// Takes all memory and all ports there are, and then the processor.
fn hog(attacker: &Attacker) {
    while let Ok(page) = Page::new() {
        core::mem::forget(page);
    }
    for order in [9, 4, 0] {
        let mut extents = [0; 16];
        while attacker.reservation(XENMEM_POPULATE_PHYSMAP, &mut extents, order) == Ok(16) {}
    }
    while let Ok(channel) = EventChannel::alloc_unbound(DomainId::ZERO) {
        core::mem::forget(channel);
    }
    spin();
}
