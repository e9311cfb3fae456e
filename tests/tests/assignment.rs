//! PCI devices given to guests: they work, are given to one only, and come back.

use std::fs;
use std::path::{Path, PathBuf};

use tests::pattern::{data, seed, sha256};
use tests::service::{drain, source};
use tests::{Dom0, Ledger, Prompt, program};
use xtask::disk;
use xtask::scratch::Scratch;

const SIZE_MIB: u64 = 64;
const MIB: usize = 1 << 20;
/// Where the disk is plugged in.
const PLACE: &str = "00:10.0";

fn empty_disk() -> (Scratch, PathBuf) {
    let scratch = program::scratch();
    let path = scratch.join("disk.img");
    disk::create(&path, SIZE_MIB).expect("the scratch directory takes files");
    (scratch, path)
}

/// The kinds of disks that our guest has drivers for, as QEMU calls them.
const VIRTIO: &str = "virtio-blk-pci,disable-legacy=on";
const NVME: &str = "nvme,serial=given";

/// A machine with a disk at [`PLACE`] that is kept for guests.
fn machine(disk: &Path, kind: &str) -> Dom0 {
    let file = format!("file,node-name=given,filename={}", disk.display());
    let device = format!("{kind},drive=given,addr=0x10");
    Dom0::new().own_words(&format!("noguest hide={PLACE}")).with(move |machine| {
        [["-blockdev", &file], ["-device", &device]]
            .as_flattened()
            .iter()
            .fold(machine, |machine, word| machine.argument(*word))
    })
}

/// The ledger, once a first guest has made the directories of the store that stay.
fn ledger(dom0: &mut Prompt) -> Ledger {
    dom0.succeed(&format!("create first pci={PLACE},permissive=1"));
    dom0.succeed("destroy first");
    Ledger::of(dom0)
}

#[test]
fn a_guest_drives_a_disk_that_was_given_to_it_and_gives_it_back() {
    drives_and_gives_back(VIRTIO);
}

#[test]
fn a_guest_drives_an_nvme_disk_that_was_given_to_it_and_gives_it_back() {
    drives_and_gives_back(NVME);
}

fn drives_and_gives_back(kind: &str) {
    let (_scratch, disk) = empty_disk();
    let (seed, length) = (seed(), 8 * MIB);
    let expected = data(seed, length);
    let mut dom0 = machine(&disk, kind).start();
    assert_eq!(dom0.succeed("pci-assignable-list").trim(), format!("0000:{PLACE}"));
    let before = ledger(&mut dom0);
    dom0.succeed(&format!("create a pci={PLACE},permissive=1"));
    assert!(dom0.succeed("pci-list a").contains(&format!("00.0 0000:{PLACE}")));
    assert_eq!(dom0.succeed("pci-assignable-list").trim(), "");
    let sum = format!("sha256 {}", sha256(&expected));
    assert!(dom0.succeed(&format!("guest-run a \"disk-write {seed} 0 {length}\"")).contains(&sum));
    assert!(dom0.succeed("guest-run a info").contains("driven by this kernel"));
    dom0.succeed("destroy a");
    before.expect_same(&mut dom0, "a guest with a disk of its own");
    assert_eq!(fs::read(&disk).unwrap()[..length], expected, "seed {seed}");
    // Another guest finds it as if it were new.
    dom0.succeed(&format!("create b pci={PLACE},permissive=1"));
    assert!(dom0.succeed(&format!("guest-run b \"disk-hash 0 {length}\"")).contains(&sum));
    dom0.succeed("shutdown -w b");
    before.expect_same(&mut dom0, "a guest that switched itself off");
}

