//! Several virtual CPUs that do at the same time what one does alone elsewhere (`races=ROUNDS` on the command line).
//!
//! [`hammer`] lets all of them choose at random from the same few frames, page-table entries, grants and ports: most of
//! what they try is refused, because another was faster, and what is accepted must add up. In the end everything is
//! taken back, and every frame must be plain memory again.
//!
//! [`stale`] is one writer against one that makes the page a table. A page that is a table cannot be written, by
//! nobody, however recently it could be: a translation that is remembered somewhere does not count.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use hypercall_abi::event_channel::*;
use hypercall_abi::grant_table::*;
use hypercall_abi::memory::{XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP};
use hypercall_abi::sched::SCHEDOP_YIELD;
use hypercall_abi::xen::*;
use hypercall_abi::{DomainId, GrantReference, MachineFrame, Port, VcpuId};
use pv_runtime::executor::sleep;
use pv_runtime::grant::{Grant, GrantAccess, grant_access};
use pv_runtime::println;

use crate::attacker::{Attacker, address_of};
use crate::companion::{self, Body};
use crate::entry::*;
use crate::report::{Outcome, accepted, expect};
use crate::slot::Slot;
use crate::table::Table;

/// Frames that all fight for.
const FRAMES: usize = 6;
/// Addresses at which they map them.
const SLOTS: usize = 4;
/// Ports that are opened and closed all the time.
const PORTS: usize = 4;
/// Kinds of things that are tried.
const KINDS: usize = 12;

/// What all virtual CPUs know.
struct Arena {
    attacker: AttackerParts,
    frames: [AtomicU64; FRAMES],
    /// Address and machine address of the entry.
    slots: [(AtomicU64, AtomicU64); SLOTS],
    /// Handle of the grant that is mapped there, or [`NONE`].
    handles: [AtomicU32; SLOTS],
    references: [AtomicU32; FRAMES],
    ports: [AtomicU32; PORTS],
    /// Ports by which the virtual CPUs signal each other.
    signals: [AtomicU32; companion::MOST],
    rounds: AtomicU64,
    accepted: [AtomicU64; KINDS],
    refused: [AtomicU64; KINDS],
}

/// What an attacker is made of, for those who cannot be handed one.
struct AttackerParts {
    own_id: AtomicU32,
    root: AtomicU64,
}

const NONE: u32 = u32::MAX;

static ARENA: Arena = Arena {
    attacker: AttackerParts { own_id: AtomicU32::new(0), root: AtomicU64::new(0) },
    frames: [const { AtomicU64::new(0) }; FRAMES],
    slots: [const { (AtomicU64::new(0), AtomicU64::new(0)) }; SLOTS],
    handles: [const { AtomicU32::new(NONE) }; SLOTS],
    references: [const { AtomicU32::new(0) }; FRAMES],
    ports: [const { AtomicU32::new(0) }; PORTS],
    signals: [const { AtomicU32::new(0) }; companion::MOST],
    rounds: AtomicU64::new(0),
    accepted: [const { AtomicU64::new(0) }; KINDS],
    refused: [const { AtomicU64::new(0) }; KINDS],
};

impl Arena {
    fn attacker(&self) -> Attacker {
        let own_id = DomainId(self.attacker.own_id.load(Ordering::Relaxed) as u16);
        Attacker { own_id, root: MachineFrame(self.attacker.root.load(Ordering::Relaxed)) }
    }

    fn frame(&self, number: usize) -> MachineFrame {
        MachineFrame(self.frames[number % FRAMES].load(Ordering::Relaxed))
    }

    fn slot(&self, number: usize) -> (u64, u64) {
        let (address, place) = &self.slots[number % SLOTS];
        (address.load(Ordering::Relaxed), place.load(Ordering::Relaxed))
    }

    fn count(&self, kind: usize, accepted: bool) {
        let counters = if accepted { &self.accepted } else { &self.refused };
        counters[kind].fetch_add(1, Ordering::Relaxed);
    }
}

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize
    }
}

