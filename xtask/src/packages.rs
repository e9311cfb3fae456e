//! Missing programs, installed through Debian's `apt-get`.
//!
//! The rule that protects the user: first the plan is computed by simulation and shown, then consent is obtained, and
//! only then is anything changed. `--no-remove` and the absence of `--allow-downgrades` make apt itself refuse
//! whatever would harm what is already there. Configuration below `/etc/apt` is never touched.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::consent::Consent;
use crate::progress;
use crate::version::Version;

pub mod backports;

/// Package lists older than this are refreshed first: mirrors drop superseded versions.
const LISTS_STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest wait for `apt-get update`, in seconds.
const UPDATE_LIMIT_SECONDS: u32 = 180;
/// Longest wait for `apt-get install`, in seconds.
const INSTALL_LIMIT_SECONDS: u32 = 1200;

/// The package manager of this machine.
#[derive(Clone, Debug)]
pub struct Apt {
    apt_get: PathBuf,
    lists: PathBuf,
    /// Whether the rights to change the machine are obtained through `sudo`.
    through_sudo: bool,
    /// Arguments that every call carries: which lists, which suite.
    options: Vec<String>,
}

/// What is to be installed, and why the user would want that.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Names of packages.
    pub packages: &'a [&'a str],
    /// A clause that completes "… is needed".
    pub reason: &'a str,
}

/// What apt said it would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The request can be fulfilled by installing these.
    Installs(Vec<Planned>),
    /// It cannot; apt's own words.
    Refused(String),
}

/// One package of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The package's name.
    pub name: String,
    /// The version that would be installed, in Debian's notation.
    pub version: String,
}

impl Apt {
    /// This machine's apt, if it has one.
    pub fn find() -> Option<Self> {
        let apt_get = command::find("apt-get")?;
        Some(Self { through_sudo: !is_root(), ..Self::at(apt_get, "/var/lib/apt/lists") })
    }

    /// An apt by the path of its program and of its package lists, which needs no further rights.
    fn at(apt_get: impl Into<PathBuf>, lists: impl Into<PathBuf>) -> Self {
        Self { apt_get: apt_get.into(), lists: lists.into(), through_sudo: false, options: Vec::new() }
    }

    /// The same apt, with its package lists in `lists` and further options for every call.
    pub fn with(&self, lists: &Path, options: impl IntoIterator<Item = String>) -> Self {
        let mut apt = self.clone();
        apt.lists = lists.to_owned();
        apt.options.extend(options);
        apt
    }

    /// Installs what is requested: shows the plan, obtains consent, installs.
    pub fn install(&self, request: Request<'_>, consent: Consent) -> Result<()> {
        self.refresh_if_stale(request, consent)?;
        let plan = self.plan(request.packages)?;
        self.carry_out(request, plan, consent)
    }

    /// Carries out a plan that `plan` computed for `request`.
    pub fn carry_out(&self, request: Request<'_>, plan: Plan, consent: Consent) -> Result<()> {
        let planned = match plan {
            Plan::Installs(planned) => planned,
            Plan::Refused(why) => bail!(
                "{} is needed, but apt cannot install {}:\n{why}",
                request.reason,
                request.packages.join(" ")
            ),
        };
        let mut install = self.install_command(request.packages);
        progress::stage(format_args!("{} is needed: packages to install: {}", request.reason, planned.len()));
        for package in &planned {
            progress::detail(format_args!("{} {}", package.name, package.version));
        }
        progress::detail(format_args!("by `{}`", command::shown(&install)));
        consent.obtain(&format!("install these packages ({})", planned.len()))?;
        if command::run(&mut install).is_ok() {
            return Ok(());
        }
        // The usual reason is a mirror that moved on since the lists were read.
        self.update()?;
        command::run(&mut install)
    }

