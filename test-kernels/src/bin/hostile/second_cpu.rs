//! Two virtual CPUs that want the same frame as different things at the same time.
//!
//! The second one runs a job over and over, on its own stack and without the runtime: it makes a use of a frame, says so,
//! says that it is about to end the use, and ends it. The first one meanwhile makes a use that excludes the other. When
//! it has got it, the second must not say that it has its own.
//!
//! These cases need a domain with two virtual CPUs and run only when they are asked for by `only=second_cpu`.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::mem;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hypercall_abi::arch_x86::{
    FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_IN_KERNEL, VcpuGuestContext, xen_pfn_to_cr3,
};
use hypercall_abi::event_channel::*;
use hypercall_abi::grant_table::*;
use hypercall_abi::memory::{MemoryExchange, MemoryReservation, XENMEM_EXCHANGE};
use hypercall_abi::sched::SCHEDOP_YIELD;
use hypercall_abi::vcpu::VCPUOP_INITIALISE;
use hypercall_abi::xen::*;
use hypercall_abi::{DomainId, GrantReference, MachineFrame, Port};
use pv_runtime::grant::GrantAccess;
use pv_runtime::memory::SharedMemory;

use crate::attacker::{Attacker, address_of};
use crate::companion;
use crate::entry::*;
use crate::grants::grant_to;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::{Slot, page};
use crate::surroundings::number_of;
use crate::table::{Table, tables_of};

cases!("second_cpu":
    states_that_no_cpu_may_have, a_table_mapped_writable, a_table_granted_for_writing, descriptors_mapped_writable,
    a_frame_exchanged_while_it_is_mapped, one_mapping_undone_twice, a_grant_used_while_entries_change_their_form,
    ports_closed_while_they_are_signalled,
);

/// How often the first CPU makes its attempt in a case.
const ROUNDS: u64 = 3000;
/// How often at most, until both have got their use at least once.
const MOST_ROUNDS: u64 = 1_000_000;
/// Attempts after which a CPU lets the other one run, if there is one processor for both.
const BETWEEN_YIELDS: u64 = 20;

/// What the second CPU does, as [`JOB`] says.
mod job {
    pub const NONE: u32 = 0;
    pub const MAP: u32 = 1;
    pub const GRANT: u32 = 2;
    pub const UNMAP: u32 = 3;
    pub const USE_GRANT: u32 = 4;
    pub const SEND: u32 = 5;
}

static JOB: AtomicU32 = AtomicU32::new(job::NONE);
/// The second CPU is between two rounds of no job.
static IS_IDLE: AtomicBool = AtomicBool::new(true);
/// What a job works on: an address, a frame, a reference.
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static FRAME: AtomicU64 = AtomicU64::new(0);
static REFERENCE: AtomicU32 = AtomicU32::new(0);
/// Frame of which the second CPU has a use now; none is 0.
static HELD: AtomicU64 = AtomicU64::new(0);
/// Uses that it got.
static GOT: AtomicU64 = AtomicU64::new(0);
/// The domain's number and root, for the second CPU's own attacker.
static OWN_ID: AtomicU32 = AtomicU32::new(0);
static ROOT: AtomicU64 = AtomicU64::new(0);

fn let_others_run(attacker: &Attacker) {
    let _ = attacker.call(HYPERVISOR_SCHED_OP, &[u64::from(SCHEDOP_YIELD), 0]);
}

/// The second CPU's life, which has no end.
extern "C" fn second(_: u64) {
    let attacker = Attacker {
        own_id: DomainId(OWN_ID.load(Ordering::SeqCst) as u16),
        root: MachineFrame(ROOT.load(Ordering::SeqCst)),
    };
    for round in 0u64.. {
        let work = JOB.load(Ordering::SeqCst);
        IS_IDLE.store(work == job::NONE, Ordering::SeqCst);
        match work {
            job::MAP => map_and_unmap(&attacker),
            job::GRANT => grant_and_ungrant(&attacker),
            job::UNMAP => unmap_one(&attacker),
            job::USE_GRANT => drop(use_grant(&attacker)),
            job::SEND => send(&attacker),
            _ => let_others_run(&attacker),
        }
        if round % BETWEEN_YIELDS == 0 {
            let_others_run(&attacker);
        }
    }
}

