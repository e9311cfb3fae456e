//! A virtual machine to run Weir in: a description that becomes QEMU's arguments, and the running machine.
//!
//! The description is a plain value; [`Machine::arguments`] is a pure function of it. A machine is started either on
//! our own terminal ([`Machine::on_terminal`]) or, for programs, with its console captured ([`Machine::spawn`]). Only
//! the devices that are asked for exist.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;
use crate::disk_image::DiskImage;
use crate::qemu::{self, Uefi};

mod exit;
mod running;

pub use exit::Exit;
pub use running::{ConsoleError, Ending, Running};

/// A processor with all that TCG can emulate.
const CPU: &str = "max";
/// The same without what makes two runs differ (hardware randomness) or aborts QEMU when instructions are counted
/// (x2APIC registers).
const COUNTING_CPU: &str = "max,-x2apic,-rdrand,-rdseed";
/// Memory of a machine unless told otherwise.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;

/// What a machine starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Boot {
    /// A kernel file, loaded by QEMU itself.
    Kernel { kernel: PathBuf, modules: Option<OsString>, command_line: String },
    /// A disc, through the machine's firmware.
    Disc { image: PathBuf, uefi: Option<Uefi> },
}

/// What a machine has a disk behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DiskKind {
    /// A virtio block device.
    #[default]
    Virtio,
    /// An NVM Express controller of its own.
    Nvme,
}

/// A disk file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Disk {
    path: PathBuf,
    options: &'static str,
    kind: DiskKind,
}

impl Disk {
    /// The device in QEMU's notation, for the disk of this number.
    fn device(&self, index: usize) -> String {
        match self.kind {
            DiskKind::Virtio => format!("virtio-blk-pci,drive=disk{index},disable-legacy=on"),
            DiskKind::Nvme => format!("nvme,drive=disk{index},serial=disk{index}"),
        }
    }
}

/// The description of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    boot: Boot,
    memory_mib: u32,
    processors: u32,
    cpu: Option<String>,
    counts_instructions: bool,
    disks: Vec<Disk>,
    networks: Vec<String>,
    extra: Vec<OsString>,
    time_limit: Option<Duration>,
}

impl Machine {
    /// A machine of one processor, without disk or network, that starts `kernel`.
    pub fn with_kernel(kernel: impl Into<PathBuf>) -> Self {
        Self::new(Boot::Kernel { kernel: kernel.into(), modules: None, command_line: String::new() })
    }

    /// A machine that starts from a disc: through UEFI if given, else through the BIOS.
    pub fn with_disc(image: impl Into<PathBuf>, uefi: Option<Uefi>) -> Self {
        Self::new(Boot::Disc { image: image.into(), uefi })
    }

    fn new(boot: Boot) -> Self {
        Self {
            boot,
            memory_mib: DEFAULT_MEMORY_MIB,
            processors: 1,
            cpu: None,
            counts_instructions: false,
            disks: Vec::new(),
            networks: Vec::new(),
            extra: Vec::new(),
            time_limit: None,
        }
    }

    /// The kernel's boot module: one file, such as a [bundle](crate::bundle). No effect on a disc.
    pub fn module(self, path: &Path) -> Self {
        self.modules(path.as_os_str())
    }

    /// The kernel's boot modules in QEMU's notation for multiboot: `file arguments,file arguments`. No effect on a disc.
    pub fn modules(mut self, list: impl Into<OsString>) -> Self {
        if let Boot::Kernel { modules, .. } = &mut self.boot {
            *modules = Some(list.into());
        }
        self
    }

    /// The kernel's command line. No effect on a disc, which has its own.
    pub fn command_line(mut self, text: impl Into<String>) -> Self {
        if let Boot::Kernel { command_line, .. } = &mut self.boot {
            *command_line = text.into();
        }
        self
    }

