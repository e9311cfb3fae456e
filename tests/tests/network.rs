//! Guests on the network: addresses, connections in both directions, and no byte lost in bulk.

use std::time::Duration;

use tests::pattern::{data, seed, sha256};
use tests::service::{drain, echo, free_port, source, web_server};
use tests::{Dom0, Prompt, QemuControl};

/// This computer, as a guest sees it.
const HERE: &str = "10.0.2.2";
/// How long an echo may take.
const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// Domain 0 on the network, and a guest with this address that serves echo; the port by which it is reached.
fn with_guest(address: &str) -> (Prompt, u16) {
    let port = free_port();
    let mut dom0 = Dom0::new().network(&[(port, address, 7)]).start();
    create(&mut dom0, "a", address);
    (dom0, port)
}

/// Makes a guest with an address, and waits until its services are up.
fn create(dom0: &mut Prompt, name: &str, address: &str) {
    dom0.succeed(&format!("create {name} vif cmdline=ip={address}/24,{HERE}"));
    let info = dom0.succeed(&format!("guest-run {name} info"));
    assert!(info.contains(&format!(", {address}/24")), "{info}");
}

#[test]
fn a_guest_gets_its_address_by_dhcp() {
    let mut dom0 = Dom0::new().network(&[]).start();
    dom0.succeed("create a vif");
    let info = dom0.succeed("guest-run a info");
    assert!(info.contains(", 10.0.2.15/24"), "{info}");
}

#[test]
fn a_guest_is_reached_from_outside_and_echoes() {
    let (_dom0, port) = with_guest("10.0.2.50");
    for length in [1, 1000, 1460, 1461, 100_000] {
        let sent = data(seed(), length);
        echo(port, &sent, SOON).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
    }
}

#[test]
fn a_guest_fetches_a_file_by_http() {
    let (mut dom0, _) = with_guest("10.0.2.50");
    let file = data(seed(), 3 * MIB + 17);
    let expected = format!("{} bytes, sha256 {}\n", file.len(), sha256(&file));
    let server = web_server(file);
    let printed = dom0.succeed(&format!("guest-run a http-get http://{HERE}:{}/file", server.port));
    assert_eq!(printed, expected);
    assert_eq!(server.finish(), "GET /file HTTP/1.0");
}

#[test]
fn nobody_at_the_other_end_is_an_error_and_not_a_wait_for_ever() {
    let (mut dom0, port) = with_guest("10.0.2.50");
    let printed = dom0.run(&format!("guest-run a http-get http://{HERE}:{}/", free_port()));
    assert!(printed.starts_with("error: "), "{printed}");
    echo(port, b"still here", SOON).unwrap();
}

#[test]
fn two_guests_talk_to_each_other_and_to_the_outside() {
    let ports = [free_port(), free_port()];
    let mut dom0 = Dom0::new().network(&[(ports[0], "10.0.2.51", 7), (ports[1], "10.0.2.52", 7)]).start();
    create(&mut dom0, "a", "10.0.2.51");
    create(&mut dom0, "b", "10.0.2.52");
    for port in ports {
        echo(port, &data(seed(), 10_000), SOON).unwrap();
    }
    dom0.succeed("send a \"tcp-receive listen 9000 2M 77\"");
    let sent = dom0.succeed("guest-run b tcp-send 10.0.2.51 9000 2M 77");
    let sum = format!("sha256 {}", sha256(&data(77, 2 * MIB)));
    assert!(sent.contains(&sum), "{sent}");
    dom0.succeed("guest-run a info");
    let received = dom0.succeed("console a --tail 60");
    assert!(received.contains(&format!("received {} bytes, {sum}", 2 * MIB)), "{received}");
    dom0.succeed("destroy b");
    echo(ports[0], b"still here", SOON).unwrap();
}

/// Somebody pulls the cable: guests still have each other, nobody waits for what cannot go out, and it all goes on when the
/// cable is back.
#[test]
fn a_link_goes_down_and_comes_back() {
    let (port, control) = (free_port(), QemuControl::new());
    let machine = Dom0::new().network(&[(port, "10.0.2.51", 7)]).with(control.attach());
    let mut dom0 = machine.start();
    create(&mut dom0, "a", "10.0.2.51");
    create(&mut dom0, "b", "10.0.2.52");
    echo(port, &data(seed(), 10_000), SOON).unwrap();
    assert_eq!(card(&mut dom0)["backend_state"], "link");

    set_link(&mut dom0, &control, false, "the switch's network card has no link");
    assert_eq!(card(&mut dom0)["backend_state"], "no link");
    let before = card(&mut dom0)["dropped"].as_u64();
    let printed = dom0.run(&format!("guest-run a http-get http://{HERE}:{}/", free_port()));
    assert!(printed.starts_with("error: "), "{printed}");
    assert!(card(&mut dom0)["dropped"].as_u64() > before, "{}", dom0.run("network-list"));
    dom0.succeed("send a \"tcp-receive listen 9000 100K 77\"");
    let sent = dom0.succeed("guest-run b tcp-send 10.0.2.51 9000 100K 77");
    assert!(sent.contains(&sha256(&data(77, 100 << 10))), "{sent}");

    set_link(&mut dom0, &control, true, "the switch's network card has a link again");
    assert_eq!(card(&mut dom0)["backend_state"], "link");
    echo(port, &data(seed(), 10_000), SOON).unwrap();
    let file = data(seed(), MIB);
    let expected = format!("{} bytes, sha256 {}\n", file.len(), sha256(&file));
    let server = web_server(file);
    assert_eq!(dom0.succeed(&format!("guest-run b http-get http://{HERE}:{}/file", server.port)), expected);
}

/// Pulls the cable or plugs it in, while domain 0 executes a command, so that its log does not come between prompts.
fn set_link(dom0: &mut Prompt, control: &QemuControl, is_up: bool, told: &str) {
    dom0.type_line("sleep 2");
    control.set_link(is_up);
    dom0.wait_for(told);
    dom0.wait_for("dom0> ");
}

/// What domain 0 says of the machine's own network card.
fn card(dom0: &mut Prompt) -> serde_json::Value {
    let answer: serde_json::Value = serde_json::from_str(&dom0.succeed("network-list --json")).unwrap();
    let interfaces = answer["result"].as_array().cloned().unwrap_or_default();
    interfaces.into_iter().find(|interface| interface["guest"] == "Domain-0").expect("it is listed")
}

#[test]
fn a_hundred_megabytes_each_way_arrive_whole() {
    const BYTES: usize = 100_000_000;
    let (mut dom0, _) = with_guest("10.0.2.50");
    let seed = seed();
    let sent = data(seed, BYTES);
    let sum = format!("{BYTES} bytes, sha256 {}", sha256(&sent));

    let drain = drain();
    let command = format!("guest-run -t 120 a tcp-send {HERE} {} {BYTES} {seed}", drain.port);
    let printed = dom0.run_within(&command, Duration::from_secs(120));
    assert!(printed.contains(&format!("sent {sum}")), "{printed}");
    assert!(drain.finish() == sent, "what arrived here is not what was sent; seed {seed}");

    let source = source(sent);
    let command = format!("guest-run -t 120 a tcp-receive {HERE} {} {BYTES} {seed}", source.port);
    let printed = dom0.run_within(&command, Duration::from_secs(120));
    assert!(printed.contains(&format!("received {sum}")), "{printed}");
    source.finish();
}
