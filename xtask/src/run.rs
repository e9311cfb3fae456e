//! `cargo xtask run`: Weir in a virtual machine, on the terminal or with commands to execute.
//!
//! Without commands the machine's console is the terminal. With commands nobody needs to be there: they travel in the
//! boot archive, domain 0 runs them and ends the machine, and only what they print reaches standard output. With a
//! kernel of the user's own the console is that [guest]'s.
//!
//! Exit status: 0 all commands succeeded, or the guest has switched itself off; 1 a command or the guest failed; 124 the
//! time was up; 125 anything else.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{ArgAction, Args};

use crate::archive::Archive;
use crate::boot::{self, Load};
use crate::build::{self, Images};
use crate::bundle;
use crate::consent::Consent;
use crate::debian::{self, Debian};
use crate::disk;
use crate::disk_image::{self, DiskImage};
use crate::exec::{self, Frames, Line};
use crate::guest::{self, Checked, Guest, Input};
use crate::machine::{DEFAULT_MEMORY_MIB, Ending, Exit, Machine, Running};
use crate::progress;
use crate::remote::{self, Note, Remote};
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Exit status: every command succeeded, or the machine ended as it should.
pub const SUCCESS: u8 = 0;
/// Exit status: a command failed.
pub const COMMAND_FAILED: u8 = 1;
/// Exit status: the time was up.
pub const TIMED_OUT: u8 = 124;
/// Exit status: something else went wrong.
pub const BROKEN: u8 = 125;

/// Time limit of a run that nobody watches, unless told otherwise.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// The same for a Debian, which starts hundreds of programs until it is up.
const DEBIAN_LIMIT: Duration = Duration::from_secs(600);
/// Memory of a guest of the user's own unless told otherwise.
const GUEST_MEMORY_MIB: u32 = 256;
/// What the options for such a guest stand below.
const GUEST_HEADING: &str = "A guest of your own";

/// How to run the machine.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Run COMMAND in domain 0 (with --debian: as root in Debian), print its output and end; may be given several times.
    #[arg(long, value_name = "COMMAND")]
    pub exec: Vec<String>,
    /// End the machine after so many seconds [default with --exec or without a terminal: 120, with --debian 600; else
    /// none].
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Let one clock tick be one instruction, so that runs can be compared (one processor, slower).
    #[arg(long)]
    pub icount: bool,
    /// Memory in MiB: of the machine [default: 1024], or with --kernel or --debian of the guest [default: 256 or 512].
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u32>,
    /// Number of the machine's processors (also `--smp`).
    #[arg(long = "cpus", alias = "smp", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub smp: u32,
    /// Raw disk file for domain 0 [default: work/disk.img, made if missing], or with --kernel or --debian for the guest;
    /// ",ro" for one that is only read, ",nvme" for one behind an NVMe controller; may be given several times.
    #[arg(long, value_name = "FILE[,ro][,nvme]")]
    pub disk: Vec<DiskImage>,
    /// Forward a port of this computer, as in QEMU: tcp::2222-:22; may be given several times.
    #[arg(long, value_name = "RULE")]
    pub hostfwd: Vec<String>,
    /// The port of this computer by which `cargo xtask ctl` and any SSH client reach domain 0 [default: a free one; none
    /// with --exec, --icount or --xen].
    #[arg(long, value_name = "PORT")]
    pub ssh_port: Option<u16>,
    /// Start this Xen hypervisor (an ELF file) instead of Weir, with the same domain 0.
    #[arg(long, value_name = "FILE")]
    pub xen: Option<PathBuf>,
    /// Command line of the hypervisor, or with --kernel or --debian of the guest's kernel.
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Command line of domain 0.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub dom0_cmdline: String,
    /// Show all that the machine prints on standard error, and QEMU's command line.
    #[arg(long, short)]
    pub verbose: bool,
    /// Boot this kernel (an ELF file or a bzImage, with Xen PV support) as a guest, with its console here.
    #[arg(long, value_name = "FILE", help_heading = GUEST_HEADING)]
    pub kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk.
    #[arg(long, value_name = "FILE", help_heading = GUEST_HEADING)]
    pub ramdisk: Option<PathBuf>,
    /// Boot Debian's kernel on a small Debian disk (work/debian), both made from Debian's packages if missing.
    #[arg(long, help_heading = GUEST_HEADING)]
    pub debian: bool,
    /// Number of the guest's virtual CPUs [default: 1].
    #[arg(long, value_name = "NUMBER", help_heading = GUEST_HEADING)]
    pub vcpus: Option<u32>,
    /// Give the guest a network interface; may be given several times.
    #[arg(long, action = ArgAction::Count, help_heading = GUEST_HEADING)]
    pub nic: u8,
}

