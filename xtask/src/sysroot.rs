//! A private library for bare metal, compiled once from the compiler's own source.
//!
//! Where rustup cannot supply the target `x86_64-unknown-none`, `core`, `alloc` and `compiler_builtins` are compiled
//! once into a *sysroot* below `.toolchain`, together with links to the host's own library. Two small wrappers start
//! the compiler with that sysroot, and `.toolchain/cargo.toml`, which `.cargo/config.toml` includes, makes cargo use
//! them. So Weir itself is always compiled by stable rules; `RUSTC_BOOTSTRAP` is set for this one build only.
//!
//! The sysroot belongs to one compiler. A text that names the compiler and the flags is stored beside it; when the
//! text no longer fits, the sysroot is made anew. Deleting `.toolchain` restores cargo's ordinary behaviour.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::progress;
use crate::toolchain::{Compiler, TARGET};
use crate::workspace::Workspace;

/// With bitcode inside, so that the images can be optimised as a whole ("fat" link-time optimisation).
const FLAGS: &str = "-Cembed-bitcode=yes -Cdebuginfo=1";
/// The crates a bare-metal program can use without an operating system.
const LIBRARIES: [&str; 3] = ["core", "alloc", "compiler_builtins"];
/// Raised when the layout of the directory changes.
const LAYOUT: u32 = 1;
/// The file that names the compiler and flags a sysroot was made with.
const ORIGIN: &str = "made-from";
const COMPILER_LINE: &str = "compiler: ";

/// What cargo reads once the sysroot exists; paths are relative to the workspace.
const CARGO_CONFIGURATION: &str = r#"# Written by `cargo xtask setup`. Delete the directory `.toolchain` to return to the ordinary compiler.
[build]
rustc = ".toolchain/sysroot/bin/rustc"
rustdoc = ".toolchain/sysroot/bin/rustdoc"

# For clippy's driver, which does not go through the wrappers above.
[env]
SYSROOT = { value = ".toolchain/sysroot", relative = true }
"#;

/// The private sysroot of a workspace, made or not.
#[derive(Clone, Debug)]
pub struct Sysroot {
    toolchain: PathBuf,
}

impl Sysroot {
    /// The sysroot's place in `workspace`.
    pub fn of(workspace: &Workspace) -> Self {
        Self { toolchain: workspace.toolchain() }
    }

    /// Whether cargo was told to use it.
    pub fn is_in_force(&self) -> bool {
        self.cargo_configuration().exists()
    }

    /// The compiler it was made with, if it is complete and that compiler is still the same.
    pub fn compiler(&self) -> Option<Compiler> {
        let origin = fs::read_to_string(self.root().join(ORIGIN)).ok()?;
        let rustc = origin.lines().find_map(|line| line.strip_prefix(COMPILER_LINE))?;
        let compiler = Compiler::examine(Path::new(rustc)).ok()?;
        (origin == origin_text(&compiler) && self.is_in_force() && self.is_complete(&compiler))
            .then_some(compiler)
    }

    /// Makes the sysroot for `compiler`, with `linker` as the linker for bare metal.
    pub fn make(&self, compiler: &Compiler, linker: &Path) -> Result<()> {
        fs::create_dir_all(&self.toolchain).context("cannot make the directory .toolchain")?;
        let lock = File::create(self.toolchain.join("lock"))?;
        lock.lock().context("cannot lock .toolchain")?;
        // Somebody else may have made it while we waited.
        if self.compiler().is_some_and(|made_with| made_with.rustc == compiler.rustc) {
            return Ok(());
        }
        progress::stage("compiling the library for bare metal into .toolchain (once, about half a minute)");
        let build = self.toolchain.join("build");
        let libraries = compile(&build, compiler)?;
        let new = self.toolchain.join("sysroot.new");
        remove_directory(&new)?;
        fill(&new, &libraries, compiler, linker)?;
        self.put_in_force(&new)?;
        remove_directory(&build)
    }

    fn root(&self) -> PathBuf {
        self.toolchain.join("sysroot")
    }

    fn cargo_configuration(&self) -> PathBuf {
        self.toolchain.join("cargo.toml")
    }

