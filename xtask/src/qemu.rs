//! QEMU, the machine Weir runs in by default: whether it is there, new enough, and how to get it.
//!
//! The story behind the second way: on a Debian 12 whose `qemu-utils` came from backports while that suite is no
//! longer listed, plain apt can only offer QEMU 7.2, which would remove `qemu-utils`. So the same request is made with
//! a private copy of the sources plus the backports suite, in a directory of our own; `/etc/apt` stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::consent::Consent;
use crate::packages::{Apt, Plan, Request, backports};
use crate::progress;
use crate::scratch::Scratch;
use crate::version::Version;

/// The emulator's program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// The oldest QEMU that is known to start Weir.
const OLDEST: Version = Version::new(8, 0);
/// The Debian package that holds the emulator.
const PACKAGE: &str = "qemu-system-x86";
const REQUEST: Request<'static> =
    Request { packages: &[PACKAGE], reason: "QEMU 8 or newer, which Weir runs in," };

/// Makes sure that QEMU is installed and new enough.
pub fn ensure(consent: Consent) -> Result<()> {
    if let Some(version) = installed()
        && version >= OLDEST
    {
        return Ok(());
    }
    let Some(apt) = Apt::find() else {
        bail!(
            "{PROGRAM} {OLDEST} or newer is needed, and this is no Debian system: please install it with your package manager"
        );
    };
    install(&apt, Path::new("/etc"), consent)?;
    match installed() {
        Some(version) if version >= OLDEST => Ok(()),
        Some(version) => {
            bail!("{PROGRAM} is still {version} after the installation; is another one earlier in PATH?")
        }
        None => bail!("{PROGRAM} is not found after the installation; is its directory in PATH?"),
    }
}

/// The version of the QEMU in `PATH`.
fn installed() -> Option<Version> {
    let said = command::text(Command::new(PROGRAM).arg("--version")).ok()?;
    Version::parse(said.split_once("version ")?.1)
}

/// Installs QEMU on a Debian whose configuration is below `configuration` (`/etc`).
fn install(apt: &Apt, configuration: &Path, consent: Consent) -> Result<()> {
    apt.refresh_if_stale(REQUEST, consent)?;
    let plain = apt.plan(REQUEST.packages)?;
    if is_new_enough(&plain) {
        return apt.carry_out(REQUEST, plain, consent);
    }
    let release = fs::read_to_string(configuration.join("os-release")).unwrap_or_default();
    if codename(&release) != Some("bookworm") {
        bail!(
            "QEMU {OLDEST} or newer is needed; this system's packages {}. Please install it by hand",
            offered(&plain)
        );
    }
    progress::stage(format_args!(
        "this system's packages {}: looking into bookworm-backports",
        offered(&plain)
    ));
    install_from_backports(apt, &configuration.join("apt"), consent)
}

fn is_new_enough(plan: &Plan) -> bool {
    plan.version_of(PACKAGE).is_some_and(|version| version >= OLDEST)
}

fn offered(plan: &Plan) -> String {
    match (plan, plan.version_of(PACKAGE)) {
        (Plan::Refused(why), _) => format!("cannot supply it ({})", why.replace('\n', "; ")),
        (_, Some(version)) => format!("offer only QEMU {version}"),
        (_, None) => "offer none".to_owned(),
    }
}

/// The `VERSION_CODENAME` of an `os-release` file.
pub(crate) fn codename(os_release: &str) -> Option<&str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"'))
}

fn install_from_backports(apt: &Apt, configuration: &Path, consent: Consent) -> Result<()> {
    let scratch = Scratch::create(&std::env::temp_dir(), "weir-apt")?;
    let private = backports::apt(apt, configuration, &scratch)?;
    private.update()?;
    let plan = private.plan(REQUEST.packages)?;
    if matches!(plan, Plan::Installs(_)) && !is_new_enough(&plan) {
        bail!("bookworm-backports {} too; please install QEMU {OLDEST} or newer by hand", offered(&plan));
    }
    private.carry_out(REQUEST, plan, consent)
}

/// The UEFI firmware for virtual machines: its code, and a template of its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uefi {
    /// The read-only part.
    pub code: PathBuf,
    /// The template of the writable part.
    pub variables: PathBuf,
}

impl Uefi {
    /// The firmware of Debian's package `ovmf`, if installed.
    pub fn find() -> Option<Self> {
        let directory = Path::new("/usr/share/OVMF");
        let found =
            Self { code: directory.join("OVMF_CODE_4M.fd"), variables: directory.join("OVMF_VARS_4M.fd") };
        (found.code.exists() && found.variables.exists()).then_some(found)
    }

