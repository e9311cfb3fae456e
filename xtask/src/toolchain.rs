//! The compiler for bare metal: which one to use, and how to get one.
//!
//! Three ways, tried in this order; the first that works is kept:
//!
//! 1. the active compiler already has the target `x86_64-unknown-none`;
//! 2. rustup manages the active compiler and may download: `rustup target add`. `RUSTUP_AUTO_INSTALL=0` says that the
//!    owner of this machine does not want that, and is obeyed;
//! 3. a compiler that has the source of its own library, from which a private [sysroot] is made. If
//!    there is none, Debian's packages supply one.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::consent::Consent;
use crate::packages::{Apt, Request};
use crate::progress;
use crate::sysroot::{self, Sysroot};
use crate::version::Version;
use crate::workspace::Workspace;

/// What everything that runs on the bare machine is compiled for.
pub const TARGET: &str = "x86_64-unknown-none";
/// The `rust-version` of `Cargo.toml`: the oldest compiler that Weir's source is written for.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");
/// Longest wait for `rustup target add`, in seconds.
const RUSTUP_LIMIT_SECONDS: &str = "300";
/// Where a distribution's package puts its compiler.
const SYSTEM_COMPILER: &str = "/usr/bin/rustc";

/// A compiler and what it says of itself.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The compiler's program.
    pub rustc: PathBuf,
    /// The cargo that belongs to it.
    pub cargo: PathBuf,
    /// Where its libraries are.
    pub sysroot: PathBuf,
    /// The target it itself runs on, such as `x86_64-unknown-linux-gnu`.
    pub host: String,
    /// All that `rustc -vV` prints.
    pub description: String,
}

impl Compiler {
    /// Asks the compiler at `rustc` about itself.
    pub fn examine(rustc: &Path) -> Result<Self> {
        let description = command::text(Command::new(rustc).arg("-vV"))?;
        let sysroot = command::text(Command::new(rustc).args(["--print", "sysroot"]))?;
        let host = field(&description, "host").context("the compiler does not tell its host")?.to_owned();
        let sibling = rustc.with_file_name("cargo");
        let cargo = if sibling.exists() { sibling } else { cargo().into() };
        Ok(Self { rustc: rustc.to_owned(), cargo, sysroot: sysroot.trim().into(), host, description })
    }

    /// The compiler in `PATH`; the program itself, not rustup's proxy of it.
    fn active() -> Result<Self> {
        let found = Self::examine(Path::new("rustc"))?;
        let itself = found.sysroot.join("bin/rustc");
        if itself.exists() { Self::examine(&itself) } else { Ok(found) }
    }

    /// Where the source of its library is, if it is installed.
    pub fn library_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// The compiler's version.
    pub fn version(&self) -> Option<Version> {
        Version::parse(field(&self.description, "release")?)
    }

    fn has_target(&self) -> bool {
        // `--print target-libdir` names this directory even where it does not exist.
        sysroot::holds_library(&self.sysroot.join("lib/rustlib").join(TARGET).join("lib"), "core")
    }

    fn has_library_source(&self) -> bool {
        self.library_source().join("core/src/lib.rs").exists()
    }

    fn is_new_enough(&self) -> bool {
        is_new_enough(self.version())
    }

    fn lld(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(&self.host).join("bin/rust-lld")
    }
}

fn is_new_enough(version: Option<Version>) -> bool {
    version >= Version::parse(OLDEST)
}

/// The cargo that runs us, so that its children are of the same version.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Makes sure that `cargo build --target x86_64-unknown-none` works in `workspace`.
pub fn ensure(workspace: &Workspace, consent: Consent) -> Result<()> {
    let sysroot = Sysroot::of(workspace);
    if sysroot.is_in_force() {
        if sysroot.compiler().is_some() {
            return Ok(());
        }
        progress::stage("the private library for bare metal no longer fits its compiler");
    } else if active_has_target(consent)? {
        return Ok(());
    }
    let compiler = compiler_with_source(consent)?;
    let linker = linker(&compiler, consent)?;
    sysroot.make(&compiler, &linker)
}

