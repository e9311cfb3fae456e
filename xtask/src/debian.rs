//! A small Debian: its stock kernel, the initial RAM disk that belongs to it, and a root disk.
//!
//! `mmdebstrap` puts it together from the packages that this system's own apt knows, in a directory of its own: nothing
//! is installed on this system but the tools for that. A script of ours, run in the finished root, sets up what differs
//! from one machine to the next (no password for root, network by DHCP), and makes a disk image of it. The result stays in
//! `work/debian`; the disk is the user's from then on and keeps what is written.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::consent::Consent;
use crate::packages::{Apt, Request, is_root};
use crate::progress;
use crate::qemu::codename;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

pub mod commands;

/// What the guest's kernel is always told: where its root and its console are.
pub const COMMAND_LINE: &str = "root=/dev/xvda ro console=hvc0";
/// Memory of the guest in MiB, unless told otherwise.
pub const MEMORY_MIB: u32 = 512;

/// The programs that make the root disk, and the packages that hold them.
const TOOLS: [(&str, &str); 4] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("unshare", "util-linux"),
    ("newuidmap", "uidmap"),
];
/// Where programs for the administrator are, which an ordinary user's `PATH` may lack.
const ADMINISTRATORS_PROGRAMS: &str = "/usr/sbin";
/// Packages beside the smallest system that there is: the kernel, an init, network, and what one looks around with.
const PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,zstd,systemd-sysv,udev,dbus,ifupdown,isc-dhcp-client,\
    iproute2,iputils-ping,kmod,procps,ca-certificates,wget";
/// Size of the root disk; its file takes space only where something is written.
const DISK_SIZE: &str = "2G";
/// What the files are called, in the script's directory and where they stay.
const KERNEL: &str = "vmlinuz";
const RAMDISK: &str = "initrd.img";
const DISK: &str = "disk.img";
/// The script that is run in the finished root.
const FINISH: &str = include_str!("debian/finish.sh");
/// Settings of this system's apt that decide how packages are fetched.
const FETCHING: [&str; 5] =
    ["Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-", "Acquire::ForceIPv"];

/// The files of the small Debian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debian {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub ramdisk: PathBuf,
    /// The root disk.
    pub disk: PathBuf,
}

impl Debian {
    /// Where the files are, or will be.
    pub fn of(workspace: &Workspace) -> Self {
        Self::within(&workspace.work().join("debian"))
    }

    fn within(directory: &Path) -> Self {
        Self { kernel: directory.join(KERNEL), ramdisk: directory.join(RAMDISK), disk: directory.join(DISK) }
    }

    fn files(&self) -> [&Path; 3] {
        [&self.kernel, &self.ramdisk, &self.disk]
    }

    /// Makes what is not there yet; says what and why, and asks first.
    pub fn ensure(&self, consent: Consent) -> Result<()> {
        if self.files().iter().all(|path| path.is_file()) {
            return Ok(());
        }
        let apt = Apt::find().context("--debian needs apt-get, and this is no Debian system")?;
        ensure_tools(&apt, consent)?;
        let sources = sources(&apt)?;
        let directory = self.disk.parent().context("the disk lies in a directory")?;
        progress::stage(format_args!(
            "a small Debian is to be made in {}: its packages are downloaded (about 100 MB) and unpacked there \
             (about 600 MB); on this system nothing is installed",
            directory.display()
        ));
        consent.obtain("make a small Debian")?;
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        // What runs with other rights must reach it, so it is not below our own directories.
        let scratch = Scratch::create(&env::temp_dir(), "weir-debian")?;
        assemble(&sources, &scratch)?;
        keep(&scratch, self)
    }
}

