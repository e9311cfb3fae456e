//! Pointers that lead into the hypervisor, nowhere, or over an edge, for every hypercall that takes one.
//!
//! The hypervisor follows a guest's pointers in ring 0, where everything is within reach: so it is this module that a
//! missing check would be found by.

use alloc::format;
use alloc::string::String;

use hypercall_abi::event_channel::*;
use hypercall_abi::grant_table::*;
use hypercall_abi::memory::*;
use hypercall_abi::physdev::*;
use hypercall_abi::sched::*;
use hypercall_abi::vcpu::*;
use hypercall_abi::version::*;
use hypercall_abi::xen::*;
use hypercall_abi::{DomainId, Errno};
use pv_runtime::memory::{Page, PageRun, SharedMemory};

use crate::attacker::{Attacker, address_of};
use crate::calls::Answer;
use crate::entry::*;
use crate::report::{Outcome, accepted, cases, expect, refused_as};
use crate::table::{Table, tables_of};

cases!("pointers":
    good_ones, arguments, lists_in_arguments, arguments_over_the_edge, answers_into_page_tables,
    answers_into_the_hypervisor,
);

/// Addresses that no argument lies at.
const BAD: [u64; 19] = [
    0,
    0x10,
    0x7fff_ffff_f000,
    0x7fff_ffff_fff8,
    0x0000_8000_0000_0000,
    0x1234_5678_9abc_def0,
    0x8000_0000_0000_0000,
    0xffff_7fff_ffff_fff8,
    0xffff_7fff_ffff_ffff,
    0xffff_8000_0000_0000,
    0xffff_8000_0000_0008,
    0xffff_8080_0000_0000,
    0xffff_8280_0000_0000,
    0xffff_82d0_8010_0000,
    0xffff_8300_0000_0000,
    0xffff_87ff_ffff_fff0,
    0xffff_87ff_ffff_ffff,
    0xffff_ffff_ffff_fff0,
    0xffff_ffff_ffff_ffff,
];

/// A hypercall that takes a pointer.
struct Taker {
    number: u64,
    /// Its arguments, for a pointer.
    arguments: fn(u64) -> [u64; 4],
    /// Reads a structure there; otherwise it only writes one.
    reads: bool,
}

const fn taker(number: u64, reads: bool, arguments: fn(u64) -> [u64; 4]) -> Taker {
    Taker { number, arguments, reads }
}

/// A taker of the form `call(command, pointer)`.
macro_rules! command {
    ($number:ident, $command:expr, $reads:literal) => {
        taker($number, $reads, |pointer| [$command as u64, pointer, 1, 0])
    };
    ($number:ident, $command:expr) => {
        command!($number, $command, true)
    };
}

const SELF: u64 = DomainId::SELF.0 as u64;