/// Sets up, builds, boots and runs; returns the exit status.
pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<u8> {
    ensure!(
        !options.icount || options.smp == 1,
        "--icount counts the instructions of one processor: leave out --cpus"
    );
    match options.guest(workspace)? {
        Some(guest) => run_guest(workspace, guest, options, consent),
        None => run_dom0(workspace, options, consent),
    }
}

/// Runs domain 0, at the terminal or with commands.
fn run_dom0(workspace: &Workspace, options: &Options, consent: Consent) -> Result<u8> {
    disk_image::check_all(&options.disk)?;
    setup::ensure(workspace, consent)?;
    let images = build::build(workspace)?;
    let mut disks = options.disk.clone();
    if disks.is_empty() {
        disks.push(DiskImage::writable(disk::ensure_default(workspace)?));
    }
    let scratch = Scratch::create(&workspace.work(), "run")?;
    let access = options.access(workspace, consent)?;
    let machine = machine(&images, &disks, &scratch, options, access.as_ref())?;
    if options.verbose {
        progress::detail(machine.shown());
    }
    let _note = access.map(|access| access.note()).transpose()?;
    if options.exec.is_empty() { interactive(&machine) } else { execute(&machine, options) }
}

/// Runs a guest of the user's own, at the terminal or, in Debian, with commands.
fn run_guest(workspace: &Workspace, mut guest: Guest, options: &Options, consent: Consent) -> Result<u8> {
    guest.check_numbers()?;
    let commands = debian::commands::disk(&options.exec)?;
    if options.debian {
        disk_image::check_all(&options.disk)?;
        Debian::of(workspace).ensure(consent)?;
    }
    let scratch = Scratch::create(&workspace.work(), "run")?;
    if !options.exec.is_empty() {
        let path = scratch.join("commands");
        fs::write(&path, commands).context("cannot write the commands")?;
        guest.disks.push(DiskImage::read_only(path));
    }
    let guest = guest.check()?;
    setup::ensure(workspace, consent)?;
    let images = build::build(workspace)?;
    let access = options.access(workspace, consent)?;
    let machine = guest_machine(&images, &guest, &scratch, options, access.as_ref())?;
    if options.verbose {
        progress::detail(machine.shown());
    }
    let _note = access.map(|access| access.note()).transpose()?;
    match guest.guest.last_disk() {
        Some(disk) if !options.exec.is_empty() => {
            debian::commands::run(&machine, &disk, options.exec.len(), options.verbose)
        }
        _ => guest::run(&machine, Input::detect()),
    }
}

/// The way by which domain 0 is administered from outside.
struct Access {
    remote: Remote,
    port: u16,
}

impl Access {
    /// What domain 0 is told, on a machine with so many cards of other use.
    fn words(&self, cards: usize) -> String {
        format!("ssh=nic{cards}")
    }

    /// Notes the way, and tells of it.
    fn note(&self) -> Result<Note> {
        progress::stage(format_args!(
            "domain 0 can be administered by `cargo xtask ctl` (port {})",
            self.port
        ));
        self.remote.note(self.port)
    }
}

impl Options {
    /// The way to domain 0, where somebody may want it: not while commands are run or instructions are counted.
    fn access(&self, workspace: &Workspace, consent: Consent) -> Result<Option<Access>> {
        if !self.exec.is_empty() || self.icount || self.xen.is_some() {
            return Ok(None);
        }
        let remote = Remote::of(workspace);
        remote.ensure(consent)?;
        let port = self.ssh_port.map_or_else(remote::free_port, Ok)?;
        Ok(Some(Access { remote, port }))
    }

    /// The guest that is asked for, if one is.
    fn guest(&self, workspace: &Workspace) -> Result<Option<Guest>> {
        if self.kernel.is_none() && !self.debian {
            ensure!(self.ramdisk.is_none(), "--ramdisk is for the kernel that --kernel names: give that too");
            ensure!(
                self.vcpus.is_none() && self.nic == 0,
                "--vcpus and --nic are for a guest: give --kernel or --debian too"
            );
            return Ok(None);
        }
        ensure!(
            self.xen.is_none(),
            "--xen is for domain 0's own commands: leave it out with a guest of your own"
        );
        ensure!(
            self.hostfwd.is_empty() || self.nic > 0 || self.debian,
            "--hostfwd leads to a network interface of the guest: give --nic too"
        );
        let guest = match &self.kernel {
            Some(kernel) => self.guest_with(kernel)?,
            None => self.debian_guest(Debian::of(workspace))?,
        };
        Ok(Some(guest))
    }

