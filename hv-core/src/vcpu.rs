#![expect(unsafe_code, reason = "hands the running CPU its exclusive view of a vCPU")]
//! A virtual CPU: what it is while it runs, and what others may see of it.
//!
//! The idea to hold: a vCPU has two halves. [`Context`] is registers and everything only the vCPU itself changes;
//! it belongs to whichever physical CPU runs the vCPU, or to the one party that holds it paused, and needs no
//! lock. The rest of [`Vcpu`] is shared and made of atomics.

use crate::{
    arch, direct_map, domain::Domain, emulate::RecentStores, extended_state::ExtendedState,
    hypercall::Caller, layout::PAGE_SIZE, own_registers::OwnRegisters, run_state::RunState,
    scheduler::VcpuSchedule, time::VcpuTimers, trap_table::TrapTable,
};
use core::{
    cell::UnsafeCell,
    mem::offset_of,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering},
};
use hypercall_abi::{
    Errno, MachineFrame, VcpuId,
    arch_x86::CpuUserRegs,
    xen::{ArchVcpuInfo, NR_VIRQS, VcpuInfo},
};
use zerocopy::FromZeros;

/// Pages of a guest's GDT (the sixteenth and fifteenth of the window hold the hypervisor's own descriptors).
pub const GUEST_GDT_FRAMES: usize = 14;

/// Pages of a guest's LDT.
pub const LDT_FRAMES: usize = 16;

/// Room below the registers: an `iretq` that faults pushes its frame here and spoils nothing.
const FAULT_SCRATCH_WORDS: usize = 33;

/// An address in the guest's kernel that the hypervisor enters by itself.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Guest virtual address; zero when none is registered.
    pub address: u64,
    /// Enter with event upcalls masked.
    pub masks_events: bool,
}

/// Where the guest's kernel is entered from 32-bit user mode.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct CompatibilityCallbacks {
    /// By SYSCALL.
    pub syscall: Callback,
    /// By SYSENTER.
    pub sysenter: Callback,
}

/// Which I/O ports the guest's kernel lets its user mode use: a bit for each in the kernel's memory, set for "no".
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct PortBitmap {
    /// Guest virtual address in the kernel's address space.
    pub address: u64,
    /// Ports it covers; the others are not allowed.
    pub ports: u32,
}

/// What only the vCPU itself changes.
///
/// The entry code relies on the order of the first three fields: it pushes registers downwards to the start of
/// `registers` and finds the CPU's own stack right behind them.
#[repr(C, align(16))]
pub struct Context {
    fault_scratch: [u64; FAULT_SCRATCH_WORDS],
    /// General registers as the guest last had them.
    pub registers: CpuUserRegs,
    /// Top of the hypervisor stack of the CPU that runs this vCPU; written by the scheduler.
    pub hypervisor_stack: u64,
    /// The guest is in its kernel (as opposed to its user mode; both are ring 3).
    pub in_kernel: bool,
    /// L4 table of the guest's kernel; the vCPU holds a type reference to it.
    pub kernel_page_table: Option<MachineFrame>,
    /// L4 table of the guest's user mode, if any; likewise referenced.
    pub user_page_table: Option<MachineFrame>,
    /// Stack the guest's kernel is entered on from its user mode: selector and pointer.
    pub kernel_stack: (u64, u64),
    /// Entered when events are pending.
    pub event_callback: Callback,
    /// Entered when the guest's segments or return frame are bad.
    pub failsafe_callback: Callback,
    /// Entered by SYSCALL from the guest's user mode.
    pub syscall_callback: Callback,
    /// Entered by system calls of 32-bit user mode.
    pub compatibility_callbacks: CompatibilityCallbacks,
    /// FS base.
    pub fs_base: u64,
    /// GS base in kernel mode.
    pub gs_base_kernel: u64,
    /// GS base in user mode.
    pub gs_base_user: u64,
    /// Frames of the guest's GDT; each is held as a descriptor table.
    pub gdt_frames: [Option<MachineFrame>; GUEST_GDT_FRAMES],
    /// Entries in the guest's GDT.
    pub gdt_entries: u32,
    /// Frames of the guest's LDT; each is held as a descriptor table.
    pub ldt_frames: [Option<MachineFrame>; LDT_FRAMES],
    /// Entries in the guest's LDT; zero when there is none.
    pub ldt_entries: u32,
    /// I/O privilege level the guest's kernel asked for (0 to 3).
    pub io_privilege_level: u8,
    /// Ports for its user mode.
    pub port_bitmap: PortBitmap,
    /// CR0.TS as the guest set it: its next FPU instruction traps.
    pub task_switched: bool,
    /// The guest handles a non-maskable interrupt: the next one waits until it returns.
    pub in_nmi: bool,
    /// CR2 as the guest's page-fault handler is to see it.
    pub fault_address: u64,
    /// Control and debug registers.
    pub own: OwnRegisters,
    /// Handlers for exceptions and software interrupts, by vector.
    pub traps: TrapTable,
    /// What its last writes to page tables were.
    pub recent_stores: RecentStores,
    /// FPU, SSE and AVX state while it is not in a CPU's registers.
    pub fpu: ExtendedState,
}

