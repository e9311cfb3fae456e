//! Disks and network interfaces that come and go while a stock kernel runs.

use super::*;

/// Loads the drivers.
const SCRIPT: &str = r#"
for module in /modules/*; do insmod $module; done
gone() { ! test -e $1; }
mkdir /mnt
"#;

#[test]
fn disks_and_interfaces_come_and_go() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let scratch = program::scratch();
    let (seed, disk) = (seed(), scratch.join("disk.img"));
    let content = data(seed, 16 * MIB);
    fs::write(&disk, &content).unwrap();
    let dom0 =
        stock.dom0_with_script(&(SCRIPT.to_owned() + LISTEN)).network(&[]).with(|machine| machine.disk(disk));
    let mut dom0 = start(dom0, "disk=disk0 vif");
    dom0.run_within(&stock.create("linux", "", ""), LIMIT);
    dom0.hear_within("linux", "ready", LIMIT);

    let mut before = None;
    for round in 0..3 {
        assert_eq!(dom0.succeed("block-attach linux phy:/dev/disk0 xvdb r"), "");
        assert_eq!(dom0.succeed("network-attach linux mac=00:16:3e:00:00:77 bridge=switch0"), "");
        let said = tell(&mut dom0, "linux", "wait_for test -b /dev/xvdb; sum < /dev/xvdb");
        assert!(said.contains(&sha256(&content)), "{said}");
        let said = tell(
            &mut dom0,
            "linux",
            "link; ip address add 10.0.2.50/24 dev eth0; ping -c 1 10.0.2.2; ip link show eth0",
        );
        assert!(said.contains("1 packets received") && said.contains("00:16:3e:00:00:77"), "{said}");
        let disks = dom0.succeed("block-list linux");
        assert!(
            disks.lines().nth(1).is_some_and(|line| line.starts_with("51728  0   2       4      ")),
            "{disks}"
        );
        let nics = dom0.succeed("network-list linux");
        assert!(
            nics.lines()
                .nth(1)
                .is_some_and(|line| line.starts_with("0    0   00:16:3e:00:00:77  2       4 ")),
            "{nics}"
        );

        assert_eq!(dom0.succeed("block-detach linux xvdb"), "");
        assert_eq!(dom0.succeed("network-detach linux 00:16:3e:00:00:77"), "");
        tell(&mut dom0, "linux", "wait_for gone /dev/xvdb; wait_for gone /sys/class/net/eth0");
        let said = tell(&mut dom0, "linux", "ls /dev/xvdb /sys/class/net");
        assert!(said.contains("/dev/xvdb: No such file") && !said.contains("eth0"), "{said}");
        assert_eq!(dom0.succeed("block-list linux").lines().count(), 1);
        // The first round leaves in guest and hypervisor what is kept for later ones.
        match &before {
            None => before = Some(Ledger::of(&mut dom0)),
            Some(before) => before.expect_same(&mut dom0, &format!("round {round}")),
        }
    }
    assert_eq!(dom0.run("block-detach linux xvdb"), "error: linux has no disk \"xvdb\"; it has no disks\n");
    dom0.succeed("shutdown linux");
    let said = last_words(&mut dom0, "linux");
    assert!(said.contains("reboot: System halted"), "{said}");
}

#[test]
fn a_disk_in_use_and_a_guest_that_does_not_answer() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let scratch = program::scratch();
    let disk = scratch.join("disk.img");
    stock.root_disk(&disk, "", &[]);
    let machine_disk = disk.clone();
    let dom0 =
        stock.dom0_with_script(&(SCRIPT.to_owned() + LISTEN)).with(|machine| machine.disk(machine_disk));
    let mut dom0 = start(dom0, "disk=disk0");
    dom0.run_within(&stock.create("linux", "", ""), LIMIT);
    dom0.hear_within("linux", "ready", LIMIT);

    // The kernel lets go of a disk that is mounted, and what was done with it fails.
    dom0.succeed("block-attach linux disk0");
    tell(
        &mut dom0,
        "linux",
        "wait_for test -b /dev/xvda; mount -t ext4 /dev/xvda /mnt; echo more > /mnt/file; sync",
    );
    dom0.succeed("block-detach linux xvda");
    let said = tell(&mut dom0, "linux", "dd if=/dev/zero of=/mnt/file bs=1M count=8 conv=fsync; umount /mnt");
    assert!(said.contains("error"), "{said}");
    let before = Ledger::of(&mut dom0);

    dom0.succeed("block-attach linux disk0");
    let said = tell(
        &mut dom0,
        "linux",
        "wait_for test -b /dev/xvda; mount -t ext4 /dev/xvda /mnt; cat /mnt/file; umount /mnt",
    );
    assert!(said.contains("more"), "{said}");
    dom0.succeed("pause linux");
    let refused = "error: linux has not let go of xvda within 10 s; it goes when the guest does so, or at once with --force\n";
    assert_eq!(dom0.run("block-detach linux xvda"), refused);
    // Asked is asked: it goes when the guest can answer.
    dom0.succeed("unpause linux");
    tell(&mut dom0, "linux", "wait_for gone /dev/xvda");
    before.expect_same(&mut dom0, "an answer that came late");

    dom0.succeed("block-attach linux disk0");
    tell(&mut dom0, "linux", "wait_for test -b /dev/xvda; sum < /dev/xvda > /dev/null");
    dom0.succeed("pause linux");
    assert_eq!(dom0.run("block-detach linux xvda"), refused);
    assert_eq!(dom0.succeed("block-detach --force linux xvda"), "");
    before.expect_same(&mut dom0, "a disk taken by force");
    dom0.succeed("unpause linux");
    tell(&mut dom0, "linux", "wait_for gone /dev/xvda");
    dom0.succeed("block-attach linux disk0");
    tell(&mut dom0, "linux", "wait_for test -b /dev/xvda; sum < /dev/xvda > /dev/null");
    dom0.succeed("destroy linux");
    dom0.wait_until_gone("linux");
    drop(dom0);
    expect_clean(&disk);
}