    fn is_complete(&self, compiler: &Compiler) -> bool {
        let rustlib = self.root().join("lib/rustlib");
        let parts = [
            self.root().join("bin/rustc"),
            self.root().join("bin/rustdoc"),
            rustlib.join(&compiler.host).join("bin/rust-lld"),
            rustlib.join(&compiler.host).join("lib"),
        ];
        // `exists` follows links, so a linker that was removed since is noticed.
        parts.iter().all(|part| part.exists()) && holds_library(&rustlib.join(TARGET).join("lib"), "core")
    }

    fn put_in_force(&self, new: &Path) -> Result<()> {
        let old = self.toolchain.join("sysroot.old");
        remove_directory(&old)?;
        match fs::rename(self.root(), &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context("cannot replace .toolchain/sysroot");
            }
            _ => {}
        }
        fs::rename(new, self.root()).context("cannot put .toolchain/sysroot in place")?;
        fs::write(self.cargo_configuration(), CARGO_CONFIGURATION)?;
        remove_directory(&old)
    }
}

/// Whether `directory` holds the compiled library `name`.
pub fn holds_library(directory: &Path, name: &str) -> bool {
    matches!(find_library(directory, name), Ok(Some(_)))
}

fn find_library(directory: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    let start = format!("lib{name}-");
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if file.starts_with(&start) && file.ends_with(".rlib") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The text that tells for which compiler and flags a sysroot was made.
fn origin_text(compiler: &Compiler) -> String {
    format!(
        "{COMPILER_LINE}{}\nflags: {FLAGS}\nlayout: {LAYOUT}\n{}",
        compiler.rustc.display(),
        compiler.description
    )
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Compiles the libraries below `build` and returns their paths.
fn compile(build: &Path, compiler: &Compiler) -> Result<Vec<PathBuf>> {
    remove_directory(build)?;
    fs::create_dir_all(build.join("src"))?;
    // An empty program is enough: what is wanted are the libraries it would be linked with.
    fs::write(build.join("src/lib.rs"), "#![no_std]\n")?;
    let manifest = "[package]\nname = \"empty\"\nedition = \"2024\"\n\n[profile.release]\npanic = \"abort\"\n\n[workspace]\n";
    fs::write(build.join("Cargo.toml"), manifest)?;

    let vendored = compiler.library_source().join("vendor");
    if !vendored.is_dir()
        || command::run(compile_command(build, compiler).args(offline_arguments(&vendored))).is_err()
    {
        command::run(&mut compile_command(build, compiler))
            .context("the library for bare metal could not be compiled")?;
    }
    collect(&build.join("target").join(TARGET).join("release/deps"))
}

fn compile_command(build: &Path, compiler: &Compiler) -> Command {
    let mut cargo = Command::new(&compiler.cargo);
    cargo.args([
        "build",
        "--release",
        "-Zbuild-std=core,alloc",
        "-Zbuild-std-features=compiler-builtins-mem",
    ]);
    cargo.args(["--target", TARGET, "--target-dir", "target"]).current_dir(build);
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &compiler.rustc).env("RUSTFLAGS", FLAGS);
    for variable in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(variable);
    }
    cargo
}

/// Makes cargo take the library's own dependencies from the copies that came with its source.
fn offline_arguments(vendored: &Path) -> [String; 5] {
    [
        "--offline".to_owned(),
        "--config".to_owned(),
        "source.crates-io.replace-with='with-the-source'".to_owned(),
        "--config".to_owned(),
        format!("source.with-the-source.directory='{}'", vendored.display()),
    ]
}

fn collect(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in LIBRARIES {
        match find_library(directory, name)? {
            Some(library) => found.push(library),
            None => bail!("the compiler left no lib{name} in {}", directory.display()),
        }
    }
    Ok(found)
}

/// Lays a sysroot out in `root`.
fn fill(root: &Path, libraries: &[PathBuf], compiler: &Compiler, linker: &Path) -> Result<()> {
    let rustlib = root.join("lib/rustlib");
    let bare_metal = rustlib.join(TARGET).join("lib");
    fs::create_dir_all(&bare_metal)?;
    for library in libraries {
        fs::copy(library, bare_metal.join(library.file_name().unwrap_or_default()))?;
    }
    let host = rustlib.join(&compiler.host);
    fs::create_dir_all(host.join("bin"))?;
    symlink(linker, host.join("bin/rust-lld"))?;
    let compilers_own = compiler.sysroot.join("lib/rustlib");
    symlink(compilers_own.join(&compiler.host).join("lib"), host.join("lib"))?;
    symlink(compilers_own.join("src"), rustlib.join("src"))?;
    fs::create_dir_all(root.join("bin"))?;
    write_wrapper(&root.join("bin/rustc"), &compiler.rustc)?;
    write_wrapper(&root.join("bin/rustdoc"), &compiler.rustc.with_file_name("rustdoc"))?;
    fs::write(root.join(ORIGIN), origin_text(compiler))?;
    Ok(())
}

