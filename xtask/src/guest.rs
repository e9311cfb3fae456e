//! A guest of the user's own: a kernel file and what it is to have, checked here and then made by domain 0.
//!
//! Whatever can be wrong with the files is found before anything is started: the kernel is unpacked and read by the very
//! code that domain 0 will do it with. Then the files travel in the boot archive with one command for domain 0,
//! `create -c`, which makes the guest and connects its console to the machine's until the guest has ended.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};
use domain_image::{Image, Layout, LayoutError, Plan};

use crate::disk_image::{self, DiskImage};

mod console;
mod run;

pub use run::{Input, run};

/// The guest's name.
const NAME: &str = "guest";
/// The names of its files in the boot archive.
const KERNEL: &str = "kernel";
const RAMDISK: &str = "ramdisk";
/// Most virtual CPUs of a guest.
pub const MOST_VCPUS: u32 = 8;
/// Most memory of a guest, in MiB.
const MOST_MEMORY: u64 = 64 * 1024;
/// The longest command line of a kernel, in bytes.
const LONGEST_COMMAND_LINE: usize = 1023;
/// Most disks: `xvda` to `xvdp`.
const MOST_DISKS: usize = 16;
/// Most network interfaces.
pub const MOST_NICS: u8 = 8;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Memory of domain 0 beside the files and what unpacking them takes, in MiB.
const DOM0_MEMORY: u64 = 96;
/// Memory for a kernel's unpacker beside three times what it unpacks, in MiB.
const UNPACKER_MEMORY: u64 = 192;
/// Memory that the hypervisor takes for itself, in MiB, and the part of all memory that it takes in addition.
const HYPERVISOR_MEMORY: u64 = 64;
const HYPERVISOR_SHARE: u64 = 32;

/// What a user wants a guest to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The file with its RAM disk.
    pub ramdisk: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Its disks: the first is `xvda`, and so on.
    pub disks: Vec<DiskImage>,
    /// How many network interfaces it has.
    pub nics: u8,
}

/// A guest that can be started, with its files' contents.
#[derive(Debug)]
pub struct Checked {
    /// The guest.
    pub guest: Guest,
    kernel: Vec<u8>,
    ramdisk: Vec<u8>,
    /// MiB that domain 0 needs to unpack the kernel.
    unpacking_mib: u64,
}

impl Guest {
    /// Makes sure that this can be a guest.
    ///
    /// # Errors
    ///
    /// What is wrong, with the name of the file or the option.
    pub fn check(self) -> Result<Checked> {
        self.check_numbers()?;
        disk_image::check_all(&self.disks)?;
        let kernel = read("kernel", &self.kernel)?;
        let ramdisk =
            self.ramdisk.as_deref().map(|path| read("RAM disk", path)).transpose()?.unwrap_or_default();
        let unpacking_mib = self.check_kernel(&kernel, ramdisk.len() as u64)?;
        Ok(Checked { guest: self, kernel, ramdisk, unpacking_mib })
    }

    /// Makes sure of what needs no file.
    ///
    /// # Errors
    ///
    /// Which option is out of range.
    pub fn check_numbers(&self) -> Result<()> {
        let Self { memory_mib, vcpus, disks, nics, command_line, .. } = self;
        ensure!(
            (1..=MOST_VCPUS).contains(vcpus),
            "--vcpus {vcpus}: a guest has 1 to {MOST_VCPUS} virtual CPUs"
        );
        ensure!(
            (1..=MOST_MEMORY).contains(memory_mib),
            "--memory {memory_mib}: a guest has 1 to {MOST_MEMORY} MiB of memory"
        );
        ensure!(
            disks.len() <= MOST_DISKS,
            "a guest has at most {MOST_DISKS} disks; these are {}",
            disks.len()
        );
        ensure!(*nics <= MOST_NICS, "a guest has at most {MOST_NICS} network interfaces; these are {nics}");
        let length = command_line.len();
        ensure!(
            length <= LONGEST_COMMAND_LINE,
            "the kernel's command line has {length} bytes; there is room for {LONGEST_COMMAND_LINE}"
        );
        ensure!(!command_line.contains(['\n', '\r']), "the kernel's command line must be one line");
        Ok(())
    }

