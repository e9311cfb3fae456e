//! `cargo xtask image`: an ISO file that boots Weir through GRUB, on BIOS and UEFI machines.
//!
//! GRUB speaks multiboot2 and hands over any number of modules, so no bundle is needed here. The file can be written
//! to a USB stick as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::boot::command_line;
use crate::build::{self, Images};
use crate::bundle;
use crate::command;
use crate::consent::Consent;
use crate::packages::{Apt, Request};
use crate::progress;
use crate::scratch::Scratch;
use crate::workspace::Workspace;

const REQUEST: Request<'static> = Request {
    packages: &["grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "xorriso", "mtools"],
    reason: "GRUB's tool for bootable discs",
};
/// What that tool consists of: programs, and GRUB's own modules for both kinds of firmware.
const PROGRAMS: [&str; 3] = ["grub-mkrescue", "xorriso", "mformat"];
const MODULES: [&str; 2] = ["/usr/lib/grub/i386-pc", "/usr/lib/grub/x86_64-efi"];

/// What the disc is to hold.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Where to write the ISO file [default: work/weir.iso].
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Command line of the hypervisor.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub cmdline: String,
    /// Command line of domain 0.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub dom0_cmdline: String,
}

/// Builds the programs and puts them on a disc; returns the file's path.
pub fn make(workspace: &Workspace, options: &Options, consent: Consent) -> Result<PathBuf> {
    let images = build::build(workspace)?;
    let output = options.output.clone().unwrap_or_else(|| workspace.work().join("weir.iso"));
    make_from(&images, workspace, &output, &command_line(&options.cmdline, &options.dom0_cmdline), consent)?;
    Ok(output)
}

/// Puts these programs on a disc.
pub fn make_from(
    images: &Images,
    workspace: &Workspace,
    output: &Path,
    words: &str,
    consent: Consent,
) -> Result<()> {
    let configuration = grub_configuration(words)?;
    ensure_tools(consent)?;
    progress::stage(format_args!("making the disc {}", output.display()));
    if let Some(directory) = output.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let scratch = Scratch::create(&workspace.work(), "disc")?;
    lay_out(scratch.path(), images, &configuration).context("cannot collect the disc's files")?;
    let mut grub = Command::new("grub-mkrescue");
    grub.arg("--output").arg(output).arg(scratch.path());
    command::text(&mut grub)?;
    Ok(())
}

/// Makes sure that GRUB's tool works.
pub fn ensure_tools(consent: Consent) -> Result<()> {
    let Some(missing) = missing_tool() else {
        return Ok(());
    };
    let apt = Apt::find().with_context(|| format!("{missing} is needed to make discs; please install it"))?;
    apt.install(REQUEST, consent)?;
    match missing_tool() {
        Some(missing) => bail!("{missing} is still missing after the installation"),
        None => Ok(()),
    }
}

fn missing_tool() -> Option<&'static str> {
    let program = PROGRAMS.into_iter().find(|program| command::find(program).is_none());
    program.or_else(|| MODULES.into_iter().find(|directory| !Path::new(directory).is_dir()))
}

fn lay_out(root: &Path, images: &Images, configuration: &str) -> Result<()> {
    let boot = root.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::copy(&images.weir, boot.join("weir"))?;
    fs::copy(&images.dom0, boot.join("dom0"))?;
    fs::write(boot.join("archive.tar"), bundle::boot_archive(images, &[])?)?;
    fs::write(boot.join("grub/grub.cfg"), configuration)?;
    Ok(())
}

/// GRUB's instructions. Its menu appears on the screen and, where there is one, on the serial line.
fn grub_configuration(words: &str) -> Result<String> {
    // These would end the word, the line or the menu entry in GRUB's own language.
    if let Some(bad) = words.chars().find(|c| "\n\r\"'\\${}();|&<>#".contains(*c)) {
        bail!("the command line may not contain {bad:?} on a disc");
    }
    let start = format!("multiboot2 /boot/weir {words}");
    Ok(format!(
        "if serial --unit=0 --speed=115200; then\n\
         \x20   terminal_input console serial\n\
         \x20   terminal_output console serial\n\
         fi\n\
         set timeout=1\n\
         menuentry \"Weir\" {{\n\
         \x20   {}\n\
         \x20   module2 /boot/dom0\n\
         \x20   module2 /boot/archive.tar\n\
         }}\n",
        start.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_loads_the_hypervisor_and_two_modules() {
        let configuration = grub_configuration("loglevel=debug -- a=1").unwrap();
        let lines: Vec<_> = configuration.lines().map(str::trim).collect();
        let start = lines.iter().position(|line| line.starts_with("multiboot2")).unwrap();
        assert_eq!(
            lines[start..],
            [
                "multiboot2 /boot/weir loglevel=debug -- a=1",
                "module2 /boot/dom0",
                "module2 /boot/archive.tar",
                "}"
            ]
        );
    }

    #[test]
    fn an_empty_command_line_leaves_no_trailing_blank() {
        assert!(grub_configuration("").unwrap().contains("multiboot2 /boot/weir\n"));
    }

    #[test]
    fn words_that_mean_something_to_grub_are_refused() {
        assert!(grub_configuration("a;reboot").is_err());
        assert!(grub_configuration("a\nb").is_err());
        assert!(grub_configuration("$x").is_err());
    }

    #[test]
    fn the_disc_has_all_files() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-disc").unwrap();
        for name in ["w", "d", "g"] {
            fs::write(scratch.join(name), name).unwrap();
        }
        let images = Images { weir: scratch.join("w"), dom0: scratch.join("d"), guest: scratch.join("g") };
        lay_out(&scratch.join("root"), &images, "configuration").unwrap();
        let boot = scratch.join("root/boot");
        assert_eq!(fs::read_to_string(boot.join("weir")).unwrap(), "w");
        assert_eq!(fs::read_to_string(boot.join("dom0")).unwrap(), "d");
        assert_eq!(fs::read_to_string(boot.join("grub/grub.cfg")).unwrap(), "configuration");
        assert!(fs::metadata(boot.join("archive.tar")).unwrap().len() >= 2048);
    }
}
