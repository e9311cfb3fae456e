#![expect(unsafe_code, reason = "the instructions between a guest and the hypervisor")]
//! The way in and the way out.
//!
//! The CPU enters from ring 3 with its stack pointer at the end of the running vCPU's [`CpuUserRegs`] (TSS.RSP0),
//! so the frame it pushes, and the registers pushed after it, land where they belong: nothing is copied on entry
//! or on a switch. The code then moves to the CPU's own stack, whose address lies right behind the registers,
//! and calls Rust, which returns the registers to leave with: those of the same vCPU or of another.
//!
//! ```text
//!   Context:  | scratch | r15 .. rdi | error | rip cs rflags rsp ss | es ds fs gs | stack of this CPU |
//!                       ^ passed to Rust                            ^ RSP0
//! ```
//!
//! An `iretq` that faults on the way out (a guest may name any of its own descriptors) pushes its frame into the
//! scratch words and over the general registers, which still stand in the CPU; see [`super::switch`].

use super::descriptor_tables::{HYPERVISOR_CODE, InterruptStack};
use crate::{cpu::MOST_CPUS, lock::Once};
use core::{arch::global_asm, mem::offset_of, sync::atomic::AtomicU64};
use hypercall_abi::arch_x86::{CpuUserRegs, FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64};

/// `entry_vector` of a frame made by SYSCALL (Xen's `TRAP_syscall`).
pub const SYSCALL_VECTOR: u32 = 0x100;

/// `entry_vector` of a frame made by SYSCALL from 32-bit code.
pub const COMPATIBILITY_SYSCALL_VECTOR: u32 = 0x101;

/// `entry_vector` of a frame made by SYSENTER.
pub const SYSENTER_VECTOR: u32 = 0x102;

/// From a register frame to the word that holds the CPU's stack pointer.
const STACK_OFFSET: usize =
    offset_of!(crate::vcpu::Context, hypervisor_stack) - offset_of!(crate::vcpu::Context, registers);

/// What SYSCALL needs on one CPU, in a cache line of its own.
#[repr(C, align(64))]
struct SyscallWords {
    /// The end of the frame to push to.
    frame_end: AtomicU64,
    /// Keeps the guest's stack pointer for a moment.
    guest_stack: AtomicU64,
}

/// SYSCALL leaves no register to find anything by, so each CPU has an entry of its own that names its own words.
#[unsafe(no_mangle)]
static SYSCALL_WORDS: [SyscallWords; MOST_CPUS] =
    [const { SyscallWords { frame_end: AtomicU64::new(0), guest_stack: AtomicU64::new(0) } }; MOST_CPUS];

/// Bytes above the stack for debug exceptions: the address of the CPU's words for SYSCALL, and padding.
pub const DEBUG_STACK_HEAD: u64 = 16;
/// What lies on that stack between the entry code's stack pointer and those: a frame, an error code, two registers.
const DEBUG_FRAME: usize = (5 + 1 + 2) * 8;

fn own_words() -> &'static SyscallWords {
    &SYSCALL_WORDS[super::cpu::this_cpu().id as usize % MOST_CPUS]
}

/// Address of this CPU's words for SYSCALL.
pub fn syscall_words() -> u64 {
    &raw const *own_words() as u64
}

/// Points SYSCALL on this CPU at the end of a vCPU's saved frame.
pub fn set_syscall_frame(end_of_frame: u64) {
    own_words().frame_end.store(end_of_frame, core::sync::atomic::Ordering::Relaxed);
}