impl Context {
    fn new(fpu: ExtendedState) -> Self {
        Self {
            fault_scratch: [0; FAULT_SCRATCH_WORDS],
            registers: CpuUserRegs::new_zeroed(),
            hypervisor_stack: 0,
            in_kernel: true,
            kernel_page_table: None,
            user_page_table: None,
            kernel_stack: (0, 0),
            event_callback: Callback::default(),
            failsafe_callback: Callback::default(),
            syscall_callback: Callback::default(),
            compatibility_callbacks: CompatibilityCallbacks::default(),
            fs_base: 0,
            gs_base_kernel: 0,
            gs_base_user: 0,
            gdt_frames: [None; GUEST_GDT_FRAMES],
            gdt_entries: 0,
            ldt_frames: [None; LDT_FRAMES],
            ldt_entries: 0,
            io_privilege_level: 0,
            port_bitmap: PortBitmap::default(),
            task_switched: false,
            in_nmi: false,
            fault_address: 0,
            own: OwnRegisters::new(),
            traps: TrapTable::new(),
            recent_stores: RecentStores::new(),
            fpu,
        }
    }
}

const _: () = {
    // The CPU pushes its frame at the end of `ss`; it must be 16-byte aligned for RSP0 to be exact.
    let end_of_frame = offset_of!(Context, registers) + offset_of!(CpuUserRegs, es);
    assert!(end_of_frame % 16 == 0);
};

/// Why a vCPU is not runnable, as bits of [`Vcpu::paused`]; zero means it is.
pub mod not_runnable {
    /// Waits for an event (`SCHEDOP_block`).
    pub const BLOCKED: u32 = 1 << 0;
    /// Waits for certain ports (`SCHEDOP_poll`).
    pub const POLLING: u32 = 1 << 1;
    /// Never brought up, or taken down again (`VCPUOP_down`).
    pub const OFFLINE: u32 = 1 << 2;
    /// Its domain is paused by the control domain, under construction, or dying.
    pub const DOMAIN_PAUSED: u32 = 1 << 3;
    /// Its domain has shut down, and never runs again.
    pub const DOMAIN_SHUT_DOWN: u32 = 1 << 4;
    /// Those that make it look offline rather than blocked.
    pub const KEPT_OFF: u32 = OFFLINE | DOMAIN_PAUSED | DOMAIN_SHUT_DOWN;
}

/// A virtual CPU.
#[repr(C)]
pub struct Vcpu {
    context: UnsafeCell<Context>,
    /// Its number in its domain.
    pub id: VcpuId,
    domain: AtomicPtr<Domain>,
    /// Reasons not to run; see [`not_runnable`].
    pub paused: AtomicU32,
    /// Chosen to run; changes under the lock of the run queue.
    pub running: AtomicBool,
    /// A CPU uses its context. That CPU may be leaving it while another one has already chosen it, and waits.
    pub on_cpu: AtomicBool,
    /// Physical CPU it runs on, or last ran on.
    pub processor: AtomicU8,
    /// The vCPU has been given a context (`XEN_DOMCTL_setvcpucontext` or `VCPUOP_initialise`).
    pub initialised: AtomicBool,
    /// A non-maskable interrupt waits for it (`VCPUOP_send_nmi`).
    pub nmi_pending: AtomicBool,
    /// It has left every queue for good.
    pub retired: AtomicBool,
    /// The guest moved its `vcpu_info` to a frame of its own, which is held.
    pub own_info: AtomicBool,
    /// Where its `vcpu_info` lies in the direct map; null before that is known.
    info: AtomicPtr<u8>,
    /// TSC ticks of its own code, while they are [accounted](crate::counters::start).
    pub own_ticks: AtomicU64,
    /// How it spends its life.
    pub run_state: RunState,
    /// What the scheduler keeps for it.
    pub schedule: VcpuSchedule,
    /// Its timers.
    pub timers: VcpuTimers,
    /// Port each virtual interrupt is bound to; zero when unbound.
    pub virq_ports: [AtomicU32; NR_VIRQS as usize],
}

