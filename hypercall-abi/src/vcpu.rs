//! Virtual CPUs (`vcpu.h`): starting and stopping them, their timers, and where their clocks are shown.

/// Set the starting state of a virtual CPU that is down; see [`crate::arch_x86::VcpuGuestContext`].
pub const VCPUOP_INITIALISE: u32 = 0;
/// Let it run.
pub const VCPUOP_UP: u32 = 1;
/// Stop it.
pub const VCPUOP_DOWN: u32 = 2;
/// Whether it is up.
pub const VCPUOP_IS_UP: u32 = 3;
/// How its time was spent.
pub const VCPUOP_GET_RUNSTATE_INFO: u32 = 4;
/// Keep a [`VcpuRunstateInfo`] up to date at an address.
pub const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
/// Start the periodic timer.
pub const VCPUOP_SET_PERIODIC_TIMER: u32 = 6;
/// Stop the periodic timer.
pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
/// Set the one-shot timer.
pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
/// Stop the one-shot timer.
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
/// Move its [`crate::xen::VcpuInfo`] to a page of the guest's.
pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;
/// Send it a non-maskable interrupt.
pub const VCPUOP_SEND_NMI: u32 = 11;
/// Which physical CPU it is pinned to.
pub const VCPUOP_GET_PHYSID: u32 = 12;
/// Keep a second [`crate::xen::VcpuTimeInfo`] up to date at an address.
pub const VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;

/// On a physical CPU.
pub const RUNSTATE_RUNNING: u32 = 0;
/// Waiting for a physical CPU.
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// Waiting for an event.
pub const RUNSTATE_BLOCKED: u32 = 2;
/// Down, or its domain is paused.
pub const RUNSTATE_OFFLINE: u32 = 3;
/// In [`VcpuRunstateInfo::state_entry_time`]: the record is being written.
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;

/// In [`VcpuSetSingleshotTimer::flags`]: fail if the time has passed.
pub const VCPU_SSHOTTMR_FUTURE: u32 = 1 << 0;

layout! {
    /// How a virtual CPU's time was spent (`vcpu_runstate_info`).
    pub struct VcpuRunstateInfo [48] {
        /// `RUNSTATE_*`.
        0 => state: u32,
        /// Padding.
        4 => _pad: u32,
        /// When it entered that state, in nanoseconds of system time.
        8 => state_entry_time: u64,
        /// Nanoseconds spent in each state, in the order of their numbers.
        16 => time: [u64; 4],
    }

    /// Argument of [`VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA`] (`vcpu_register_runstate_memory_area`).
    pub struct VcpuRegisterRunstateMemoryArea [8] {
        /// Virtual address of the [`VcpuRunstateInfo`]; 0 stops the updates.
        0 => addr: u64,
    }

    /// Argument of [`VCPUOP_SET_PERIODIC_TIMER`] (`vcpu_set_periodic_timer`).
    pub struct VcpuSetPeriodicTimer [8] {
        /// Nanoseconds between two ticks.
        0 => period_ns: u64,
    }

    /// Argument of [`VCPUOP_SET_SINGLESHOT_TIMER`] (`vcpu_set_singleshot_timer`).
    pub struct VcpuSetSingleshotTimer [16] {
        /// When, in nanoseconds of system time.
        0 => timeout_abs_ns: u64,
        /// [`VCPU_SSHOTTMR_FUTURE`].
        8 => flags: u32,
        /// Padding.
        12 => _pad: u32,
    }

    /// Argument of [`VCPUOP_REGISTER_VCPU_INFO`] (`vcpu_register_vcpu_info`).
    pub struct VcpuRegisterVcpuInfo [16] {
        /// The frame.
        0 => mfn: u64,
        /// First byte in the frame.
        8 => offset: u32,
        /// Unused.
        12 => rsvd: u32,
    }

    /// Answer of [`VCPUOP_GET_PHYSID`] (`vcpu_get_physid`).
    pub struct VcpuGetPhysid [8] {
        /// The APIC number in the low half and the ACPI number in the high half.
        0 => phys_id: u64,
    }

    /// Argument of [`VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA`] (`vcpu_register_time_memory_area`).
    pub struct VcpuRegisterTimeMemoryArea [8] {
        /// Virtual address of the [`crate::xen::VcpuTimeInfo`].
        0 => addr: u64,
    }
}
