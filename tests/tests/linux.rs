//! A stock Linux kernel, as its distribution ships it, is a guest like any other: disk, network, and a clean end.
//!
//! Where the package manager cannot give one, these tests say so and pass, except on a build server (`CI` set).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tests::initramfs::Initramfs;
use tests::pattern::{data, seed, sha256};
use tests::service::{drain, web_server};
use tests::{Dom0, Ledger, Prompt, program};
use xtask::build::path_in;
use xtask::linux;

const MIB: usize = 1 << 20;
/// Pages by which domain 0's list of what it has mapped may grow, and which it keeps: Linux has more requests under way
/// at a time than the guest before it. The guest itself has thousands of pages.
const KEPT_PAGES: u64 = 4;
/// How long a kernel may take to boot and to do what it is told.
const LIMIT: Duration = Duration::from_secs(60);
/// Memory for domain 0, which unpacks the kernel.
const DOM0_MEMORY: &str = "dom0_mem=256M";

/// The first program: loads the drivers, does what the kernel's command line names, and says what came of it.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
echo "user space of $(uname -r)"
insmod /xen-blkfront.ko; insmod /xen-netfront.ko
wait_for() { tries=0; while ! "$@" 2>/dev/null && [ $tries -lt 200 ]; do usleep 50000; tries=$((tries + 1)); done; }
plugged() { [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; }
network() {
    wait_for test -e /sys/class/net/eth0
    ip link set eth0 up; ip address add 10.0.2.50/24 dev eth0; wait_for plugged
}
sum() { sha256sum | cut -d' ' -f1; }
if [ "$disk" ]; then
    wait_for test -b /dev/xvda
    echo "disk $(sum < /dev/xvda)"
    dd if=/dev/xvda of=/dev/xvda bs=64k count=64 seek=128 conv=fsync 2>/dev/null
    echo 3 > /proc/sys/vm/drop_caches
    echo "changed disk $(sum < /dev/xvda)"
fi
if [ "$web" ]; then
    network
    ping -c 1 10.0.2.2 > /dev/null && echo "pinged"
    wget -q -O /fetched "http://10.0.2.2:$web/file" && echo "fetched $(sum < /fetched)"
    nc 10.0.2.2 $drain < /fetched
    echo vif-0 > /sys/bus/xen/drivers/vif/unbind && rmmod xen_netfront && echo "driver unloaded"
    insmod /xen-netfront.ko; network
    ping -c 1 10.0.2.2 > /dev/null && echo "pinged again"
fi
echo "all done"
[ "$stay" ] && while true; do sleep 1; done
poweroff -f
"#;

/// What Linux runs when the toolstack asks it to end.
const END: &str = "#!/bin/busybox sh\nexec /bin/busybox ${0##*/} -f\n";

/// The directory with the stock kernel; nothing, with a message, if it could not be had.
fn stock() -> Option<PathBuf> {
    match path_in(linux::VARIABLE) {
        Ok(directory) => Some(directory),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "no stock Linux on a build server: {error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Domain 0 with a stock kernel and its initial file system in the archive.
fn dom0_with(directory: &std::path::Path) -> Dom0 {
    let file = |name: &str| fs::read(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let directories = ["bin", "sbin", "proc", "sys", "dev"];
    let initramfs = directories.iter().fold(Initramfs::new(), |all, name| all.directory(name));
    let initramfs = initramfs
        .program("init", INIT.as_bytes())
        .program("sbin/poweroff", END.as_bytes())
        .program("sbin/reboot", END.as_bytes())
        .program("bin/busybox", &file(linux::BUSYBOX))
        .program(linux::DISK_DRIVER, &file(linux::DISK_DRIVER))
        .program(linux::NETWORK_DRIVER, &file(linux::NETWORK_DRIVER));
    Dom0::new().words(DOM0_MEMORY).file("vmlinuz", file(linux::KERNEL)).file("initrd", initramfs.finish())
}

/// The command that makes the guest, whose first program finds `words` in its environment.
fn create(devices: &str, words: &str) -> String {
    let memory = "memory=192 kernel=vmlinuz ramdisk=initrd";
    format!("create linux {memory} {devices} cmdline=\"console=hvc0 quiet {words}\"")
}

/// What the guest said, when it is gone.
fn last_words(dom0: &mut Prompt) -> String {
    dom0.wait_until_gone("linux");
    dom0.succeed("console linux --tail 200")
}

#[test]
fn a_stock_linux_uses_disk_and_network_and_switches_itself_off() {
    let Some(directory) = stock() else { return };
    let scratch = program::scratch();
    let (seed, disk) = (seed(), scratch.join("disk.img"));
    let before = data(seed, 16 * MIB);
    let mut after = before.clone();
    after.copy_within(0..4 * MIB, 8 * MIB);
    fs::write(&disk, &before).unwrap();
    let file = data(seed + 1, 4 * MIB + 17);
    let (web, drain) = (web_server(file.clone()), drain());

    let mut dom0 = dom0_with(&directory).network(&[]).with(|machine| machine.disk(disk)).start();
    // What domain 0 keeps for later guests is in the books before it is counted.
    dom0.succeed("create first disk=disk0 vif");
    dom0.succeed("guest-run first info");
    dom0.succeed("destroy first");
    let before_it = Ledger::of(&mut dom0);
    let words = format!("disk=1 web={} drain={}", web.port, drain.port);
    dom0.run_within(&create("disk=disk0 vif", &words), LIMIT);
    let said = last_words(&mut dom0);
    for expected in [
        format!("disk {}", sha256(&before)),
        format!("changed disk {}", sha256(&after)),
        "pinged".to_owned(),
        format!("fetched {}", sha256(&file)),
        "driver unloaded".to_owned(),
        "pinged again".to_owned(),
        "all done".to_owned(),
    ] {
        assert!(said.lines().any(|line| line.trim_end() == expected), "no {expected:?}; seed {seed}\n{said}");
    }
    assert!(drain.finish() == file, "what arrived here is not what was sent; seed {seed}");
    assert!(fs::read(scratch.join("disk.img")).unwrap() == after, "seed {seed}");
    let after_it = Ledger::of(&mut dom0);
    let kept = before_it.free_pages.abs_diff(after_it.free_pages);
    assert!(kept <= KEPT_PAGES, "{kept} pages are missing");
    assert_eq!(after_it, Ledger { free_pages: after_it.free_pages, ..before_it });
}

#[test]
fn a_stock_linux_ends_and_starts_anew_when_asked() {
    let Some(directory) = stock() else { return };
    let mut dom0 = dom0_with(&directory).start();
    dom0.succeed(&create("", "stay=1"));
    dom0.hear("linux", "all done");
    dom0.succeed("reboot linux");
    dom0.wait_for(" is linux: 192 MiB");
    dom0.hear("linux", "all done");
    dom0.succeed("shutdown linux");
    assert!(last_words(&mut dom0).contains("reboot: System halted"));
}
