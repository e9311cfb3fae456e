//! The commands: what can be asked for.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use device_drivers::pci::Address;
use hypercall_abi::DomainId;

use crate::bench::{DiskRequests, PairTraffic, WireTraffic};
use crate::toolstack::{GuestConfiguration, GuestDisk, GuestNic, PinOrder};

/// What is done with PCI devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciCommand {
    /// Make one for guests.
    MakeAssignable(Address),
    /// Take one from those for guests.
    MakeUnassignable(Address),
    /// List those that guests can be given.
    Assignable,
    /// List those of a guest.
    Of(String),
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing was typed.
    Nothing,
    /// Show what can be typed.
    Help(Option<String>),
    /// List domains.
    List {
        /// Only this one.
        guest: Option<String>,
        /// In which form.
        form: ListForm,
    },
    /// Make a guest.
    Create(CreateOrder),
    /// Ask guests to switch themselves off.
    Shutdown {
        /// Which.
        whom: Whom,
        /// Whether to wait until they are gone.
        waits: bool,
    },
    /// Ask guests to end and be made anew.
    Reboot {
        /// Which.
        whom: Whom,
        /// Whether to wait until they are.
        waits: bool,
    },
    /// Take a guest apart.
    Destroy(String),
    /// Stop a guest.
    Pause(String),
    /// Let it go on.
    Unpause(String),
    /// Talk to a guest.
    Attach(String),
    /// Show a console's last lines.
    Tail {
        /// The guest's name or number.
        guest: String,
        /// How many lines.
        lines: usize,
    },
    /// Type a line at a guest's console.
    Send {
        /// The guest's name or number.
        guest: String,
        /// The line.
        text: String,
    },
    /// Have a guest's shell run something.
    GuestRun {
        /// The guest's name or number.
        guest: String,
        /// The command.
        command: String,
        /// How long it may take.
        limit: Duration,
    },
    /// Something with the store.
    Store(StoreCommand),
    /// Send a guest's kernel a magic system request.
    SystemRequest {
        /// The guest's name or number.
        guest: String,
        /// The request.
        letter: char,
    },
    /// A domain's number.
    NumberOf(String),
    /// A domain's name.
    NameOf(DomainId),
    /// Call a guest otherwise.
    Rename {
        /// The guest's name or number.
        guest: String,
        /// Its new name.
        new: String,
    },
    /// How long domains have been running.
    Uptime {
        /// Which; all if none is named.
        guests: Vec<String>,
        /// In a line of few words.
        is_short: bool,
    },
    /// List virtual CPUs, of these domains or of all.
    VcpuList(Vec<String>),
    /// Say where a domain's virtual CPUs run.
    Pin {
        /// The domain's name or number.
        guest: String,
        /// Which, and where.
        order: PinOrder,
    },
    /// Plug in as many of a guest's virtual CPUs.
    SetVcpus {
        /// The guest's name or number.
        guest: String,
        /// How many.
        count: u32,
    },
    /// Send a virtual CPU a non-maskable interrupt.
    Interrupt {
        /// The guest's name or number.
        guest: String,
        /// Which one.
        vcpu: u32,
    },
    /// List pools of processors, of which there is one.
    PoolList {
        /// With the processors' numbers.
        shows_cpus: bool,
    },
    /// Ask a guest to change its memory.
    SetMemory {
        /// The guest's name or number.
        guest: String,
        /// To so many KiB.
        kibibytes: u64,
    },
    /// Limit a guest's memory.
    LimitMemory {
        /// The guest's name or number.
        guest: String,
        /// To so many KiB.
        kibibytes: u64,
    },
    /// Show or change a guest's share of the processors.
    Shares {
        /// The guest's name or number; all domains, if none is named.
        guest: Option<String>,
        /// The new share.
        weight: Option<u16>,
        /// The new limit, in per cent of one processor; 0 for none.
        cap: Option<u16>,
    },
    /// Plug a disk into a guest.
    AttachDisk {
        /// The guest's name or number.
        guest: String,
        /// The disk.
        disk: GuestDisk,
    },
    /// Plug a network interface into a guest.
    AttachNic {
        /// The guest's name or number.
        guest: String,
        /// The interface.
        nic: GuestNic,
    },
    /// Take a disk from a guest.
    DetachDisk(Detachment),
    /// Take a network interface from a guest.
    DetachNic(Detachment),
    /// List guests' disks; of these guests in `xl`'s form, or of all.
    BlockList(Vec<String>),
    /// List guests' network interfaces, likewise.
    NetworkList(Vec<String>),
    /// Show who uses what.
    Top {
        /// Time from one look to the next.
        pause: Duration,
        /// How often to look; for ever if not said.
        times: Option<u32>,
        /// One below the other.
        is_batch: bool,
    },
    /// Describe machine and hypervisor.
    Info,
    /// Show the hypervisor's log.
    Log {
        /// Whether to empty it.
        clears: bool,
    },
    /// Show the hypervisor's counters.
    Counters,
    /// Set them to zero.
    ResetCounters,
    /// Something with PCI devices.
    Pci(PciCommand),
    /// Measure something.
    Bench(BenchCommand),
    /// Make so many guests while steps of making them fail on purpose.
    Drill(u32),
    /// Do nothing for a while.
    Sleep(Duration),
    /// End everything.
    PowerOff,
}

/// Guests that something is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// By name or number.
    One(String),
    /// All of them.
    All,
}

/// A device that is to be taken from a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detachment {
    /// The guest's name or number.
    pub guest: String,
    /// The device's name, number or address.
    pub device: String,
    /// Whether it is taken without asking the guest.
    pub is_forced: bool,
}

/// In which form domains are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListForm {
    /// A line each.
    Lines,
    /// A line each, with uuid, and why it ended.
    LongLines,
    /// All that is known, as JSON.
    Json,
}

/// From where it is known what a guest is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// From the command's words.
    Words(Box<GuestConfiguration>),
    /// From a file, and words that change what it says.
    File {
        /// The file.
        path: String,
        /// The words.
        words: Vec<String>,
    },
}

/// A guest to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOrder {
    /// What it is to be like.
    pub description: Description,
    /// Whether it stays paused.
    pub pauses: bool,
    /// Whether its console is entered.
    pub attaches: bool,
    /// Whether it is only looked whether it could be made.
    pub is_trial: bool,
}

/// What can be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BenchCommand {
    /// What the hypervisor and the back ends cost, in guests made for it or in this one.
    Micro(Option<String>),
    /// What requests or packets with this text in their name cost.
    Traffic(String),
    /// What one kind of disk request costs.
    Io(DiskRequests),
    /// Traffic of one kind between two interfaces of one guest.
    Wire(WireTraffic),
    /// Packets between two guests.
    Pair(PairTraffic),
    /// How long so many domains take to be made, one after the other.
    Create(u32),
    /// How many idle guests of so many MiB there is room for.
    Guests(u64),
}

/// What can be done with the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCommand {
    /// Show a part.
    List(String),
    /// Show a value.
    Read(String),
    /// Set a value.
    Write(String, String),
    /// Remove a part.
    Remove(String),
    /// Show what domains have of it, and may.
    Quota,
}

/// Why a line is no command, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misunderstood(pub String);