    /// The machine's memory.
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.memory_mib = size;
        self
    }

    /// The number of processors.
    pub fn processors(mut self, number: u32) -> Self {
        self.processors = number;
        self
    }

    /// The processor model, in QEMU's notation.
    pub fn cpu(mut self, model: impl Into<String>) -> Self {
        self.cpu = Some(model.into());
        self
    }

    /// Whether one tick of the processor's clock is one instruction, so that runs repeat exactly. Needs one processor.
    pub fn counts_instructions(mut self, yes: bool) -> Self {
        self.counts_instructions = yes;
        self
    }

    /// Adds a disk; what the machine writes stays in the file.
    pub fn disk(self, path: impl Into<PathBuf>) -> Self {
        self.disk_of(DiskKind::Virtio, path)
    }

    /// Adds a disk of this kind; what the machine writes stays in the file.
    pub fn disk_of(self, kind: DiskKind, path: impl Into<PathBuf>) -> Self {
        self.add_disk(kind, path, "")
    }

    /// Adds a disk; what the machine writes is forgotten when it ends.
    pub fn temporary_disk(self, path: impl Into<PathBuf>) -> Self {
        self.add_disk(DiskKind::Virtio, path, ",snapshot=on")
    }

    /// Adds a disk that the machine can only read.
    pub fn read_only_disk(self, path: impl Into<PathBuf>) -> Self {
        self.add_disk(DiskKind::Virtio, path, ",readonly=on")
    }

    fn add_disk(mut self, kind: DiskKind, path: impl Into<PathBuf>, options: &'static str) -> Self {
        self.disks.push(Disk { path: path.into(), options, kind });
        self
    }

    /// Adds a disk that a user has named.
    pub fn disk_image(self, image: &DiskImage) -> Self {
        let options = if image.is_read_only { ",readonly=on" } else { "" };
        self.add_disk(image.kind, &image.path, options)
    }

    /// Adds a network card, connected to a QEMU back end such as `user` or
    /// `dgram,local.type=unix,local.path=…,remote.type=unix,remote.path=…`.
    pub fn network(mut self, backend: impl Into<String>) -> Self {
        self.networks.push(backend.into());
        self
    }

    /// Adds any other argument of QEMU's.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.extra.push(argument.into());
        self
    }

    /// How long the machine may run at most, from its start.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// QEMU's arguments, except where the console goes.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut list = Arguments::default();
        list.pair("-machine", "q35").pair("-accel", "tcg").pair("-cpu", self.cpu_model());
        list.pair("-m", format!("{}M", self.memory_mib)).pair("-smp", self.processors.to_string());
        if self.counts_instructions {
            list.pair("-icount", "shift=0,sleep=off").pair("-rtc", "base=2026-01-01,clock=vm");
        }
        list.word("-nodefaults").word("-no-reboot").pair("-display", "none");
        list.pair("-device", "isa-debug-exit,iobase=0xf4,iosize=4");
        self.boot_arguments(&mut list);
        for (index, disk) in self.disks.iter().enumerate() {
            let drive = format!("if=none,id=disk{index},format=raw{},file=", disk.options);
            list.pair("-drive", option_with_path(&drive, &disk.path));
            list.pair("-device", disk.device(index));
        }
        for (index, network) in self.networks.iter().enumerate() {
            list.pair("-netdev", format!("{network},id=net{index}"));
            list.pair("-device", format!("virtio-net-pci,netdev=net{index},disable-legacy=on"));
        }
        list.words.extend(self.extra.iter().cloned());
        list.words
    }

    fn cpu_model(&self) -> &str {
        let default = if self.counts_instructions { COUNTING_CPU } else { CPU };
        self.cpu.as_deref().unwrap_or(default)
    }

    fn boot_arguments(&self, list: &mut Arguments) {
        match &self.boot {
            Boot::Kernel { kernel, modules, command_line } => {
                list.pair("-kernel", kernel);
                if let Some(modules) = modules {
                    list.pair("-initrd", modules);
                }
                list.pair("-append", command_line);
            }
            Boot::Disc { image, uefi } => {
                list.pair("-drive", option_with_path("media=cdrom,readonly=on,format=raw,file=", image))
                    .pair("-boot", "d");
                if let Some(uefi) = uefi {
                    let code = "if=pflash,unit=0,format=raw,readonly=on,file=";
                    // Changes to the variables are forgotten, so the template can be used as it is.
                    let variables = "if=pflash,unit=1,format=raw,snapshot=on,file=";
                    list.pair("-drive", option_with_path(code, &uefi.code));
                    list.pair("-drive", option_with_path(variables, &uefi.variables));
                }
            }
        }
    }

    /// Starts the machine with its console captured.
    pub fn spawn(&self) -> Result<Running> {
        let mut qemu = self.command();
        qemu.args(["-serial", "stdio", "-monitor", "none"]);
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = qemu.spawn().with_context(|| format!("cannot start {}", qemu::PROGRAM))?;
        Ok(Running::new(child, self.time_limit))
    }

    /// Starts the machine with what it prints captured, and what is typed on our own terminal going to it. QEMU takes
    /// the terminal's keys as they come, and keeps Ctrl-a for itself.
    pub fn spawn_at_terminal(&self) -> Result<Running> {
        let mut qemu = self.command();
        qemu.args(["-serial", "mon:stdio"]);
        qemu.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = qemu.spawn().with_context(|| format!("cannot start {}", qemu::PROGRAM))?;
        Ok(Running::new(child, self.time_limit))
    }

    /// Runs the machine to its end with its console on our own terminal.
    pub fn on_terminal(&self) -> Result<Ending> {
        let mut qemu = self.command();
        qemu.args(["-serial", "mon:stdio"]);
        let child = qemu.spawn().with_context(|| format!("cannot start {}", qemu::PROGRAM))?;
        running::wait_on_terminal(child, self.time_limit)
    }

    /// The command that starts QEMU, for showing.
    pub fn shown(&self) -> String {
        command::shown(&self.command())
    }

    fn command(&self) -> Command {
        // QEMU shall not outlive us, however we end; without `setpriv` only an orderly end takes it along.
        let mut command = match command::find("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", qemu::PROGRAM]);
                command
            }
            None => Command::new(qemu::PROGRAM),
        };
        command.args(self.arguments());
        command
    }
}