fn hold(frame: u64) {
    HELD.store(frame, Ordering::SeqCst);
    GOT.fetch_add(1, Ordering::SeqCst);
    for _ in 0..20 {
        core::hint::spin_loop();
    }
    HELD.store(0, Ordering::SeqCst);
}

fn map_and_unmap(attacker: &Attacker) {
    let (address, frame) = (ADDRESS.load(Ordering::SeqCst), FRAME.load(Ordering::SeqCst));
    if attacker.set_address(address, entry(MachineFrame(frame), WRITE)).is_ok() {
        hold(frame);
        let _ = attacker.set_address(address, 0);
    }
}

fn device_map(attacker: &Attacker) -> Option<GnttabMapGrantRef> {
    let mut map = GnttabMapGrantRef {
        flags: GNTMAP_DEVICE_MAP,
        r#ref: GrantReference(REFERENCE.load(Ordering::SeqCst)),
        dom: attacker.own_id,
        status: 1,
        ..Default::default()
    };
    let answer = attacker.grant_op(GNTTABOP_MAP_GRANT_REF, slice::from_mut(&mut map));
    (answer.is_ok() && map.status == GNTST_OKAY).then_some(map)
}

/// The status of undoing a device mapping.
fn device_unmap(attacker: &Attacker, handle: GrantHandle, dev_bus_addr: u64) -> i16 {
    let mut unmap = GnttabUnmapGrantRef { handle, dev_bus_addr, status: 1, ..Default::default() };
    match attacker.grant_op(GNTTABOP_UNMAP_GRANT_REF, slice::from_mut(&mut unmap)) {
        Ok(_) => unmap.status,
        Err(_) => i16::MIN,
    }
}

fn grant_and_ungrant(attacker: &Attacker) {
    if let Some(mapped) = device_map(attacker) {
        hold(FRAME.load(Ordering::SeqCst));
        device_unmap(attacker, mapped.handle, mapped.dev_bus_addr);
    }
}

/// A handle for the second CPU to undo, plus 1; 0 when there is none, or it has been tried.
static HANDLE: AtomicU64 = AtomicU64::new(0);

fn unmap_one(attacker: &Attacker) {
    let handle = HANDLE.load(Ordering::SeqCst);
    if handle == 0 {
        return;
    }
    let address = FRAME.load(Ordering::SeqCst) << 12;
    if device_unmap(attacker, GrantHandle((handle - 1) as u32), address) == GNTST_OKAY {
        GOT.fetch_add(1, Ordering::SeqCst);
    }
    HANDLE.store(0, Ordering::SeqCst);
}

fn use_grant(attacker: &Attacker) -> Option<()> {
    let mapped = device_map(attacker)?;
    GOT.fetch_add(1, Ordering::SeqCst);
    device_unmap(attacker, mapped.handle, mapped.dev_bus_addr);
    Some(())
}

fn send(attacker: &Attacker) {
    let port = Port(REFERENCE.load(Ordering::SeqCst));
    if attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut EvtchnSend { port }).is_ok() {
        GOT.fetch_add(1, Ordering::SeqCst);
    }
}

/// A state that the second CPU could be given, if it were to do nothing.
fn good_state(attacker: &Attacker) -> Box<VcpuGuestContext> {
    let mut state = Box::new(VcpuGuestContext { flags: VGCF_IN_KERNEL, ..Default::default() });
    (state.user_regs.cs, state.user_regs.ss) = (FLAT_KERNEL_CS, FLAT_KERNEL_SS);
    state.ctrlreg[3] = xen_pfn_to_cr3(attacker.root.0);
    state
}

fn initialise(attacker: &Attacker, state: &mut VcpuGuestContext) -> Result<u64, hypercall_abi::Errno> {
    attacker.call(HYPERVISOR_VCPU_OP, &[u64::from(VCPUOP_INITIALISE), 1, address_of(state)])
}