    /// Makes sure that the kernel can be started in this memory; MiB that unpacking it takes.
    fn check_kernel(&self, file: &[u8], ramdisk: u64) -> Result<u64> {
        let shown = self.kernel.display();
        let named = |error: &dyn std::fmt::Display| Error::msg(format!("{shown}: {error}"));
        let unpacked = kernel_file::unpack(file).map_err(|error| named(&error))?;
        let image = Image::parse(&unpacked).map_err(|error| named(&error))?;
        self.check_ramdisk(ramdisk)?;
        let plan = Plan { pages: self.memory_mib * MIB / PAGE, module: ramdisk, has_store_and_console: true };
        match Layout::plan(&image, &plan) {
            Ok(_) => {}
            Err(LayoutError::TooLittleMemory { needed, .. }) => {
                let needed = (needed * PAGE).div_ceil(MIB);
                let what = if ramdisk == 0 { "needs" } else { "and its RAM disk need" };
                bail!("--memory {} is too little: {shown} {what} {needed} MiB to start", self.memory_mib)
            }
            Err(error) => return Err(named(&error)),
        }
        let is_packed = unpacked.len() != file.len();
        Ok(if is_packed { 3 * mebibytes(unpacked.len()) + UNPACKER_MEMORY } else { 0 })
    }

    fn check_ramdisk(&self, length: u64) -> Result<()> {
        let Some(path) = &self.ramdisk else { return Ok(()) };
        let shown = path.display();
        ensure!(length > 0, "the RAM disk {shown} is empty");
        ensure!(
            length < self.memory_mib * MIB,
            "the RAM disk {shown} has {} MiB; that does not go into a memory of {} MiB",
            length.div_ceil(MIB),
            self.memory_mib
        );
        Ok(())
    }

    /// What the guest calls its last disk.
    pub fn last_disk(&self) -> Option<String> {
        self.disks.len().checked_sub(1).map(disk_name)
    }

    /// The command that has domain 0 make the guest and stay on its console.
    pub fn command(&self) -> String {
        let mut words = format!("create -c {NAME} kernel={KERNEL} memory={}", self.memory_mib);
        if self.ramdisk.is_some() {
            words += &format!(" ramdisk={RAMDISK}");
        }
        if self.vcpus > 1 {
            words += &format!(" vcpus={}", self.vcpus);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let access = if disk.is_read_only { 'r' } else { 'w' };
            words += &format!(" disk=disk{index},{},{access}", disk_name(index));
        }
        words += &" vif".repeat(self.nics.into());
        if !self.command_line.is_empty() {
            words += &format!(" cmdline={}", quoted(&self.command_line));
        }
        words
    }
}

impl Checked {
    /// The boot archive's files.
    pub fn files(&self) -> Vec<(&'static str, &[u8])> {
        let mut files = vec![(KERNEL, self.kernel.as_slice())];
        if self.guest.ramdisk.is_some() {
            files.push((RAMDISK, &self.ramdisk));
        }
        files
    }

    /// Memory that domain 0 needs, in MiB: it starts with the files in its memory.
    pub fn dom0_memory_mib(&self) -> u64 {
        DOM0_MEMORY + self.files_mib() + self.unpacking_mib
    }

    /// Memory that the machine needs, in MiB: the boot loader's copy of the files, domain 0, guest, hypervisor.
    pub fn machine_memory_mib(&self) -> u64 {
        let domains = self.dom0_memory_mib() + self.files_mib() + self.guest.memory_mib;
        domains + domains / HYPERVISOR_SHARE + HYPERVISOR_MEMORY
    }

    fn files_mib(&self) -> u64 {
        mebibytes(self.kernel.len()) + mebibytes(self.ramdisk.len()) + 1
    }
}

/// What the guest calls its disk of this number.
fn disk_name(index: usize) -> String {
    let letter = ('a'..='z').nth(index).unwrap_or('?');
    format!("xvd{letter}")
}

fn mebibytes(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(MIB)
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    ensure!(!path.is_dir(), "the {what} {shown} cannot be read: it is a directory");
    fs::read(path).with_context(|| format!("the {what} {shown} cannot be read"))
}

/// A text as one word of domain 0's commands: in quotes, and a quote in quotes of the other kind.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"'\"'\""))
}

#[cfg(test)]
mod tests;