// SAFETY: `context` is reached only through `context_mut`, whose caller proves exclusivity; the rest is atomic.
unsafe impl Sync for Vcpu {}
// SAFETY: nothing in a vCPU belongs to a particular CPU's thread of execution.
unsafe impl Send for Vcpu {}

impl Vcpu {
    /// A vCPU of `domain` that has no state yet and is offline.
    ///
    /// # Errors
    /// `ENOMEM`.
    // Inlined, so that there is one copy of it on the way to its frame: a CPU's stack is small.
    #[inline(always)]
    pub fn new(domain: &Domain, id: VcpuId) -> Result<Self, Errno> {
        let fpu = ExtendedState::try_new(arch::kept_components()).ok_or(Errno::ENOMEM)?;
        Ok(Self {
            context: UnsafeCell::new(Context::new(fpu)),
            id,
            domain: AtomicPtr::new(core::ptr::from_ref(domain).cast_mut()),
            paused: AtomicU32::new(not_runnable::OFFLINE | not_runnable::DOMAIN_PAUSED),
            running: AtomicBool::new(false),
            on_cpu: AtomicBool::new(false),
            processor: AtomicU8::new(0),
            initialised: AtomicBool::new(false),
            nmi_pending: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            own_info: AtomicBool::new(false),
            info: AtomicPtr::new(core::ptr::null_mut()),
            own_ticks: AtomicU64::new(0),
            run_state: RunState::new(),
            schedule: VcpuSchedule::new(),
            timers: VcpuTimers::new(),
            virq_ports: [const { AtomicU32::new(0) }; NR_VIRQS as usize],
        })
    }

    /// The domain this vCPU belongs to.
    #[inline]
    pub fn domain(&self) -> &Domain {
        // SAFETY: a domain owns its vCPUs and sets this pointer before anybody can see them.
        unsafe { &*self.domain.load(Ordering::Relaxed) }
    }

    /// The context, for the CPU that runs the vCPU or the one party that holds it paused.
    ///
    /// # Safety
    /// No other reference to the context may exist: either the caller is the CPU that set `on_cpu`, or the vCPU is
    /// [off its CPU](Self::is_on_cpu) and the caller holds the domain's `control` lock with a reason in `paused` that
    /// only that lock's holder clears.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "exclusivity is the caller's to prove")]
    pub unsafe fn context_mut(&self) -> &mut Context {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.context.get() }
    }

    /// The context of a vCPU that cannot run, for a caller that holds the domain's `control` lock.
    ///
    /// # Errors
    /// `EBUSY` while it is on a CPU or nothing keeps it from getting there.
    #[expect(clippy::mut_from_ref, reason = "the domain's control lock makes the caller the only one")]
    pub fn paused_context(&self) -> Result<&mut Context, Errno> {
        debug_assert!(self.domain().control.is_locked(), "the caller holds the control lock");
        let paused = self.paused.load(Ordering::Acquire);
        if paused & not_runnable::KEPT_OFF == 0 || self.is_on_cpu() {
            return Err(Errno::EBUSY);
        }
        // SAFETY: the vCPU is off its CPU; it gets back only when the reasons are cleared, which takes the control
        // lock that the caller holds, and any other caller of this function would have to hold it too.
        Ok(unsafe { self.context_mut() })
    }

    /// True while a CPU runs it, is about to, or has not left it for good.
    pub fn is_on_cpu(&self) -> bool {
        // In this order: who chooses it sets the first before the second is clear.
        self.on_cpu.load(Ordering::Acquire) || self.running.load(Ordering::Acquire)
    }

    /// The `vcpu_info` this vCPU shares with its guest, once its place is known.
    #[inline]
    pub fn info(&self) -> Option<SharedVcpuInfo> {
        NonNull::new(self.info.load(Ordering::Relaxed)).map(|base| SharedVcpuInfo { base })
    }

    /// Forgets where the `vcpu_info` lies; returns its frame.
    pub fn forget_info(&self) -> Option<MachineFrame> {
        let base = NonNull::new(self.info.swap(core::ptr::null_mut(), Ordering::AcqRel))?;
        Some(direct_map::frame_of(base.as_ptr()))
    }

    /// Says where the `vcpu_info` lies.
    ///
    /// # Panics
    /// If it does not lie aligned inside the frame: what a guest asks for is checked before.
    pub fn set_info(&self, frame: MachineFrame, offset: usize) {
        let fits =
            offset <= PAGE_SIZE as usize - size_of::<VcpuInfo>() && offset.is_multiple_of(align_of::<u64>());
        assert!(fits, "vcpu_info at offset {offset} of a frame");
        self.info.store(direct_map::pointer(frame).wrapping_add(offset), Ordering::Release);
    }
}

