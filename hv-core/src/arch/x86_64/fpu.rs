#![expect(unsafe_code, reason = "saves and restores FPU registers")]
//! FPU and SSE registers, which the hypervisor itself never uses.
//!
//! They are saved when their vCPU leaves the CPU after using them, and loaded when a vCPU first uses them: until then
//! CR0.TS makes the use trap. AVX and later state is not offered to guests (CR4.OSXSAVE stays clear).

use super::cpu::this_cpu;
use crate::vcpu::{Context, Vcpu};
use core::{arch::asm, ptr, sync::atomic::Ordering};

/// What `fxsave` stores.
#[repr(C, align(16))]
pub struct FpuState([u8; 512]);

/// Offset and reset value of the FPU control word, and of MXCSR.
const CONTROL: (usize, [u8; 2]) = (0, [0x7f, 0x03]);
const MXCSR: (usize, [u8; 4]) = (24, [0x80, 0x1f, 0, 0]);
/// Offset of the mask of MXCSR bits that exist, and the bits every CPU has.
const MXCSR_DEFINED: u32 = 0xffff;

impl FpuState {
    /// The state after reset.
    pub const fn new() -> Self {
        let mut bytes = [0; 512];
        bytes[CONTROL.0] = CONTROL.1[0];
        bytes[CONTROL.0 + 1] = CONTROL.1[1];
        bytes[MXCSR.0] = MXCSR.1[0];
        bytes[MXCSR.0 + 1] = MXCSR.1[1];
        Self(bytes)
    }

    /// Takes a state as `fxsave` stores it; MXCSR bits that would fault are cleared.
    pub fn set_legacy(&mut self, state: &[u8; 512]) {
        if state.iter().all(|byte| *byte == 0) {
            *self = Self::new();
            return;
        }
        self.0 = *state;
        let mxcsr = u32::from_le_bytes([state[24], state[25], state[26], state[27]]) & MXCSR_DEFINED;
        self.0[MXCSR.0..MXCSR.0 + 4].copy_from_slice(&mxcsr.to_le_bytes());
    }
}

impl Default for FpuState {
    fn default() -> Self {
        Self::new()
    }
}

/// CR0.TS.
const TASK_SWITCHED: usize = 1 << 3;

fn set_trap(trap: bool) {
    // SAFETY: changes only CR0.TS.
    unsafe {
        let value = x86::controlregs::cr0().bits();
        let value = if trap { value | TASK_SWITCHED } else { value & !TASK_SWITCHED };
        x86::controlregs::cr0_write(x86::controlregs::Cr0::from_bits_truncate(value));
    }
}

/// The running vCPU uses the FPU for the first time since it got the CPU.
pub fn restore(vcpu: &Vcpu, context: &mut Context) {
    set_trap(false);
    this_cpu().fpu_owner.store(ptr::from_ref(vcpu).cast_mut(), Ordering::Relaxed);
    // SAFETY: the area is 512 bytes, 16-byte aligned, and MXCSR in it was made safe.
    unsafe { asm!("fxrstor64 [{}]", in(reg) &raw const context.fpu, options(nostack, readonly)) };
}

/// `vcpu` leaves this CPU: saves its state if it is in the registers.
pub fn save(vcpu: &Vcpu, context: &mut Context) {
    let cpu = this_cpu();
    if !ptr::eq(cpu.fpu_owner.load(Ordering::Relaxed), vcpu) {
        return;
    }
    set_trap(false);
    // SAFETY: the area is 512 bytes and 16-byte aligned.
    unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut context.fpu, options(nostack)) };
    cpu.fpu_owner.store(ptr::null_mut(), Ordering::Relaxed);
    set_trap(true);
}

/// The guest set or cleared its own CR0.TS.
pub fn apply_task_switched(vcpu: &Vcpu, context: &Context) {
    let owns = ptr::eq(this_cpu().fpu_owner.load(Ordering::Relaxed), vcpu);
    set_trap(context.task_switched || !owns);
}
