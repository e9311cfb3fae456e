#![expect(unsafe_code, reason = "reads and writes the structures that hypercalls name")]
//! What the kernel calls hypercalls: a stub in its hypercall page jumps to `call_entry`, which keeps the registers
//! that the caller counts on and calls [`call`].

use core::arch::global_asm;
use core::slice;

use hypercall_abi::Errno;
use hypercall_abi::event_channel::{
    EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_PIRQ, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, EVTCHNOP_STATUS,
    EVTCHNSTAT_UNBOUND, EvtchnAllocUnbound, EvtchnBindPirq, EvtchnBindVirq, EvtchnClose, EvtchnStatus,
};
use hypercall_abi::physdev::{
    PHYSDEVOP_IRQ_STATUS_QUERY, PHYSDEVOP_MAP_PIRQ, PHYSDEVOP_PCI_DEVICE_ADD, PHYSDEVOP_SET_IOPL,
    PHYSDEVOP_UNMAP_PIRQ, PhysdevIrqStatusQuery, PhysdevMapPirq, PhysdevUnmapPirq,
};
use hypercall_abi::sched::{
    SCHEDOP_BLOCK, SCHEDOP_SHUTDOWN, SCHEDOP_YIELD, SHUTDOWN_POWEROFF, SchedShutdown,
};
use hypercall_abi::vcpu::{VCPUOP_GET_RUNSTATE_INFO, VCPUOP_STOP_PERIODIC_TIMER, VcpuRunstateInfo};
use hypercall_abi::xen::*;

use crate::{ENDED_BADLY, ENDED_WELL, clock, end, event, interrupt, memory, message, serial};

/// Bytes of a stub, and how many there are.
const STUB_BYTES: usize = 32;
const STUBS: usize = 128;

// A caller counts on every register but rax, rcx and r11. Arguments are in rdi, rsi, rdx, r10; the number in eax.
global_asm!(
    r#"
    .section .text.call_entry, "ax"
call_entry:
    push rbp
    mov rbp, rsp
    push rdi
    push rsi
    push rdx
    push r8
    push r9
    push r10
    and rsp, -16
    mov rcx, r10
    mov r8, rax
    call {call}
    lea rsp, [rbp - 48]
    pop r10
    pop r9
    pop r8
    pop rdx
    pop rsi
    pop rdi
    pop rbp
    ret
"#,
    call = sym call,
);

unsafe extern "C" {
    fn call_entry();
}

/// The stubs and where in the hypercall page they go.
pub fn stubs() -> impl Iterator<Item = (usize, [u8; 18])> {
    (0..STUBS).map(|number| (number * STUB_BYTES, stub(number as u32)))
}

/// mov eax, number; movabs r11, call_entry; jmp r11
fn stub(number: u32) -> [u8; 18] {
    let mut stub = [0xb8, 0, 0, 0, 0, 0x49, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0xff, 0xe3];
    stub[1..5].copy_from_slice(&number.to_le_bytes());
    stub[7..15].copy_from_slice(&(call_entry as *const () as u64).to_le_bytes());
    stub
}

extern "C" fn call(first: u64, second: u64, third: u64, _fourth: u64, number: u64) -> i64 {
    let result = match number {
        HYPERVISOR_SCHED_OP => schedule(first as u32, second),
        HYPERVISOR_SET_TIMER_OP => {
            clock::set_timer(first);
            Ok(0)
        }
        HYPERVISOR_EVENT_CHANNEL_OP => event_channel(first as u32, second),
        HYPERVISOR_PHYSDEV_OP => device(first as u32, second),
        HYPERVISOR_MMU_UPDATE => memory::update(first, second, third),
        HYPERVISOR_UPDATE_VA_MAPPING => memory::update_mapping(first, second, third),
        HYPERVISOR_MMUEXT_OP => memory::extended(first, second),
        HYPERVISOR_VCPU_OP => vcpu(first as u32, third),
        HYPERVISOR_CONSOLE_IO => console(first as u32, second, third),
        // Exceptions are reported here, and events are looked for by the kernel itself.
        HYPERVISOR_SET_TRAP_TABLE | HYPERVISOR_SET_CALLBACKS => Ok(0),
        _ => Err(Errno::ENOSYS),
    };
    match result {
        Ok(value) => value as i64,
        Err(errno) => errno.to_return(),
    }
}