    /// What apt would do for these packages, by simulation: nothing is changed, no rights are needed.
    pub fn plan(&self, packages: &[&str]) -> Result<Plan> {
        let mut simulation = Command::new(&self.apt_get);
        simulation.arg("--simulate").args(self.install_arguments(packages)).env("LC_ALL", "C");
        let output = command::output(&mut simulation)?;
        if output.status.success() {
            return Ok(Plan::Installs(planned_packages(&String::from_utf8_lossy(&output.stdout))));
        }
        Ok(Plan::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// Refreshes the package lists when they are missing or more than a day old.
    pub fn refresh_if_stale(&self, request: Request<'_>, consent: Consent) -> Result<()> {
        let Some(why) = self.staleness() else {
            return Ok(());
        };
        progress::stage(format_args!("{} is needed, and {why}: apt-get update", request.reason));
        consent.obtain("refresh the package lists")?;
        self.update()
    }

    /// Refreshes the package lists.
    pub fn update(&self) -> Result<()> {
        let mut update = self.privileged(UPDATE_LIMIT_SECONDS);
        update.args(&self.options).args(["--quiet", "--quiet", "update"]);
        command::run(&mut update).context("the package lists could not be refreshed")
    }

    /// Downloads packages as files into a directory; nothing is installed and no rights are needed. What the files are is
    /// for `dpkg-deb` to say.
    pub fn download(&self, packages: &[&str], directory: &Path) -> Result<()> {
        let mut download = Command::new(&self.apt_get);
        download.args(&self.options).args(["--quiet", "--quiet", "download"]).args(packages);
        command::text(download.current_dir(directory)).map(drop)
    }

    /// What apt knows about its indexes: one line in `format` for each index that matches all `filters`.
    pub fn index_targets(&self, filters: &[&str], format: &str) -> Result<String> {
        let mut query = Command::new(&self.apt_get);
        query.args(["indextargets", "--format", format]).args(filters);
        command::text(&mut query)
    }

    fn staleness(&self) -> Option<&'static str> {
        let entries = fs::read_dir(&self.lists).into_iter().flatten().flatten();
        let has_lists =
            entries.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
        if !has_lists {
            return Some("there are no package lists yet");
        }
        // Apt renames files into the directory when it updates; the files' own times are those of the mirror.
        let changed = fs::metadata(&self.lists).and_then(|lists| lists.modified()).ok()?;
        let age = SystemTime::now().duration_since(changed).unwrap_or_default();
        (age > LISTS_STALE_AFTER).then_some("the package lists are more than a day old")
    }

    fn install_arguments(&self, packages: &[&str]) -> Vec<String> {
        let fixed = ["--yes", "--no-remove", "--no-install-recommends", "install"];
        let words = fixed.iter().chain(packages).map(|&word| word.to_owned());
        self.options.iter().cloned().chain(words).collect()
    }

    fn install_command(&self, packages: &[&str]) -> Command {
        let mut install = self.privileged(INSTALL_LIMIT_SECONDS);
        install
            .args(["--option", "DPkg::Lock::Timeout=120", "--quiet", "--quiet"])
            .args(self.install_arguments(packages));
        install
    }

    /// `apt-get` with a time limit and the rights to change the machine, up to its arguments.
    fn privileged(&self, limit_seconds: u32) -> Command {
        let mut command = Command::new(if self.through_sudo { "sudo" } else { "env" });
        if self.through_sudo {
            command.arg("env");
        }
        command.args([
            "DEBIAN_FRONTEND=noninteractive",
            "timeout",
            "--foreground",
            &limit_seconds.to_string(),
        ]);
        // Standard output belongs to what the user asked for.
        command.arg(&self.apt_get).stdout(io::stderr());
        command
    }
}

impl Plan {
    /// The version of `package` that would be installed.
    pub fn version_of(&self, package: &str) -> Option<Version> {
        let Self::Installs(planned) = self else {
            return None;
        };
        planned
            .iter()
            .find(|planned| planned.name == package)
            .and_then(|found| Version::of_package(&found.version))
    }
}

/// Reads the `Inst name [old] (new suite [architecture])` lines of a simulation.
fn planned_packages(simulation: &str) -> Vec<Planned> {
    simulation.lines().filter_map(planned_package).collect()
}

fn planned_package(line: &str) -> Option<Planned> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let (_, new) = rest.split_once('(')?;
    let version = new.split([' ', ')']).next()?;
    Some(Planned { name: name.to_owned(), version: version.to_owned() })
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    // The owner of our own process entry is the effective user.
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::fake::FakeApt;
    use crate::scratch::Scratch;

    const REQUEST: Request<'static> = Request { packages: &["lld-22"], reason: "a linker" };

    #[test]
    fn simulations_are_read() {
        let simulation = "Reading package lists...\n\
            Inst seabios (1.16.3-2~bpo12+1 Debian Backports:oldstable-backports [all])\n\
            Inst qemu-utils [1:7.2+dfsg-7] (1:10.0.2+ds-2 Debian Backports:oldstable-backports [amd64])\n\
            Conf seabios (1.16.3-2~bpo12+1 Debian Backports:oldstable-backports [all])\n";
        let plan = Plan::Installs(planned_packages(simulation));
        assert_eq!(plan.version_of("qemu-utils"), Some(Version::new(10, 0)));
        assert_eq!(plan.version_of("seabios"), Some(Version::new(1, 16)));
        assert_eq!(plan.version_of("absent"), None);
    }

