//! Stock kernels and the work that they leave to others, by both versions of IP: large packets go uncut from guest to guest,
//! without checksums; on their way out domain 0 fills those in.

use std::io::Read;
use std::net::{Ipv6Addr, TcpListener};
use std::thread;

use super::*;

const BYTES: usize = 4 * MIB;
/// What so much data takes in packets when it is cut is more than three times as many.
const UNCUT: u64 = (BYTES / 1460 / 3) as u64;
/// The first guest's addresses, and the one by which QEMU's network leads to this computer's IPv6.
const FIRST: [&str; 2] = ["10.0.2.71", "fec0::71"];
const HERE: &str = "fec0::2";
const SCRIPT: &str = r#"
for module in /modules/*; do insmod $module; done
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
link
ip address add 10.0.2.7$number/24 dev eth0; ip -6 address add fec0::7$number/64 dev eth0
mkfifo /tmp/open # What nc reads from: at an end it would say that it has nothing to send, and the other one would leave.
count() { cat /sys/class/net/eth0/statistics/$1_packets; }
take() { start=$(count rx); took=$(nc -l -p 9000 <> /tmp/open | sum); echo "took $took in $(($(count rx) - start))"; }
give() { start=$(count tx); wait_for nc $1 $2 < /tmp/data; echo "gave in $(($(count tx) - start))"; }
fill() { head -c $1 /dev/urandom > /tmp/data; echo "filled $(sum < /tmp/data)"; }
"#;

/// What follows a word in what a guest said.
fn said_after<'a>(said: &'a str, word: &str) -> &'a str {
    said.rsplit_once(word).map(|(_, rest)| rest.lines().next().unwrap_or_default().trim()).expect(said)
}

/// Has the second guest send its data somewhere, and says in how many packets it did.
fn give(dom0: &mut Prompt, to: &str, port: u16) -> u64 {
    let said = tell(dom0, "b", &format!("give {to} {port}"));
    said_after(&said, "gave in ").parse().expect("a number")
}

/// What comes to this computer by IPv6 on a port; nothing if it has no such loopback.
fn drain_v6() -> Option<(u16, thread::JoinHandle<Vec<u8>>)> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()?;
    let port = listener.local_addr().ok()?.port();
    let drain = move || {
        let (mut stream, _) = listener.accept().expect("the guest connects");
        stream.set_read_timeout(Some(LIMIT)).expect("a socket takes a time limit");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the guest sends to the end");
        received
    };
    Some((port, thread::spawn(drain)))
}

#[test]
fn large_packets_go_uncut_between_guests_by_both_versions_of_ip() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let dom0 = stock.dom0_with_script(&(SCRIPT.to_owned() + LISTEN));
    let mut dom0 = dom0.network(&[]).with(|machine| machine.memory_mib(1024).time_limit(LIMIT * 5)).start();
    for (number, name) in (1..).zip(["a", "b"]) {
        dom0.run_within(&stock.create(name, "memory=192 vif", &format!("number={number}")), LIMIT);
        dom0.hear_within(name, "ready", LIMIT);
    }
    let said = tell(&mut dom0, "b", &format!("fill {BYTES}"));
    let sum = said_after(&said, "filled ").to_owned();

    for address in FIRST {
        tell(&mut dom0, "a", "take > /tmp/taken & true");
        let given = give(&mut dom0, address, 9000);
        let said = tell(&mut dom0, "a", "wait; cat /tmp/taken");
        let (took, packets) = said_after(&said, "took ").split_once(" in ").expect("a number of packets");
        assert_eq!(took, sum, "to {address}");
        let taken: u64 = packets.parse().expect("a number");
        assert!(given < UNCUT && taken < UNCUT, "to {address}: {given} packets became {taken}");
    }

    let Some((port, received)) = drain_v6() else {
        eprintln!("skipped: this computer has no IPv6");
        return;
    };
    give(&mut dom0, HERE, port);
    assert_eq!(sha256(&received.join().expect("all arrived")), sum);
}