/// Runs both, and says how it went.
pub async fn run(attacker: &Attacker, rounds: u64) {
    let vcpus = companion::count(attacker);
    println!("hostile: racing on {vcpus} virtual CPUs");
    let cases = [
        ("races::stale", stale(attacker, rounds).await),
        ("races::hammer", hammer(attacker, rounds, vcpus).await),
    ];
    let failed = cases.iter().filter(|(_, outcome)| outcome.is_err()).count();
    for (name, outcome) in &cases {
        match outcome {
            Ok(()) => println!("ok    {name}"),
            Err(reason) => println!("FAIL  {name}: {reason}"),
        }
    }
    println!("hostile: {} passed, {failed} failed", cases.len() - failed);
}

/// Waits for so many companions to have ended.
async fn wait_for(count: usize) {
    while companion::ended() < count {
        sleep(Duration::from_millis(2)).await;
    }
}

/// The companion that writes.
static WRITER: Writer =
    Writer { address: AtomicU64::new(0), writes: AtomicU64::new(0), is_done: AtomicBool::new(false) };

struct Writer {
    address: AtomicU64,
    writes: AtomicU64,
    is_done: AtomicBool,
}

/// Writes numbers that are no present entries, until it is told to stop.
extern "C" fn write_for_ever(_vcpu: u64) {
    let address = WRITER.address.load(Ordering::Acquire);
    let mut number = 0;
    while !WRITER.is_done.load(Ordering::Relaxed) {
        number += 2;
        companion::write_until_done(address, number);
        WRITER.writes.fetch_add(1, Ordering::Relaxed);
    }
}

async fn stale(attacker: &Attacker, rounds: u64) -> Outcome {
    let (slot, table) = (Slot::new(attacker)?, Table::new(attacker, [])?);
    let writable = entry(table.frame(), WRITE);
    accepted("mapping a page for the writer", slot.map_by_address(writable))?;
    WRITER.address.store(slot.address(), Ordering::Release);
    companion::start(attacker, 1, write_for_ever)?;
    let (mut changes, mut outcome) = (0, Ok(()));
    for round in 0..rounds {
        changes += wait_for_a_write(&table).await;
        outcome = outcome.and(protect_and_watch(attacker, &slot, &table, round));
        accepted("mapping it writable again", slot.map_by_address(writable))?;
    }
    WRITER.is_done.store(true, Ordering::Relaxed);
    wait_for(1).await;
    println!("      {changes} writes seen in {rounds} rounds, {} faults", companion::faults());
    slot.restore().map_err(|errno| format!("restoring the slot: {errno}"))?;
    outcome?;
    expect(changes > 0 && companion::faults() > 0, "the writer never wrote, or was never stopped")
}