/// The second CPU, at work on a job until this is dropped.
struct Second;

impl Second {
    /// Starts the CPU if this is its first job.
    fn at(attacker: &Attacker, work: u32) -> Result<Self, String> {
        if OWN_ID.load(Ordering::SeqCst) == 0 {
            OWN_ID.store(u32::from(attacker.own_id.0), Ordering::SeqCst);
            ROOT.store(attacker.root.0, Ordering::SeqCst);
            companion::start(attacker, 1, second)?;
        }
        HELD.store(0, Ordering::SeqCst);
        GOT.store(0, Ordering::SeqCst);
        JOB.store(work, Ordering::SeqCst);
        IS_IDLE.store(false, Ordering::SeqCst);
        Ok(Self)
    }

    /// Lets the job end, and says how often the second CPU got what it wanted.
    fn end(self, attacker: &Attacker) -> u64 {
        JOB.store(job::NONE, Ordering::SeqCst);
        while !IS_IDLE.load(Ordering::SeqCst) {
            let_others_run(attacker);
        }
        GOT.load(Ordering::SeqCst)
    }
}

/// Attempts one thing again and again against the second CPU's job on the same frame. `attempt` says whether it got
/// its use, in which it calls the check it is given, and ends the use.
fn race(
    attacker: &Attacker,
    work: u32,
    mut attempt: impl FnMut(&dyn Fn() -> Outcome) -> Result<bool, String>,
) -> Outcome {
    let second = Second::at(attacker, work)?;
    let exclusive = || {
        let (held, frame) = (HELD.load(Ordering::SeqCst), FRAME.load(Ordering::SeqCst));
        expect(held != frame, format!("frame {frame:#x} was two things at once"))
    };
    let mut got = 0;
    let mut outcome = Ok(());
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && got > 0 && GOT.load(Ordering::SeqCst) > 0 {
            break;
        }
        match attempt(&exclusive) {
            Ok(is_got) => got += u64::from(is_got),
            Err(reason) => {
                outcome = Err(reason);
                break;
            }
        }
        if round % BETWEEN_YIELDS == 0 {
            let_others_run(attacker);
        }
    }
    let other = second.end(attacker);
    outcome?;
    expect(got > 0 && other > 0, format!("one got its use {got} times, the other {other} times"))
}

