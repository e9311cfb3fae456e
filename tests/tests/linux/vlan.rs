//! Stock kernels that share one network card, kept apart by virtual networks.

use tests::wire::{Frame, Wire};

use super::*;

/// Memory of a machine with four guests.
const MEMORY_MIB: u32 = 1280;
/// Brings the network up with the guest's own address.
const SCRIPT: &str = r#"
for module in /modules/*; do insmod $module; done
link; ip address add 10.9.0.$number/24 dev eth0
received() { echo "received $(cat /sys/class/net/eth0/statistics/rx_packets)"; }
"#;
/// A station out on the cable.
const FAR: [u8; 6] = [2, 0, 0, 0, 9, 9];
const FAR_IP: [u8; 4] = [10, 9, 0, 99];
/// Frames that come in on the cable in a row, and how many packets a guest may receive meanwhile from its neighbours.
const ROW: u64 = 200;
const NOISE: u64 = 20;
/// How long an answer may take, and how long it is waited for one that must not come.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const NO_ANSWER: Duration = Duration::from_secs(2);

/// The guests: two in one network, one in another, one in that without tags.
const GUESTS: [(&str, Option<u16>); 4] = [("a", Some(10)), ("b", Some(10)), ("c", Some(20)), ("d", None)];

fn mac(index: usize) -> [u8; 6] {
    [0, 0x16, 0x3e, 0, 0, index as u8 + 1]
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn ip(index: usize) -> [u8; 4] {
    [10, 9, 0, index as u8 + 1]
}

/// Packets that a guest has received, as it counts them itself.
fn received(dom0: &mut Prompt, guest: &str) -> u64 {
    let said = tell(dom0, guest, "received");
    let number = said.lines().filter_map(|line| line.trim().strip_prefix("received ")).next_back();
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

/// The number in a column of what `network-list --json` says of a guest's interface.
fn counted(dom0: &mut Prompt, guest: &str, key: &str) -> u64 {
    let printed = dom0.succeed("network-list --json");
    let answer: serde_json::Value = serde_json::from_str(printed.trim()).expect("JSON");
    let all = answer["result"].as_array().expect("a list");
    let one = all.iter().find(|one| one["guest"] == guest).unwrap_or_else(|| panic!("{printed}"));
    one[key].as_u64().unwrap_or_else(|| panic!("no {key} in {one}"))
}

#[track_caller]
fn expect_ping(dom0: &mut Prompt, from: &str, to: usize, arrives: bool) {
    let [a, b, c, d] = ip(to);
    let said = tell(dom0, from, &format!("ping -c 2 -W 2 {a}.{b}.{c}.{d}"));
    let expected = if arrives { "2 packets received" } else { " 0 packets received" };
    assert!(said.contains(expected), "{from} to {to}: {said}");
}

#[test]
fn guests_of_different_networks_share_a_card_and_see_nothing_of_each_other() {
    let Some(stock) = Stock::find(Kernel::Cloud61) else { return };
    let scratch = program::scratch();
    let wire = Wire::new(scratch.path());
    let backend = wire.backend();
    let dom0 = stock.dom0_with_script(&(SCRIPT.to_owned() + LISTEN));
    let dom0 = dom0.with(|machine| machine.memory_mib(MEMORY_MIB).time_limit(LIMIT * 4).network(backend));
    let mut dom0 = start(dom0, "vif cmdline=ip=10.9.0.50/24,10.9.0.98");
    let before = Ledger::of(&mut dom0);
    for (index, (name, vlan)) in GUESTS.iter().enumerate() {
        let vlan = vlan.map_or(String::new(), |vlan| format!(",vlan={vlan}"));
        // The last one may send from any address.
        let free = if index == 3 { ",antispoof=0" } else { "" };
        let settings = format!("memory=128 vif=mac={}{vlan}{free}", text(mac(index)));
        dom0.run_within(&stock.create(name, &settings, &format!("number={}", index + 1)), LIMIT);
        dom0.hear_within(name, "ready", LIMIT);
    }

    // Within a network they reach each other, from one to another they do not, though they know the address.
    expect_ping(&mut dom0, "b", 0, true);
    expect_ping(&mut dom0, "a", 1, true);
    for (from, to) in [("c", 0), ("d", 0), ("a", 2), ("c", 3)] {
        expect_ping(&mut dom0, from, to, false);
    }

    // Each one's frames had its tag on the cable, or none.
    let frames = wire.frames();
    for (index, (name, vlan)) in GUESTS.iter().enumerate() {
        let own: Vec<_> = frames.iter().filter(|frame| frame.source() == mac(index)).collect();
        assert!(own.iter().any(|frame| frame.destination() == [0xff; 6]), "{name} asked everybody");
        assert!(own.iter().all(|frame| frame.vlan() == *vlan), "{name}: {own:?}");
    }

    // What comes in on the cable for everybody reaches those of its network: as the guests count.
    for (vlan, receivers) in
        [(Some(10), &["a", "b"][..]), (Some(20), &["c"]), (None, &["d"]), (Some(30), &[])]
    {
        let counts = GUESTS.map(|(name, _)| received(&mut dom0, name));
        for _ in 0..ROW {
            wire.send(&Frame::question(vlan, FAR, FAR_IP, [10, 9, 0, 98]));
        }
        dom0.succeed("sleep 1");
        for ((name, _), before) in GUESTS.iter().zip(counts) {
            let fresh = received(&mut dom0, name) - before;
            let expected = if receivers.contains(name) { ROW..ROW + NOISE } else { 0..NOISE };
            assert!(expected.contains(&fresh), "{name} received {fresh}, network {vlan:?}");
        }
    }

    // A station out there reaches a guest in its network only, and the answer has the tag.
    for (index, (name, vlan)) in GUESTS.iter().enumerate() {
        for asked in [Some(10), Some(20), None] {
            wire.frames();
            wire.send(&Frame::question(asked, FAR, FAR_IP, ip(index)));
            let limit = if asked == *vlan { ANSWER_LIMIT } else { NO_ANSWER };
            let answer = wire.wait_for(limit, |frame| frame.is_answer() && frame.destination() == FAR);
            match answer {
                Some(answer) => {
                    assert_eq!((answer.source(), answer.vlan(), asked), (mac(index), *vlan, *vlan))
                }
                None => assert_ne!(asked, *vlan, "{name} does not answer"),
            }
        }
    }

    // From another's address nothing goes out, unless that is allowed.
    for (index, name, goes_out) in [(2, "c", false), (3, "d", true)] {
        wire.frames();
        assert_eq!(counted(&mut dom0, name, "spoofed"), 0);
        let address = text(mac(0));
        tell(
            &mut dom0,
            name,
            &format!("ip link set eth0 down; ip link set eth0 address {address}; ip link set eth0 up"),
        );
        expect_ping(&mut dom0, name, 0, false);
        let vlan = GUESTS[index].1;
        let is_foreign = |frame: &Frame| frame.source() == mac(0) && frame.vlan() == vlan;
        assert_eq!(wire.frames().iter().any(is_foreign), goes_out, "{name}");
        assert_eq!(counted(&mut dom0, name, "spoofed") > 0, !goes_out, "{name}");
    }
    expect_ping(&mut dom0, "b", 0, true);

    for (name, _) in GUESTS {
        dom0.succeed(&format!("destroy {name}"));
    }
    before.expect_same(&mut dom0, "all of it");
}
