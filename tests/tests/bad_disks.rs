//! Disks that fail, dawdle, or do not answer: who uses them learns of it, everybody else goes on, and no byte is wrong.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::pattern::{data, seed, sha256};
use tests::{Dom0, Ledger, Prompt, Stock, program};
use xtask::disk;
use xtask::linux::Kernel;
use xtask::machine::Machine;
use xtask::scratch::Scratch;

const MIB: usize = 1 << 20;
/// Size of every disk.
const SIZE_MIB: u64 = 64;
const SECTOR: usize = 512;
/// Where the disk is plugged in.
const PLACE: &str = "00:10.0";
/// What it is plugged into, as QEMU calls it, and what domain 0's log calls it. QEMU's virtio disk would make one request
/// of several that follow each other, and fail them all.
const VIRTIO: (&str, &str) = ("virtio-blk-pci,disable-legacy=on,request-merging=off", "disk 00:10.0");
const NVME: (&str, &str) = ("nvme,serial=bad", "disk controller 00:10.0");
/// How long a guest may work on a disk that dawdles.
const LONG: Duration = Duration::from_secs(120);

/// A good disk and one that is not, both full of data.
struct Disks {
    scratch: Scratch,
    seed: u64,
    data: Vec<u8>,
}

impl Disks {
    fn new() -> Self {
        let (scratch, seed) = (program::scratch(), seed());
        disk::create(&scratch.join("good"), SIZE_MIB).expect("the scratch directory takes files");
        let data = data(seed, SIZE_MIB as usize * MIB);
        fs::write(scratch.join("bad"), &data).expect("the scratch directory takes files");
        Self { scratch, seed, data }
    }

    fn bad(&self) -> PathBuf {
        self.scratch.join("bad")
    }

    /// The line by which a guest tells what is on the bad disk.
    fn sum(&self, offset: usize, length: usize) -> String {
        format!("sha256 {}", sha256(&self.data[offset..][..length]))
    }

    /// Domain 0 with both, the bad one as `disk1`; `node` is what QEMU has it behind.
    fn dom0(&self, words: &str, kind: &str, node: &str, more: &[String]) -> Dom0 {
        let (good, words) = (self.scratch.join("good"), format!("noguest {words}"));
        let device = format!("{kind},drive=bad,addr=0x10");
        let mut arguments = more.to_vec();
        arguments.extend(["-blockdev".to_owned(), node.to_owned(), "-device".to_owned(), device]);
        let plug = move |machine: Machine| arguments.into_iter().fold(machine.disk(good), Machine::argument);
        Dom0::new().own_words(&words).with(plug)
    }
}

/// A disk that fails as these rules say: what, at which sector or anywhere, and whether once or always.
fn failing(file: &Path, rules: &[(&str, Option<usize>, bool)]) -> String {
    let mut node =
        format!("driver=blkdebug,node-name=bad,image.driver=file,image.filename={}", file.display());
    for (number, (what, sector, once)) in rules.iter().enumerate() {
        let rule = format!("inject-error.{number}");
        node += &format!(",{rule}.event=none,{rule}.iotype={what},{rule}.errno=5");
        if let Some(sector) = sector {
            node += &format!(",{rule}.sector={sector}");
        }
        if *once {
            node += &format!(",{rule}.once=on");
        }
    }
    node
}

fn guest_run(dom0: &mut Prompt, guest: &str, command: &str) -> String {
    dom0.run_within(&format!("guest-run -t 100 {guest} \"{command}\""), LONG)
}

/// Errors that domain 0 has told a guest's disk of.
fn errors(dom0: &mut Prompt, number: usize) -> u64 {
    let printed = dom0.succeed("block-list --json");
    let answer = printed.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{printed}"));
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    answer["result"][number]["errors"].as_u64().expect("a number")
}