/// A guest's `struct vcpu_info` as atomics: the guest writes it at any time.
#[derive(Clone, Copy)]
pub struct SharedVcpuInfo {
    base: NonNull<u8>,
}

impl SharedVcpuInfo {
    /// The integer at `offset` bytes, which is a field of [`VcpuInfo`] of this size.
    #[inline]
    fn field<T: direct_map::SharedInteger>(&self, offset: usize) -> &'static T::Atomic {
        // SAFETY: `set_info` made sure that a whole, aligned `VcpuInfo` lies at `base` in the direct map, which is
        // mapped for ever; the frame is held until `forget_info`. Atomics may be shared with anybody.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// `evtchn_upcall_pending`.
    #[inline]
    pub fn upcall_pending(&self) -> &'static AtomicU8 {
        self.field::<u8>(offset_of!(VcpuInfo, evtchn_upcall_pending))
    }

    /// `evtchn_upcall_mask`.
    #[inline]
    pub fn upcall_mask(&self) -> &'static AtomicU8 {
        self.field::<u8>(offset_of!(VcpuInfo, evtchn_upcall_mask))
    }

    /// `evtchn_pending_sel`.
    #[inline]
    pub fn pending_selector(&self) -> &'static AtomicU64 {
        self.field::<u64>(offset_of!(VcpuInfo, evtchn_pending_sel))
    }

    /// `arch.cr2`.
    #[inline]
    pub fn fault_address(&self) -> &'static AtomicU64 {
        self.field::<u64>(offset_of!(VcpuInfo, arch) + offset_of!(ArchVcpuInfo, cr2))
    }

    /// Machine address of `time`.
    pub fn time_address(&self) -> u64 {
        let base = self.base.as_ptr();
        let offset = base as u64 % PAGE_SIZE + offset_of!(VcpuInfo, time) as u64;
        direct_map::frame_of(base).physical_address() + offset
    }
}

impl Caller<'_> {
    /// True when the caller's vCPU is the one with this number.
    pub fn is_vcpu(&self, id: VcpuId) -> bool {
        self.vcpu.id == id
    }
}

/// A vCPU as queues hold it: copyable, and valid because a vCPU leaves every queue before its domain goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VcpuPointer(core::ptr::NonNull<Vcpu>);

// SAFETY: it is a shared reference in all but lifetime.
unsafe impl Send for VcpuPointer {}
// SAFETY: as above.
unsafe impl Sync for VcpuPointer {}

impl VcpuPointer {
    /// Remembers `vcpu`.
    #[inline]
    pub fn new(vcpu: &Vcpu) -> Self {
        Self(vcpu.into())
    }

    /// The vCPU.
    #[inline]
    pub fn get<'a>(self) -> &'a Vcpu {
        // SAFETY: `scheduler::retire` takes a vCPU out of every queue before its domain may be dropped.
        unsafe { self.0.as_ref() }
    }
}

/// A [`VcpuPointer`], or none, that several CPUs may look at.
#[derive(Default)]
pub struct SharedVcpuPointer(AtomicPtr<Vcpu>);

impl SharedVcpuPointer {
    /// None.
    pub const fn none() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// Remembers a vCPU, or none.
    pub fn set(&self, vcpu: Option<&Vcpu>) {
        let pointer = vcpu.map_or(core::ptr::null_mut(), |vcpu| core::ptr::from_ref(vcpu).cast_mut());
        self.0.store(pointer, Ordering::Relaxed);
    }

    /// The vCPU. As with every queue, it must be taken out before its domain goes.
    pub fn get(&self) -> Option<VcpuPointer> {
        NonNull::new(self.0.load(Ordering::Relaxed)).map(VcpuPointer)
    }
}