    /// A guest with a kernel of the user's own.
    fn guest_with(&self, kernel: &Path) -> Result<Guest> {
        ensure!(!self.debian, "--debian has a kernel of its own: leave out --kernel");
        ensure!(
            self.exec.is_empty(),
            "--exec is for domain 0 or for --debian: what a kernel of your own runs is said in its command line or on its disk"
        );
        Ok(Guest {
            kernel: kernel.to_owned(),
            ramdisk: self.ramdisk.clone(),
            command_line: self.cmdline.clone().unwrap_or_default(),
            memory_mib: self.memory.unwrap_or(GUEST_MEMORY_MIB).into(),
            vcpus: self.vcpus.unwrap_or(1),
            disks: self.disk.clone(),
            nics: self.nic,
        })
    }

    /// The Debian guest: its root disk is the first, and it has a network interface in any case.
    fn debian_guest(&self, debian: Debian) -> Result<Guest> {
        ensure!(self.ramdisk.is_none(), "--debian has a RAM disk of its own: leave out --ramdisk");
        let words = self.cmdline.as_deref().unwrap_or_default();
        Ok(Guest {
            kernel: debian.kernel,
            ramdisk: Some(debian.ramdisk),
            command_line: format!("{} {words}", debian::COMMAND_LINE).trim().to_owned(),
            memory_mib: self.memory.unwrap_or(debian::MEMORY_MIB).into(),
            vcpus: self.vcpus.unwrap_or(1),
            disks: std::iter::once(DiskImage::writable(debian.disk))
                .chain(self.disk.iter().cloned())
                .collect(),
            nics: self.nic.max(1),
        })
    }

    /// What domain 0 is told on a machine with so many cards of other use; its keys go to the archive.
    fn dom0_words(&self, archive: &mut Archive, access: Option<&Access>, cards: usize) -> Result<String> {
        let Some(access) = access else { return Ok(self.dom0_cmdline.clone()) };
        access.remote.add_to(archive)?;
        Ok(format!("{} {}", access.words(cards), self.dom0_cmdline))
    }

    /// QEMU's network, with the ports that are forwarded.
    fn network(&self) -> String {
        let mut network = "user".to_owned();
        for rule in &self.hostfwd {
            network += &format!(",hostfwd={rule}");
        }
        network
    }

    /// The machine with what holds for all that can run in it.
    fn complete(&self, machine: Machine, disks: &[DiskImage]) -> Machine {
        let machine = machine.processors(self.smp).counts_instructions(self.icount);
        let machine = disks.iter().fold(machine, Machine::disk_image);
        match time_limit(self, io::stdin().is_terminal()) {
            Some(limit) => machine.time_limit(limit),
            None => machine,
        }
    }
}

/// The machine that the options describe; its boot files go to `scratch`.
fn machine(
    images: &Images,
    disks: &[DiskImage],
    scratch: &Scratch,
    options: &Options,
    access: Option<&Access>,
) -> Result<Machine> {
    let mut archive = bundle::boot_files(images, &options.exec)?;
    let dom0_words = options.dom0_words(&mut archive, access, 1)?;
    let hypervisor_words = options.cmdline.as_deref();
    let load = Load { images, archive: &archive.finish()?, hypervisor_words, dom0_words: &dom0_words };
    let machine = match &options.xen {
        None => boot::on_weir(load, scratch)?,
        Some(xen) => boot::on_xen(xen, load, scratch)?,
    };
    let machine = machine.memory_mib(options.memory.unwrap_or(DEFAULT_MEMORY_MIB)).network(options.network());
    Ok(options.complete(connected(machine, access), disks))
}

/// The machine whose domain 0 makes this guest; its boot files go to `scratch`.
fn guest_machine(
    images: &Images,
    guest: &Checked,
    scratch: &Scratch,
    options: &Options,
    access: Option<&Access>,
) -> Result<Machine> {
    let mut archive = Archive::new();
    for (name, content) in guest.files() {
        archive.add(name, content)?;
    }
    archive.add_commands(&[guest.guest.command()])?;
    // The console is the guest's: the others speak only if something is wrong, or if they are asked to.
    let level = if options.verbose { "info" } else { "error" };
    let hypervisor_words = format!("dom0_mem={}M loglevel={level}", guest.dom0_memory_mib());
    let cards = usize::from(guest.guest.nics > 0);
    let dom0_words = format!("noguest log={level} {}", options.dom0_words(&mut archive, access, cards)?);
    let load = Load {
        images,
        archive: &archive.finish()?,
        hypervisor_words: Some(&hypervisor_words),
        dom0_words: &dom0_words,
    };
    let memory =
        u32::try_from(guest.machine_memory_mib()).context("the machine would need too much memory")?;
    let machine = boot::on_weir(load, scratch)?.memory_mib(memory);
    let machine = if cards > 0 { machine.network(options.network()) } else { machine };
    Ok(options.complete(connected(machine, access), &guest.guest.disks))
}

