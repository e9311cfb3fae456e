//! Remote administration: whoever has a key gets domain 0's prompt, anybody else gets nothing.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::call::{status, text};
use tests::remote::{RemoteDom0, output};
use tests::{Dom0, Ledger};

/// Key that leaves a guest's console.
const LEAVE: &[u8] = b"\x1d";
const SOON: Duration = Duration::from_secs(60);

#[test]
fn commands_answer_with_their_output_and_their_status() {
    let dom0 = RemoteDom0::start(Dom0::new());
    assert!(dom0.succeed("list").contains("Domain-0"));
    assert_eq!(dom0.succeed("list --json").lines().count(), 1);
    let failed = dom0.ssh("destroy web");
    assert_eq!((status(&failed), text(&failed.stdout).as_str()), (1, "error: there is no guest \"web\"\n"));
    assert_eq!(status(&dom0.ssh("nonsense")), 2);
    assert_eq!(dom0.succeed("create a memory=16"), "domain 1 is a\n");
    assert_eq!(status(&dom0.ssh("guest-run a \"disk-hash 0 1M\"")), 1, "the guest has no disk");
    assert!(dom0.succeed("dmesg").starts_with("(weir) [   0.000000] Weir "));
    assert_eq!(dom0.succeed("top -b -i 2 -d 1 --json").lines().count(), 1);
}

#[test]
fn lines_on_standard_input_are_commands() {
    let dom0 = RemoteDom0::start(Dom0::new());
    let mut client = dom0.client();
    client.arg("-T").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"domid Domain-0\n\ndestroy nobody\ndomid Domain-0").unwrap();
    drop(input);
    let output = client.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "0\nerror: there is no guest \"nobody\"\n0\n");
    assert_eq!(status(&output), 0, "the last command's");
    // What takes many packets and more than one window arrives whole.
    let help = dom0.succeed("help");
    let mut client = dom0.client();
    client.arg("-T").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(&b"help\n".repeat(50)).unwrap();
    drop(input);
    let output = client.wait_with_output().unwrap();
    assert!(output.stdout == help.repeat(50).as_bytes(), "{} of {}", output.stdout.len(), 50 * help.len());
    let mut client = dom0.client();
    client.arg("-T").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    // Domain 0 may end the session before all of it is written.
    let _ = input.write_all(&[0xff; 100_000]);
    drop(input);
    let output = client.wait_with_output().unwrap();
    assert_eq!(
        (status(&output), text(&output.stdout).as_str()),
        (2, "error: a line has more than 4096 bytes\n")
    );
}

#[test]
fn the_prompt_edits_lines_and_is_left_by_exit() {
    let dom0 = RemoteDom0::start(Dom0::new());
    let mut session = dom0.talk(&[]);
    session.wait_for("dom0> ", SOON).unwrap();
    session.send(b"lisx\x7ft\r").unwrap();
    session.wait_for("Domain-0", SOON).unwrap();
    session.wait_for("dom0> ", SOON).unwrap();
    session.send(b"destroy nobody\r").unwrap();
    session.wait_for("error: there is no guest \"nobody\"\r\n", SOON).unwrap();
    session.send(b"exit\r").unwrap();
    assert_eq!(session.wait().unwrap(), xtask::machine::Exit::Failure(1), "the last command's status");
    let mut session = dom0.talk(&[]);
    session.wait_for("dom0> ", SOON).unwrap();
    session.send(b"\x04").unwrap();
    assert_eq!(session.wait().unwrap(), xtask::machine::Exit::PowerOff);
}

#[test]
fn a_guests_console_is_there_in_two_sessions_at_once() {
    let dom0 = RemoteDom0::start(Dom0::new());
    dom0.succeed("create a memory=16");
    let mut sessions = [dom0.talk(&["console", "a"]), dom0.talk(&["console", "a"])];
    for session in &mut sessions {
        session.wait_for("Ctrl-] leaves it.", SOON).unwrap();
    }
    sessions[0].send(b"info\r").unwrap();
    for session in &mut sessions {
        session.wait_for("hypervisor interface 4.17", SOON).unwrap();
    }
    assert!(dom0.succeed("list").contains("\na "), "and commands run meanwhile");
    sessions[1].send(LEAVE).unwrap();
    assert_eq!(sessions[1].wait().unwrap(), xtask::machine::Exit::PowerOff);
    sessions[0].send(b"shutdown\r").unwrap();
    sessions[0].wait_for("a is gone.", SOON).unwrap();
    assert_eq!(sessions[0].wait().unwrap(), xtask::machine::Exit::PowerOff);
}

