//! `xl`'s verbs and files, and answers for programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::pattern::{data, seed, sha256};
use tests::{Dom0, Ledger, Prompt, program};
use xtask::scratch::Scratch;

/// A guest as `xl` would describe it.
const WEB: &str = "# a web server\nname = \"web\"\ntype = 'pv'\nkernel = 'guest'\nmemory = 16 ; maxmem = 32\n\
    cpu_weight = 512\nextra = 'quiet'\nvnc = 0\non_crash = 'preserve'\n";

/// Domain 0 after the first guest, so that what is kept for later guests is in the books already.
fn settled(machine: Dom0) -> Prompt {
    let mut dom0 = machine.start();
    dom0.succeed("create first");
    dom0.succeed("destroy first");
    dom0
}

#[test]
fn a_guest_is_looked_at_and_changed_with_xls_verbs() {
    let mut dom0 = settled(Dom0::new());
    let before = Ledger::of(&mut dom0);
    dom0.succeed("xl create web memory=16 maxmem=32");
    dom0.succeed("guest-run web info");
    let number = dom0.succeed("domid web");
    assert_eq!(dom0.succeed(&format!("domname {}", number.trim())), "web\n");
    assert_eq!(dom0.run("domid nobody"), "error: there is no domain \"nobody\"\n");
    let vcpus = dom0.succeed("vcpu-list web");
    assert!(
        vcpus.starts_with("Name  ID  VCPU  CPU  State  Time(s)  Affinity (Hard / Soft)\nweb "),
        "{vcpus}"
    );
    assert!(dom0.succeed("uptime web").contains("web   2"), "named and numbered");
    assert!(dom0.succeed("uptime -s").starts_with("Domain-0 (0) up 0:00:"));

    assert_eq!(dom0.succeed("sched-credit2 -d web -w 512"), "");
    let shares = dom0.succeed("sched-credit2");
    assert!(
        shares.contains("Domain-0  0   256     0\n") && shares.contains("web       2   512     0\n"),
        "{shares}"
    );
    dom0.succeed("sched-credit2 -d web -c 50");
    assert!(dom0.succeed("sched-credit2 -d web").contains("web   2   512     50\n"));

    dom0.succeed("mem-set web 12m");
    assert_eq!(dom0.succeed("store read /local/domain/2/memory/target"), "12288\n");
    let refused = dom0.run("mem-set web 64");
    assert_eq!(
        refused,
        "error: 65536 KiB are more than the 32768 KiB that the guest may have; see `mem-max`\n"
    );
    dom0.succeed("mem-max web 64");
    dom0.succeed("mem-set web 64");
    let refused = dom0.run("mem-max web 1");
    assert_eq!(refused, "error: 1024 KiB are less than the 16384 KiB that the guest has; see `mem-set`\n");

    dom0.succeed("sysrq web s");
    assert_eq!(dom0.succeed("store read /local/domain/2/control/sysrq"), "s\n");
    dom0.succeed("rename web shop");
    assert!(dom0.succeed("list shop").contains("shop"));
    assert_eq!(dom0.succeed("store read /local/domain/2/name"), "shop\n");
    assert_eq!(dom0.run("rename shop Domain-0"), "error: there is a guest called Domain-0 already\n");
    dom0.succeed("guest-run shop info");
    assert_eq!(dom0.run("migrate shop there"), "error: xl's command migrate is not there yet\n");
    dom0.succeed("dest shop");
    before.expect_same(&mut dom0, "all of it");
}

#[test]
fn a_guest_made_anew_keeps_its_name_and_address() {
    let mut dom0 = settled(Dom0::new().network(&[]));
    dom0.succeed("create web memory=16 vif");
    dom0.succeed("guest-run web info");
    let mac = |dom0: &mut Prompt, number: u16| {
        dom0.succeed(&format!("store read /local/domain/{number}/device/vif/0/mac"))
    };
    let first = mac(&mut dom0, 2);
    dom0.succeed("rename web shop");
    dom0.succeed("reboot -w shop");
    dom0.succeed("sleep 1");
    assert_eq!(dom0.succeed("domid shop"), "3\n");
    assert_eq!(mac(&mut dom0, 3), first);
}

