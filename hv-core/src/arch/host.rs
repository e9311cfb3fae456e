//! The machine's double on the host: what the logic above [`crate::arch`] needs in order to be tested.
//!
//! There is one CPU, per test thread, unless a test says that there are more; time stands still unless a test moves it; the
//! guest's address space is walked in software from the page tables that were "loaded" last.

use crate::{
    cpu::Cpu,
    domain::Domain,
    own_registers::control4,
    vcpu::{Context, Vcpu},
};
use hypercall_abi::MachineFrame;
use std::{cell::Cell, thread_local, vec::Vec};

thread_local! {
    static LOADED: Cell<Option<MachineFrame>> = const { Cell::new(None) };
    static CPUS: Cell<&'static [Cpu]> = Cell::new(new_cpus(1));
    /// Which one the thread stands for.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// CPUs that have not done anything; they are leaked, as it takes to be for ever.
fn new_cpus(count: u32) -> &'static [Cpu] {
    (0..count).map(Cpu::new).collect::<Vec<_>>().leak()
}

/// Loads a vCPU's address space, for [`guest_memory`].
pub fn load_page_tables(context: &Context) {
    LOADED.set(if context.in_kernel { context.kernel_page_table } else { context.user_page_table });
}

/// Descriptor tables are not looked at here.
pub fn load_descriptor_tables(_context: &Context) {}

/// Segment bases are not looked at here.
pub fn load_segment_bases(_context: &Context) {}

/// Segment bases are not looked at here.
pub fn store_segment_bases(_context: &mut Context) {}

/// Selectors are never loaded here: the context has them already.
pub fn store_selectors(_context: &mut Context) {}

/// Sets the base of FS.
pub fn set_fs_base(context: &mut Context, base: u64) {
    context.fs_base = base;
}

/// Sets the base of GS in kernel mode.
pub fn set_kernel_gs_base(context: &mut Context, base: u64) {
    context.gs_base_kernel = base;
}

/// No descriptor is loaded here, so no selector has a base.
pub fn load_user_gs(context: &mut Context, selector: u16) {
    (context.registers.gs, context.gs_base_user) = (selector, 0);
}

/// The guest goes from its user mode to its kernel.
pub fn enter_kernel_mode(context: &mut Context) {
    context.in_kernel = true;
    load_page_tables(context);
}

/// The guest goes from its kernel to its user mode.
pub fn enter_user_mode(context: &mut Context) {
    context.in_kernel = false;
    load_page_tables(context);
}

/// The table lies in the test's own memory and has no extents.
pub fn machine_to_physical_extent(_number: u64) -> Option<MachineFrame> {
    None
}

/// The address of the last page fault: none happens here.
pub fn fault_address() -> u64 {
    0
}

/// Nothing uses the FPU here.
pub fn fpu_restore(_vcpu: &Vcpu, _context: &mut Context) {}

/// Nothing uses the FPU here.
pub fn fpu_switch_to(_vcpu: &Vcpu, _context: &mut Context) {}

/// Nothing uses the FPU here.
pub fn apply_task_switched(_vcpu: &Vcpu, _context: &Context) {}

/// All components of extended state that can be kept.
pub fn kept_components() -> u64 {
    crate::extended_state::kept(!0)
}

/// MXCSR of a CPU that has all its bits.
pub fn mxcsr_mask() -> u32 {
    0xffff
}

/// All of CR4 that a guest can set.
pub fn available_control4() -> u64 {
    control4::SEGMENT_BASES | control4::XSAVE
}

/// Nothing is loaded here.
pub fn load_own_registers(_context: &Context) {}

/// Nothing stops a guest here.
pub fn take_debug_status() -> u64 {
    crate::debug_registers::STATUS_RESET
}

/// Nothing of a vCPU stays on this CPU.
pub fn forget(_vcpu: &Vcpu) {}

/// A CPU without features.
pub fn cpuid(_leaf: u32, _subleaf: u32) -> [u32; 4] {
    [0; 4]
}

/// Bits of a machine address.
pub fn machine_address_bits() -> u32 {
    40
}

/// The CPUs of the thread.
pub mod cpu {
    use super::{CPUS, Cpu, HERE, Vcpu, new_cpus};

    /// Gives the thread so many new ones.
    pub fn start(count: u32) {
        CPUS.set(new_cpus(count));
        HERE.set(0);
    }

    /// The thread stands for this one from now on.
    pub fn go_to(cpu: &Cpu) {
        HERE.set(cpu.id as usize);
    }