fn fails_where_it_must((kind, name): (&str, &str)) {
    const UNREADABLE: usize = 5000;
    const UNWRITABLE: usize = 5 * MIB / SECTOR + 77;
    const ERROR: &str = "error: the disk reports an error";
    let disks = Disks::new();
    let rules = [("read", Some(UNREADABLE), false), ("write", Some(UNWRITABLE), true), ("flush", None, true)];
    let mut dom0 = disks.dom0("", kind, &failing(&disks.bad(), &rules), &[]).start();
    dom0.succeed("create a disk=disk1,xvda,w disk=disk0,xvdb,w");
    // The first flush fails; the data is there all the same.
    let begun = dom0.console().len();
    for (command, outcome) in [
        ("disk-write 1 40M 1M", ERROR.to_owned()),
        ("disk-write 1 40M 1M", format!("sha256 {}", sha256(&data(1, MIB)))),
        ("disk-write 2 5M 1M", ERROR.to_owned()),
        ("disk-write 2 5M 1M", format!("sha256 {}", sha256(&data(2, MIB)))),
        ("disk-hash 0 2M", disks.sum(0, 2 * MIB)),
        ("disk-hash 0 3M", ERROR.to_owned()),
        ("disk-hash 3M 2M", disks.sum(3 * MIB, 2 * MIB)),
        ("disk-hash 5M 1M", format!("sha256 {}", sha256(&data(2, MIB)))),
        ("disk-write 3 0 4M 1", format!("sha256 {}", sha256(&data(3, 4 * MIB)))),
    ] {
        let said = guest_run(&mut dom0, "a", command);
        assert!(said.contains(&outcome), "{command}: {said}\n{}", dom0.console());
    }
    assert_eq!([0, 1].map(|number| errors(&mut dom0, number)), [3, 0]);
    let console = dom0.console();
    let logged: Vec<_> = console[begun..].lines().filter(|line| line.contains(name)).collect();
    let [flush, write, read] = logged[..] else { panic!("three errors: {logged:?}") };
    assert!(flush.contains(&format!("{name}: flush: ")), "{flush}");
    for (line, what, sector) in [(write, "write", UNWRITABLE), (read, "read", UNREADABLE)] {
        let (count, first) = line
            .split_once(&format!("{name}: {what} of "))
            .and_then(|(_, rest)| rest.split_once(" sectors from "))
            .unwrap_or_else(|| panic!("{line}"));
        let count: usize = count.parse().expect("a number");
        let first: usize = first.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
        assert!((first..first + count).contains(&sector), "{line}");
    }
    drop(dom0);
    let file = fs::read(disks.bad()).unwrap();
    assert!(file[5 * MIB..6 * MIB] == data(2, MIB) && file[..5 * MIB] == disks.data[..5 * MIB]);
}

#[test]
fn a_virtio_disk_that_fails_does_so_where_it_must_and_nowhere_else() {
    fails_where_it_must(VIRTIO);
}

#[test]
fn an_nvme_disk_that_fails_does_so_where_it_must_and_nowhere_else() {
    fails_where_it_must(NVME);
}

/// Reads a file over the bad place in it, and what is before and behind.
const READ: &str = r#"
dd if=/file of=/tmp/copy bs=4096 conv=noerror,sync 2> /tmp/said
echo "errors: $(grep -c 'Input/output error' /tmp/said)"
echo "before: $(head -c $bad /tmp/copy | sum)"
echo "behind: $(tail -c +$((bad + 4097)) /tmp/copy | sum)"
cat /file > /dev/null || echo "cat failed too"
"#;