/// Writes a script that starts `program` with the sysroot the script itself lies in.
fn write_wrapper(path: &Path, program: &Path) -> Result<()> {
    let program = command::quoted(program.as_os_str());
    fs::write(path, format!("#!/bin/sh\nexec {program} --sysroot \"${{0%/bin/*}}\" \"$@\"\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    /// A directory that looks like a compiler's installation, whose `rustc` tells `release`.
    fn install_compiler(scratch: &Scratch, release: &str) -> Compiler {
        let installation = scratch.join("installed");
        fs::create_dir_all(installation.join("bin")).unwrap();
        fs::create_dir_all(installation.join("lib/rustlib/x86_64-unknown-linux-gnu/lib")).unwrap();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n-vV) echo 'rustc {release}'; echo 'host: x86_64-unknown-linux-gnu'; \
             echo 'release: {release}';;\n*--print*) echo {};;\n*) echo \"$@\";;\nesac\n",
            installation.display()
        );
        fs::write(installation.join("bin/rustc"), script).unwrap();
        fs::set_permissions(installation.join("bin/rustc"), fs::Permissions::from_mode(0o755)).unwrap();
        Compiler::examine(&installation.join("bin/rustc")).unwrap()
    }

    fn make(scratch: &Scratch, compiler: &Compiler) -> Sysroot {
        let sysroot = Sysroot::of(&Workspace::at(scratch.path()));
        let library = scratch.join("libcore-1234.rlib");
        let linker = scratch.join("lld");
        fs::write(&library, "").unwrap();
        fs::write(&linker, "").unwrap();
        let new = sysroot.toolchain.join("sysroot.new");
        fill(&new, &[library], compiler, &linker).unwrap();
        sysroot.put_in_force(&new).unwrap();
        sysroot
    }

    #[test]
    fn a_finished_sysroot_is_recognised() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-sysroot").unwrap();
        let compiler = install_compiler(&scratch, "1.96.0");
        let sysroot = make(&scratch, &compiler);
        assert_eq!(sysroot.compiler().unwrap().rustc, compiler.rustc);
    }

    #[test]
    fn another_compiler_version_makes_it_stale() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-sysroot").unwrap();
        let sysroot = make(&scratch, &install_compiler(&scratch, "1.96.0"));
        install_compiler(&scratch, "1.97.0");
        assert!(sysroot.compiler().is_none());
    }

    #[test]
    fn a_linker_that_went_away_makes_it_incomplete() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-sysroot").unwrap();
        let sysroot = make(&scratch, &install_compiler(&scratch, "1.96.0"));
        fs::remove_file(scratch.join("lld")).unwrap();
        assert!(sysroot.compiler().is_none());
    }

    #[test]
    fn a_missing_sysroot_is_no_sysroot() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-sysroot").unwrap();
        let sysroot = Sysroot::of(&Workspace::at(scratch.path()));
        assert!(!sysroot.is_in_force() && sysroot.compiler().is_none());
    }

    #[test]
    fn the_wrapper_passes_its_own_place_on() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-sysroot").unwrap();
        let sysroot = make(&scratch, &install_compiler(&scratch, "1.96.0"));
        let wrapper = sysroot.root().join("bin/rustc");
        let said = command::text(Command::new(&wrapper).args(["a b", "--emit=link"])).unwrap();
        assert_eq!(said.trim(), format!("--sysroot {} a b --emit=link", sysroot.root().display()));
    }

    #[test]
    fn making_it_again_replaces_it() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-sysroot").unwrap();
        make(&scratch, &install_compiler(&scratch, "1.96.0"));
        let sysroot = make(&scratch, &install_compiler(&scratch, "1.97.0"));
        assert!(sysroot.compiler().unwrap().description.contains("1.97.0"));
        assert!(!sysroot.toolchain.join("sysroot.old").exists());
    }
}