/// The machine with the card by which domain 0 is administered.
fn connected(machine: Machine, access: Option<&Access>) -> Machine {
    match access {
        Some(access) => Remote::connect(machine, access.port),
        None => machine,
    }
}

fn time_limit(options: &Options, somebody_watches: bool) -> Option<Duration> {
    match options.timeout {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None if options.exec.is_empty() && somebody_watches => None,
        None if options.debian => Some(DEBIAN_LIMIT),
        None => Some(DEFAULT_LIMIT),
    }
}

fn interactive(machine: &Machine) -> Result<u8> {
    progress::stage("booting; Ctrl-a x ends the machine, Ctrl-a c is QEMU's monitor");
    let ending = machine.on_terminal()?;
    Ok(match ending {
        Ending::Exited(Exit::PowerOff | Exit::Debug(exec::ALL_SUCCEEDED)) => {
            progress::stage("the machine is off");
            SUCCESS
        }
        Ending::TimedOut => {
            progress::stage(ending);
            TIMED_OUT
        }
        _ => {
            progress::stage(format_args!("the machine failed: {ending}"));
            BROKEN
        }
    })
}

fn execute(machine: &Machine, options: &Options) -> Result<u8> {
    progress::stage(format_args!("booting; commands to run: {}", options.exec.len()));
    let mut running = machine.spawn()?;
    let mut session = Session { verbose: options.verbose, ..Session::default() };
    let ending = session.follow(&mut running)?;
    let status = session.judge(&ending, options.exec.len());
    if status == BROKEN || status == TIMED_OUT {
        progress::stage(session.verdict(&ending, options));
        eprint!("{}", running.context());
    }
    Ok(status)
}

/// What is known of a run with commands.
#[derive(Debug, Default)]
struct Session {
    frames: Frames,
    verbose: bool,
    /// Commands that ended.
    ended: usize,
}

impl Session {
    /// Shows commands' output as it comes, until the machine ends.
    fn follow(&mut self, running: &mut Running) -> Result<Ending> {
        loop {
            match running.next_line() {
                Ok(line) => self.show(&line).context("cannot write to standard output")?,
                Err(ending) => return Ok(ending),
            }
        }
    }

    fn show(&mut self, line: &str) -> io::Result<()> {
        if self.verbose {
            eprintln!("| {line}");
        }
        match self.frames.next(line) {
            Line::Output(text) => writeln!(io::stdout(), "{text}")?,
            Line::End { number, status, output } => {
                if !output.is_empty() {
                    writeln!(io::stdout(), "{output}")?;
                }
                self.ended += 1;
                if status != 0 {
                    progress::stage(format_args!("command {} failed with status {status}", number + 1));
                }
            }
            Line::Begin { .. } | Line::Machine(_) => {}
        }
        Ok(())
    }