global_asm!(
    r#"
    .macro save_registers
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .endm

    .macro restore_registers
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    add rsp, 8
    .endm

    .text
    .balign 16
vector_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == 8 || vector == 10 || vector == 11 || vector == 12 || vector == 13 || vector == 14 || vector == 17 || vector == 21
    .else
    push 0
    .endif
    mov dword ptr [rsp + 4], vector
    .if vector == 2 || vector == 8 || vector == 18
    jmp enter_on_special_stack
    .elseif vector == 1
    jmp enter_debug
    .else
    jmp enter
    .endif
    .set vector, vector + 1
    .endr

    .balign 16
enter:
    save_registers
    cld
    mov rdi, rsp
    test byte ptr [rsp + {cs}], 3
    jz enter_from_hypervisor
    mov rsp, [rdi + {stack}]
    xor ebp, ebp
    call {guest_trap}
    .global leave_to_guest
leave_to_guest:
    mov rsp, rax
    restore_registers
    .global leave_instruction
leave_instruction:
    iretq

enter_from_hypervisor:
    lea rax, [rip + leave_instruction]
    cmp [rdi + {rip}], rax
    je return_failed
    mov rbx, rsp                    # a fault's frame may leave the stack unaligned for Rust
    and rsp, -16
    call {hypervisor_trap}
    mov rsp, rbx
    restore_registers
    iretq

return_failed:                      # the frame lies over the running vCPU's own registers
    mov rsi, [rdi + {rsp}]          # where the return frame was: at `rip` of those registers
    sub rsi, {rip}
    mov rsp, [rsi + {stack}]
    call {failed_return}
    jmp leave_to_guest

enter_debug:                        # on a stack of its own: see `InterruptStack::Debug`
    test byte ptr [rsp + {cs} - {error_code}], 3
    jz debug_in_hypervisor
    push rax
    push rcx
    mov rcx, rsp
    mov rax, [rcx + {debug_frame}]  # the CPU's words for SYSCALL
    mov rax, [rax + {frame_end}]
    .set word, 7
    .rept 6                         # ss down to the error code, to where RSP0 would have put them
    mov rsp, [rcx + 8 * word]
    mov [rax - 8 * (8 - word)], rsp
    .set word, word - 1
    .endr
    lea rsp, [rax - 48]
    mov rax, [rcx + 8]
    mov rcx, [rcx]
    jmp enter

debug_in_hypervisor:                # a guest's single step carried over into SYSCALL, or its breakpoint on memory
                                    # that the hypervisor used: it ends here, and the guest is not told
    and qword ptr [rsp + {rflags} - {error_code}], ~0x100
    mov [rsp], rax
    mov eax, {no_cause}
    mov dr6, rax
    pop rax
    iretq

enter_on_special_stack:
    save_registers
    cld
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    call {special_trap}
    mov rsp, rbx
    restore_registers
    iretq

    .macro syscall_frame code, vector
    mov [rip + SYSCALL_WORDS + {words} * cpu + {guest_stack}], rsp
    mov rsp, [rip + SYSCALL_WORDS + {words} * cpu + {frame_end}]
    push {user_data}
    push qword ptr [rip + SYSCALL_WORDS + {words} * cpu + {guest_stack}]
    push r11
    push \code
    push rcx
    push 0
    mov dword ptr [rsp + 4], \vector
    .endm

    .balign 16
    .global sysenter_entry
sysenter_entry:                     # the CPU has kept neither the guest's rip nor its rsp, and its flags are in force;
    mov rsp, [rsp + {frame_end}]    # it was told to find this CPU's words for SYSCALL in rsp
    push {user_data}
    push 0
    pushfq
    or qword ptr [rsp], {interrupts}
    push {compatibility_code}
    push 0
    push 2                          # no flags: neither nested task nor alignment check may be on here
    popfq
    push 0
    mov dword ptr [rsp + 4], {sysenter_vector}
    jmp enter_syscall

    .balign 128                     # a pair of entries for each CPU, the boot CPU's last
    .global syscall_entries
syscall_entries:
    .set cpu, {most_cpus} - 1
    .rept {most_cpus}
    .balign 128
    syscall_frame {compatibility_code}, {compatibility_vector}
    jmp enter_syscall
    .balign 64
    syscall_frame {user_code}, {syscall_vector}
    .if cpu
    jmp enter_syscall
    .endif
    .set cpu, cpu - 1
    .endr
enter_syscall:
    save_registers
    mov rdi, rsp
    mov rsp, [rdi + {stack}]
    xor ebp, ebp
    call {guest_syscall}
    mov rsp, rax
    restore_registers
    jmp leave_instruction
"#,
    cs = const offset_of!(CpuUserRegs, cs),
    rip = const offset_of!(CpuUserRegs, rip),
    rflags = const offset_of!(CpuUserRegs, rflags),
    error_code = const offset_of!(CpuUserRegs, error_code),
    no_cause = const crate::debug_registers::STATUS_RESET,
    rsp = const offset_of!(CpuUserRegs, rsp),
    failed_return = sym super::switch::failed_return,
    stack = const STACK_OFFSET,
    guest_trap = sym super::switch::guest_trap,
    guest_syscall = sym super::switch::guest_syscall,
    hypervisor_trap = sym super::switch::hypervisor_trap,
    special_trap = sym super::switch::special_trap,
    user_data = const FLAT_RING3_SS64,
    user_code = const FLAT_RING3_CS64,
    syscall_vector = const SYSCALL_VECTOR,
    compatibility_code = const FLAT_RING3_CS32,
    sysenter_vector = const SYSENTER_VECTOR,
    interrupts = const 1 << 9,
    compatibility_vector = const COMPATIBILITY_SYSCALL_VECTOR,
    words = const size_of::<SyscallWords>(),
    frame_end = const offset_of!(SyscallWords, frame_end),
    guest_stack = const offset_of!(SyscallWords, guest_stack),
    debug_frame = const DEBUG_FRAME,
    most_cpus = const MOST_CPUS,
);

