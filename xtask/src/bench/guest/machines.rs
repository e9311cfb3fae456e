//! The three machines, and how each is told to run the kernel.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Column, Linux};
use crate::archive::Archive;
use crate::bench::figures::Single;
use crate::boot::{self, Load};
use crate::build::Images;
use crate::machine::{Ending, Exit, Machine};
use crate::peer::{Clock, Console, Files};
use crate::scratch::Scratch;

/// How long a machine may run.
const LIMIT: Duration = Duration::from_secs(400);
/// The guest's memory, and that of the bare machine.
const MEMORY_MIB: u64 = 256;
/// What the kernel is told, beside where its console is. Nothing random; nothing printed while it is measured.
const WORDS: &str = "quiet nokaslr norandmaps panic=-1";
/// Domain 0 on Weir unpacks the kernel.
const DOM0_MEMORY: &str = "dom0_mem=256M";
/// Seconds of the machine's time in which a guest is done.
const ENOUGH: u32 = 60;
/// What is measured last: by the program, and by the module.
const LAST_OF_PROGRAM: &str = "fork, exec, exit and wait";
const LAST_OF_MODULE: &str = "grant copy of 4 KiB";
/// Between a figure's name and the table's: what the boot took, and how the program says when it began.
const BOOT: &str = "boot to user space";
const BEGINNING: &str = "bench-at: ";
const PAGE: u64 = 4096;

/// The bare machine.
pub fn bare(linux: &Linux, scratch: &Scratch) -> Result<Column> {
    let ramdisk = scratch.join("ramdisk");
    fs::write(&ramdisk, &linux.ramdisk).context("cannot write the ramdisk")?;
    let machine = Machine::with_kernel(&linux.kernel)
        .module(&ramdisk)
        .command_line(format!("console=ttyS0 {WORDS}"))
        .memory_mib(MEMORY_MIB as u32)
        .counts_instructions(true)
        .time_limit(LIMIT);
    let mut running = machine.spawn()?;
    let mut lines = Vec::new();
    let ending = loop {
        match running.next_line() {
            Ok(line) => lines.push(line),
            Err(ending) => break ending,
        }
    };
    if ending != Ending::Exited(Exit::PowerOff) {
        bail!("the bare machine: {ending}\n{}", running.context());
    }
    let mut column = Column::new("bare", &lines, LAST_OF_PROGRAM)?;
    let beginning =
        lines.iter().find_map(|line| line.strip_prefix(BEGINNING)?.split(' ').next()?.parse().ok());
    let ticks = beginning.context("the program does not say when it began")?;
    column.figures.push(Single { name: BOOT.to_owned(), ticks });
    Ok(column)
}

/// A guest on Weir.
pub fn weir(linux: &Linux, images: &Images, scratch: &Scratch) -> Result<Column> {
    let words = format!("console=hvc0 {WORDS}");
    let commands = [
        "info".to_owned(),
        format!(
            "create linux memory={MEMORY_MIB} kernel=vmlinuz ramdisk=initrd on_poweroff=preserve cmdline=\"{words}\""
        ),
        format!("sleep {ENOUGH}"),
        "info".to_owned(),
        "console linux --tail 100".to_owned(),
        "destroy linux".to_owned(),
    ];
    let mut archive = Archive::new();
    archive.add_file("vmlinuz", &linux.kernel)?;
    archive.add("initrd", &linux.ramdisk)?;
    archive.add_commands(&commands)?;
    let archive = archive.finish()?;
    let load = Load { images, archive: &archive, hypervisor_words: Some(DOM0_MEMORY), dom0_words: "noguest" };
    let machine = boot::on_weir(load, scratch)?.counts_instructions(true).time_limit(LIMIT);
    let (lines, all) = crate::bench::run_to_end(&machine)?;
    let mut column = Column::new("Weir", &lines, LAST_OF_MODULE)?;
    let free: Vec<u64> = lines.iter().filter_map(|line| free_pages(line)).collect();
    let &[before, after] = &free[..] else { bail!("domain 0 does not say how much memory is free") };
    column.memory = Some(overhead(before, after)?);
    column.metadata = Some(metadata(&all).context("Weir does not say what it keeps for each frame")?);
    Ok(column)
}

