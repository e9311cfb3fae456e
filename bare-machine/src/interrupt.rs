#![expect(unsafe_code, reason = "the interrupt table, the local APIC, waiting")]
//! Interrupts: their vectors, the local APIC, and waiting for one.
//!
//! They are let in only while the kernel waits, as on a hypervisor it is told of events only between its tasks. An
//! exception ends the machine.

use core::arch::{asm, global_asm};
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hypercall_abi::PhysicalIrq;

use crate::{ENDED_BADLY, clock, end, event, port, serial};

/// Vectors there are stubs for.
const VECTORS: usize = 64;
/// The vector of message 0; the others follow.
pub const FIRST_MESSAGE: u8 = 0x20;
/// How many messages there can be.
pub const MESSAGES: usize = 30;
/// The vector of interrupts that went away before they could be delivered.
const SPURIOUS_VECTOR: u8 = 0x3e;
/// The vector of the timer.
pub const TIMER: u8 = 0x3f;

/// Physical address of the local APIC's registers.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const LINT0: u64 = 0x350;
const ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;

/// An entry of the interrupt table: interrupt gate, present.
const GATE: u64 = 0x8e00;
/// The only code selector.
const CODE: u64 = 8;

// Every vector has 16 bytes: an error code if the exception has none, its number, the way to the common part.
global_asm!(
    r#"
    .section .text.interrupts, "ax"
    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    vector = 0
    .rept {vectors}
    .balign 16
    .if (0x27d00 >> vector) & 1 == 0 || vector >= 32
    push 0
    .endif
    push vector
    jmp interrupt_common
    vector = vector + 1
    .endr

interrupt_common:
    push rax
    push rdx
    rdtsc
    push rcx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push rbp
    cld
    shl rdx, 32
    or rax, rdx
    mov rdi, [rsp + 80]             # the vector
    mov rsi, rax                    # when it came
    lea rdx, [rsp + 88]             # error code, rip
    mov rbp, rsp
    and rsp, -16
    call {handle}
    mov rsp, rbp
    pop rbp
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rcx
    pop rdx
    pop rax
    add rsp, 16                     # vector and error code
    iretq
"#,
    vectors = const VECTORS,
    handle = sym handle,
);

unsafe extern "C" {
    static interrupt_stubs: [[u8; 16]; VECTORS];
}

/// What the CPU is told of the table.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    address: u64,
}

static TABLE: [[AtomicU64; 2]; VECTORS] = [const { [const { AtomicU64::new(0) }; 2] }; VECTORS];

/// Fills the table, switches the local APIC on and everything off that would interrupt of itself.
pub fn set_up() {
    for (index, gate) in TABLE.iter().enumerate() {
        let address = (&raw const interrupt_stubs) as u64 + 16 * index as u64;
        let low = address & 0xffff | CODE << 16 | GATE << 32 | (address >> 16 & 0xffff) << 48;
        gate[0].store(low, Relaxed);
        gate[1].store(address >> 32, Relaxed);
    }
    let pointer = Pointer { limit: (size_of_val(&TABLE) - 1) as u16, address: (&raw const TABLE) as u64 };
    // SAFETY: the table is complete and stays where it is.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
    for legacy_controller in [0x21, 0xa1] {
        port::write_u8(legacy_controller, 0xff);
    }
    write_register(LINT0, MASKED);
    write_register(TASK_PRIORITY, 0);
    write_register(SPURIOUS, ENABLE | u32::from(SPURIOUS_VECTOR));
}

/// Writes a register of the local APIC.
pub fn write_register(register: u64, value: u32) {
    // SAFETY: the registers are mapped one to one like everything below 512 GiB.
    unsafe { ((LOCAL_APIC + register) as *mut u32).write_volatile(value) };
}

/// Reads a register of the local APIC.
pub fn read_register(register: u64) -> u32 {
    // SAFETY: as for writing.
    unsafe { ((LOCAL_APIC + register) as *const u32).read_volatile() }
}

/// Waits until there is an event.
pub fn wait() {
    while !event::is_pending() {
        let since = clock::ticks();
        // SAFETY: the interrupt table is complete; handlers touch no memory of the kernel's but the shared page. No
        // interrupt comes between the first two instructions.
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
        clock::add_idle(ARRIVED.load(Relaxed).wrapping_sub(since));
    }
}

/// For ever.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: with interrupts off the machine stops.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// When the last interrupt came.
static ARRIVED: AtomicU64 = AtomicU64::new(0);

extern "C" fn handle(vector: u64, arrived: u64, frame: &[u64; 2]) {
    ARRIVED.store(arrived, Relaxed);
    if vector < u64::from(FIRST_MESSAGE) {
        // The serial port takes everything.
        let _ =
            writeln!(serial::Output, "BARE PANIC: exception {vector}, {:#x}, at {:#x}", frame[0], frame[1]);
        end(ENDED_BADLY);
    }
    let source = match vector as u8 {
        TIMER => event::Source::Timer,
        message => event::Source::Message(PhysicalIrq(u32::from(message - FIRST_MESSAGE))),
    };
    event::raise(source);
    write_register(END_OF_INTERRUPT, 0);
}