    /// The firmware; installed first if need be.
    pub fn ensure(consent: Consent) -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        let request = Request { packages: &["ovmf"], reason: "UEFI firmware for QEMU" };
        let apt = Apt::find().context("UEFI firmware for QEMU (OVMF) is needed; please install it")?;
        apt.install(request, consent)?;
        Self::find().context("the package ovmf holds no /usr/share/OVMF/OVMF_CODE_4M.fd")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::fake::FakeApt;

    /// What apt answers in the situation that the module's text tells.
    const ONLY_BACKPORTS_SOLVES: &str = "case $all in
        indextargets*) echo http://mirror.example/debian/;;
        *weir-apt*update*) p=${all#*SourceParts=}; cp -r ${p%% *} $here/seen; p=${all#*Lists=}; touch ${p%% *}/x_Packages;;
        *--simulate*bookworm-backports*) echo 'Inst qemu-system-x86 (1:10.0.2+ds-2~bpo12+1 D [amd64])';;
        *--simulate*) echo 'E: Packages need to be removed but remove is disabled.' >&2; exit 100;;
        esac";

    fn configuration(fake: &FakeApt, codename: &str) -> PathBuf {
        let etc = fake.directory().join("etc");
        fs::create_dir_all(etc.join("apt/sources.list.d")).unwrap();
        fs::write(etc.join("os-release"), format!("NAME=Debian\nVERSION_CODENAME={codename}\n")).unwrap();
        fs::write(etc.join("apt/sources.list"), "deb http://mirror.example/debian bookworm main\n").unwrap();
        fs::write(etc.join("apt/sources.list.d/debian.sources"), "Types: deb\n").unwrap();
        fs::write(etc.join("apt/sources.list.d/old.list.disabled"), "nonsense\n").unwrap();
        etc
    }

    #[test]
    fn a_plain_offer_that_is_new_enough_is_taken() {
        let fake = FakeApt::new(
            "case $all in *--simulate*) echo 'Inst qemu-system-x86 (1:10.0.2 D [amd64])';; esac",
        );
        install(&fake.apt(), &configuration(&fake, "trixie"), Consent::Given).unwrap();
        let calls = fake.calls();
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(
            calls[1].ends_with("install qemu-system-x86") && !calls[1].contains("backports"),
            "{calls:?}"
        );
    }

    #[test]
    fn backports_are_used_when_plain_packages_would_remove_something() {
        let fake = FakeApt::new(ONLY_BACKPORTS_SOLVES);
        install(&fake.apt(), &configuration(&fake, "bookworm"), Consent::Given).unwrap();
        let calls = fake.calls();
        let last = calls.last().unwrap();
        assert!(last.contains("--target-release bookworm-backports"), "{calls:?}");
        assert!(last.contains("--no-remove") && last.ends_with("install qemu-system-x86"), "{calls:?}");
        let seen = fake.directory().join("seen");
        let line = fs::read_to_string(seen.join("weir-backports.list")).unwrap();
        assert!(line.contains("http://mirror.example/debian/ bookworm-backports main"), "{line}");
        assert!(seen.join("debian.sources").exists() && seen.join("sources.list").exists());
        assert!(!seen.join("old.list.disabled").exists());
    }

    #[test]
    fn backports_are_used_when_plain_packages_are_too_old() {
        let body = ONLY_BACKPORTS_SOLVES.replace(
            "*--simulate*) echo 'E: Packages need to be removed but remove is disabled.' >&2; exit 100;;",
            "*--simulate*) echo 'Inst qemu-system-x86 (1:7.2+dfsg-7 Debian [amd64])';;",
        );
        let fake = FakeApt::new(&body);
        install(&fake.apt(), &configuration(&fake, "bookworm"), Consent::Given).unwrap();
        assert!(fake.calls().last().unwrap().contains("bookworm-backports"));
    }

    #[test]
    fn another_release_without_a_new_qemu_is_told_so() {
        let fake = FakeApt::new("echo 'Inst qemu-system-x86 (1:6.2+dfsg Ubuntu [amd64])'");
        let error =
            install(&fake.apt(), &configuration(&fake, "jammy"), Consent::Given).unwrap_err().to_string();
        assert!(error.contains("offer only QEMU 6.2") && error.contains("by hand"), "{error}");
        assert_eq!(fake.calls().len(), 1);
    }

    #[test]
    fn the_code_name_is_read() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=\"bookworm\"\n"), Some("bookworm"));
        assert_eq!(codename("ID=arch\n"), None);
    }
}