#[test]
fn a_file_of_xls_describes_a_guest() {
    let mut dom0 = settled(Dom0::new().file("web.cfg", WEB));
    let before = Ledger::of(&mut dom0);
    let warning = "warning: web.cfg: line 8: vnc has no effect on a paravirtual guest\n";
    assert_eq!(dom0.succeed("create -n web.cfg"), format!("{warning}web can be made\n"));
    before.expect_same(&mut dom0, "the rehearsal");
    assert_eq!(dom0.succeed("create web.cfg"), format!("{warning}domain 2 is web\n"));
    assert_eq!(dom0.succeed("store read /local/domain/2/memory/static-max"), "32768\n");
    assert!(dom0.succeed("sched-credit2 -d web").contains("512"));
    dom0.succeed("create web.cfg name=other memory=20 paused");
    assert_eq!(dom0.succeed("store read /local/domain/3/memory/target"), "20480\n");
    dom0.succeed("destroy web");
    dom0.succeed("destroy other");
    before.expect_same(&mut dom0, "both guests");
}

#[test]
fn mistakes_in_a_file_are_told_with_their_line_and_leave_nothing() {
    let long = format!("name = 'a'\nextra = '{}'\n", "x".repeat(5000));
    let machine = Dom0::new()
        .file("key.cfg", "name = 'a'\nmemroy = 16\n")
        .file("later.cfg", "name = 'a'\n\nvtpm = [ 'backend=tpm' ]\n")
        .file("open.cfg", "name = 'a'\ndisk = [ 'disk0',\n")
        .file("binary.cfg", *b"name = 'a'\n\x7fELF\x02\x01\x01\x00")
        .file("long.cfg", long)
        .file("macs.cfg", "name = 'a'\nvif = [ 'mac=00:16:3e:00:00:01', 'mac=00:16:3e:00:00:01' ]\n");
    let mut dom0 = settled(machine);
    for (command, reason) in [
        ("create key.cfg", "key.cfg: line 2: there is no key \"memroy\""),
        ("create later.cfg", "later.cfg: line 3: vtpm is not there yet"),
        ("create open.cfg", "open.cfg: line 2: the list that begins here is not closed"),
        ("create binary.cfg", "binary.cfg: line 2: byte 0x7f in column 1 is no text"),
        ("create long.cfg", "long.cfg: line 2: the line has 5010 bytes; 4096 are the most"),
        ("create macs.cfg", "macs.cfg: two interfaces have the address 00:16:3e:00:00:01"),
        (
            "create none.cfg",
            "the boot archive has no file \"none.cfg\"; it has: guest key.cfg later.cfg open.cfg binary.cfg long.cfg macs.cfg",
        ),
    ] {
        let before = Ledger::of(&mut dom0);
        assert_eq!(dom0.run(command), format!("error: {reason}\n"), "{command}");
        before.expect_same(&mut dom0, command);
    }
}

#[test]
fn programs_get_one_line_of_json_and_a_status() {
    let report = Dom0::new().run([
        "create web memory=16 --json",
        "list --json",
        "list web -l",
        "destroy nobody --json",
        "lsit --json",
        "create big memory=60000 --json",
        "info --json",
        "top --json -i 1 -d 1",
        "guest-run --json web info",
    ]);
    let json = |index: usize| -> serde_json::Value {
        let output = &report.commands[index].output;
        serde_json::from_str(output.trim()).unwrap_or_else(|error| panic!("{error}: {output}"))
    };
    let statuses: Vec<_> = report.commands.iter().map(|command| command.status).collect();
    assert_eq!(statuses, [0, 0, 0, 1, 2, 1, 0, 0, 0], "{report}");
    assert_eq!(json(0)["result"]["id"], 1);
    assert_eq!(json(1)["result"][1]["name"], "web");
    assert_eq!(json(1)["result"][1]["memory_kib"], 16384);
    assert_eq!(json(2)[0]["name"], "web");
    assert_eq!(json(3)["error"]["kind"], "no-guest");
    assert_eq!(json(3)["error"]["message"], "there is no guest \"nobody\"");
    assert_eq!((&json(4)["error"]["kind"], &json(4)["status"]), (&"usage".into(), &2.into()));
    assert_eq!(json(5)["error"]["kind"], "memory");
    assert_eq!(json(5)["error"]["details"]["needed_mib"], 60000);
    assert_eq!(json(6)["result"]["nr_cpus"], 1);
    assert_eq!(json(7)["result"][0]["domains"][1]["name"], "web");
    assert_eq!(json(8)["result"]["status"], 0);
}

