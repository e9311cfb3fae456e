//! Debian's Xen with a Debian domain 0, as a peer: what runs on Weir shall run there too, and not faster.
//!
//! Hypervisor, kernel and tools are downloaded by the package manager and unpacked below `work/peer`; nothing is
//! installed. [`Files`] says where they are, [`machine`](Files::machine) describes a machine that boots them, and
//! [`Console`] types commands at domain 0's shell.
//!
//! The machine counts instructions even where nothing is measured: under TCG without it, programs in a PV domain of
//! Xen's were seen to crash now and then.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::consent::Consent;
use crate::linux::initramfs::Initramfs;
use crate::linux::package;
use crate::machine::Machine;
use crate::packages::Apt;
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

mod console;
mod parts;

pub use console::Console;

/// The environment variable that names the directory to the tests.
pub const VARIABLE: &str = "WEIR_PEER";
/// The hypervisor.
const XEN: &str = "xen";
/// Domain 0's kernel.
const KERNEL: &str = "vmlinuz";
/// What of domain 0's file system comes from packages.
const TREE: &str = "tree";
/// Xen's command line: its console, and room for guests.
const XEN_WORDS: &str = "console=com1 com1=115200 dom0_mem=512M,max:512M loglvl=warning guest_loglvl=warning";
/// The kernel's.
const KERNEL_WORDS: &str = "console=hvc0 quiet nokaslr norandmaps panic=-1";
/// The machine's memory.
const MEMORY_MIB: u32 = 1536;

/// How the machine's clock goes. One instruction is a nanosecond either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// It jumps over idle time, and a run repeats exactly as long as nothing comes from outside.
    Exact,
    /// It stands still with this computer while the machine is idle, so that others on the network are not too slow.
    Patient,
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The files in a directory; nothing if they are not there.
    pub fn find(directory: &Path) -> Option<Self> {
        directory.is_dir().then(|| Self { directory: directory.to_owned() })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A machine that boots Xen and domain 0, whose file system has `files` (path and content) at its root; what it
    /// boots from goes to `scratch`. Its disks are `/dev/vda` and so on, its network card is at the bridge `xenbr0`.
    pub fn machine(&self, files: &[(&str, &[u8])], clock: Clock, scratch: &Scratch) -> Result<Machine> {
        let ramdisk = scratch.join("ramdisk");
        fs::write(&ramdisk, self.ramdisk(files)?).context("cannot write domain 0's file system")?;
        let kernel = self.directory.join(KERNEL);
        let modules = format!("{} {KERNEL_WORDS},{}", quoted(&kernel), quoted(&ramdisk));
        let machine = Machine::with_kernel(self.directory.join(XEN))
            .modules(modules)
            .command_line(XEN_WORDS)
            .memory_mib(MEMORY_MIB)
            .counts_instructions(true);
        Ok(match clock {
            Clock::Exact => machine,
            // Of two such options the last is in force.
            Clock::Patient => machine.argument("-icount").argument("shift=0,sleep=on"),
        })
    }

    fn ramdisk(&self, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
        let tree = Initramfs::new().tree(&self.directory.join(TREE))?;
        let own = parts::SCRIPTS.iter().fold(tree, |all, (path, text)| all.program(path, text.as_bytes()));
        let linked = parts::links().iter().fold(own, |all, (path, target)| all.link(path, target));
        Ok(files.iter().fold(linked, |all, (path, content)| all.program(path, content)).finish())
    }
}

/// A path in QEMU's list of modules, in which a comma begins the next.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The files; downloads them, with consent, if they are not there.
pub fn ensure(workspace: &Workspace, consent: Consent) -> Result<Files> {
    let directory = workspace.work().join("peer");
    if let Some(files) = Files::find(&directory) {
        return Ok(files);
    }
    let apt = Apt::find().context("there is no apt-get to download Xen with")?;
    let count = parts::PACKAGES.len() + 1;
    progress::stage(format_args!(
        "for comparison, Debian's Xen 4.17 and a domain 0 for it: {count} packages"
    ));
    progress::detail("they are unpacked below work/peer, and not installed");
    consent.obtain("download these packages")?;
    let scratch = Scratch::create(&workspace.work(), "peer")?;
    let packages = download(&apt, &scratch).or_else(|_| {
        // The usual reason is a mirror that moved on since the lists were read, or lists that were never read.
        apt.update()?;
        download(&apt, &scratch)
    })?;
    let made = scratch.join("made");
    unpack(&packages, &made)?;
    // Complete or not there: one that was interrupted is made anew.
    fs::rename(&made, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(Files { directory })
}

/// Downloads all packages into directories of their own.
fn download(apt: &Apt, scratch: &Scratch) -> Result<Vec<PathBuf>> {
    let newest = package::download(apt, parts::NEWEST_KERNEL, scratch)?;
    let depends = package::field(&newest, "Depends")?;
    let kernel = parts::kernel_package(&depends)
        .with_context(|| format!("{} names no kernel: {depends}", parts::NEWEST_KERNEL))?;
    let names = parts::PACKAGES.iter().copied().chain([kernel]);
    names.map(|name| package::download(apt, name, scratch)).collect()
}

/// Takes what is needed out of the packages.
fn unpack(packages: &[PathBuf], made: &Path) -> Result<()> {
    let tree = made.join(TREE);
    for directory in parts::DIRECTORIES {
        fs::create_dir_all(tree.join(directory))?;
    }
    for file in packages {
        package::unpack(file, |path| parts::place(path).map(|place| made.join(place)))?;
    }
    unpack_hypervisor(made)?;
    for needed in parts::needed() {
        ensure!(made.join(&needed).exists(), "the packages have no {}", needed.display());
    }
    Ok(())
}

/// The hypervisor is packed, and QEMU wants an ELF file.
fn unpack_hypervisor(made: &Path) -> Result<()> {
    let packed = made.join(parts::PACKED_XEN);
    let mut gunzip = Command::new(made.join(TREE).join(parts::BUSYBOX));
    gunzip.args(["gunzip", "-c"]).arg(&packed).stdin(Stdio::null()).stdout(fs::File::create(made.join(XEN))?);
    command::run(&mut gunzip)?;
    fs::remove_file(packed).context("cannot remove the packed hypervisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_0_has_packages_scripts_links_and_what_is_asked_for() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-peer").unwrap();
        fs::create_dir_all(scratch.join("tree/bin")).unwrap();
        fs::write(scratch.join("tree/bin/busybox"), "all programs").unwrap();
        let files = Files::find(scratch.path()).unwrap();
        let ramdisk = files.ramdisk(&[("guest.cfg", b"name = x")]).unwrap();
        let text = String::from_utf8_lossy(&ramdisk);
        for part in ["all programs", "name = x", "etc/xen/scripts/block", "usr/bin/xenstore-read"] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn the_clock_can_be_patient() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-peer").unwrap();
        fs::create_dir_all(scratch.join("tree")).unwrap();
        let files = Files::find(scratch.path()).unwrap();
        let shown = |clock| files.machine(&[], clock, &scratch).unwrap().shown();
        assert!(shown(Clock::Exact).contains("sleep=off") && !shown(Clock::Exact).contains("sleep=on"));
        assert!(shown(Clock::Patient).ends_with("-icount shift=0,sleep=on"));
        assert!(shown(Clock::Exact).contains("vmlinuz console=hvc0"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(Files::find(Path::new("/no/such/directory")), None);
    }
}