/// An argument list in the making.
#[derive(Default)]
struct Arguments {
    words: Vec<OsString>,
}

impl Arguments {
    fn word(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    fn pair(&mut self, option: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.word(option).word(value)
    }
}

/// An option string that ends with a path; QEMU wants commas in values doubled.
fn option_with_path(start: &str, path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = start.as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(machine: &Machine) -> String {
        let words: Vec<_> = machine.arguments().into_iter().map(|word| word.into_string().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn a_kernel_with_a_bundle_disk_and_network() {
        let machine = Machine::with_kernel("/t/weir")
            .module(Path::new("/w/bundle"))
            .command_line("loglevel=info -- quiet")
            .disk("/w/disk,1.img")
            .network("user,hostfwd=tcp::2222-:22");
        assert_eq!(
            line(&machine),
            "-machine q35 -accel tcg -cpu max -m 1024M -smp 1 -nodefaults -no-reboot -display none \
             -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel /t/weir -initrd /w/bundle -append loglevel=info -- quiet \
             -drive if=none,id=disk0,format=raw,file=/w/disk,,1.img \
             -device virtio-blk-pci,drive=disk0,disable-legacy=on \
             -netdev user,hostfwd=tcp::2222-:22,id=net0 -device virtio-net-pci,netdev=net0,disable-legacy=on"
        );
    }

    #[test]
    fn counting_instructions_takes_randomness_out() {
        let counting = line(&Machine::with_kernel("k").counts_instructions(true));
        assert!(counting.contains("-cpu max,-x2apic,-rdrand,-rdseed -m 1024M -smp 1"), "{counting}");
        assert!(counting.contains("-icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm"), "{counting}");
        assert!(!line(&Machine::with_kernel("k")).contains("-icount"));
    }

    #[test]
    fn an_explicit_processor_model_wins() {
        let machine =
            Machine::with_kernel("k").cpu("qemu64").counts_instructions(true).processors(4).memory_mib(256);
        assert!(line(&machine).contains("-cpu qemu64 -m 256M -smp 4"));
    }

    #[test]
    fn a_disc_boots_through_bios_or_uefi() {
        let bios = line(&Machine::with_disc("/t/weir.iso", None));
        assert!(
            bios.contains("media=cdrom,readonly=on,format=raw,file=/t/weir.iso") && !bios.contains("pflash"),
            "{bios}"
        );
        let firmware = Uefi { code: "/o/CODE.fd".into(), variables: "/o/VARS.fd".into() };
        let uefi = line(&Machine::with_disc("/t/weir.iso", Some(firmware)));
        assert!(uefi.contains("unit=0,format=raw,readonly=on,file=/o/CODE.fd"), "{uefi}");
        assert!(uefi.contains("unit=1,format=raw,snapshot=on,file=/o/VARS.fd"), "{uefi}");
    }

    #[test]
    fn several_disks_and_networks_are_told_apart() {
        let machine = Machine::with_kernel("k").disk("a").temporary_disk("b").read_only_disk("c");
        let line = line(&machine.network("user").network("user"));
        assert!(line.contains("id=disk2,format=raw,readonly=on,file=c"), "{line}");
        assert!(line.contains("id=disk1,format=raw,snapshot=on,file=b"), "{line}");
        assert!(line.contains("drive=disk1") && line.contains("netdev=net1"), "{line}");
    }

    #[test]
    fn a_disk_may_be_behind_a_controller_of_its_own() {
        let Ok(image) = "a,nvme,ro".parse();
        let line = line(&Machine::with_kernel("k").disk("b").disk_image(&image));
        assert!(
            line.contains("id=disk1,format=raw,readonly=on,file=a -device nvme,drive=disk1,serial=disk1"),
            "{line}"
        );
    }

    #[test]
    fn extra_arguments_come_last() {
        let machine = Machine::with_kernel("k").argument("-device").argument("edu");
        assert!(line(&machine).ends_with(" -device edu"));
    }
}