/// What the hypervisor needs for a guest beside the guest's own memory, from the free pages before and with it.
fn overhead(before: u64, with_it: u64) -> Result<u64> {
    let taken = before.checked_sub(with_it).map(|pages| pages * PAGE);
    let overhead = taken.and_then(|taken| taken.checked_sub(MEMORY_MIB << 20));
    overhead.with_context(|| format!("{before} pages were free, and then {with_it}"))
}

/// The number in domain 0's line about free pages.
fn free_pages(line: &str) -> Option<u64> {
    let (name, number) = line.split_once(':')?;
    if name.trim() == "free_pages" { number.trim().parse().ok() } else { None }
}

/// The number in Weir's message about its tables.
fn metadata(console: &str) -> Option<u64> {
    let (before, _) = console.split_once(" bytes of metadata for each frame")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// A guest on Xen.
pub fn xen(linux: &Linux, files: &Files, scratch: &Scratch) -> Result<Column> {
    let kernel = fs::read(&linux.kernel).context("cannot read the kernel")?;
    let configuration = format!(
        "name = \"guest\"\nkernel = \"/vmlinuz\"\nramdisk = \"/initrd\"\nmemory = {MEMORY_MIB}\n\
         extra = \"console=hvc0 {WORDS}\"\ntsc_mode = \"native\"\non_poweroff = \"preserve\"\non_crash = \"preserve\"\n"
    );
    let contents: [(&str, &[u8]); 3] =
        [("vmlinuz", &kernel), ("initrd", &linux.ramdisk), ("guest.cfg", configuration.as_bytes())];
    let machine = files.machine(&contents, Clock::Exact, scratch)?.time_limit(LIMIT);
    let mut xen = Console::start(&machine)?;
    let before = heap(&mut xen)?;
    xen.succeed("xl create /guest.cfg", LIMIT)?;
    xen.succeed("until grep -q reboot: /var/log/xen/guest-guest.log; do sleep 1; done", LIMIT)?;
    let with_it = heap(&mut xen)?;
    let said = xen.succeed("cat /var/log/xen/guest-guest.log", LIMIT)?;
    xen.end()?;
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    let mut column = Column::new("Xen 4.17", &lines, LAST_OF_MODULE)?;
    column.memory = Some(overhead(before, with_it)?);
    Ok(column)
}

/// Xen's free pages: of all zones that it lists when asked with the debug key for its heap.
fn heap(xen: &mut Console) -> Result<u64> {
    xen.succeed("xl dmesg -c > /dev/null; xl debug-keys H", LIMIT)?;
    let printed = xen.succeed("xl dmesg | sed 's/^.XEN. //'", LIMIT)?;
    let pages: u64 = printed.lines().filter_map(pages_of_zone).sum();
    ensure!(pages != 0, "Xen lists no free memory:\n{printed}");
    Ok(pages)
}

/// The pages in `heap[node=0][zone=20] -> 1234 pages`.
fn pages_of_zone(line: &str) -> Option<u64> {
    let (zone, pages) = line.split_once(" -> ")?;
    if !zone.contains("[zone=") {
        return None;
    }
    pages.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_what_hypervisors_print() {
        assert_eq!(free_pages("free_pages             : 227400"), Some(227_400));
        assert_eq!(free_pages("free_memory            : 888"), None);
        assert_eq!(metadata("x\n1023 MiB of memory, 24 bytes of metadata for each frame\n"), Some(24));
        assert_eq!(metadata("nothing"), None);
        assert_eq!(pages_of_zone("heap[node=0][zone=19] -> 1536 pages"), Some(1536));
        assert_eq!(pages_of_zone("heap[node=0]: 12 -> x"), None);
    }

    #[test]
    fn a_guest_takes_its_memory_and_something() {
        let own = (MEMORY_MIB << 20) / PAGE;
        assert_eq!(overhead(own + 100, 90).unwrap(), 10 * PAGE);
        assert!(overhead(own, 90).is_err());
        assert!(overhead(1, 2).is_err());
    }
}