#[test]
fn a_stranger_gets_nothing() {
    let dom0 = RemoteDom0::start(Dom0::new());
    let key = dom0.keys().join("other");
    let mut keygen = Command::new("ssh-keygen");
    assert!(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap().success());
    let refused = |client: &mut Command| {
        let output = output(client.stdin(Stdio::null()));
        assert_eq!(status(&output), 255, "{output:?}");
        assert_eq!(text(&output.stdout), "");
        text(&output.stderr)
    };
    let wrong = refused(dom0.client_with_key(&key).arg("list"));
    assert!(wrong.contains("Permission denied (publickey)"), "{wrong}");
    let none = refused(dom0.client().args(["-o", "PubkeyAuthentication=no", "list"]));
    assert!(none.contains("Permission denied (publickey)"), "{none}");
    let client = dom0.client();
    let mut other = Command::new(client.get_program());
    other.args(
        client
            .get_args()
            .map(|word| if word == "admin@127.0.0.1" { "root@127.0.0.1".as_ref() } else { word }),
    );
    let other_user = refused(other.arg("list"));
    assert!(other_user.contains("Permission denied (publickey)"), "{other_user}");
    // Nor does a client talk to a host that is not the one it knows.
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let known = dom0.keys().join("known");
    std::fs::write(&known, format!("weir {public}")).unwrap();
    let option = format!("UserKnownHostsFile={}", known.display());
    let client = dom0.client();
    let mut careful = Command::new(client.get_program());
    let is_known = |word: &&std::ffi::OsStr| word.to_string_lossy().starts_with("UserKnownHostsFile=");
    careful.args(client.get_args().map(|word| if is_known(&word) { option.as_ref() } else { word }));
    assert!(refused(careful.arg("list")).contains("Host key verification failed"));
    assert!(dom0.succeed("list").contains("Domain-0"), "and who has the key still gets in");
}

#[test]
fn garbage_and_half_open_connections_cost_nothing_but_themselves() {
    let mut dom0 = RemoteDom0::start(Dom0::new());
    dom0.succeed("create a memory=16");
    dom0.succeed("destroy a");
    let before = Ledger::of(&mut dom0.prompt);
    let mut noise = 0x9e37_79b9_u32;
    let mut garbage = || {
        let bytes = (0..4096).map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        });
        bytes.collect::<Vec<u8>>()
    };
    // What begins well and goes on badly, what is too long, what is nothing at all.
    let beginnings: [&[u8]; 5] = [
        b"SSH-2.0-x\r\n",
        b"SSH-2.0-x\r\n\xff\xff\xff\xff",
        b"SSH-2.0-x\r\n\x00\x00\x01\x2c\x0a\x14",
        b"GET / HTTP/1.0\r\n\r\n",
        b"",
    ];
    for beginning in beginnings.iter().cycle().take(15) {
        let mut connection = dom0.connection();
        // Domain 0 may hang up in the middle of it.
        let _ = connection.write_all(beginning).and_then(|()| connection.write_all(&garbage()));
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        assert!(answer.len() < 4096, "it says little to a stranger");
    }
    // Some say nothing and stay, one leaves in the middle of a command.
    let silent: Vec<_> = (0..4).map(|_| dom0.connection()).collect();
    let mut leaving = dom0.talk(&["console", "nobody"]);
    leaving.kill();
    let mut leaving = dom0.talk(&["sleep", "1"]);
    leaving.kill();
    assert!(dom0.succeed("list").contains("Domain-0"));
    drop(silent);
    before.expect_same(&mut dom0.prompt, "strangers");
}

#[test]
fn who_shows_no_key_in_time_is_sent_away() {
    let dom0 = RemoteDom0::start(Dom0::new());
    // All places are taken, and after half a minute they are free again.
    let mut silent: Vec<_> = (0..8).map(|_| dom0.connection()).collect();
    for connection in &mut silent {
        let mut greeting = Vec::new();
        connection.read_to_end(&mut greeting).unwrap();
        assert!(greeting.starts_with(b"SSH-2.0-"), "{greeting:?}");
    }
    assert!(dom0.succeed("list").contains("Domain-0"));
}

#[test]
fn without_random_numbers_there_is_no_remote_administration() {
    let machine = Dom0::new()
        .file("ssh/host_key", "x")
        .file("ssh/authorized_keys", "x")
        .own_words("noguest ssh=nic0")
        .network(&[])
        .with(|machine| machine.cpu("max,-rdrand"));
    let console = machine.start().console();
    assert!(
        console.contains("error: no remote administration: the processor has no source of random"),
        "{console}"
    );
    for (files, reason) in [
        (&[][..], "ssh/host_key: "),
        (&[("ssh/host_key", "x"), ("ssh/authorized_keys", "x")], "ssh/host_key: no Ed25519 key"),
    ] {
        let machine = Dom0::new().own_words("noguest ssh=nic0").network(&[]);
        let machine = files.iter().fold(machine, |machine, (name, content)| machine.file(name, *content));
        let console = machine.start().console();
        assert!(console.contains(&format!("error: no remote administration: {reason}")), "{console}");
    }
}
