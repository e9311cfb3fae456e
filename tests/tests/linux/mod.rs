//! Stock Linux kernels, as their distribution ships them, are guests like any other: disk, network, and a clean end.
//!
//! Where the package manager cannot give them, these tests say so and pass, except on a build server (`CI` set).

use std::fs;
use std::time::Duration;

use tests::pattern::{data, seed, sha256};
use tests::service::{drain, web_server};
use tests::stock::{Stock, expect_clean};
use tests::{Dom0, Ledger, Prompt, program};
use xtask::linux::Kernel;

mod drivers;
mod hot_plug;
mod interfaces;
mod large_packets;
mod many;
mod matrix;
mod memory;
mod stress;
mod vcpus;
mod vlan;

const MIB: usize = 1 << 20;
/// How long a kernel may take to be unpacked and started.
const LIMIT: Duration = Duration::from_secs(60);

/// Domain 0, which has had a guest: what it keeps for later ones is in the books.
fn start(dom0: Dom0, settings: &str) -> Prompt {
    let mut dom0 = dom0.start();
    dom0.succeed(&format!("create first {settings}"));
    dom0.succeed("guest-run first info");
    dom0.succeed("destroy first");
    dom0
}

/// What the guest said, when it is gone.
fn last_words(dom0: &mut Prompt, guest: &str) -> String {
    dom0.wait_until_gone(guest);
    dom0.succeed(&format!("console {guest} --tail 500"))
}

/// The end of a script that does what is typed at the guest's console.
const LISTEN: &str = r#"
echo "ready"
while read line; do eval "$line"; done
"#;

/// Has a guest do something, of which it says that it has an end; what it said meanwhile.
#[track_caller]
fn tell(dom0: &mut Prompt, guest: &str, command: &str) -> String {
    // Another one each time, so that it is not taken for one of before.
    let mark = format!("{:x}", seed());
    let (first, rest) = mark.split_at(1);
    // What is typed is echoed, so it must not contain what is waited for.
    dom0.succeed(&format!("send {guest} '{command}; echo \"end of \"\"{first}\"{rest}'"));
    dom0.hear_within(guest, &format!("end of {mark}"), LIMIT * 2);
    let said = dom0.succeed(&format!("console {guest} --tail 40"));
    let said = said.rsplit_once(&format!("end of {mark}")).map_or("", |(said, _)| said);
    said.rsplit_once(&format!("{rest}\n")).map_or(said, |(_, said)| said).to_owned()
}

/// Makes sure that these lines are among what was said.
#[track_caller]
fn expect_lines<T: AsRef<str>>(said: &str, lines: impl IntoIterator<Item = T>) {
    for expected in lines {
        let expected = expected.as_ref();
        assert!(said.lines().any(|line| line.trim_end() == expected), "no {expected:?} in\n{said}");
    }
}

/// What the tests of each kernel do: starts anew once, reads and writes its disk, fetches something.
const TOUR: &str = r#"
lease
if ! [ -e /again ]; then
    touch /again; sync; mount -o remount,ro /
    reboot -f
fi
echo "file $(sum < /file)"
cp /file /copy; sync; echo 3 > /proc/sys/vm/drop_caches
echo "copy $(sum < /copy)"
echo "fetched $(wget -q -O - http://10.0.2.2:$web/file | sum)"
"#;

/// Boots the kernel from a disk of its own, and makes sure of all that is expected of any.
fn tour(kernel: Kernel) {
    let Some(stock) = Stock::find(kernel) else { return };
    let scratch = program::scratch();
    let (seed, disk) = (seed(), scratch.join("disk.img"));
    let (file, page) = (data(seed, 8 * MIB + 5), data(seed + 1, 8 * MIB + 17));
    stock.root_disk(&disk, TOUR, &[("file", &file)]);
    let web = web_server(page.clone());

    let machine_disk = disk.clone();
    let dom0 = stock.dom0().network(&[]).with(|machine| machine.disk(machine_disk));
    let mut dom0 = start(dom0, "disk=disk0 vif");
    let before = Ledger::of(&mut dom0);
    dom0.run_within(&stock.create("linux", "disk=disk0 vif", &format!("web={}", web.port)), LIMIT);
    dom0.wait_for(" is linux: 192 MiB");
    let said = last_words(&mut dom0, "linux");
    let hash = sha256(&file);
    let lines = [format!("file {hash}"), format!("copy {hash}"), format!("fetched {}", sha256(&page))];
    expect_lines(&said, lines);
    expect_lines(&said, ["all done"]);
    assert!(!said.contains("complained"), "{said}");
    before.expect_same(&mut dom0, "a stock kernel's life");
    drop(dom0);
    expect_clean(&disk);
}

#[test]
fn a_6_1_kernel_lives_from_its_disk() {
    tour(Kernel::Standard61);
}

#[test]
fn a_6_1_cloud_kernel_lives_from_its_disk() {
    tour(Kernel::Cloud61);
}

#[test]
fn a_6_12_kernel_lives_from_its_disk() {
    tour(Kernel::Standard612);
}

#[test]
fn a_6_12_cloud_kernel_lives_from_its_disk() {
    tour(Kernel::Cloud612);
}

#[test]
fn a_stock_linux_ends_and_starts_anew_when_asked() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let mut dom0 = stock.dom0_with_script("").start();
    dom0.run_within(&stock.create("linux", "", "stay=1"), LIMIT);
    dom0.hear("linux", "all done");
    dom0.succeed("reboot linux");
    dom0.wait_for(" is linux: 192 MiB");
    dom0.hear("linux", "all done");
    dom0.succeed("shutdown linux");
    assert!(last_words(&mut dom0, "linux").contains("reboot: System halted"));
}
