//! The first and only program of a Linux that is there to be measured: what the kernel costs its user programs.
//!
//! It runs as `/init` on the bare machine, on Weir and on Xen alike, needs no library, and prints a line for each
//! figure, `bench: NUMBER NAME`. NUMBER is in ticks of the time stamp counter, which are instructions in a machine that
//! counts them. If there is `/weir_bench.ko`, its figures follow; then the machine is switched off.
//!
//! Every figure is the least of several rounds, so that a timer interrupt in one of them does not count.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "speaks to Linux by system calls, and starts without a runtime")]

mod boot;
mod clock;
mod measure;
mod memory;
mod output;
mod process;
mod syscall;

use core::arch::global_asm;
use core::panic::PanicInfo;

global_asm!(
    ".global _start",
    "_start:",
    "rdtsc",
    "shl rdx, 32",
    "lea rdi, [rax + rdx]",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

/// The first process measures; what is executed to measure executing is another, and ends at once.
extern "C" fn main(start: u64) -> ! {
    if syscall::own_number() != 1 {
        syscall::exit(0);
    }
    if let Err(error) = boot::prepare(start).and_then(|()| measure_all()) {
        output::line(format_args!("bench failed: {} says {}", error.call, error.number));
    }
    syscall::power_off();
}

fn measure_all() -> Result<(), syscall::Error> {
    process::system_calls()?;
    memory::faults()?;
    memory::mappings()?;
    process::switches()?;
    process::children()?;
    boot::module_figures()
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    output::line(format_args!("bench failed: panic"));
    syscall::power_off();
}