fn is_told_of_a_bad_place_in_a_file((kind, name): (&str, &str)) {
    const BAD: usize = 600 << 10;
    let Some(stock) = Stock::find(Kernel::Cloud612) else { return };
    let scratch = program::scratch();
    let (disk, file) = (scratch.join("disk.img"), data(seed(), MIB));
    stock.root_disk(&disk, READ, &[("file", &file)]);
    let image = fs::read(&disk).unwrap();
    let place = image.chunks(SECTOR).position(|sector| *sector == file[BAD..][..SECTOR]);
    let node = failing(&disk, &[("read", Some(place.expect("the file is on the disk")), false)]);
    let device = format!("{kind},drive=bad,addr=0x10");
    let mut dom0 = stock
        .dom0()
        .with(move |machine| {
            [["-blockdev", &node], ["-device", &device]]
                .as_flattened()
                .iter()
                .fold(machine, |machine, word| machine.argument(*word))
        })
        .start();
    dom0.run_within(&stock.create("linux", "disk=disk0", &format!("bad={BAD}")), LONG);
    dom0.wait_until_gone("linux");
    let said = dom0.succeed("console linux --tail 500");
    let lines = [
        "errors: 1".to_owned(),
        format!("before: {}", sha256(&file[..BAD])),
        format!("behind: {}", sha256(&file[BAD + 4096..])),
        "cat failed too".to_owned(),
        "all done".to_owned(),
    ];
    for line in lines {
        assert!(said.lines().any(|said| said.trim_end() == line), "no {line:?} in\n{said}");
    }
    assert!(dom0.console().contains(&format!("{name}: read of ")), "{}", dom0.console());
}

#[test]
fn a_stock_linux_is_told_of_a_bad_place_in_a_file_on_a_virtio_disk() {
    is_told_of_a_bad_place_in_a_file(VIRTIO);
}

#[test]
fn a_stock_linux_is_told_of_a_bad_place_in_a_file_on_an_nvme_disk() {
    is_told_of_a_bad_place_in_a_file(NVME);
}

/// Bytes in a second of a disk that dawdles: what a guest has under way takes it ten seconds.
const SLOW: usize = 200 << 10;
/// The same of one that takes minutes.
const DEAD: usize = 8 << 10;

/// QEMU's way to be told things while it runs.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// The arguments for QEMU.
    fn arguments(socket: &Path) -> Vec<String> {
        vec!["-qmp".to_owned(), format!("unix:{},server=on,wait=off", socket.display())]
    }

    fn connect(socket: &Path) -> Self {
        let mut monitor = Self(BufReader::new(UnixStream::connect(socket).expect("QEMU listens")));
        monitor.tell(r#"{"execute":"qmp_capabilities"}"#);
        monitor
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.0.get_ref(), "{command}").expect("QEMU listens");
        let mut line = String::new();
        while !line.contains("\"return\"") {
            line.clear();
            self.0.read_line(&mut line).expect("QEMU answers");
            assert!(!line.contains("\"error\""), "{command}: {line}");
        }
    }

    /// Changes how fast the disk is; 0 for as fast as it can.
    fn set_speed(&mut self, bytes_a_second: usize) {
        let limits = format!(r#"{{"bps-total":{bytes_a_second}}}"#);
        self.tell(&format!(
            r#"{{"execute":"qom-set","arguments":{{"path":"/objects/speed","property":"limits","value":{limits}}}}}"#
        ));
    }
}

/// The machine's prompt, and the way to make its bad disk slow; it is not yet.
fn with_speed(disks: &Disks, kind: &str, words: &str) -> (Prompt, Monitor) {
    let socket = disks.scratch.join("qmp");
    let mut more = Monitor::arguments(&socket);
    more.extend(["-object", "throttle-group,id=speed"].map(str::to_owned));
    let node = format!(
        "driver=throttle,node-name=bad,throttle-group=speed,file.driver=file,file.filename={}",
        disks.bad().display()
    );
    let prompt = disks.dom0(words, kind, &node, &more).start();
    let monitor = Monitor::connect(&socket);
    (prompt, monitor)
}

