//! Guests' disks: what is written stays, and nobody gets beyond what is theirs.

use std::fs;
use std::path::{Path, PathBuf};

use tests::pattern::{data, seed, sha256};
use tests::{Dom0, Ledger, Prompt, Report, program};
use xtask::disk;
use xtask::scratch::Scratch;

/// Size of the machine's disk.
const SIZE_MIB: u64 = 64;
const MIB: usize = 1 << 20;

/// An empty disk in a directory that is gone when the test is.
fn empty_disk() -> (Scratch, PathBuf) {
    let scratch = program::scratch();
    let path = scratch.join("disk.img");
    disk::create(&path, SIZE_MIB).expect("the scratch directory takes files");
    (scratch, path)
}

/// Executes commands in a machine with this disk.
fn run_with(disk: &Path, commands: &[&str]) -> Report {
    let disk = disk.to_owned();
    Dom0::new().with(move |machine| machine.disk(disk)).run(commands)
}

/// Whether a file is zero everywhere but in a range.
fn is_zero_outside(file: &[u8], range: std::ops::Range<usize>) -> bool {
    let outside = file[..range.start].iter().chain(&file[range.end..]);
    outside.fold(0, |all, byte| all | byte) == 0
}

#[test]
fn what_a_guest_writes_is_still_there_after_everything_was_restarted() {
    let (_scratch, disk) = empty_disk();
    let (seed, offset, length) = (seed(), 3 * MIB + 512, 16 * MIB + 4608);
    let (write, hash) =
        (format!("disk-write {seed} {offset} {length}"), format!("disk-hash {offset} {length}"));
    let expected = data(seed, length);

    let commands = ["create a disk=disk0", &format!("guest-run a {write}"), &format!("guest-run a {hash}")];
    let report = run_with(&disk, &commands);
    let sum = format!("sha256 {}", sha256(&expected));
    for command in ["guest-run a disk-write", "guest-run a disk-hash"] {
        assert!(report.expect_success().output(command).contains(&sum), "seed {seed}\n{report}");
    }

    let file = fs::read(&disk).unwrap();
    assert!(file[offset..offset + length] == expected, "seed {seed}");
    assert!(is_zero_outside(&file, offset..offset + length), "seed {seed}");

    let report = run_with(&disk, &["create b disk=disk0,xvda,r", &format!("guest-run b {hash}")]);
    assert!(report.expect_success().output("guest-run b").contains(&sum), "seed {seed}\n{report}");
}

#[test]
fn a_read_only_disk_cannot_be_written() {
    let (_scratch, disk) = empty_disk();
    let report = run_with(&disk, &["create a disk=disk0,xvda,r", "guest-run a disk-write 1 0 1M"]);
    assert_eq!(report.expect_failure().output("guest-run"), "error: the disk is read-only\n");
    assert!(is_zero_outside(&fs::read(&disk).unwrap(), 0..0));
}

#[test]
fn a_guest_with_a_part_of_a_disk_gets_that_part_and_no_more() {
    let (_scratch, disk) = empty_disk();
    let report = run_with(
        &disk,
        &[
            "create a disk=disk0@16M+1M",
            "guest-run a info",
            "guest-run a disk-write 7 0 1M",
            "guest-run a disk-hash 0 1M",
            "guest-run a disk-write 8 1M 512",
            "guest-run a disk-read 1M 512",
            "guest-run a disk-hash 100 1K",
        ],
    );
    report.expect_failure();
    assert!(
        report.output("guest-run a info").contains("disk 0: 51712, 2048 sectors, 512 bytes a block"),
        "{report}"
    );
    let sum = format!("sha256 {}", sha256(&data(7, MIB)));
    assert!(report.output("guest-run a disk-write 7").contains(&sum), "{report}");
    assert!(report.output("guest-run a disk-hash 0").contains(&sum), "{report}");
    assert_eq!(report.output("guest-run a disk-write 8"), "error: beyond the end of the disk\n");
    assert_eq!(report.output("guest-run a disk-read"), "error: beyond the end of the disk\n");
    assert_eq!(
        report.output("guest-run a disk-hash 100"),
        "error: not a multiple of the disk's sector size\n"
    );
    let file = fs::read(&disk).unwrap();
    assert!(file[16 * MIB..17 * MIB] == data(7, MIB));
    assert!(is_zero_outside(&file, 16 * MIB..17 * MIB));
}

