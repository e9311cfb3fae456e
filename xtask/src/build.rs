//! `cargo xtask build`: the three programs that run on the bare machine, and the kernels that only tests boot.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::progress;
use crate::toolchain::{TARGET, cargo};
use crate::workspace::Workspace;

/// The packages that hold a program for the bare machine.
pub const PACKAGES: [&str; 3] = ["hv-core", "dom0-backend", "guest-frontend"];
/// The packages that hold kernels which only the tests boot, and programs for a stock kernel.
pub const TEST_PACKAGES: [&str; 3] = ["pv-runtime", "test-kernels", "test-programs"];
/// The package of the plugin for QEMU that counts instructions, and of the program that shows what it counted.
const PROFILER: &str = "instruction-profile";
/// The package that runs a kernel without a hypervisor.
pub const BARE_PACKAGES: [&str; 1] = ["bare-machine"];
/// The package with the first program of a stock Linux that is measured.
pub const BENCH_PACKAGES: [&str; 1] = ["linux-bench"];
/// Those kernels and programs: the environment variable that names each to the tests, and its file.
const TEST_KERNELS: [(&str, &str); 4] = [
    ("WEIR_SELFTEST", "selftest"),
    ("WEIR_HOSTILE", "hostile"),
    ("WEIR_NONSENSE", "nonsense"),
    ("WEIR_TRIAL", "trial"),
];
/// The cargo feature all of those programs are behind, so that an ordinary host build does not see them.
pub const FEATURE: &str = "image";

/// The three programs, as ELF files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// The hypervisor.
    pub weir: PathBuf,
    /// The kernel of domain 0.
    pub dom0: PathBuf,
    /// The kernel of our own guests.
    pub guest: PathBuf,
}

impl Images {
    /// The programs in the directory that cargo puts them into.
    fn in_directory(directory: &Path) -> Self {
        Self { weir: directory.join("weir"), dom0: directory.join("dom0"), guest: directory.join("guest") }
    }

    /// The programs that `cargo xtask test` built for the integration tests, by the environment it sets.
    pub fn from_environment() -> Result<Self> {
        Ok(Self { weir: path_in("WEIR_IMAGE")?, dom0: path_in("WEIR_DOM0")?, guest: path_in("WEIR_GUEST")? })
    }

    /// The environment from which `from_environment` finds these programs.
    pub fn environment(&self) -> [(&'static str, &Path); 3] {
        [("WEIR_IMAGE", &self.weir), ("WEIR_DOM0", &self.dom0), ("WEIR_GUEST", &self.guest)]
    }

    /// The programs with what each is, in the order of booting.
    pub fn named(&self) -> [(&'static str, &Path); 3] {
        [("hypervisor", &self.weir), ("domain 0", &self.dom0), ("guest", &self.guest)]
    }
}

/// A path that an environment variable holds.
pub fn path_in(variable: &str) -> Result<PathBuf> {
    let value = env::var_os(variable);
    value
        .map(PathBuf::from)
        .with_context(|| format!("{variable} is not set; start the tests with `cargo xtask test`"))
}

/// Builds the three programs with all optimisations.
pub fn build(workspace: &Workspace) -> Result<Images> {
    progress::stage("building the hypervisor, domain 0 and the guest");
    let images = Images::in_directory(&compile(workspace, &PACKAGES)?);
    images.named().into_iter().try_for_each(|(what, path)| ensure_made(what, path))?;
    Ok(images)
}

/// Builds the kernels that only tests boot; each with the environment variable that is to name it.
pub fn build_test_kernels(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    progress::stage("building the tests' own kernels");
    let directory = compile(workspace, &TEST_PACKAGES)?;
    let kernels = TEST_KERNELS.map(|(variable, file)| (variable, directory.join(file)));
    kernels.iter().try_for_each(|(variable, path)| ensure_made(variable, path))?;
    Ok(kernels.into())
}

/// What counts instructions, function by function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiler {
    /// The plugin that QEMU loads.
    pub plugin: PathBuf,
    /// The program that shows what was counted.
    pub program: PathBuf,
}

impl Profiler {
    /// The profiler that `cargo xtask test` built for the integration tests, by the environment it sets.
    pub fn from_environment() -> Result<Self> {
        Ok(Self { plugin: path_in("WEIR_PROFILER_PLUGIN")?, program: path_in("WEIR_PROFILER")? })
    }