unsafe extern "C" {
    static vector_stubs: u8;
    fn sysenter_entry();
    static syscall_entries: u8;
}

/// Bytes between two stubs.
const STUB_SIZE: u64 = 16;

/// Address SYSENTER enters at, on every CPU.
pub fn sysenter_address() -> u64 {
    sysenter_entry as *const () as u64
}

/// Bytes of a CPU's pair of entries for SYSCALL.
const SYSCALL_PAIR: u64 = 128;

/// Address SYSCALL enters at on this CPU from 32-bit code.
pub fn compatibility_syscall_address() -> u64 {
    let pairs_before = MOST_CPUS as u64 - 1 - u64::from(super::cpu::this_cpu().id);
    &raw const syscall_entries as u64 + pairs_before * SYSCALL_PAIR
}

/// Address SYSCALL enters at on this CPU.
pub fn syscall_address() -> u64 {
    compatibility_syscall_address() + SYSCALL_PAIR / 2
}

#[repr(C, align(4096))]
struct Gates([[u64; 2]; 256]);

static GATES: Once<Gates> = Once::new();

/// The interrupt descriptor table, made on first use.
pub fn interrupt_descriptor_table() -> *const u8 {
    let gates = GATES.call_once(|| Gates(core::array::from_fn(|vector| gate(vector as u64))));
    (&raw const gates.0).cast()
}

/// An interrupt gate for `vector`. Breakpoint, overflow and the vectors a guest may use as software interrupts
/// are open to ring 3; for the others `int n` raises #GP, which the guest sees as such.
fn gate(vector: u64) -> [u64; 2] {
    let address = &raw const vector_stubs as u64 + vector * STUB_SIZE;
    let stack = match vector {
        1 => InterruptStack::Debug as u64,
        8 => InterruptStack::DoubleFault as u64,
        2 => InterruptStack::NonMaskable as u64,
        18 => InterruptStack::MachineCheck as u64,
        _ => 0,
    };
    let privilege = if vector == 3 || vector == 4 { 3 } else { 0 };
    let low = (address & 0xffff)
        | u64::from(HYPERVISOR_CODE) << 16
        | stack << 32
        | 0xe << 40
        | privilege << 45
        | 1 << 47
        | (address >> 16 & 0xffff) << 48;
    [low, address >> 32]
}