/// Sets a field of a state, which has a name.
type Change = (&'static str, fn(&mut VcpuGuestContext, u64));

/// Addresses that are none, bases that are none, and frames that are not this domain's, in a state for a CPU that may
/// be given one.
fn states_that_no_cpu_may_have(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let bad_tables =
        [slot.frame(), tables_of(attacker, slot.address())?[3], MachineFrame(0), MachineFrame(1 << 40)];
    let mut state = good_state(attacker);
    for address in crate::entry_points::NOT_A_GUESTS {
        let changes: [Change; 3] = [
            ("event callback", |state, value| state.event_callback_eip = value),
            ("failsafe callback", |state, value| state.failsafe_callback_eip = value),
            ("syscall callback", |state, value| state.syscall_callback_eip = value),
        ];
        for (name, change) in changes {
            change(&mut state, address);
            refused(format!("{name} at {address:#x}"), initialise(attacker, &mut state))?;
            change(&mut state, 0);
        }
    }
    for base in [1 << 47, 1 << 63, 0xffff_7fff_ffff_ffff] {
        let changes: [Change; 3] = [
            ("FS", |state, value| state.fs_base = value),
            ("kernel GS", |state, value| state.gs_base_kernel = value),
            ("user GS", |state, value| state.gs_base_user = value),
        ];
        for (name, change) in changes {
            change(&mut state, base);
            refused(format!("{name} base at {base:#x}"), initialise(attacker, &mut state))?;
            change(&mut state, 0);
        }
    }
    for frame in bad_tables {
        state.ctrlreg[3] = xen_pfn_to_cr3(frame.0);
        refused(format!("root {frame}"), initialise(attacker, &mut state))?;
        state.ctrlreg[3] = xen_pfn_to_cr3(attacker.root.0);
        state.ctrlreg[1] = xen_pfn_to_cr3(frame.0 | 1 << 30);
        refused(format!("user root {frame}"), initialise(attacker, &mut state))?;
        state.ctrlreg[1] = 0;
        (state.gdt_frames[0], state.gdt_ents) = (frame.0, 512);
        refused(format!("descriptors in {frame}"), initialise(attacker, &mut state))?;
        (state.gdt_frames[0], state.gdt_ents) = (0, 0);
    }
    Ok(())
}

fn a_table_mapped_writable(attacker: &Attacker) -> Outcome {
    let (table, slot) = (Table::new(attacker, [])?, Slot::new(attacker)?);
    ADDRESS.store(slot.address(), Ordering::SeqCst);
    FRAME.store(table.frame().0, Ordering::SeqCst);
    race(attacker, job::MAP, |check| {
        if attacker.pin(table.frame(), 1).is_err() {
            return Ok(false);
        }
        check()?;
        let mapping = slot.entry();
        let is_writable = mapping & PRESENT != 0 && mapping & WRITABLE != 0;
        expect(!is_writable || frame_of(mapping) != table.frame(), "a table is mapped writable")?;
        check()?;
        accepted("unpinning it", attacker.unpin(table.frame()))?;
        Ok(true)
    })
}

fn a_table_granted_for_writing(attacker: &Attacker) -> Outcome {
    let table = Table::new(attacker, [])?;
    let grant = grant_to(attacker, table.frame(), GrantAccess::ReadWrite)?;
    REFERENCE.store(grant.reference().0, Ordering::SeqCst);
    FRAME.store(table.frame().0, Ordering::SeqCst);
    race(attacker, job::GRANT, |check| {
        if attacker.pin(table.frame(), 2).is_err() {
            return Ok(false);
        }
        check()?;
        check()?;
        accepted("unpinning it", attacker.unpin(table.frame()))?;
        Ok(true)
    })?;
    grant.end().map_err(|_| "the grant is still in use".into())
}

fn descriptors_mapped_writable(attacker: &Attacker) -> Outcome {
    let (table, slot) = (Table::new(attacker, [])?, Slot::new(attacker)?);
    ADDRESS.store(slot.address(), Ordering::SeqCst);
    FRAME.store(table.frame().0, Ordering::SeqCst);
    let set = |frame: u64, count: u64| {
        let mut frames = [frame];
        attacker.call(HYPERVISOR_SET_GDT, &[frames.as_mut_ptr() as u64, count])
    };
    race(attacker, job::MAP, |check| {
        if set(table.frame().0, 512).is_err() {
            return Ok(false);
        }
        check()?;
        check()?;
        accepted("no descriptors", set(0, 0))?;
        Ok(true)
    })
}

fn a_frame_exchanged_while_it_is_mapped(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let page = page()?;
    let number = number_of(page.machine_frame());
    let mut frame = page.machine_frame().0;
    accepted("its own mapping away", attacker.set_address(page.virtual_address() as u64, 0))?;
    mem::forget(page);
    ADDRESS.store(slot.address(), Ordering::SeqCst);
    FRAME.store(frame, Ordering::SeqCst);
    race(attacker, job::MAP, |check| {
        let (mut old, mut new) = ([frame], [number]);
        let list = |extents: &mut [u64]| MemoryReservation {
            extent_start: extents.as_mut_ptr() as u64,
            nr_extents: 1,
            domid: DomainId::SELF,
            ..Default::default()
        };
        let mut argument = MemoryExchange { r#in: list(&mut old), out: list(&mut new), nr_exchanged: 0 };
        if attacker.memory_op(XENMEM_EXCHANGE, &mut argument).is_err() {
            return Ok(false);
        }
        check()?;
        let mapping = slot.entry();
        let is_there = mapping & PRESENT != 0 && frame_of(mapping).0 == frame;
        expect(!is_there, "a frame that was exchanged is mapped")?;
        frame = new[0];
        FRAME.store(frame, Ordering::SeqCst);
        Ok(true)
    })
}

fn one_mapping_undone_twice(attacker: &Attacker) -> Outcome {
    let page = page()?;
    let grant = grant_to(attacker, page.machine_frame(), GrantAccess::ReadWrite)?;
    REFERENCE.store(grant.reference().0, Ordering::SeqCst);
    FRAME.store(page.machine_frame().0, Ordering::SeqCst);
    let second = Second::at(attacker, job::UNMAP)?;
    let mut undone = 0;
    for _ in 0..ROUNDS {
        let mapped = device_map(attacker).ok_or("a grant cannot be mapped")?;
        HANDLE.store(u64::from(mapped.handle.0) + 1, Ordering::SeqCst);
        undone += u64::from(device_unmap(attacker, mapped.handle, mapped.dev_bus_addr) == GNTST_OKAY);
        while HANDLE.load(Ordering::SeqCst) != 0 {
            let_others_run(attacker);
        }
    }
    let undone = undone + second.end(attacker);
    expect(undone == ROUNDS, format!("{ROUNDS} mappings were undone {undone} times"))?;
    grant.end().map_err(|_| "the grant is still in use".into())
}

/// The change of version makes all entries anew, so afterwards the grant is gone; but nothing is left in use.
fn a_grant_used_while_entries_change_their_form(attacker: &Attacker) -> Outcome {
    let page = page()?;
    let grant = grant_to(attacker, page.machine_frame(), GrantAccess::ReadWrite)?;
    REFERENCE.store(grant.reference().0, Ordering::SeqCst);
    let set = |version: u32| {
        let mut operation = GnttabSetVersion { version };
        attacker.grant_op(GNTTABOP_SET_VERSION, slice::from_mut(&mut operation))
    };
    let second = Second::at(attacker, job::USE_GRANT)?;
    while GOT.load(Ordering::SeqCst) == 0 {
        let_others_run(attacker);
    }
    for round in 0..ROUNDS {
        let _ = set(1 + (round % 2) as u32);
        if round % BETWEEN_YIELDS == 0 {
            let_others_run(attacker);
        }
    }
    expect(second.end(attacker) > 0, "the grant was never used")?;
    accepted("version 2", set(2))?;
    accepted("version 1", set(1))?;
    for level in 1..=4 {
        refused("a mapped page as table", attacker.pin(page.machine_frame(), level))?;
    }
    accepted("its mapping away", attacker.set_address(page.virtual_address() as u64, 0))?;
    accepted("a table of the page", attacker.pin(page.machine_frame(), 1))?;
    accepted("and no table", attacker.unpin(page.machine_frame()))?;
    let address = page.virtual_address() as u64;
    accepted("its mapping back", attacker.set_address(address, entry(page.machine_frame(), WRITE)))?;
    grant.end().map_err(|_| "the grant is still in use".into())
}

fn ports_closed_while_they_are_signalled(attacker: &Attacker) -> Outcome {
    let event = |command: u32, argument: u64| {
        attacker.call(HYPERVISOR_EVENT_CHANNEL_OP, &[u64::from(command), argument])
    };
    let mut second = None;
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && GOT.load(Ordering::SeqCst) > 0 {
            break;
        }
        let mut open =
            EvtchnAllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::SELF, ..Default::default() };
        accepted("a port", event(EVTCHNOP_ALLOC_UNBOUND, address_of(&mut open)))?;
        let mut bind = EvtchnBindInterdomain {
            remote_dom: DomainId::SELF,
            remote_port: open.port,
            ..Default::default()
        };
        accepted("connecting to it", event(EVTCHNOP_BIND_INTERDOMAIN, address_of(&mut bind)))?;
        REFERENCE.store(bind.local_port.0, Ordering::SeqCst);
        if second.is_none() {
            second = Some(Second::at(attacker, job::SEND)?);
        }
        let_others_run(attacker);
        for port in [open.port, bind.local_port] {
            accepted("closing", event(EVTCHNOP_CLOSE, address_of(&mut EvtchnClose { port })))?;
        }
    }
    let sent = second.map_or(0, |second| second.end(attacker));
    expect(sent > 0, "nothing was sent")
}