    /// The environment from which `from_environment` finds it.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("WEIR_PROFILER_PLUGIN", &self.plugin), ("WEIR_PROFILER", &self.program)]
    }
}

/// Builds the profiler.
pub fn build_profiler(workspace: &Workspace) -> Result<Profiler> {
    progress::stage("building the profiler");
    let target = workspace.target();
    let mut build = Command::new(cargo());
    build
        .args(["build", "--package", PROFILER])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(workspace.root());
    command::run(&mut build)?;
    let directory = target.join("debug");
    let (plugin, program) = (directory.join("libinstruction_profile.so"), directory.join(PROFILER));
    ensure_made("plugin", &plugin)?;
    Ok(Profiler { plugin, program })
}

/// Builds what runs a kernel on the bare machine; its file.
pub fn build_bare_machine(workspace: &Workspace) -> Result<PathBuf> {
    progress::stage("building what runs a kernel without a hypervisor");
    let image = compile(workspace, &BARE_PACKAGES)?.join("bare");
    ensure_made("image", &image)?;
    Ok(image)
}

/// Builds the program that measures a stock Linux from inside; its file.
pub fn build_linux_bench(workspace: &Workspace) -> Result<PathBuf> {
    progress::stage("building what runs in a stock Linux");
    let program = compile(workspace, &BENCH_PACKAGES)?.join("linux-bench");
    ensure_made("program", &program)?;
    Ok(program)
}

/// Compiles the programs of these packages; returns the directory they are in.
fn compile(workspace: &Workspace, packages: &[&str]) -> Result<PathBuf> {
    let target = workspace.target();
    let mut build = Command::new(cargo());
    build.args(["build", "--release", "--target", TARGET, "--features", FEATURE, "--bins"]);
    build.args(package_arguments(packages));
    build.arg("--target-dir").arg(&target).current_dir(workspace.root());
    // They would take the place of those in `.cargo/config.toml`, without which the images cannot be compiled.
    build.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command::run(&mut build)?;
    Ok(target.join(TARGET).join("release"))
}

fn ensure_made(what: &str, path: &Path) -> Result<()> {
    path.metadata().with_context(|| format!("cargo left no {what} at {}", path.display()))?;
    Ok(())
}

/// `--package` for each of these packages.
pub fn package_arguments<'a>(packages: &[&'a str]) -> impl Iterator<Item = &'a str> {
    packages.iter().flat_map(|package| ["--package", package])
}

/// Builds and prints where the programs are.
pub fn report(workspace: &Workspace) -> Result<()> {
    for (what, path) in build(workspace)?.named() {
        let kibibytes = fs::metadata(path)?.len().div_ceil(1024);
        println!("{what:<11} {kibibytes:>6} KiB  {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_each_program_once() {
        let images = Images::in_directory(Path::new("/t/release"));
        let names: Vec<_> = images.environment().into_iter().collect();
        assert_eq!(names[0], ("WEIR_IMAGE", Path::new("/t/release/weir")));
        assert_eq!(names[1], ("WEIR_DOM0", Path::new("/t/release/dom0")));
        assert_eq!(names[2], ("WEIR_GUEST", Path::new("/t/release/guest")));
    }

    #[test]
    fn every_package_is_asked_for() {
        let arguments: Vec<_> = package_arguments(&["a", "b"]).collect();
        assert_eq!(arguments, ["--package", "a", "--package", "b"]);
    }
}