/// Kills a guest with reads under way on a slow disk, and makes another of its memory at once.
fn hurts_nobody((kind, _): (&str, &str), words: &str, setting: &str) {
    let disks = Disks::new();
    let (mut dom0, mut monitor) = with_speed(&disks, kind, words);
    dom0.succeed("create witness disk=disk0");
    guest_run(&mut dom0, "witness", "disk-write 4 0 4M");
    dom0.succeed(&format!("create first memory=64 {setting}"));
    guest_run(&mut dom0, "first", "disk-hash 0 16M");
    dom0.succeed("destroy first");
    let before = Ledger::of(&mut dom0);
    // Two of them do not fit.
    let memory = before.free_pages / 256 * 2 / 3;
    dom0.succeed(&format!("create a memory={memory} {setting}"));
    dom0.succeed("guest-run a info");
    monitor.set_speed(SLOW);
    dom0.succeed("send a disk-hash 0 16M");
    let write = guest_run(&mut dom0, "witness", "disk-write 4 0 4M");
    assert!(write.contains(&format!("sha256 {}", sha256(&data(4, 4 * MIB)))), "{write}");
    let begun = Instant::now();
    dom0.succeed("destroy a");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    dom0.succeed(&format!("create b memory={} cmdline=noecho", memory - 8));
    let held = guest_run(&mut dom0, "b", "hold-memory 20 5");
    assert!(held.contains("and they are the same"), "{held}\n{}", dom0.console());
    dom0.succeed("destroy b");
    monitor.set_speed(0);
    if words.is_empty() {
        // Domain 0 had to wait for the disk.
        let console = dom0.console();
        assert!(console.contains("others still use its memory"), "{console}");
        assert!(console.contains("the last of its memory is free"), "{console}");
    }
    before.expect_same(&mut dom0, "killing a guest with reads under way");
    dom0.succeed(&format!("create c memory=64 {setting}"));
    let read = guest_run(&mut dom0, "c", "disk-hash 0 16M");
    assert!(read.contains(&disks.sum(0, 16 * MIB)), "{read}");
}

#[test]
fn reads_under_way_at_a_slow_virtio_disk_hurt_nobody_when_the_guest_is_killed() {
    hurts_nobody(VIRTIO, "", "disk=disk1");
}

#[test]
fn reads_under_way_at_a_slow_nvme_disk_hurt_nobody_when_the_guest_is_killed() {
    hurts_nobody(NVME, "", "disk=disk1");
}

#[test]
fn reads_under_way_at_a_slow_virtio_disk_of_its_own_hurt_nobody_when_the_guest_is_killed() {
    hurts_nobody(VIRTIO, &format!("hide={PLACE}"), &format!("pci={PLACE},permissive=1"));
}

#[test]
fn reads_under_way_at_a_slow_nvme_disk_of_its_own_hurt_nobody_when_the_guest_is_killed() {
    hurts_nobody(NVME, &format!("hide={PLACE}"), &format!("pci={PLACE},permissive=1"));
}

/// A disk that does not answer is reset, what it has fails, and it works again.
fn is_reset((kind, name): (&str, &str)) {
    let disks = Disks::new();
    let (mut dom0, mut monitor) = with_speed(&disks, kind, "disk-timeout=3");
    dom0.succeed("create a disk=disk1");
    dom0.succeed("create b disk=disk0");
    let (seed, length) = (disks.seed, 2 * MIB);
    let read = guest_run(&mut dom0, "a", &format!("disk-hash 0 {length}"));
    assert!(read.contains(&disks.sum(0, length)), "{read}");
    monitor.set_speed(DEAD);
    dom0.succeed(&format!("send a disk-hash 0 {length}"));
    let write = guest_run(&mut dom0, "b", &format!("disk-write {seed} 0 {length}"));
    assert!(write.contains(&disks.sum(0, length)), "{write}");
    dom0.wait_for(&format!("{name}: it does not answer a read of "));
    dom0.wait_for(&format!("{name}: it runs again"));
    assert!(errors(&mut dom0, 0) > 0);
    assert_eq!(errors(&mut dom0, 1), 0);
    monitor.set_speed(0);
    let read = guest_run(&mut dom0, "a", &format!("disk-hash 0 {length}"));
    assert!(read.contains(&disks.sum(0, length)), "{read}");
    let tail = dom0.run("console a --tail 20");
    assert!(tail.contains("error: the disk reports an error"), "{tail}");
}

#[test]
fn a_virtio_disk_that_does_not_answer_is_reset_and_works_again() {
    is_reset(VIRTIO);
}

#[test]
fn an_nvme_disk_that_does_not_answer_is_reset_and_works_again() {
    is_reset(NVME);
}
