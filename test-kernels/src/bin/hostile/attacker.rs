#![expect(unsafe_code, reason = "makes hypercalls with any arguments, and reads, writes and jumps anywhere")]
//! What attacks are made with: hypercalls with any arguments, and accesses and instructions that may fault.
//!
//! An attempt that the hypervisor refuses does nothing, and one that it should refuse and does not may do anything to
//! this kernel: that is what is being found out. The promise that all else is harmless is made once, when the
//! [`Attacker`] is made, so the cases themselves need no unsafe code to call the hypervisor.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::{DomainId, Errno, MachineFrame};
use pv_runtime::BootInfo;
use pv_runtime::memory::root_table;
use pv_runtime::traps::{Fault, catch};

/// The right to make attempts, and what they need to know.
pub struct Attacker {
    /// This domain's own number.
    pub own_id: DomainId,
    /// The page-table root this kernel runs on.
    pub root: MachineFrame,
}

/// Makes the attacker of this kernel.
pub fn of(info: &BootInfo) -> Attacker {
    // SAFETY: the cases of this kernel name only memory of their own that Rust does not hold, or what the hypervisor
    // must refuse.
    unsafe { Attacker::new(info) }
}

impl Attacker {
    /// # Safety
    ///
    /// Whatever is attempted must either be refused, or concern memory that is in nobody else's hands in this kernel.
    unsafe fn new(info: &BootInfo) -> Self {
        let root = root_table().unwrap_or(MachineFrame(u64::MAX));
        Self { own_id: info.domain_id, root }
    }

    /// Makes a hypercall of any number, with up to six arguments; those not given are zero.
    pub fn call(&self, number: u64, arguments: &[u64]) -> Result<u64, Errno> {
        let mut registers = [0; 6];
        registers[..arguments.len()].copy_from_slice(arguments);
        let result: i64;
        // SAFETY: the promise made to `new`.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number => result,
                inlateout("rdi") registers[0] => _,
                inlateout("rsi") registers[1] => _,
                inlateout("rdx") registers[2] => _,
                inlateout("r10") registers[3] => _,
                inlateout("r8") registers[4] => _,
                inlateout("r9") registers[5] => _,
                out("rcx") _,
                out("r11") _,
            );
        }
        Errno::from_return(result)
    }

    /// Runs a function that may fault; it owns nothing and can be left in its middle.
    pub fn run(&self, function: unsafe extern "C" fn(u64), argument: u64) -> Result<(), Fault> {
        // SAFETY: the promise made to `new`; the functions of this kernel that get here own nothing.
        unsafe { catch(function, argument) }
    }

    /// Reads eight bytes anywhere.
    pub fn read(&self, address: u64) -> Result<u64, Fault> {
        static VALUE: AtomicU64 = AtomicU64::new(0);
        /// # Safety
        ///
        /// To be called so that a fault is caught.
        unsafe extern "C" fn read(address: u64) {
            let value: u64;
            // SAFETY: a read harms nothing, and a fault is caught.
            unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, readonly)) };
            VALUE.store(value, Ordering::Relaxed);
        }
        self.run(read, address).map(|()| VALUE.load(Ordering::Relaxed))
    }

    /// Writes the byte that is there to any address, so that nothing changes where that is allowed.
    pub fn write(&self, address: u64) -> Result<(), Fault> {
        /// # Safety
        ///
        /// To be called so that a fault is caught.
        unsafe extern "C" fn write(address: u64) {
            // SAFETY: what is written is what is there, and a fault is caught.
            unsafe { asm!("lock or byte ptr [{}], 0", in(reg) address, options(nostack)) };
        }
        self.run(write, address)
    }

    /// Continues at any address.
    pub fn jump(&self, address: u64) -> Result<(), Fault> {
        /// # Safety
        ///
        /// To be called so that a fault is caught, with an address at which there is no code.
        unsafe extern "C" fn jump(address: u64) {
            // SAFETY: there is no code, so it faults, which is caught.
            unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
        }
        self.run(jump, address)
    }
}

/// Where a value is, for a hypercall that reads or writes it.
pub fn address_of<T>(value: &mut T) -> u64 {
    (&raw mut *value) as u64
}
