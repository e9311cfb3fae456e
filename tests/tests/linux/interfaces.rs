//! The forms of the interface that a stock kernel chooses by itself, or when it is told to.

use super::*;

/// Says which forms the kernel uses, and uses them.
const SCRIPT: &str = r#"
for module in /modules/*; do insmod $module; done
dmesg | grep -o 'Using FIFO-based ABI'
dmesg | grep -o 'Grant tables using version . layout'
wait_for test -b /dev/xvda
echo "disk $(sum < /dev/xvda)"
"#;

/// Boots with `words` on the command line, and expects grants of that version.
fn grants_of_version(version: u32, words: &str) {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let scratch = program::scratch();
    let (seed, disk) = (seed(), scratch.join("disk.img"));
    let content = data(seed, 16 * MIB);
    fs::write(&disk, &content).unwrap();
    let mut dom0 = stock.dom0_with_script(SCRIPT).with(|machine| machine.disk(disk)).start();
    dom0.run_within(&stock.create("linux", "disk=disk0", words), LIMIT);
    let said = last_words(&mut dom0, "linux");
    let layout = format!("Grant tables using version {version} layout");
    let hash = format!("disk {}", sha256(&content));
    expect_lines(&said, ["Using FIFO-based ABI", &layout, &hash, "all done"]);
}

#[test]
fn a_stock_linux_has_its_events_in_queues() {
    grants_of_version(1, "");
}

#[test]
fn a_stock_linux_uses_grants_of_version_two_when_told_to() {
    grants_of_version(2, "grant_table.version=2");
}