#[test]
fn a_guest_drives_a_network_card_that_was_given_to_it_and_gives_it_back() {
    const BYTES: usize = 8 * MIB;
    let words = format!("noguest hide={PLACE}");
    let mut dom0 = Dom0::new()
        .own_words(&words)
        .with(|machine| {
            [
                ["-netdev", "user,id=given"],
                ["-device", "virtio-net-pci,netdev=given,disable-legacy=on,addr=0x10"],
            ]
            .as_flattened()
            .iter()
            .fold(machine, |machine, word| machine.argument(*word))
        })
        .start();
    let before = ledger(&mut dom0);
    let seed = seed();
    let sent = data(seed, BYTES);
    let sum = format!("{BYTES} bytes, sha256 {}", sha256(&sent));
    // Twice: the second guest finds the card as if it were new.
    for name in ["a", "b"] {
        dom0.succeed(&format!("create {name} pci={PLACE},permissive=1"));
        let info = dom0.succeed(&format!("guest-run {name} info"));
        assert!(info.contains(", 10.0.2.15/24") && info.contains("driven by this kernel"), "{info}");
        let drain = drain();
        let command = format!("guest-run {name} tcp-send 10.0.2.2 {} {BYTES} {seed}", drain.port);
        assert!(dom0.succeed(&command).contains(&format!("sent {sum}")), "seed {seed}");
        assert!(drain.finish() == sent, "what arrived here is not what was sent; seed {seed}");
        let source = source(sent.clone());
        let command = format!("guest-run {name} tcp-receive 10.0.2.2 {} {BYTES} {seed}", source.port);
        assert!(dom0.succeed(&command).contains(&format!("received {sum}")), "seed {seed}");
        source.finish();
        dom0.succeed(&format!("destroy {name}"));
        before.expect_same(&mut dom0, "a guest with a network card of its own");
    }
}

#[test]
fn a_device_is_not_given_to_whom_it_should_not() {
    let (_scratch, disk) = empty_disk();
    let second = disk.with_file_name("second.img");
    disk::create(&second, SIZE_MIB).expect("the scratch directory takes files");
    let mut dom0 = machine(&disk, VIRTIO).with(move |machine| machine.disk(second)).start();
    let before = ledger(&mut dom0);
    for (setting, complaint) in [
        ("00:1e.0,permissive=1", "the machine has no PCI device 00:1e.0"),
        ("00:00.0,permissive=1", "00:00.0 cannot be reset"),
        (PLACE, "the guest could read and write all memory"),
        ("00:10.0,permissive=0", "the guest could read and write all memory"),
        ("nonsense", "is no address"),
        ("00:10.0,seize=1", "the only option is permissive"),
    ] {
        let said = dom0.run(&format!("create a pci={setting}"));
        assert!(said.contains("error: ") && said.contains(complaint), "{setting}: {said}");
    }
    // The disk that domain 0 drives: wherever it is plugged in, it is named.
    let driven = dom0.run("pci-assignable-add 00:01.0");
    assert!(driven.contains("which domain 0 drives") && driven.contains("hide=00:01.0"), "{driven}");
    dom0.succeed(&format!("create a pci={PLACE},permissive=1"));
    let taken = dom0.run(&format!("create b pci={PLACE},permissive=1"));
    assert!(taken.contains(&format!("{PLACE} is in use by a")), "{taken}");
    let taken = dom0.run(&format!("pci-assignable-remove {PLACE}"));
    assert!(taken.contains("in use by a"), "{taken}");
    dom0.succeed("destroy a");
    dom0.succeed(&format!("pci-assignable-remove {PLACE}"));
    let gone = dom0.run(&format!("create a pci={PLACE},permissive=1"));
    assert!(gone.contains("pci-assignable-add 00:10.0"), "{gone}");
    dom0.succeed(&format!("pci-assignable-add {PLACE}"));
    before.expect_same(&mut dom0, "guests that did not get a device");
}

#[test]
fn memory_of_a_guest_that_is_killed_with_requests_under_way_is_not_used_before_the_device_is_quiet() {
    is_quiet_before_memory_is_used(VIRTIO);
}

#[test]
fn memory_of_a_guest_that_is_killed_with_requests_at_nvme_is_not_used_before_the_device_is_quiet() {
    is_quiet_before_memory_is_used(NVME);
}

fn is_quiet_before_memory_is_used(kind: &str) {
    let (_scratch, disk) = empty_disk();
    let seed = seed();
    let mut dom0 = machine(&disk, kind).start();
    let before = ledger(&mut dom0);
    for round in 0..4 {
        dom0.succeed(&format!("create a memory=64 pci={PLACE},permissive=1"));
        // It goes on reading for longer than it lives.
        dom0.run("send a disk-hash 0 64M");
        dom0.succeed("destroy a");
        // Its frames are the next one's now; nothing of the disk may come to be in them.
        dom0.succeed("create b memory=64 cmdline=noecho");
        dom0.succeed("guest-run b info");
        dom0.succeed("destroy b");
        before.expect_same(&mut dom0, &format!("killing it {round} times"));
    }
    dom0.succeed(&format!("create a pci={PLACE},permissive=1"));
    let sum = format!("sha256 {}", sha256(&data(seed, MIB)));
    assert!(dom0.succeed(&format!("guest-run a \"disk-write {seed} 0 {MIB}\"")).contains(&sum));
}