/// Every one that an ordinary domain may call. That of `set_trap_table` takes a null pointer for "none".
const TAKERS: [Taker; 57] = [
    taker(HYPERVISOR_MMU_UPDATE, true, |pointer| [pointer, 1, 0, SELF]),
    taker(HYPERVISOR_MMUEXT_OP, true, |pointer| [pointer, 1, 0, SELF]),
    taker(HYPERVISOR_SET_GDT, true, |pointer| [pointer, 512, 0, 0]),
    taker(HYPERVISOR_MULTICALL, true, |pointer| [pointer, 1, 0, 0]),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_INCREASE_RESERVATION),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_DECREASE_RESERVATION),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_POPULATE_PHYSMAP),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_CURRENT_RESERVATION),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_MAXIMUM_RESERVATION),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_EXCHANGE),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_MAXIMUM_GPFN),
    command!(HYPERVISOR_MEMORY_OP, XENMEM_MACHPHYS_MAPPING, false),
    command!(HYPERVISOR_XEN_VERSION, XENVER_EXTRAVERSION, false),
    command!(HYPERVISOR_XEN_VERSION, XENVER_COMPILE_INFO, false),
    command!(HYPERVISOR_XEN_VERSION, XENVER_CAPABILITIES, false),
    command!(HYPERVISOR_XEN_VERSION, XENVER_CHANGESET, false),
    command!(HYPERVISOR_XEN_VERSION, XENVER_PLATFORM_PARAMETERS, false),
    command!(HYPERVISOR_XEN_VERSION, XENVER_GET_FEATURES),
    command!(HYPERVISOR_XEN_VERSION, XENVER_GUEST_HANDLE, false),
    command!(HYPERVISOR_XEN_VERSION, XENVER_COMMANDLINE, false),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_MAP_GRANT_REF),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_UNMAP_GRANT_REF),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_SETUP_TABLE),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_COPY),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_QUERY_SIZE),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_UNMAP_AND_REPLACE),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_SET_VERSION),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_GET_VERSION),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_SWAP_GRANT_REF),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_GET_STATUS_FRAMES),
    command!(HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_CACHE_FLUSH),
    taker(HYPERVISOR_VCPU_OP, true, |pointer| [VCPUOP_INITIALISE as u64, 0, pointer, 0]),
    taker(HYPERVISOR_VCPU_OP, true, |pointer| [VCPUOP_REGISTER_VCPU_INFO as u64, 0, pointer, 0]),
    taker(HYPERVISOR_VCPU_OP, true, |pointer| [VCPUOP_SET_SINGLESHOT_TIMER as u64, 0, pointer, 0]),
    taker(HYPERVISOR_VCPU_OP, false, |pointer| [VCPUOP_GET_RUNSTATE_INFO as u64, 0, pointer, 0]),
    command!(HYPERVISOR_SCHED_OP, SCHEDOP_POLL),
    command!(HYPERVISOR_SCHED_OP, SCHEDOP_SHUTDOWN),
    command!(HYPERVISOR_SCHED_OP, SCHEDOP_SHUTDOWN_CODE),
    command!(HYPERVISOR_SCHED_OP, SCHEDOP_REMOTE_SHUTDOWN),
    command!(HYPERVISOR_CALLBACK_OP, hypercall_abi::callback::CALLBACKOP_REGISTER),
    command!(HYPERVISOR_CALLBACK_OP, hypercall_abi::callback::CALLBACKOP_UNREGISTER),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_INTERDOMAIN),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_VIRQ),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_PIRQ),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_CLOSE),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_STATUS),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_VCPU),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_UNMASK),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_RESET),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_INIT_CONTROL),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_EXPAND_ARRAY),
    command!(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SET_PRIORITY),
    command!(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_SET_IOPL),
    command!(HYPERVISOR_PHYSDEV_OP, PHYSDEVOP_IRQ_STATUS_QUERY),
];

impl Taker {
    fn call(&self, attacker: &Attacker, pointer: u64) -> Answer {
        attacker.call(self.number, &(self.arguments)(pointer))
    }

    fn name(&self) -> String {
        let [command, ..] = (self.arguments)(0);
        format!("hypercall {}, command {command},", self.number)
    }
}

fn page() -> Result<Page, String> {
    crate::slot::page()
}

fn good_ones(attacker: &Attacker) -> Outcome {
    let page = page()?;
    for taker in TAKERS.iter().filter(|taker| !taker.reads) {
        let answer = taker.call(attacker, page.virtual_address() as u64);
        accepted(format!("{} with a good pointer", taker.name()), answer)?;
    }
    let mut size = GnttabQuerySize { dom: DomainId::SELF, ..Default::default() };
    accepted(
        "a structure that is read and written",
        attacker.grant_op(GNTTABOP_QUERY_SIZE, core::slice::from_mut(&mut size)),
    )?;
    expect(size.max_nr_frames > 0, "nothing was written")
}

fn arguments(attacker: &Attacker) -> Outcome {
    for taker in &TAKERS {
        for pointer in BAD {
            let answer = taker.call(attacker, pointer);
            refused_as(format!("{} with {pointer:#x}", taker.name()), &[Errno::EFAULT], answer)?;
        }
    }
    for pointer in BAD.into_iter().filter(|pointer| *pointer != 0) {
        let answer = attacker.call(HYPERVISOR_SET_TRAP_TABLE, &[pointer]);
        refused_as(format!("handlers at {pointer:#x}"), &[Errno::EFAULT], answer)?;
    }
    Ok(())
}

