//! The controller's registers (NVM Express base specification, section 3.1), by offset, and what their bits say.

/// Capabilities (64 bits).
pub const CAPABILITIES: usize = 0x00;
/// The version of the specification.
pub const VERSION: usize = 0x08;
/// Configuration: `ENABLE` and others below.
pub const CONFIGURATION: usize = 0x14;
/// Status: `READY` and others below.
pub const STATUS: usize = 0x1c;
/// Entries of the queues for administration.
pub const ADMIN_QUEUES: usize = 0x24;
/// Where their submissions are (64 bits).
pub const ADMIN_SUBMISSIONS: usize = 0x28;
/// Where their completions are (64 bits).
pub const ADMIN_COMPLETIONS: usize = 0x30;
/// Bytes of these registers; the doorbells follow.
pub const LENGTH: usize = 0x1000;

/// In [`CONFIGURATION`]: run.
pub const ENABLE: u32 = 1 << 0;
/// In [`CONFIGURATION`]: bring everything to stable storage, for there will be no power.
pub const SHUT_DOWN: u32 = 1 << 14;
/// In [`CONFIGURATION`]: submissions of 2⁶ bytes, completions of 2⁴; pages of 4 KiB and the command set of disks are zero.
pub const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;

/// In [`STATUS`]: it runs.
pub const READY: u32 = 1 << 0;
/// In [`STATUS`]: it cannot go on.
pub const FATAL: u32 = 1 << 1;
/// In [`STATUS`]: how far shutting down is.
pub const SHUT_DOWN_STATE: u32 = 0b11 << 2;
/// In [`STATUS`]: shutting down is done.
pub const SHUT_DOWN_DONE: u32 = 0b10 << 2;

/// The version that brought the list of namespaces.
pub const VERSION_1_1: u32 = 0x1_0100;

/// What a controller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// The most entries of a queue.
    pub const fn queue_entries(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// How long it may take to start or stop, in half seconds.
    pub const fn patience(self) -> u64 {
        self.0 >> 24 & 0xff
    }

    /// Bytes from one doorbell to the next.
    pub const fn doorbell_stride(self) -> usize {
        4 << (self.0 >> 32 & 0xf)
    }

    /// Whether it knows the commands of disks.
    pub const fn has_disk_commands(self) -> bool {
        self.0 >> 37 & 1 != 0
    }

    /// Whether it can do with pages of 4 KiB.
    pub const fn has_small_pages(self) -> bool {
        self.0 >> 48 & 0xf == 0
    }
}