    fn judge(&self, ending: &Ending, commands: usize) -> u8 {
        match ending {
            Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED)) if self.ended == commands => SUCCESS,
            Ending::Exited(Exit::Debug(exec::SOME_FAILED)) => COMMAND_FAILED,
            Ending::TimedOut => TIMED_OUT,
            _ => BROKEN,
        }
    }

    fn verdict(&self, ending: &Ending, options: &Options) -> String {
        let at = match self.frames.current().and_then(|number| options.exec.get(number as usize)) {
            Some(command) => format!("during `{command}`"),
            None => format!("outside of any command, {} of {} had ended", self.ended, options.exec.len()),
        };
        format!("{ending} ({at})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::fs;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::parse_from(std::iter::once(&"run").chain(words)).options
    }

    fn images(scratch: &Scratch) -> Images {
        for name in ["weir", "dom0", "guest"] {
            fs::write(scratch.join(name), name).unwrap();
        }
        Images { weir: scratch.join("weir"), dom0: scratch.join("dom0"), guest: scratch.join("guest") }
    }

    fn arguments(words: &[&str]) -> String {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-run").unwrap();
        let disks = [DiskImage::writable("/d")];
        let machine = machine(&images(&scratch), &disks, &scratch, &options(words), None).unwrap();
        machine.shown().replace(&scratch.path().display().to_string(), "S")
    }

    #[test]
    fn options_describe_the_machine() {
        let line =
            arguments(&["--hostfwd", "tcp::1-:2", "--hostfwd", "tcp::3-:4", "--memory", "256", "--icount"]);
        assert!(line.contains("-netdev user,hostfwd=tcp::1-:2,hostfwd=tcp::3-:4,id=net0"), "{line}");
        assert!(line.contains("-m 256M -smp 1 -icount"), "{line}");
        assert!(line.contains("-kernel S/weir") && line.contains("file=/d"), "{line}");
        assert!(arguments(&["--xen", "/x/xen.elf"]).contains("-kernel /x/xen.elf"));
    }

    #[test]
    fn a_guest_is_described_by_its_own_options() {
        let workspace = Workspace::at("/w");
        let guest = |words: &[&str]| options(words).guest(&workspace).unwrap();
        assert_eq!(guest(&["--memory", "64"]), None);
        let debian = guest(&["--debian", "--cmdline", "quiet", "--disk", "d"]).unwrap();
        assert_eq!(debian.command_line, "root=/dev/xvda ro console=hvc0 quiet");
        assert_eq!((debian.disks.len(), debian.nics, debian.memory_mib), (2, 1, 512));
        assert_eq!(debian.disks[0].path, Path::new("/w/work/debian/disk.img"));
        let words = ["--kernel", "k", "--cmdline", "a b", "--disk", "d,ro", "--nic", "--nic"];
        let guest = guest(&words).unwrap();
        assert_eq!(
            (guest.command_line.as_str(), guest.memory_mib, guest.vcpus, guest.nics),
            ("a b", 256, 1, 2)
        );
        assert_eq!(guest.disks, [DiskImage::read_only("d")]);
    }

    #[test]
    fn options_that_do_not_go_together_are_explained() {
        let workspace = Workspace::at("/w");
        let error = |words: &[&str]| options(words).guest(&workspace).unwrap_err().to_string();
        assert_eq!(
            error(&["--ramdisk", "r"]),
            "--ramdisk is for the kernel that --kernel names: give that too"
        );
        for words in [&["--vcpus", "1"][..], &["--nic"]] {
            assert_eq!(error(words), "--vcpus and --nic are for a guest: give --kernel or --debian too");
        }
        assert!(
            error(&["--kernel", "k", "--exec", "list"]).starts_with("--exec is for domain 0 or for --debian")
        );
        assert!(error(&["--kernel", "k", "--xen", "x"]).starts_with("--xen is for domain 0's own commands"));
        assert!(error(&["--kernel", "k", "--debian"]).starts_with("--debian has a kernel of its own"));
        assert!(error(&["--debian", "--ramdisk", "r"]).starts_with("--debian has a RAM disk of its own"));
        assert!(error(&["--kernel", "k", "--hostfwd", "tcp::1-:2"]).ends_with("give --nic too"));
    }

    #[test]
    fn only_a_watched_console_has_no_time_limit() {
        assert_eq!(time_limit(&options(&[]), true), None);
        assert_eq!(time_limit(&options(&[]), false), Some(DEFAULT_LIMIT));
        assert_eq!(time_limit(&options(&["--exec", "a"]), true), Some(DEFAULT_LIMIT));
        assert_eq!(time_limit(&options(&["--debian"]), true), None);
        assert_eq!(time_limit(&options(&["--debian"]), false), Some(DEBIAN_LIMIT));
        assert_eq!(time_limit(&options(&["--timeout", "7"]), true), Some(Duration::from_secs(7)));
    }

    #[test]
    fn success_needs_the_port_and_every_frame() {
        let mut session = Session::default();
        let good = Ending::Exited(Exit::Debug(exec::ALL_SUCCEEDED));
        assert_eq!(session.judge(&good, 1), BROKEN);
        session.show("@exec-begin 0 true").unwrap();
        session.show("@exec-end 0 0").unwrap();
        assert_eq!(session.judge(&good, 1), SUCCESS);
        assert_eq!(session.judge(&Ending::Exited(Exit::PowerOff), 1), BROKEN);
        assert_eq!(session.judge(&Ending::Exited(Exit::Debug(exec::SOME_FAILED)), 1), COMMAND_FAILED);
        assert_eq!(session.judge(&Ending::TimedOut, 1), TIMED_OUT);
        assert_eq!(session.judge(&Ending::Panicked(String::new()), 1), BROKEN);
    }

    #[test]
    fn the_verdict_names_the_command() {
        let options = options(&["--exec", "one", "--exec", "two"]);
        let mut session = Session::default();
        session.show("@exec-begin 1 two").unwrap();
        assert!(session.verdict(&Ending::TimedOut, &options).contains("during `two`"));
    }
}