/// A disk with an ext4 file system: the guest's kernel, and configurations that use it.
fn disk_with_files(scratch: &Scratch) -> PathBuf {
    let files = scratch.join("files");
    for (name, content) in [
        ("kernels/guest", program::content("WEIR_GUEST")),
        ("auto/one.cfg", b"name = 'one'\nkernel = '/kernels/guest'\nmemory = 16\n".to_vec()),
        ("auto/two.cfg", b"name = 'two'\nkernel = 'kernels/none'\n".to_vec()),
        ("auto/notes.txt", b"not a guest".to_vec()),
        ("guests/three.cfg", b"name = 'three'\nmemory = 16\ndisk = [ 'disk0,xvda,r' ]\n".to_vec()),
    ] {
        let path = files.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    make_home(scratch, "32M")
}

/// A disk with an ext4 file system of this size, and in it what is in the directory `files`.
fn make_home(scratch: &Scratch, size: &str) -> PathBuf {
    let disk = scratch.join("home.img");
    let mut make = Command::new("mke2fs");
    make.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-q", "-q", "-t", "ext4", "-d"]);
    let made = make
        .arg(scratch.join("files"))
        .arg(&disk)
        .arg(size)
        .status()
        .expect("mke2fs, of e2fsprogs, is there");
    assert!(made.success());
    disk
}

#[test]
fn a_file_of_dom0s_disk_is_a_guests_disk() {
    let scratch = program::scratch();
    let images = scratch.join("files/images");
    std::fs::create_dir_all(&images).unwrap();
    let content = data(seed(), 8 << 20);
    std::fs::write(images.join("web.img"), &content).unwrap();
    std::fs::write(images.join("base.img"), &content[..1 << 20]).unwrap();
    std::fs::write(images.join("odd.img"), "buy milk").unwrap();
    std::fs::File::create(images.join("sparse.img")).unwrap().set_len(1 << 20).unwrap();
    let disk = make_home(&scratch, "64M");
    let machine_disk = disk.clone();
    let machine = Dom0::new().own_words("noguest home=disk0").with(|machine| machine.disk(machine_disk));
    let mut dom0 = settled(
        machine.file("web.cfg", "name = 'web'\nmemory = 16\ndisk = [ '/images/web.img,raw,xvda,rw' ]\n"),
    );
    dom0.succeed("create another memory=16 disk=/images/base.img,xvda,r");
    dom0.succeed("destroy another");
    let before = Ledger::of(&mut dom0);

    dom0.succeed("create web.cfg");
    let hash = dom0.succeed("guest-run web \"disk-hash 0 8M\"");
    assert!(hash.contains(&sha256(&content)), "{hash}");
    dom0.succeed("guest-run web \"disk-write 77 1M 2M\"");
    for (command, reason) in [
        (
            "create b memory=16 disk=/images/web.img,xvda,r",
            "/images/web.img is in use by web; to share it all the same, put ! behind the access, as in /images/web.img,xvda,w!",
        ),
        (
            "create b memory=16 disk=disk0,xvda,r",
            "disk0 is in use by web; to share it all the same, put ! behind the access, as in disk0,xvda,w!",
        ),
        (
            "create b memory=16 disk=disk0",
            "disk0 holds dom0's own files: a guest may read it (access r), not write",
        ),
        ("create b memory=16 disk=/images/none.img", "images/none.img: there is no such file"),
        (
            "create b memory=16 disk=/images/odd.img",
            "images/odd.img: its 8 bytes are no whole sectors of 512",
        ),
        (
            "create b memory=16 disk=/images/sparse.img",
            "images/sparse.img: the file has a hole at byte 0; copy it with `cp --sparse=never`",
        ),
        ("block-attach web file:/images", "images: it is no regular file"),
        (
            "block-attach web /images/web.img xvdb r",
            "xvda and xvdb are the same sectors, and one may be written",
        ),
    ] {
        assert_eq!(dom0.run(command), format!("error: {reason}\n"), "{command}");
    }
    // What is only read may be had by many.
    dom0.succeed("block-attach web /images/base.img xvdb r");
    dom0.succeed("create reader memory=16 disk=/images/base.img,xvda,r");
    let hash = dom0.succeed("guest-run reader \"disk-hash 0 1M\"");
    assert!(hash.contains(&sha256(&content[..1 << 20])), "{hash}");
    let refused = dom0.run("guest-run reader \"disk-write 1 0 64K\"");
    assert!(refused.contains("error"), "{refused}");
    dom0.succeed("destroy reader");
    dom0.succeed("shutdown -w web");
    before.expect_same(&mut dom0, "guests with files as disks");
    drop(dom0);

    // It was written in place, and nothing else was.
    let mut expected = content.clone();
    expected[1 << 20..3 << 20].copy_from_slice(&data(77, 2 << 20));
    assert!(dumped(&scratch, &disk, "images/web.img") == expected);
    assert!(dumped(&scratch, &disk, "images/base.img") == content[..1 << 20]);
    let mut fsck = Command::new("/sbin/e2fsck");
    assert!(fsck.args(["-f", "-n"]).arg(&disk).status().expect("e2fsck is there").success());
}

/// A file of the file system on a disk.
fn dumped(scratch: &Scratch, disk: &Path, path: &str) -> Vec<u8> {
    let out = scratch.join("dumped");
    let mut debugfs = Command::new("/sbin/debugfs");
    debugfs.arg("-R").arg(format!("dump /{path} {}", out.display())).arg(disk);
    assert!(debugfs.status().expect("debugfs, of e2fsprogs, is there").success());
    std::fs::read(out).unwrap()
}

#[test]
fn guests_start_by_themselves_from_a_file_system_on_dom0s_disk() {
    let scratch = program::scratch();
    let disk = disk_with_files(&scratch);
    let mut dom0 =
        Dom0::new().own_words("noguest home=disk0").with(move |machine| machine.disk(disk)).start();
    assert!(dom0.console().contains("domain 1 is one, from auto/one.cfg"), "{}", dom0.console());
    let missing = "error: auto/two.cfg: neither the boot archive nor dom0's disk has a file \"kernels/none\"";
    assert!(dom0.console().contains(missing), "{}", dom0.console());
    dom0.succeed("guest-run one info");
    dom0.succeed("create guests/three.cfg");
    dom0.succeed("guest-run three info");
    dom0.succeed("guest-run three \"disk-hash 0 1M\"");
    let own = "error: disk0 holds dom0's own files: a guest may read it (access r), not write\n";
    assert_eq!(dom0.run("create four disk=disk0,xvda,w"), own);
    assert_eq!(dom0.run("create four disk=disk0,xvda,w!"), own);
}

#[test]
fn a_disk_that_a_guest_writes_is_nobody_elses() {
    let scratch = program::scratch();
    let disk = scratch.join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let mut dom0 = settled(Dom0::new().with(move |machine| machine.disk(disk)));
    dom0.succeed("create writer memory=16 disk=disk0@0+4M");
    dom0.succeed("create other memory=16");
    dom0.succeed("guest-run writer info");
    dom0.succeed("guest-run other info");
    let before = Ledger::of(&mut dom0);
    let in_use = |disk| {
        let all_the_same = "to share it all the same, put ! behind the access, as in";
        format!("{disk} is in use by writer; {all_the_same} {disk},xvda,w!")
    };
    for (command, reason) in [
        ("block-attach other disk0", in_use("disk0")),
        ("block-attach other disk0@2M xvdb r", in_use("disk0@2097152")),
        ("block-attach other disk1", "the machine has no disk1 (it has disk0)".to_owned()),
        ("network-attach other", "there is no switch".to_owned()),
        ("block-detach other xvda", "other has no disk \"xvda\"; it has no disks".to_owned()),
        ("network-detach writer 0", "writer has no interface \"0\"; it has no interfaces".to_owned()),
        ("block-attach nobody disk0", "there is no guest \"nobody\"".to_owned()),
    ] {
        assert_eq!(dom0.run(command), format!("error: {reason}\n"), "{command}");
        before.expect_same(&mut dom0, command);
    }
    dom0.succeed("block-attach other disk0@4M xvda r");
    dom0.succeed("block-attach writer disk0@4M xvdb r");
    let refused = dom0.run("create third memory=16 disk=disk0@6M");
    assert!(refused.starts_with("error: disk0@6291456 is in use by "), "{refused}");
    dom0.succeed("block-detach --force writer xvdb");
    dom0.succeed("block-detach --force other xvda");
    before.expect_same(&mut dom0, "all of it");
}

#[test]
fn whichever_step_of_making_a_guest_fails_nothing_is_left() {
    let scratch = program::scratch();
    let disk = scratch.join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let mut dom0 = settled(Dom0::new().network(&[]).with(move |machine| machine.disk(disk)));
    // The first guest with devices leaves the directories in which all guests have theirs.
    dom0.succeed("drill 1");
    let before = Ledger::of(&mut dom0);
    let printed = dom0.run_within("drill 500", Duration::from_secs(300));
    assert!(
        printed.starts_with("500 guests: ") && printed.ends_with(" lived; nothing is left\n"),
        "{printed}"
    );
    let steps: u32 =
        printed.split(" of ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    assert!(steps >= 15, "{printed}");
    before.expect_same(&mut dom0, "500 guests");
}

/// The result of a command as a program gets it.
fn facts(dom0: &mut Prompt, command: &str) -> serde_json::Value {
    let printed = dom0.succeed(command);
    let mut answer: serde_json::Value = serde_json::from_str(printed.trim()).expect("JSON");
    answer["result"].take()
}

#[test]
fn what_a_disk_costs_is_what_the_hypervisor_counted() {
    let scratch = program::scratch();
    let path = scratch.join("disk.img");
    xtask::disk::create(&path, 16).expect("the scratch directory takes files");
    let mut dom0 = Dom0::new().with(move |machine| machine.counts_instructions(true).disk(path)).start();
    dom0.succeed("create web memory=16 disk=disk0");
    dom0.succeed("guest-run web \"disk-hash 0 1M\"");
    let before = facts(&mut dom0, "block-list --json")[0].take();
    dom0.succeed("perf -r");
    dom0.succeed("guest-run web \"disk-hash 0 4M\"");
    let hypervisor = facts(&mut dom0, "perf --json");
    let after = facts(&mut dom0, "block-list --json")[0].take();
    let counted = |name: &str| hypervisor[name].as_u64().unwrap_or_else(|| panic!("{name}: {hypervisor}"));
    let grown = |key: &str| match (after[key].as_u64(), before[key].as_u64()) {
        (Some(after), Some(before)) => after - before,
        _ => panic!("no {key} in {after}"),
    };
    assert_eq!(grown("read_kib"), 4096, "{after}");
    assert_eq!(grown("grant_maps"), counted("domain 0 grant maps"), "{after}");
    assert_eq!(
        (grown("copies"), grown("bytes_copied")),
        (counted("domain 0 grant copies"), counted("domain 0 bytes copied"))
    );
    // The rest is the console's, which has the guest's answer.
    assert!((1..=counted("domain 0 events sent")).contains(&grown("events")), "{after}");
    assert!((1..=counted("domain 1 events sent")).contains(&grown("events_received")), "{after}");
    assert!(grown("hypercalls") < counted("hypercalls"), "{after}");
    let (ticks, all) = (grown("ticks"), counted("domain 0 ticks") + counted("hypervisor ticks"));
    assert!(grown("grant_ticks") < ticks && ticks < all, "{ticks} of {all}: {after}");
    assert!(after["ticks_per_request"].as_u64() > Some(100), "{after}");
    let shown = dom0.succeed("block-list");
    assert!(shown.contains("ticks each") && shown.contains(" in grants"), "{shown}");
}