#[test]
fn without_a_disk_the_guest_runs_and_what_is_missing_is_named() {
    let report = Dom0::new().network(&[]).run([
        "create a disk=disk0 vif",
        "guest-run a info",
        "guest-run a disk-hash 0 1",
    ]);
    let missing = "error: a: the machine has no disk0 (it has no disks): the guest starts without xvda";
    assert_eq!(report.output("create"), format!("{missing}\ndomain 1 is a\n"));
    assert_eq!(report.command("create").status, 0);
    assert!(report.output("guest-run a info").contains(", 10.0.2.15/24"), "its network comes up\n{report}");
    assert_eq!(report.output("guest-run a disk-hash"), "error: there is no disk 0\n");
}

#[test]
fn two_guests_use_their_parts_at_the_same_time() {
    let (_scratch, disk) = empty_disk();
    let guests = [("a", 0, 5), ("b", 32, 6)];
    let mut commands = Vec::new();
    for (name, offset, seed) in guests {
        let script = format!("disk-write {seed} 0 8M; disk-hash 0 8M");
        commands.push(format!("create {name} disk=disk0@{offset}M+32M cmdline=\"run='{script}'\""));
    }
    commands.extend(guests.map(|(name, ..)| format!("guest-run {name} info")));
    commands.extend(guests.map(|(name, ..)| format!("console {name} --tail 200")));
    let report = run_with(&disk, &commands.iter().map(String::as_str).collect::<Vec<_>>());
    report.expect_success();
    let file = fs::read(&disk).unwrap();
    for (name, offset, seed) in guests {
        let sum = format!("read 8388608 bytes, sha256 {}", sha256(&data(seed, 8 * MIB)));
        assert!(report.output(&format!("console {name}")).contains(&sum), "{report}");
        assert!(file[offset * MIB..][..8 * MIB] == data(seed, 8 * MIB), "{name}");
    }
}

#[test]
fn sectors_that_are_not_there_or_that_another_guest_has_are_refused() {
    let (_scratch, disk) = empty_disk();
    let mut dom0 = Dom0::new().with(|machine| machine.disk(disk)).start();
    dom0.succeed("create a disk=disk0@8M+8M");
    dom0.succeed("guest-run a info");
    let before = Ledger::of(&mut dom0);
    let size = SIZE_MIB << 20;
    for (target, reason) in [
        ("disk0@64M", format!("disk0@67108864 is not on the disk: disk0 has {size} bytes")),
        ("disk0@60M+8M", format!("disk0@62914560+8388608 is not on the disk: disk0 has {size} bytes")),
    ] {
        assert_eq!(dom0.run(&format!("create b disk={target}")), format!("error: {reason}\n"));
    }
    for target in ["disk0", "disk0@15M+2M", "disk0@8M,xvda,r"] {
        let printed = dom0.run(&format!("create b disk={target}"));
        assert!(
            printed.starts_with("error: disk0") && printed.contains(" is in use by a; "),
            "{target}: {printed}"
        );
    }
    before.expect_same(&mut dom0, "the attempts");
    dom0.succeed("create b disk=disk0@16M+8M");
}

#[test]
fn pages_that_stay_mapped_are_the_guests_again_when_its_disk_goes_or_itself() {
    let (_scratch, disk) = empty_disk();
    let mut dom0 = Dom0::new().with(|machine| machine.disk(disk)).start();
    let read = |dom0: &mut Prompt, guest| dom0.succeed(&format!("guest-run {guest} \"disk-hash 0 8M\""));
    dom0.succeed("create first disk=disk0");
    read(&mut dom0, "first");
    dom0.succeed("destroy first");
    let before = Ledger::of(&mut dom0);

    dom0.succeed("create a disk=disk0");
    read(&mut dom0, "a");
    let mapped = Ledger::of(&mut dom0).mapped;
    assert!(mapped >= before.mapped + 512, "eight requests of 256 KiB are under way: {mapped}");
    read(&mut dom0, "a");
    assert_eq!(Ledger::of(&mut dom0).mapped, mapped, "the same pages again");
    dom0.succeed("block-detach a xvda");
    dom0.succeed("block-attach a disk0");
    read(&mut dom0, "a");
    assert_eq!(Ledger::of(&mut dom0).mapped, mapped, "what the first connection had mapped is unmapped");
    dom0.succeed("destroy a");
    before.expect_same(&mut dom0, "the end of a guest whose pages were mapped");

    dom0.succeed("create b disk=disk0 cmdline=\"run='disk-hash 0 64M'\"");
    dom0.succeed("destroy b");
    before.expect_same(&mut dom0, "the end of a guest that was reading");
}