/// The positive control: while the page is plain memory, what the writer writes arrives.
async fn wait_for_a_write(table: &Table<'_>) -> u64 {
    let before = table.entry(0);
    for attempt in 0..1000 {
        if table.entry(0) != before {
            return 1;
        }
        if attempt % 100 == 99 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    0
}

/// Takes the right to write away without asking for any flush, makes the page a table, and watches it.
fn protect_and_watch(attacker: &Attacker, slot: &Slot<'_>, table: &Table<'_>, round: u64) -> Outcome {
    const LOOKS: u32 = 2000;
    const YIELD_EVERY: u64 = 16;
    let readable = entry(table.frame(), READ);
    let level = 2 + (round % 3) as u32;
    accepted(
        "write-protecting it",
        attacker.call(HYPERVISOR_UPDATE_VA_MAPPING, &[slot.address(), readable, 0]),
    )?;
    accepted(format!("pinning it as a table of level {level}"), attacker.pin(table.frame(), level))?;
    let first = table.entry(0);
    if round.is_multiple_of(YIELD_EVERY) {
        // Where there is one processor only, the writer gets it.
        accepted("yielding", attacker.call(HYPERVISOR_SCHED_OP, &[u64::from(SCHEDOP_YIELD)]))?;
    }
    let changed = (0..LOOKS).any(|_| table.entry(0) != first);
    accepted("unpinning it", attacker.unpin(table.frame()))?;
    expect(!changed, format!("round {round}: a table of level {level} was written"))
}

async fn hammer(attacker: &Attacker, rounds: u64, vcpus: usize) -> Outcome {
    let tables: Vec<Table<'_>> =
        (0..FRAMES).map(|_| Table::new(attacker, [])).collect::<Result<_, String>>()?;
    let slots: Vec<Slot<'_>> = (0..SLOTS).map(|_| Slot::new(attacker)).collect::<Result<_, String>>()?;
    let grants = grants_of(attacker, &tables)?;
    fill_arena(attacker, &tables, &slots, &grants, vcpus)?;
    ARENA.rounds.store(rounds * 64, Ordering::Release);
    let ended = companion::ended();
    for vcpu in 2..vcpus {
        companion::start(attacker, vcpu as u64, fight as Body)?;
    }
    // This virtual CPU takes part, and lets its kernel breathe now and then.
    let mut random = Random(0x5eed);
    for _ in 0..rounds {
        (0..64).for_each(|_| attempt(attacker, &mut random));
        sleep(Duration::from_micros(10)).await;
    }
    wait_for(ended + vcpus.saturating_sub(2)).await;
    tell();
    take_back(attacker, &slots)?;
    for grant in grants {
        grant.end().map_err(|_| "a grant is still in use")?;
    }
    for (number, table) in tables.iter().enumerate() {
        expect(table.is_plain(), format!("frame {number} is still used as something"))?;
    }
    let least = (0..KINDS).map(|kind| ARENA.accepted[kind].load(Ordering::Relaxed)).min();
    expect(least > Some(0), "something was never accepted")
}

fn grants_of(attacker: &Attacker, tables: &[Table<'_>]) -> Result<Vec<Grant>, String> {
    let grant = |table: &Table<'_>| grant_access(attacker.own_id, table.frame(), GrantAccess::ReadWrite);
    tables.iter().map(|table| grant(table).map_err(|errno| format!("granting: {errno}"))).collect()
}

fn fill_arena(
    attacker: &Attacker,
    tables: &[Table<'_>],
    slots: &[Slot<'_>],
    grants: &[Grant],
    vcpus: usize,
) -> Outcome {
    ARENA.attacker.own_id.store(u32::from(attacker.own_id.0), Ordering::Relaxed);
    ARENA.attacker.root.store(attacker.root.0, Ordering::Relaxed);
    for (index, (table, grant)) in tables.iter().zip(grants).enumerate() {
        ARENA.frames[index].store(table.frame().0, Ordering::Relaxed);
        ARENA.references[index].store(grant.reference().0, Ordering::Relaxed);
    }
    for (index, slot) in slots.iter().enumerate() {
        ARENA.slots[index].0.store(slot.address(), Ordering::Relaxed);
        ARENA.slots[index].1.store(slot.place(), Ordering::Relaxed);
    }
    for vcpu in 0..vcpus {
        let mut bind = EvtchnBindIpi { vcpu: VcpuId(vcpu as u32), ..Default::default() };
        accepted(
            "binding a port for signals",
            attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind),
        )?;
        ARENA.signals[vcpu].store(bind.port.0, Ordering::Relaxed);
    }
    Ok(())
}

/// A companion's part.
extern "C" fn fight(vcpu: u64) {
    let attacker = ARENA.attacker();
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ vcpu);
    for _ in 0..ARENA.rounds.load(Ordering::Acquire) {
        attempt(&attacker, &mut random);
    }
}

/// One attempt at something.
fn attempt(attacker: &Attacker, random: &mut Random) {
    let kind = random.next() % KINDS;
    let frame = ARENA.frame(random.next());
    let number = random.next();
    let (address, place) = ARENA.slot(number);
    let flags = [READ, WRITE][random.next() % 2];
    let accepted = match kind {
        0 => attacker
            .call(HYPERVISOR_UPDATE_VA_MAPPING, &[address, entry(frame, flags), flush(random)])
            .is_ok(),
        1 => attacker.set_entry(place, entry(frame, flags)).is_ok(),
        2 => attacker.set_entry(place, 0).is_ok(),
        3 => attacker.pin(frame, 1 + (random.next() % 4) as u32).is_ok(),
        4 => attacker.unpin(frame).is_ok(),
        5 => attacker.set_entry(place_of(frame, random.next() % 8), inner_entry(random)).is_ok(),
        6 => map_grant(attacker, random, number % SLOTS),
        7 => unmap_grant(attacker, number % SLOTS),
        8 => copy_grant(attacker, random),
        9 => signal(attacker, random),
        10 => reopen(attacker, number % PORTS),
        _ => breathe(attacker, random),
    };
    ARENA.count(kind, accepted);
}

fn flush(random: &mut Random) -> u64 {
    [0, UVMF_INVLPG | UVMF_LOCAL, UVMF_INVLPG | UVMF_ALL, UVMF_TLB_FLUSH | UVMF_ALL][random.next() % 4]
}

/// Something for an entry of a frame that may be a table of any level: another of the frames, or nothing.
fn inner_entry(random: &mut Random) -> u64 {
    let frame = ARENA.frame(random.next());
    [0, entry(frame, READ), entry(frame, WRITE), entry(frame, TABLE)][random.next() % 4]
}

fn map_grant(attacker: &Attacker, random: &mut Random, slot: usize) -> bool {
    let reference = GrantReference(ARENA.references[random.next() % FRAMES].load(Ordering::Relaxed));
    let mut map = GnttabMapGrantRef {
        host_addr: ARENA.slot(slot).1,
        flags: GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE | [0, GNTMAP_READONLY][random.next() % 2],
        r#ref: reference,
        dom: attacker.own_id,
        status: 1,
        handle: GrantHandle(NONE),
        ..Default::default()
    };
    let called = attacker.grant_op(GNTTABOP_MAP_GRANT_REF, core::slice::from_mut(&mut map)).is_ok();
    let mapped = called && map.status == GNTST_OKAY;
    if mapped && ARENA.handles[slot].swap(map.handle.0, Ordering::AcqRel) != NONE {
        // Two mappings in one place cannot be: the second is refused while the first is there.
        ARENA.handles[slot].store(map.handle.0, Ordering::Release);
    }
    mapped
}

fn unmap_grant(attacker: &Attacker, slot: usize) -> bool {
    let handle = ARENA.handles[slot].swap(NONE, Ordering::AcqRel);
    handle != NONE && unmap(attacker, slot, handle)
}

fn unmap(attacker: &Attacker, slot: usize, handle: u32) -> bool {
    let mut unmap = GnttabUnmapGrantRef {
        host_addr: ARENA.slot(slot).1,
        handle: GrantHandle(handle),
        status: 1,
        ..Default::default()
    };
    let called = attacker.grant_op(GNTTABOP_UNMAP_GRANT_REF, core::slice::from_mut(&mut unmap)).is_ok();
    called && unmap.status == GNTST_OKAY
}

/// From one of the granted frames to another of the frames by number.
fn copy_grant(attacker: &Attacker, random: &mut Random) -> bool {
    let reference = ARENA.references[random.next() % FRAMES].load(Ordering::Relaxed);
    let mut copy = GnttabCopy { flags: GNTCOPY_SOURCE_GREF, len: 64, status: 1, ..Default::default() };
    copy.source.u = u64::from(reference);
    copy.source.domid = attacker.own_id;
    copy.dest.u = ARENA.frame(random.next()).0;
    copy.dest.domid = DomainId::SELF;
    // What was copied from a table may lie anywhere but where entries are tried.
    (copy.source.offset, copy.dest.offset) = (2048, 2048);
    let called = attacker.grant_op(GNTTABOP_COPY, core::slice::from_mut(&mut copy)).is_ok();
    called && copy.status == GNTST_OKAY
}

fn signal(attacker: &Attacker, random: &mut Random) -> bool {
    let port = ARENA.signals[random.next() % companion::MOST].load(Ordering::Relaxed);
    let port = if port == 0 { ARENA.ports[random.next() % PORTS].load(Ordering::Relaxed) } else { port };
    let mut send = EvtchnSend { port: Port(port) };
    attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut send).is_ok()
}

/// Closes one port and opens another, connected to a third.
fn reopen(attacker: &Attacker, index: usize) -> bool {
    let open = |command: u32, argument: u64| {
        attacker.call(HYPERVISOR_EVENT_CHANNEL_OP, &[u64::from(command), argument])
    };
    let mut alloc =
        EvtchnAllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::SELF, ..Default::default() };
    if open(EVTCHNOP_ALLOC_UNBOUND, address_of(&mut alloc)).is_err() {
        return false;
    }
    let mut bind =
        EvtchnBindInterdomain { remote_dom: DomainId::SELF, remote_port: alloc.port, ..Default::default() };
    let bound = open(EVTCHNOP_BIND_INTERDOMAIN, address_of(&mut bind)).is_ok();
    if bound {
        let mut close = EvtchnClose { port: bind.local_port };
        let _ = open(EVTCHNOP_CLOSE, address_of(&mut close));
    }
    let old = ARENA.ports[index].swap(alloc.port.0, Ordering::AcqRel);
    let mut close = EvtchnClose { port: Port(old) };
    let closed = old == 0 || open(EVTCHNOP_CLOSE, address_of(&mut close)).is_ok();
    bound && closed
}