    /// The CPU this thread stands for.
    pub fn this_cpu() -> &'static Cpu {
        &CPUS.get()[HERE.get()]
    }

    /// Every CPU.
    pub fn all() -> impl Iterator<Item = &'static Cpu> {
        CPUS.get().iter()
    }

    /// The CPU of this number.
    pub fn by_number(number: u8) -> &'static Cpu {
        &CPUS.get()[usize::from(number)]
    }

    /// A test that has several looks at their work itself.
    pub fn kick(_cpu: &Cpu) {}

    /// True when the vCPU is the current one.
    pub fn runs_here(vcpu: &Vcpu) -> bool {
        this_cpu().current().is_some_and(|current| core::ptr::eq(current, vcpu))
    }

    /// Lets other threads run.
    pub fn wait_in_place() {
        wait_politely();
    }

    /// Lets other threads run.
    pub fn wait_politely() {
        std::thread::yield_now();
    }
}

/// Time, which a test moves by hand.
pub mod clock {
    use super::{Cpu, cpu::this_cpu};
    use crate::cpu::MOST_CPUS;
    use std::{cell::Cell, thread_local};

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
        static TIMERS: Cell<[u64; MOST_CPUS]> = const { Cell::new([u64::MAX; MOST_CPUS]) };
    }

    /// How TSC readings become nanoseconds.
    #[derive(Clone, Copy)]
    pub struct Scale {
        /// TSC at system time zero.
        pub tsc_at_zero: u64,
        /// Fraction of 2^32.
        pub multiplier: u32,
        /// Binary shift before the multiplication.
        pub shift: i8,
    }

    /// Nanoseconds since the start.
    pub fn now() -> u64 {
        NOW.get()
    }

    /// One tick a nanosecond.
    pub fn ticks() -> u64 {
        NOW.get()
    }

    /// Moves time.
    pub fn set(now: u64) {
        NOW.set(now);
    }

    /// One tick a nanosecond.
    pub fn scale() -> Scale {
        Scale { tsc_at_zero: 0, multiplier: 1 << 31, shift: 1 }
    }

    /// Ticks in a second.
    pub fn frequency() -> u64 {
        1_000_000_000
    }

    /// The epoch.
    pub fn wall_clock_at_zero() -> u64 {
        0
    }

    /// The wall clock is not kept here.
    pub fn set_wall_clock_at_zero(_nanoseconds: u64) {}

    /// No interrupt comes here: tests look at [`timer`] and call the timers themselves.
    pub fn set_timer(deadline: u64) {
        let mut timers = TIMERS.get();
        timers[this_cpu().id as usize] = deadline;
        TIMERS.set(timers);
    }

    /// What a CPU's timer is set to.
    pub fn timer(cpu: &Cpu) -> u64 {
        TIMERS.get()[cpu.id as usize]
    }
}

/// Caches that nobody goes around.
pub mod cache {
    use hypercall_abi::MachineFrame;

    /// Nothing to write back.
    pub fn flush(_frame: MachineFrame, _offset: usize, _length: usize) {}

    /// Nothing to write back.
    pub fn flush_all() {}
}

/// No TLB: translations are looked up afresh each time. What would be flushed is counted.
pub mod tlb {
    use super::Domain;
    use hypercall_abi::DomainId;
    use std::{
        boxed::Box,
        cell::{Cell, RefCell},
        thread_local,
    };

    type Observer = Box<dyn FnMut(DomainId)>;

    thread_local! {
        static DOMAIN_FLUSHES: Cell<u64> = const { Cell::new(0) };
        static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
    }

    /// Nothing to forget.
    pub fn flush_local() {}

    /// Nothing to forget.
    pub fn flush_page_local(_address: u64) {}

    /// Counted for [`domain_flushes`], and told to the observer.
    pub fn flush_domain(domain: &Domain) {
        DOMAIN_FLUSHES.set(DOMAIN_FLUSHES.get() + 1);
        OBSERVER.with_borrow_mut(|observer| {
            if let Some(observer) = observer {
                observer(domain.id);
            }
        });
    }

    /// Has `observer` told of each [`flush_domain`] on this thread from now on.
    pub fn observe(observer: impl FnMut(DomainId) + 'static) {
        OBSERVER.set(Some(Box::new(observer)));
    }

    /// Calls of [`flush_domain`] on this thread.
    pub fn domain_flushes() -> u64 {
        DOMAIN_FLUSHES.get()
    }
}

/// Guest memory, through the page tables loaded last.
pub mod guest_memory {
    use super::LOADED;
    use crate::{direct_map, layout::PAGE_SIZE};
    use core::{mem::MaybeUninit, sync::atomic::Ordering};
    use hypercall_abi::{Errno, MachineFrame};
    use std::vec;

    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 2;
    const USER: u64 = 4;

