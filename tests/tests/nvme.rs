//! NVMe disks that domain 0 drives: guests have them, or parts of them, as any other disk.

use std::fs;
use std::path::{Path, PathBuf};

use tests::pattern::{data, seed, sha256};
use tests::{Dom0, program};
use xtask::disk;
use xtask::machine::{DiskKind, Machine};
use xtask::scratch::Scratch;

const SIZE_MIB: u64 = 64;
const MIB: usize = 1 << 20;

fn empty_disk() -> (Scratch, PathBuf) {
    let scratch = program::scratch();
    let path = scratch.join("disk.img");
    disk::create(&path, SIZE_MIB).expect("the scratch directory takes files");
    (scratch, path)
}

/// Adds a controller without a disk of its own, and namespaces on it: each a file, and what else is to be said of it.
fn with_namespaces(machine: Machine, namespaces: &[(&Path, &str)]) -> Machine {
    let mut words = vec!["-device".to_owned(), "nvme,id=many,serial=many".to_owned()];
    for (number, (file, options)) in namespaces.iter().enumerate() {
        let place = format!("file,node-name=namespace{number},filename={}", file.display());
        let device = format!("nvme-ns,bus=many,drive=namespace{number}{options}");
        words.extend(["-blockdev".to_owned(), place, "-device".to_owned(), device]);
    }
    words.into_iter().fold(machine, Machine::argument)
}

#[test]
fn what_a_guest_writes_to_an_nvme_disk_is_there_when_everything_was_restarted() {
    let (_scratch, disk) = empty_disk();
    let (seed, offset, length) = (seed(), 3 * MIB + 512, 16 * MIB + 4608);
    let expected = data(seed, length);
    let sum = format!("sha256 {}", sha256(&expected));
    for command in ["disk-write", "disk-hash"] {
        let path = disk.clone();
        let dom0 = Dom0::new().with(move |machine| machine.disk_of(DiskKind::Nvme, path));
        let numbers = if command == "disk-write" { format!("{seed} ") } else { String::new() };
        let commands = [
            "create a disk=disk0".to_owned(),
            format!("guest-run a {command} {numbers}{offset} {length}"),
            "guest-run a info".to_owned(),
        ];
        let report = dom0.run(commands);
        assert!(report.expect_success().output(&format!("guest-run a {command}")).contains(&sum), "{report}");
        assert!(report.output("guest-run a info").contains("131072 sectors, 512 bytes a block"), "{report}");
    }
    let file = fs::read(&disk).unwrap();
    assert!(file[offset..][..length] == expected, "seed {seed}");
    let outside = file[..offset].iter().chain(&file[offset + length..]);
    assert!(outside.fold(0, |all, byte| all | byte) == 0, "seed {seed}");
}

#[test]
fn namespaces_are_disks_of_their_own_whatever_their_blocks() {
    let (scratch, small) = empty_disk();
    let [large, strange] = ["large.img", "strange.img"].map(|name| scratch.join(name));
    for path in [&large, &strange] {
        disk::create(path, SIZE_MIB).expect("the scratch directory takes files");
    }
    let files = [small.clone(), large.clone(), strange];
    let mut dom0 = Dom0::new()
        .with(move |machine| {
            let options = [
                ",logical_block_size=512,physical_block_size=512",
                ",logical_block_size=4096,physical_block_size=4096",
                // Blocks with eight bytes of metadata.
                ",ms=8",
            ];
            let namespaces: Vec<_> = files.iter().map(PathBuf::as_path).zip(options).collect();
            with_namespaces(machine, &namespaces)
        })
        .start();
    let refused = "namespace 3 is no disk: blocks with metadata or protection are not supported";
    assert!(dom0.console().contains(refused), "{}", dom0.console());
    dom0.succeed("create a disk=disk0,xvda,w disk=disk1,xvdb,w");
    let info = dom0.succeed("guest-run a info");
    assert!(info.contains("disk 0: 51712, 131072 sectors, 512 bytes a block"), "{info}");
    assert!(info.contains("disk 1: 51728, 131072 sectors, 4096 bytes a block"), "{info}");
    for (number, path) in [(0, &small), (1, &large)] {
        let (seed, offset, length) = (seed() + number, MIB, 4 * MIB + 4096);
        let expected = data(seed, length);
        let sum = format!("sha256 {}", sha256(&expected));
        let written = dom0.succeed(&format!("guest-run a \"disk-write {seed} {offset} {length} {number}\""));
        assert!(written.contains(&sum), "{written}");
        let read = dom0.succeed(&format!("guest-run a \"disk-hash {offset} {length} {number}\""));
        assert!(read.contains(&sum), "{read}");
        assert!(fs::read(path).unwrap()[offset..][..length] == expected, "seed {seed}");
    }
    // Half a block cannot be written, and nothing is.
    let odd = dom0.run("guest-run a \"disk-write 1 512 512 1\"");
    assert!(odd.contains("not a multiple of the disk's sector size"), "{odd}");
    assert_eq!(dom0.run("create b disk=disk2").matches("the machine has no disk2").count(), 1);
}