/// Pointers inside structures, to lists and counters.
fn lists_in_arguments(attacker: &Attacker) -> Outcome {
    for pointer in BAD {
        let mut reservation = MemoryReservation {
            extent_start: pointer,
            nr_extents: 1,
            domid: DomainId::SELF,
            ..Default::default()
        };
        let answer = attacker.memory_op(XENMEM_DECREASE_RESERVATION, &mut reservation);
        expect(
            matches!(answer, Ok(0) | Err(Errno::EFAULT)),
            format!("extents at {pointer:#x} gave {answer:?}"),
        )?;

        let mut poll = SchedPoll { ports: pointer, nr_ports: 2, timeout: 1, ..Default::default() };
        let answer = attacker.command(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
        refused_as(format!("ports at {pointer:#x}"), &[Errno::EFAULT], answer)?;

        let mut table =
            GnttabSetupTable { dom: DomainId::SELF, nr_frames: 1, frame_list: pointer, ..Default::default() };
        let answer = attacker.grant_op(GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut table));
        expect(answer.is_err() || table.status != GNTST_OKAY, format!("grant frames at {pointer:#x}"))?;

        let mut update = MmuUpdate { ptr: attacker.root.physical_address() + 8 * 100, val: 0 };
        if pointer != 0 {
            let arguments = [address_of(&mut update), 1, pointer, SELF];
            let answer = attacker.call(HYPERVISOR_MMU_UPDATE, &arguments);
            refused_as(format!("a counter at {pointer:#x}"), &[Errno::EFAULT], answer)?;
        }
        let mut exchange = MemoryExchange::default();
        exchange.r#in = MemoryReservation { nr_extents: 1, ..reservation };
        exchange.out = exchange.r#in;
        let answer = attacker.memory_op(XENMEM_EXCHANGE, &mut exchange);
        refused_as(format!("frames to exchange at {pointer:#x}"), &[Errno::EFAULT], answer)?;
    }
    Ok(())
}

/// Structures whose first bytes are there and whose last bytes are not.
fn arguments_over_the_edge(attacker: &Attacker) -> Outcome {
    let run = PageRun::new(2).map_err(|errno| format!("there are no pages: {errno}"))?;
    let end = run.virtual_address() as u64 + 4096;
    accepted("unmapping the second page", attacker.set_address(end, 0))?;
    let mut outcome = Ok(());
    for taker in &TAKERS {
        // No structure is a single byte.
        let answer = taker.call(attacker, end - 1);
        let what = format!("{} at the edge", taker.name());
        outcome = outcome.and(refused_as(what, &[Errno::EFAULT], answer));
    }
    let back = attacker.set_address(end, entry(run.machine_frame(1), WRITE));
    accepted("mapping the second page", back)?;
    outcome
}

/// Answers go where the guest itself could write: not into its page tables, which it can only read.
fn answers_into_page_tables(attacker: &Attacker) -> Outcome {
    let lower = Table::new(attacker, [])?;
    accepted("pinning a table", attacker.pin(lower.frame(), 1))?;
    let mut outcome = Ok(());
    // To these a structure of zeroes means something, and they answer nothing but by their result.
    let without_answer = [HYPERVISOR_SCHED_OP, HYPERVISOR_CALLBACK_OP, HYPERVISOR_MULTICALL];
    for taker in TAKERS.iter().filter(|taker| !without_answer.contains(&taker.number)) {
        // For the others it may be wrong before it comes to an answer.
        let answer = taker.call(attacker, lower.address());
        if !taker.reads {
            outcome = outcome.and(refused_as(taker.name(), &[Errno::EFAULT], answer));
        }
        let is_empty = (0..512).all(|index| lower.entry(index) == 0);
        outcome = outcome.and(expect(is_empty, format!("{} wrote into a page table", taker.name())));
    }
    accepted("unpinning it", attacker.unpin(lower.frame()))?;
    outcome?;
    let [.., first] = tables_of(attacker, lower.address())?;
    expect(attacker.pin(first, 2).is_err(), "a table in use has another level now")
}

/// The machine-to-physical table can be read by the guest, but is no place for answers nor for arguments.
fn answers_into_the_hypervisor(attacker: &Attacker) -> Outcome {
    const TABLE: u64 = 0xffff_8000_0000_0000;
    for offset in [0, 8, 0x1000, 0x10_0000] {
        let before = attacker.read(TABLE + offset);
        for taker in &TAKERS {
            let answer = taker.call(attacker, TABLE + offset);
            refused_as(format!("{} at the table", taker.name()), &[Errno::EFAULT], answer)?;
        }
        expect(attacker.read(TABLE + offset) == before, "the table has changed")?;
    }
    Ok(())
}