/// Lets `body` at the structure that a hypercall was given.
fn with<T>(argument: u64, body: impl FnOnce(&mut T) -> Result<(), Errno>) -> Result<u64, Errno> {
    // SAFETY: `pv_runtime` passes the command's own structure, which is nobody else's during the call.
    body(unsafe { &mut *(argument as *mut T) }).map(|()| 0)
}

fn schedule(command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        SCHEDOP_YIELD => Ok(0),
        SCHEDOP_BLOCK => {
            interrupt::wait();
            Ok(0)
        }
        SCHEDOP_SHUTDOWN => with(argument, |shutdown: &mut SchedShutdown| {
            end(if shutdown.reason == SHUTDOWN_POWEROFF { ENDED_WELL } else { ENDED_BADLY })
        }),
        _ => Err(Errno::ENOSYS),
    }
}

fn event_channel(command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        EVTCHNOP_ALLOC_UNBOUND => with(argument, |unbound: &mut EvtchnAllocUnbound| {
            unbound.port = event::bind(event::Source::Nothing)?;
            Ok(())
        }),
        EVTCHNOP_BIND_VIRQ => with(argument, |bind: &mut EvtchnBindVirq| {
            let source = if bind.virq == VIRQ_TIMER { event::Source::Timer } else { event::Source::Nothing };
            bind.port = event::bind(source)?;
            Ok(())
        }),
        EVTCHNOP_BIND_PIRQ => with(argument, |bind: &mut EvtchnBindPirq| {
            bind.port = event::bind(event::Source::Message(bind.pirq))?;
            message::enable(bind.pirq)
        }),
        EVTCHNOP_STATUS => with(argument, |status: &mut EvtchnStatus| {
            // The kernel is domain 0, and so is whoever may connect.
            status.status = EVTCHNSTAT_UNBOUND;
            status.u.dom_or_irq = 0;
            Ok(())
        }),
        EVTCHNOP_CLOSE => with(argument, |close: &mut EvtchnClose| event::close(close.port)),
        _ => Err(Errno::ENOSYS),
    }
}

fn device(command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        // All ports are the kernel's, and every device is known.
        PHYSDEVOP_SET_IOPL | PHYSDEVOP_PCI_DEVICE_ADD => Ok(0),
        PHYSDEVOP_IRQ_STATUS_QUERY => with(argument, |query: &mut PhysdevIrqStatusQuery| {
            query.flags = 0;
            Ok(())
        }),
        PHYSDEVOP_MAP_PIRQ => with(argument, |map: &mut PhysdevMapPirq| {
            map.pirq = message::add(map)?.0 as i32;
            Ok(())
        }),
        PHYSDEVOP_UNMAP_PIRQ => with(argument, |unmap: &mut PhysdevUnmapPirq| message::remove(unmap.pirq)),
        _ => Err(Errno::ENOSYS),
    }
}

fn vcpu(command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        VCPUOP_STOP_PERIODIC_TIMER => Ok(0),
        VCPUOP_GET_RUNSTATE_INFO => with(argument, |info: &mut VcpuRunstateInfo| {
            *info = clock::run_state();
            Ok(())
        }),
        _ => Err(Errno::ENOSYS),
    }
}

fn console(command: u32, count: u64, text: u64) -> Result<u64, Errno> {
    if command != CONSOLEIO_WRITE {
        return Err(Errno::ENOSYS);
    }
    // SAFETY: the caller of the hypercall vouches for the text.
    serial::send(unsafe { slice::from_raw_parts(text as *const u8, count as usize) });
    Ok(0)
}