/// Whether the active compiler has the target, after rustup was given its chance to add it.
fn active_has_target(consent: Consent) -> Result<bool> {
    let Ok(active) = Compiler::active() else {
        return Ok(false);
    };
    if active.has_target() {
        return Ok(true);
    }
    let forbidden = env::var_os("RUSTUP_AUTO_INSTALL").is_some_and(|value| value == "0");
    let Some(name) = rustup_name(&active.sysroot).filter(|_| !forbidden) else {
        return Ok(false);
    };
    progress::stage(format_args!("the compiler has no library for bare metal: rustup target add {TARGET}"));
    consent.obtain(&format!("add {TARGET} to rustup's toolchain {name}"))?;
    let mut add = Command::new("timeout");
    add.args([RUSTUP_LIMIT_SECONDS, "rustup", "target", "add", "--toolchain", &name, TARGET]);
    if let Err(error) = command::run(&mut add) {
        progress::detail(format_args!("{error}; trying without rustup"));
    }
    Ok(active.has_target())
}

/// The name rustup knows a toolchain by, if `sysroot` is one of rustup's.
fn rustup_name(sysroot: &Path) -> Option<String> {
    let toolchains = rustup_toolchains()?;
    let is_rustups = sysroot.parent() == Some(toolchains.as_path());
    is_rustups.then(|| sysroot.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn rustup_toolchains() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")))?;
    Some(home.join("toolchains"))
}

/// A compiler that has the source of its own library; installed first if need be.
fn compiler_with_source(consent: Consent) -> Result<Compiler> {
    let candidates = [Compiler::active(), Compiler::examine(Path::new(SYSTEM_COMPILER))];
    let usable = |compiler: &Compiler| compiler.has_library_source() && compiler.is_new_enough();
    if let Some(found) = candidates.into_iter().flatten().find(usable) {
        return Ok(found);
    }
    let Some(apt) = Apt::find() else {
        bail!("no compiler for bare metal is found; with rustup, `rustup target add {TARGET}` supplies it");
    };
    install_compiler(&apt, consent)?;
    let installed = Compiler::examine(Path::new(SYSTEM_COMPILER))?;
    if !usable(&installed) {
        bail!(
            "{SYSTEM_COMPILER} is too old (Weir needs {OLDEST}) or lacks its library's source after the installation"
        );
    }
    Ok(installed)
}

/// Installs Debian's own compiler, which lives in `/usr/bin` beside any other.
fn install_compiler(apt: &Apt, consent: Consent) -> Result<()> {
    let request = Request {
        packages: &["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"],
        reason: "a Rust compiler with the source of its library",
    };
    apt.refresh_if_stale(request, consent)?;
    let plan = apt.plan(request.packages)?;
    if let Some(offered) = plan.version_of("rustc-web")
        && !is_new_enough(Some(offered))
    {
        bail!(
            "this system's packages offer only Rust {offered}, and Weir needs {OLDEST}; please install Rust with rustup \
             and run `rustup target add {TARGET}`"
        );
    }
    apt.carry_out(request, plan, consent)
}

/// The linker for bare metal: any lld will do, so take one that is there.
fn linker(compiler: &Compiler, consent: Consent) -> Result<PathBuf> {
    if let Some(found) = find_linker(compiler) {
        return Ok(found);
    }
    let package = lld_package(&compiler.description);
    let request = Request { packages: &[&package], reason: "a linker for bare metal (LLVM's lld)" };
    let apt = Apt::find().with_context(|| format!("{} is needed; please install it", request.reason))?;
    apt.install(request, consent)?;
    find_linker(compiler).with_context(|| format!("no lld is found after {package} was installed"))
}

fn find_linker(compiler: &Compiler) -> Option<PathBuf> {
    let own = [Some(compiler.lld()), Compiler::active().ok().map(|active| active.lld())];
    let from_path = ["rust-lld", "ld.lld"].into_iter().filter_map(command::find);
    let candidates = own
        .into_iter()
        .flatten()
        .chain(from_path)
        .chain(rustup_linkers(&compiler.host))
        .chain(llvm_linkers());
    candidates.into_iter().find(|path| path.exists())
}

/// The linkers that rustup's toolchains bring along.
fn rustup_linkers(host: &str) -> Vec<PathBuf> {
    let toolchains = rustup_toolchains().map(|directory| entries(&directory)).unwrap_or_default();
    toolchains
        .into_iter()
        .map(|toolchain| toolchain.join("lib/rustlib").join(host).join("bin/rust-lld"))
        .collect()
}

/// The linkers of Debian's packages `lld-22` and the like, newest first.
fn llvm_linkers() -> Vec<PathBuf> {
    let mut installations = entries(Path::new("/usr/lib"));
    installations
        .retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-")));
    installations.into_iter().rev().map(|llvm| llvm.join("bin/lld")).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The package of the lld that shares its LLVM library with the compiler.
fn lld_package(description: &str) -> String {
    match field(description, "LLVM version").and_then(Version::parse) {
        Some(version) => format!("lld-{}", version.major),
        None => "lld".to_owned(),
    }
}

/// A line `name: value` of what `rustc -vV` prints.
fn field<'a>(description: &'a str, name: &str) -> Option<&'a str> {
    description.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::fake::FakeApt;

    const DESCRIPTION: &str = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
        release: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn the_compilers_own_words_are_understood() {
        assert_eq!(field(DESCRIPTION, "host"), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(field(DESCRIPTION, "release").and_then(Version::parse), Some(Version::new(1, 96)));
        assert_eq!(field(DESCRIPTION, "absent"), None);
    }

    #[test]
    fn the_workspace_says_what_is_new_enough() {
        assert!(Version::parse(OLDEST).is_some_and(|oldest| is_new_enough(Some(oldest))));
        assert!(!is_new_enough(Some(Version::new(1, 85))));
        assert!(!is_new_enough(None));
    }

    #[test]
    fn the_linker_of_the_same_llvm_is_asked_for() {
        assert_eq!(lld_package(DESCRIPTION), "lld-22");
        assert_eq!(lld_package("release: 1.96.0\n"), "lld");
    }

    #[test]
    fn the_active_compiler_is_examined() {
        let active = Compiler::active().unwrap();
        assert!(active.is_new_enough());
        assert!(active.rustc.is_absolute(), "{}", active.rustc.display());
        assert!(active.sysroot.join("lib/rustlib").join(&active.host).exists());
    }

    #[test]
    fn an_old_packaged_compiler_is_not_installed() {
        let fake = FakeApt::new("echo 'Inst rustc-web (1.85.0+dfsg3-1~deb12u3 Debian-Security [amd64])'");
        let error = install_compiler(&fake.apt(), Consent::Given).unwrap_err().to_string();
        assert!(error.contains("only Rust 1.85") && error.contains("rustup"), "{error}");
        assert_eq!(fake.calls().len(), 1);
    }

    #[test]
    fn a_new_packaged_compiler_is_installed_with_its_source() {
        let fake = FakeApt::new(
            "case $all in *--simulate*) echo 'Inst rustc-web (1.96.0+dfsg1-1~deb12u2 Debian-Security [amd64])';; esac",
        );
        install_compiler(&fake.apt(), Consent::Given).unwrap();
        assert!(fake.calls()[1].ends_with("install rustc-web cargo-web rust-web-src rust-web-clippy"));
    }

    #[test]
    fn only_rustups_own_directories_have_a_name() {
        let toolchains = rustup_toolchains().unwrap();
        assert_eq!(rustup_name(&toolchains.join("stable-x")).as_deref(), Some("stable-x"));
        assert_eq!(rustup_name(Path::new("/usr")), None);
    }
}