    #[test]
    fn installs_what_the_simulation_promised() {
        let fake = FakeApt::new("case $all in *--simulate*) echo 'Inst lld-22 (1:22.1 D [amd64])';; esac");
        fake.apt().install(REQUEST, Consent::Given).unwrap();
        let calls = fake.calls();
        assert!(calls[0].starts_with("--simulate"), "{calls:?}");
        assert!(calls[1].contains("--no-remove --no-install-recommends install lld-22"), "{calls:?}");
        assert_eq!(calls.len(), 2);
    }

    #[test]
    fn a_refusal_changes_nothing_and_is_told() {
        let fake = FakeApt::new("echo 'E: Packages need to be removed' >&2; exit 100");
        let error = fake.apt().install(REQUEST, Consent::Given).unwrap_err().to_string();
        assert!(error.contains("a linker") && error.contains("need to be removed"), "{error}");
        assert_eq!(fake.calls().len(), 1);
    }

    #[test]
    fn an_ordinary_user_goes_through_sudo() {
        let apt = Apt { through_sudo: true, ..Apt::at("/usr/bin/apt-get", "/l") };
        let line = command::shown(&apt.install_command(&["lld-22"]));
        assert!(
            line.starts_with(
                "sudo env DEBIAN_FRONTEND=noninteractive timeout --foreground 1200 /usr/bin/apt-get"
            ),
            "{line}"
        );
    }

    #[test]
    fn a_mirror_that_moved_on_is_asked_again() {
        let fake = FakeApt::new(
            "case $all in *--simulate*) echo 'Inst lld-22 (1:22.1 D [amd64])';;
             *update*) touch $here/updated;;
             *) test -e $here/updated || exit 100;; esac",
        );
        fake.apt().install(REQUEST, Consent::Given).unwrap();
        assert!(fake.calls()[2].ends_with("update"), "{:?}", fake.calls());
        assert_eq!(fake.calls().len(), 4);
    }

    #[test]
    fn missing_lists_are_fetched_first() {
        let fake = FakeApt::new("case $all in *--simulate*) echo 'Inst lld-22 (1:22.1 D [amd64])';; esac");
        fake.remove_lists();
        fake.apt().install(REQUEST, Consent::Given).unwrap();
        assert!(fake.calls()[0].ends_with("update"), "{:?}", fake.calls());
    }

    #[test]
    fn old_lists_are_stale_and_new_ones_are_not() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-lists").unwrap();
        let apt = Apt::at("apt-get", scratch.path());
        assert!(apt.staleness().unwrap().contains("no package lists"));
        fs::write(scratch.join("deb_main_binary-amd64_Packages.lz4"), "").unwrap();
        assert_eq!(apt.staleness(), None);
        let two_days_ago = SystemTime::now() - 2 * LISTS_STALE_AFTER;
        fs::File::open(scratch.path()).unwrap().set_modified(two_days_ago).unwrap();
        assert!(apt.staleness().unwrap().contains("more than a day"));
    }
}

/// A stand-in for `apt-get`: a shell script that records how it was called.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;

    pub(crate) struct FakeApt {
        scratch: Scratch,
    }

    impl FakeApt {
        /// A fake whose script does `body`, with the arguments in `$all` and its directory in `$here`.
        pub(crate) fn new(body: &str) -> Self {
            let scratch = Scratch::create(&std::env::temp_dir(), "weir-fake-apt").unwrap();
            let here = scratch.path().display();
            let script = format!("#!/bin/sh\nall=\"$*\"\nhere={here}\necho \"$all\" >>$here/calls\n{body}\n");
            fs::write(scratch.join("apt-get"), script).unwrap();
            fs::set_permissions(scratch.join("apt-get"), fs::Permissions::from_mode(0o755)).unwrap();
            fs::create_dir(scratch.join("lists")).unwrap();
            fs::write(scratch.join("lists/deb_main_Packages"), "").unwrap();
            Self { scratch }
        }

        pub(crate) fn apt(&self) -> Apt {
            Apt::at(self.scratch.join("apt-get"), self.scratch.join("lists"))
        }

        pub(crate) fn directory(&self) -> &Path {
            self.scratch.path()
        }

        pub(crate) fn remove_lists(&self) {
            fs::remove_file(self.scratch.join("lists/deb_main_Packages")).unwrap();
        }

        /// The argument lines of all calls so far, oldest first.
        pub(crate) fn calls(&self) -> Vec<String> {
            let calls = fs::read_to_string(self.scratch.join("calls")).unwrap_or_default();
            calls.lines().map(str::to_owned).collect()
        }
    }
}
