//! The kernel module that measures hypercalls: compiled for exactly one kernel, with that kernel's headers.
//!
//! The headers come as packages, which are unpacked into a directory that is gone afterwards; nothing of them is
//! installed. What is kept is the module, and the source it was made from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::consent::Consent;
use crate::linux::package;
use crate::packages::{Apt, Request};
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

/// The source, below the workspace's root.
const SOURCE: &str = "linux-bench/module";
const SOURCE_FILE: &str = "weir_bench.c";
const BUILD_FILE: &str = "Kbuild";
const MODULE: &str = "weir_bench.ko";
/// Where in a bzImage it is said where the text with the kernel's release is, counted from the second sector.
const RELEASE_POINTER: usize = 0x20e;
const SECTOR: usize = 512;

/// The module for a kernel; compiles it if it is not there or of another source.
pub fn ensure(workspace: &Workspace, kernel: &Path, consent: Consent) -> Result<PathBuf> {
    let image = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let release = release(&image).with_context(|| format!("{} names no kernel release", kernel.display()))?;
    let source = workspace.root().join(SOURCE);
    let kept = workspace.work().join("linux-bench").join(&release);
    let module = kept.join(MODULE);
    if module.is_file() && fs::read(kept.join(SOURCE_FILE)).ok() == fs::read(source.join(SOURCE_FILE)).ok() {
        return Ok(module);
    }
    ensure_tools(consent)?;
    progress::stage(format_args!("compiling a module for Linux {release} (its headers are not installed)"));
    let scratch = Scratch::create(&workspace.work(), "module")?;
    let headers = headers(&release, &scratch, consent)?;
    let build = scratch.join("module");
    fs::create_dir_all(&build)?;
    for file in [SOURCE_FILE, BUILD_FILE] {
        fs::copy(source.join(file), build.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    compile(&headers, &build)?;
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    for file in [MODULE, SOURCE_FILE] {
        fs::copy(build.join(file), kept.join(file)).with_context(|| format!("cannot keep {file}"))?;
    }
    Ok(module)
}

/// The release that a bzImage is of: `6.1.0-56-cloud-amd64`.
fn release(image: &[u8]) -> Option<String> {
    let pointer = image.get(RELEASE_POINTER..RELEASE_POINTER + 2)?;
    let start = usize::from(u16::from_le_bytes([pointer[0], pointer[1]])) + SECTOR;
    let text = image.get(start..)?.split(|byte| *byte == b' ' || *byte == 0).next()?;
    let text = std::str::from_utf8(text).ok().filter(|text| !text.is_empty() && !text.contains('/'))?;
    Some(text.to_owned())
}

/// What compiling takes beside the headers.
fn ensure_tools(consent: Consent) -> Result<()> {
    if ["make", "gcc"].iter().all(|program| command::find(program).is_some()) {
        return Ok(());
    }
    let apt = Apt::find().context("make and gcc are needed to compile a Linux module")?;
    let reason = "a C compiler, for a Linux module that measures,";
    apt.install(Request { packages: &["make", "gcc", "libelf1"], reason }, consent)
}

/// Downloads and unpacks the kernel's headers; the directory in which to start.
fn headers(release: &str, scratch: &Scratch, consent: Consent) -> Result<PathBuf> {
    let apt = Apt::find().context("there is no apt-get to download a kernel's headers with")?;
    consent.obtain("download the kernel's headers")?;
    let name = format!("linux-headers-{release}");
    let first = package::download(&apt, &name, scratch).or_else(|_| {
        apt.update()?;
        package::download(&apt, &name, scratch)
    });
    let first =
        first.with_context(|| format!("there is no {name} any more; remove the kernel, to get a new one"))?;
    let depends = package::field(&first, "Depends")?;
    let others = parts(&depends).map(|name| package::download(&apt, name, scratch));
    let all = others.chain([Ok(first)]).collect::<Result<Vec<_>>>()?;
    let root = scratch.join("root");
    fs::create_dir_all(&root)?;
    for file in all {
        command::run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(&root))?;
    }
    let directory = root.join("usr/src").join(name);
    move_includes(&directory.join("Makefile"), &root)?;
    Ok(directory)
}

/// The packages with the rest of the headers, and with the programs that a build runs.
fn parts(depends: &str) -> impl Iterator<Item = &str> {
    let names = depends.split(',').filter_map(|clause| clause.split_ascii_whitespace().next());
    names.filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-"))
}

/// The headers' makefile includes another by its place in an installed system.
fn move_includes(makefile: &Path, root: &Path) -> Result<()> {
    let text = fs::read_to_string(makefile).with_context(|| format!("cannot read {}", makefile.display()))?;
    let moved = text.replace("include /usr/", &format!("include {}/usr/", root.display()));
    if moved == text {
        bail!("{} does not include what it used to", makefile.display());
    }
    fs::write(makefile, moved).with_context(|| format!("cannot write {}", makefile.display()))
}

/// Compiles the module in `build`.
fn compile(headers: &Path, build: &Path) -> Result<()> {
    let mut make = Command::new("make");
    make.arg("--silent").arg("--directory").arg(headers);
    make.arg(format!("M={}", build.display())).args(["CC=gcc", "modules"]);
    command::text(&mut make).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_the_kernel() {
        let mut image = vec![0; 2048];
        image[RELEASE_POINTER..RELEASE_POINTER + 2].copy_from_slice(&0x200u16.to_le_bytes());
        image[0x400..0x400 + 22].copy_from_slice(b"6.1.0-56-cloud (x@y) #");
        assert_eq!(release(&image).as_deref(), Some("6.1.0-56-cloud"));
        image[0x400] = b'/';
        assert_eq!(release(&image), None, "no path");
        assert_eq!(release(&image[..0x300]), None);
        assert_eq!(release(b""), None);
    }

    #[test]
    fn the_compilers_package_is_not_downloaded() {
        let depends =
            "linux-headers-6.1.0-56-common (= 6.1), linux-kbuild-6.1 (>= 6.1), linux-compiler-gcc-12-x86";
        assert_eq!(parts(depends).collect::<Vec<_>>(), ["linux-headers-6.1.0-56-common", "linux-kbuild-6.1"]);
    }

    #[test]
    fn includes_follow_the_headers() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-headers").unwrap();
        let makefile = scratch.join("Makefile");
        fs::write(&makefile, "include /usr/src/common/Makefile\n").unwrap();
        move_includes(&makefile, Path::new("/r")).unwrap();
        assert_eq!(fs::read_to_string(&makefile).unwrap(), "include /r/usr/src/common/Makefile\n");
        assert!(move_includes(&makefile, Path::new("/r")).is_err());
    }
}