/// Makes sure of the programs that the root disk is made with.
fn ensure_tools(apt: &Apt, consent: Consent) -> Result<()> {
    // Only who is not the superuser needs a range of other users' numbers.
    let needed = TOOLS.iter().filter(|(program, _)| *program != "newuidmap" || !is_root());
    let missing: Vec<_> =
        needed.filter(|(program, _)| program_path(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt.install(Request { packages: &missing, reason: "what makes Debian's root disk" }, consent)
}

fn program_path(program: &str) -> Option<PathBuf> {
    let administrators = Path::new(ADMINISTRATORS_PROGRAMS).join(program);
    command::find(program).or_else(|| administrators.exists().then_some(administrators))
}

/// A list of sources with all of Debian's that this system has, and the release they are of.
#[derive(Debug)]
struct Sources {
    list: String,
    release: String,
}

fn sources(apt: &Apt) -> Result<Sources> {
    let list = apt.index_targets(
        &["Created-By: Packages", "Origin: Debian"],
        "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
    )?;
    ensure!(
        !list.trim().is_empty(),
        "--debian needs Debian's packages, and this system's apt has no source of them"
    );
    let about = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let Some(release) = codename(&about).filter(|name| list.contains(&format!(" {name} "))) else {
        bail!("this system's apt has sources of Debian, but not of this system's own release:\n{list}");
    };
    Ok(Sources { list, release: release.to_owned() })
}

/// Has the root put together, and its files written to `scratch`.
fn assemble(sources: &Sources, scratch: &Scratch) -> Result<()> {
    let (list, settings, script) =
        (scratch.join("sources.list"), scratch.join("apt.conf"), scratch.join("finish"));
    fs::write(&list, &sources.list)?;
    fs::write(&settings, fetching_settings()?)?;
    fs::write(&script, FINISH)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    // The script may run as another user.
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o777))?;
    let mut make = Command::new(program_path("mmdebstrap").context("there is no mmdebstrap")?);
    make.arg(if is_root() { "--mode=root" } else { "--mode=unshare" });
    make.args(["--variant=minbase", "--format=null", "--quiet"]);
    make.arg(format!("--include={PACKAGES}"));
    make.arg(format!("--aptopt={}", settings.display()));
    make.arg(format!("--customize-hook={}", script.display()));
    make.args([&sources.release, "/dev/null"]).arg(&list);
    make.env("WEIR_OUTPUT", scratch.path()).env("WEIR_DISK_SIZE", DISK_SIZE);
    // Standard output belongs to what the user asked for.
    make.stdout(std::io::stderr());
    command::run(&mut make).context("Debian's packages could not be put together")
}

/// How this system's apt fetches packages: proxies and the like.
fn fetching_settings() -> Result<String> {
    let all =
        command::text(Command::new("apt-config").args(["dump", "--format", "%F \"%v\";%n", "Acquire"]))?;
    Ok(only_fetching(&all))
}

fn only_fetching(settings: &str) -> String {
    let lines = settings.lines().filter(|line| FETCHING.iter().any(|start| line.starts_with(start)));
    lines.filter(|line| !line.contains(" \"\";")).flat_map(|line| [line, "\n"]).collect()
}

/// Moves the files to where they stay; the disk comes last, so that what is there is whole.
fn keep(scratch: &Scratch, debian: &Debian) -> Result<()> {
    for target in debian.files() {
        let name = target.file_name().context("the files have names")?;
        let part = target.with_extension("part");
        let mut copy = Command::new("cp");
        command::run(copy.arg("--sparse=always").arg(scratch.join(name)).arg(&part))?;
        fs::set_permissions(&part, Permissions::from_mode(0o644))?;
        fs::rename(&part, target).with_context(|| format!("cannot make {}", target.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::fake::FakeApt;

    #[test]
    fn only_what_fetches_packages_is_taken_over() {
        let settings = "Acquire \"\";\nAcquire::http::Proxy \"http://proxy.example:1\";\nAcquire::https \"\";\n\
            Acquire::IndexTargets::deb::Packages::Optional \"0\";\nAcquire::Check-Valid-Until \"false\";\n";
        assert_eq!(
            only_fetching(settings),
            "Acquire::http::Proxy \"http://proxy.example:1\";\nAcquire::Check-Valid-Until \"false\";\n"
        );
    }

    #[test]
    fn a_system_without_debians_packages_is_told_so() {
        let error = sources(&FakeApt::new("true").apt()).unwrap_err().to_string();
        assert!(error.contains("no source of them"), "{error}");
        let error =
            sources(&FakeApt::new("echo deb http://x.example/ none main").apt()).unwrap_err().to_string();
        assert!(error.contains("not of this system's own release"), "{error}");
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let scratch = Scratch::create(&env::temp_dir(), "weir-debian-test").unwrap();
        let debian = Debian::within(scratch.path());
        for path in debian.files() {
            fs::write(path, "precious").unwrap();
        }
        debian.ensure(Consent::Given).unwrap();
        assert_eq!(fs::read_to_string(&debian.disk).unwrap(), "precious");
    }

    #[test]
    fn the_files_are_kept_whole() {
        let scratch = Scratch::create(&env::temp_dir(), "weir-debian-test").unwrap();
        let work = Scratch::create(&env::temp_dir(), "weir-debian-test").unwrap();
        let debian = Debian::within(work.path());
        for name in [KERNEL, RAMDISK] {
            fs::write(scratch.join(name), name).unwrap();
        }
        assert!(keep(&scratch, &debian).is_err() && !debian.disk.exists());
        fs::write(scratch.join(DISK), "disk").unwrap();
        keep(&scratch, &debian).unwrap();
        assert_eq!(fs::read_to_string(&debian.disk).unwrap(), "disk");
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 3);
    }
}
