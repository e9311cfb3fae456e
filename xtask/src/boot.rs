//! Machines that boot our domain 0: on Weir, or on Xen for comparison.
//!
//! Weir is started through its PVH entry, which has room for one module, so domain 0 and the boot archive travel as a
//! [bundle]. Xen is started by the older multiboot, which takes them one by one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::build::Images;
use crate::bundle;
use crate::machine::Machine;
use crate::private;
use crate::scratch::Scratch;

/// Tells Weir which port ends QEMU with a status; every machine of ours has it.
pub const DEBUG_EXIT: &str = "debug-exit=0xf4";
/// What Xen is told unless told otherwise: where its console is, and to leave memory for guests.
const XEN_COMMAND_LINE: &str = "console=com1 com1=115200,8n1 dom0_mem=512M,max:512M";

/// What a machine boots.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The three programs.
    pub images: &'a Images,
    /// The boot archive.
    pub archive: &'a [u8],
    /// The hypervisor's command line, if not the usual one.
    pub hypervisor_words: Option<&'a str>,
    /// Domain 0's command line.
    pub dom0_words: &'a str,
}

/// A machine that boots domain 0 on Weir; its boot files go to `scratch`.
pub fn on_weir(load: Load<'_>, scratch: &Scratch) -> Result<Machine> {
    let dom0 =
        fs::read(&load.images.dom0).with_context(|| format!("cannot read {}", load.images.dom0.display()))?;
    let path = scratch.join("bundle");
    replace(&path, &bundle::bundle(&[&dom0, load.archive]))?;
    let own = format!("{DEBUG_EXIT} {}", load.hypervisor_words.unwrap_or_default());
    Ok(Machine::with_kernel(&load.images.weir)
        .module(&path)
        .command_line(command_line(&own, load.dom0_words)))
}

/// A machine that boots domain 0 on the Xen in the file `xen`; its boot files go to `scratch`.
pub fn on_xen(xen: &Path, load: Load<'_>, scratch: &Scratch) -> Result<Machine> {
    let path = scratch.join("archive.tar");
    replace(&path, load.archive)?;
    let modules =
        [multiboot_module(&load.images.dom0, load.dom0_words), multiboot_module(&path, "")].join(",");
    Ok(Machine::with_kernel(xen)
        .modules(modules)
        .command_line(load.hypervisor_words.unwrap_or(XEN_COMMAND_LINE)))
}

/// A machine that runs our guest's kernel without a hypervisor, by `bare`; its boot file goes to `scratch`.
pub fn on_the_bare_machine(bare: &Path, guest: &Path, words: &str, scratch: &Scratch) -> Result<Machine> {
    let kernel = fs::read(guest).with_context(|| format!("cannot read {}", guest.display()))?;
    let path = scratch.join("kernel");
    fs::write(&path, bundle::padded(&kernel)).context("cannot write the kernel's file")?;
    Ok(Machine::with_kernel(bare).module(&path).command_line(words))
}

/// Writes a boot file, in place of that of an earlier machine.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    private::write(path, content)
}

/// One module in QEMU's notation, in which a single comma begins the next.
fn multiboot_module(path: &Path, words: &str) -> String {
    format!("{} {words}", path.display()).trim().replace(',', ",,")
}

/// Weir's command line: its own words, then domain 0's behind two dashes.
pub fn command_line(own: &str, dom0s: &str) -> String {
    match (own.trim(), dom0s.trim()) {
        (own, "") => own.to_owned(),
        ("", dom0s) => format!("-- {dom0s}"),
        (own, dom0s) => format!("{own} -- {dom0s}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(scratch: &Scratch) -> Images {
        for name in ["weir", "dom0", "guest"] {
            fs::write(scratch.join(name), name).unwrap();
        }
        Images { weir: scratch.join("weir"), dom0: scratch.join("dom0"), guest: scratch.join("guest") }
    }

    /// The command of the machine that `make` describes, with the scratch directory shown as `S`.
    fn shown(
        make: impl Fn(Load<'_>, &Scratch) -> Result<Machine>,
        own: Option<&str>,
        dom0_words: &str,
    ) -> String {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-boot").unwrap();
        let images = images(&scratch);
        let load = Load { images: &images, archive: b"tar", hypervisor_words: own, dom0_words };
        let machine = make(load, &scratch).unwrap();
        machine.shown().replace(&scratch.path().display().to_string(), "S")
    }

    #[test]
    fn the_command_lines_are_joined_by_two_dashes() {
        assert_eq!(command_line("a", "b c"), "a -- b c");
        assert_eq!(command_line("a", ""), "a");
        assert_eq!(command_line("", "b"), "-- b");
        assert_eq!(command_line(" ", ""), "");
    }

    #[test]
    fn a_second_machine_takes_the_place_of_the_first() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-boot").unwrap();
        for content in [&b"longer"[..], b"short"] {
            replace(&scratch.join("bundle"), content).unwrap();
            assert_eq!(fs::read(scratch.join("bundle")).unwrap(), content);
        }
    }

    #[test]
    fn weir_gets_a_bundle_and_the_debug_exit_port() {
        let line = shown(on_weir, Some("loglevel=debug"), "x=1");
        let expected = "-kernel S/weir -initrd S/bundle -append 'debug-exit=0xf4 loglevel=debug -- x=1'";
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn xen_gets_two_modules() {
        let line = shown(|load, scratch| on_xen(Path::new("/x/xen.elf"), load, scratch), None, "a=1,2");
        assert!(line.contains("-kernel /x/xen.elf -initrd 'S/dom0 a=1,,2,S/archive.tar'"), "{line}");
        assert!(line.contains("console=com1"), "{line}");
    }

    #[test]
    fn xen_can_be_told_something_else() {
        let line =
            shown(|load, scratch| on_xen(Path::new("/x/xen.elf"), load, scratch), Some("noreboot"), "");
        assert!(line.contains("-initrd S/dom0,S/archive.tar -append noreboot"), "{line}");
    }
}
