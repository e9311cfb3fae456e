//! The drivers that a stock kernel has as modules: put to work, taken out, and put in again.

use super::*;

/// Disk and network from a file system in memory, so that no driver is in use but by the script.
const SCRIPT: &str = r#"
for module in /modules/*; do insmod $module; done
wait_for test -b /dev/xvda
echo "disk $(sum < /dev/xvda)"
dd if=/dev/xvda of=/dev/xvda bs=64k count=64 seek=128 conv=fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
echo "changed disk $(sum < /dev/xvda)"
echo vbd-51712 > /sys/bus/xen/drivers/vbd/unbind && rmmod xen_blkfront && echo "disk driver unloaded"
insmod /modules/*-xen-blkfront.ko && echo "disk driver loaded"
network() { link; ip address add 10.0.2.50/24 dev eth0; }
network
ping -c 1 10.0.2.2 > /dev/null && echo "pinged"
wget -q -O /fetched "http://10.0.2.2:$web/file" && echo "fetched $(sum < /fetched)"
nc 10.0.2.2 $drain < /fetched
echo vif-0 > /sys/bus/xen/drivers/vif/unbind; echo vif-0 > /sys/bus/xen/drivers/vif/bind
network
ping -c 1 10.0.2.2 > /dev/null && echo "pinged after binding"
echo vif-0 > /sys/bus/xen/drivers/vif/unbind && rmmod xen_netfront && echo "driver unloaded"
insmod /modules/*-xen-netfront.ko; network
ping -c 1 10.0.2.2 > /dev/null && echo "pinged after loading"
"#;

#[test]
fn a_stock_linux_takes_its_drivers_out_and_in_again() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let scratch = program::scratch();
    let (seed, disk) = (seed(), scratch.join("disk.img"));
    let before = data(seed, 16 * MIB);
    let mut after = before.clone();
    after.copy_within(0..4 * MIB, 8 * MIB);
    fs::write(&disk, &before).unwrap();
    let file = data(seed + 1, 24 * MIB + 17);
    let (web, drain) = (web_server(file.clone()), drain());

    let dom0 = stock.dom0_with_script(SCRIPT).network(&[]).with(|machine| machine.disk(disk));
    let mut dom0 = start(dom0, "disk=disk0 vif");
    let before_it = Ledger::of(&mut dom0);
    let words = format!("web={} drain={}", web.port, drain.port);
    dom0.run_within(&stock.create("linux", "disk=disk0 vif", &words), LIMIT);
    let said = last_words(&mut dom0, "linux");
    let hashes = [
        format!("disk {}", sha256(&before)),
        format!("changed disk {}", sha256(&after)),
        format!("fetched {}", sha256(&file)),
    ];
    expect_lines(&said, hashes);
    expect_lines(
        &said,
        [
            "disk driver unloaded",
            "disk driver loaded",
            "pinged",
            "pinged after binding",
            "driver unloaded",
            "pinged after loading",
            "all done",
        ],
    );
    assert!(!said.contains("complained"), "{said}");
    assert!(drain.finish() == file, "what arrived here is not what was sent; seed {seed}");
    assert!(fs::read(scratch.join("disk.img")).unwrap() == after, "seed {seed}");
    before_it.expect_same(&mut dom0, "drivers that came and went");
}