    /// The frame that `address` is in, if every level has the bits in `needed`.
    fn translate(address: u64, needed: u64) -> Result<MachineFrame, Errno> {
        let mut frame = LOADED.get().ok_or(Errno::EFAULT)?;
        for level in (1..=4).rev() {
            let index = address >> (3 + 9 * level) & 511;
            let entry = direct_map::words(frame)[index as usize].load(Ordering::Relaxed);
            if entry & needed != needed {
                return Err(Errno::EFAULT);
            }
            frame = MachineFrame(entry >> 12 & 0xff_ffff_ffff);
        }
        Ok(frame)
    }

    /// Splits a range at page borders: address, start in the buffer, length.
    fn pieces(address: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = address + done as u64;
            let piece = (length - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            let start = done;
            done += piece;
            (piece > 0).then_some((at, start, piece))
        })
    }

    /// Copies from the guest.
    ///
    /// # Errors
    /// `EFAULT` when the guest could not read it.
    pub fn read(address: u64, destination: &mut [u8]) -> Result<(), Errno> {
        for (at, start, length) in pieces(address, destination.len()) {
            let frame = translate(at, PRESENT | USER)?;
            direct_map::read_bytes(frame, (at % PAGE_SIZE) as usize, &mut destination[start..start + length]);
        }
        Ok(())
    }

    /// Copies from the guest to where nothing is yet.
    ///
    /// # Errors
    /// `EFAULT` when the guest could not read it.
    pub fn read_uninit(address: u64, destination: &mut [MaybeUninit<u8>]) -> Result<&mut [u8], Errno> {
        let mut bytes = vec![0; destination.len()];
        read(address, &mut bytes)?;
        Ok(destination.write_copy_of_slice(&bytes))
    }

    /// Copies to the guest.
    ///
    /// # Errors
    /// `EFAULT` when the guest could not write it.
    pub fn write(address: u64, source: &[u8]) -> Result<(), Errno> {
        for (at, start, length) in pieces(address, source.len()) {
            let frame = translate(at, PRESENT | USER | WRITABLE)?;
            direct_map::write_bytes(frame, (at % PAGE_SIZE) as usize, &source[start..start + length]);
        }
        Ok(())
    }
}

/// I/O ports read as all ones: nobody is there.
pub mod port {
    /// Reads nothing.
    pub fn read(_port: u16, width: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(width))
    }

    /// Writes nowhere.
    pub fn write(_port: u16, _width: u8, _value: u32) {}
}

/// An I/O APIC of 24 lines that does nothing.
pub mod io_apic {
    /// True for a line that exists.
    pub fn has_line(line: u32) -> bool {
        line < 24
    }

    /// Nothing is delivered here.
    pub fn enable(_line: u32, _vector: u8, _is_level: bool, _is_active_low: bool) {}

    /// Nothing is delivered here.
    pub fn mask(_line: u32) {}

    /// Nothing is delivered here.
    pub fn unmask(_line: u32) {}
}

/// Messages of devices that are not there.
pub mod msi {
    use crate::pci_config::Function;
    use hypercall_abi::Errno;

    /// One message of one device.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Message {
        /// The device.
        pub function: Function,
    }

    impl Message {
        /// There are no devices.
        ///
        /// # Errors
        /// `ENODEV`.
        pub fn of(_function: Function, _in_table: bool, _entry: i32) -> Result<Self, Errno> {
            Err(Errno::ENODEV)
        }
    }

    /// Nothing is delivered here.
    ///
    /// # Errors
    /// None.
    pub fn enable(_message: Message, _vector: u8) -> Result<(), Errno> {
        Ok(())
    }

    /// Nothing is delivered here.
    pub fn disable(_message: Message) {}
}

/// The end of interrupts that do not come.
pub mod local_apic {
    /// Nothing to end.
    pub fn end_of_interrupt() {}
}

/// A serial line that swallows what is sent, and has a sender that waits.
pub mod serial {
    use std::{cell::RefCell, collections::VecDeque, thread_local};

    thread_local! {
        static TYPED: RefCell<VecDeque<u8>> = const { RefCell::new(VecDeque::new()) };
    }

    /// Types something.
    pub fn type_in(bytes: &[u8]) {
        TYPED.with_borrow_mut(|typed| typed.extend(bytes));
    }

    /// Sends nowhere.
    pub fn send(_byte: u8) {}

    /// The next byte that was typed.
    pub fn receive() -> Option<u8> {
        TYPED.with_borrow_mut(VecDeque::pop_front)
    }
}

/// The end of the machine, which on the host is the end of the test.
pub mod power {
    /// The control domain has stopped.
    ///
    /// # Panics
    /// Always: a test that gets here has ended its machine.
    pub fn control_domain_stopped(reason: u32) -> ! {
        panic!("the control domain stopped (reason {reason})")
    }
}