/// Takes a page of memory and gives it back, or has translations forgotten everywhere.
fn breathe(attacker: &Attacker, random: &mut Random) -> bool {
    match random.next() % 3 {
        0 => attacker.mmuext(MMUEXT_TLB_FLUSH_ALL, 0, 0).is_ok(),
        1 => attacker.mmuext(MMUEXT_INVLPG_ALL, ARENA.slot(random.next()).0, 0).is_ok(),
        _ => {
            // There is none to take until the limit allows one more.
            let mut extent = [0];
            let taken = attacker.reservation(XENMEM_POPULATE_PHYSMAP, &mut extent, 0) == Ok(1);
            taken && attacker.reservation(XENMEM_DECREASE_RESERVATION, &mut extent, 0) == Ok(1)
        }
    }
}

fn tell() {
    for kind in 0..KINDS {
        let [accepted, refused] =
            [&ARENA.accepted, &ARENA.refused].map(|counters| counters[kind].load(Ordering::Relaxed));
        println!("      kind {kind}: {accepted} accepted, {refused} refused");
    }
}

/// Undoes whatever was done last.
fn take_back(attacker: &Attacker, slots: &[Slot<'_>]) -> Outcome {
    for index in 0..SLOTS {
        let handle = ARENA.handles[index].load(Ordering::Relaxed);
        expect(handle == NONE || unmap(attacker, index, handle), "a grant's mapping cannot be undone")?;
    }
    for slot in slots {
        accepted("restoring a slot", slot.restore())?;
    }
    for frame in (0..FRAMES).map(|number| ARENA.frame(number)) {
        let _ = attacker.unpin(frame);
    }
    for port in ARENA.ports.iter().chain(&ARENA.signals).map(|port| port.load(Ordering::Relaxed)) {
        let mut close = EvtchnClose { port: Port(port) };
        let closed = attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_CLOSE, &mut close);
        expect(port == 0 || closed.is_ok(), format!("port {port} was closed by nobody and is not open"))?;
    }
    Ok(())
}
