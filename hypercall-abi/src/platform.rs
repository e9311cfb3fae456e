//! Control of the machine, for the kernel of dom0 (`platform.h` of Xen 4.17).

use crate::payload::PAYLOAD_WORDS;

/// The version described here.
pub const XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;

/// Set the wall clock until 2106: [`XenpfSettime32`].
pub const XENPF_SETTIME32: u32 = 17;
/// What a physical CPU is: [`XenpfPcpuVersion`].
pub const XENPF_GET_CPU_VERSION: u32 = 48;
/// Put the machine to sleep or switch it off: [`XenpfEnterAcpiSleep`].
pub const XENPF_ENTER_ACPI_SLEEP: u32 = 51;
/// How long physical CPUs have idled: [`XenpfGetidletime`].
pub const XENPF_GETIDLETIME: u32 = 53;
/// Whether a physical CPU is up: [`XenpfPcpuinfo`].
pub const XENPF_GET_CPUINFO: u32 = 55;
/// Start a physical CPU: [`XenpfCpuOl`].
pub const XENPF_CPU_ONLINE: u32 = 56;
/// Stop a physical CPU: [`XenpfCpuOl`].
pub const XENPF_CPU_OFFLINE: u32 = 57;
/// Set the wall clock: [`XenpfSettime64`].
pub const XENPF_SETTIME64: u32 = 62;

/// In [`XenpfEnterAcpiSleep::flags`]: the values are sleep types and not register values.
pub const XENPF_ACPI_SLEEP_EXTENDED: u32 = 1;

/// In [`XenpfPcpuinfo::flags`]: up.
pub const XEN_PCPU_FLAGS_ONLINE: u32 = 1;
/// In [`XenpfPcpuinfo::flags`]: there is no such physical CPU.
pub const XEN_PCPU_FLAGS_INVALID: u32 = 2;

layout! {
    /// The call (`xen_platform_op`).
    pub struct PlatformOp [136] {
        /// `XENPF_*`.
        0 => cmd: u32,
        /// [`XENPF_INTERFACE_VERSION`].
        4 => interface_version: u32,
        /// The payload.
        8 => u: [u64; PAYLOAD_WORDS],
    }

    /// Payload of [`XENPF_SETTIME32`] (`xenpf_settime32`).
    pub struct XenpfSettime32 [16] {
        /// Wall-clock time, in seconds since 1970.
        0 => secs: u32,
        /// And nanoseconds.
        4 => nsecs: u32,
        /// The system time, in nanoseconds, at which that was right.
        8 => system_time: u64,
    }

    /// Payload of [`XENPF_SETTIME64`] (`xenpf_settime64`).
    pub struct XenpfSettime64 [24] {
        /// Wall-clock time, in seconds since 1970.
        0 => secs: u64,
        /// And nanoseconds.
        8 => nsecs: u32,
        /// Zero.
        12 => mbz: u32,
        /// The system time, in nanoseconds, at which that was right.
        16 => system_time: u64,
    }

    /// Payload of [`XENPF_ENTER_ACPI_SLEEP`] (`xenpf_enter_acpi_sleep`).
    pub struct XenpfEnterAcpiSleep [12] {
        /// Value for the first control register, or the first sleep type.
        0 => val_a: u16,
        /// Value for the second control register, or the second sleep type.
        2 => val_b: u16,
        /// Which state: 3 is sleep to memory, 5 is off.
        4 => sleep_state: u32,
        /// [`XENPF_ACPI_SLEEP_EXTENDED`].
        8 => flags: u32,
    }

    /// Payload of [`XENPF_GETIDLETIME`] (`xenpf_getidletime`).
    pub struct XenpfGetidletime [32] {
        /// Address of a bitmap. In: physical CPUs asked about. Out: those of them that are there.
        0 => cpumap_bitmap: u64,
        /// How many bits it has.
        8 => cpumap_nr_cpus: u32,
        /// Padding.
        12 => _pad: u32,
        /// Address of the list to fill, in nanoseconds, 64 bits for each bit of the bitmap.
        16 => idletime: u64,
        /// Out: the system time of the reading.
        24 => now: u64,
    }

    /// Payload of [`XENPF_GET_CPUINFO`] (`xenpf_pcpuinfo`).
    pub struct XenpfPcpuinfo [20] {
        /// Which physical CPU.
        0 => xen_cpuid: u32,
        /// Out: the highest physical CPU there is.
        4 => max_present: u32,
        /// Out: `XEN_PCPU_FLAGS_*`.
        8 => flags: u32,
        /// Out: its APIC number.
        12 => apic_id: u32,
        /// Out: its ACPI number.
        16 => acpi_id: u32,
    }

    /// Payload of [`XENPF_GET_CPU_VERSION`] (`xenpf_pcpu_version`).
    pub struct XenpfPcpuVersion [32] {
        /// Which physical CPU.
        0 => xen_cpuid: u32,
        /// Out: the highest physical CPU there is.
        4 => max_present: u32,
        /// Out: its maker.
        8 => vendor_id: [u8; 12],
        /// Out: its family.
        20 => family: u32,
        /// Out: its model.
        24 => model: u32,
        /// Out: its stepping.
        28 => stepping: u32,
    }

    /// Payload of [`XENPF_CPU_ONLINE`] and [`XENPF_CPU_OFFLINE`] (`xenpf_cpu_ol`).
    pub struct XenpfCpuOl [4] {
        /// Which physical CPU.
        0 => cpuid: u32,
    }
}

payload_accessors!(PlatformOp);

impl PlatformOp {
    /// A call without a payload, in the version described here.
    pub const fn new(cmd: u32) -> Self {
        Self { cmd, interface_version: XENPF_INTERFACE_VERSION, u: [0; PAYLOAD_WORDS] }
    }
}
