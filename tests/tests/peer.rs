//! Our guest on a hypervisor and back ends that nobody here wrote: its front ends speak Xen, and not a dialect of Weir's.
//!
//! The very file that is a guest on Weir boots on Debian's Xen 4.17 with the back ends of Linux, and does there what it
//! does here. Where the package manager cannot give Xen, the test says so and passes, except on a build server (`CI` set).

use std::fs;
use std::time::Duration;

use tests::pattern::{data, seed, sha256};
use tests::program;
use tests::service::{drain, echo, free_port, source, web_server};
use xtask::build::path_in;
use xtask::disk;
use xtask::peer::{self, Clock, Console, Files};

/// How long the whole machine may run: it counts instructions, which is slow, and shares the processors.
const LIMIT: Duration = Duration::from_secs(600);
/// How long one command may take.
const SOON: Duration = Duration::from_secs(240);
const MIB: usize = 1 << 20;
/// The guest's address, and this computer as it sees it.
const ADDRESS: &str = "10.0.2.50";
const HERE: &str = "10.0.2.2";

/// Xen and its domain 0; nothing, with a message, if they could not be had.
fn xen() -> Option<Files> {
    let directory = path_in(peer::VARIABLE);
    match directory {
        Ok(directory) => Files::find(&directory),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "no Xen on a build server: {error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// A guest's configuration, as `xl` reads it, with commands for the guest to run at once.
fn configuration(commands: &str) -> String {
    format!(
        "name = \"guest\"\nkernel = \"/guest\"\nmemory = 32\non_crash = \"destroy\"\n\
         extra = 'ip={ADDRESS}/24,{HERE} run=\"{commands}\"'\n\
         disk = [ 'phy:/dev/vda,xvda,w' ]\nvif = [ 'bridge=xenbr0' ]\n"
    )
}

/// A console on which the guest has printed `text`, by polling its log. The log is that of all guests of this name.
fn hear(xen: &mut Console, text: &str) -> String {
    let wait = format!("until grep -q '{text}' /var/log/xen/*; do sleep 1; done");
    xen.succeed(&wait, SOON).unwrap_or_else(|error| panic!("{text}: {error:#}"));
    heard(xen)
}

fn heard(xen: &mut Console) -> String {
    xen.succeed("cat /var/log/xen/guest-guest.log", SOON).unwrap_or_else(|error| panic!("{error:#}"))
}

fn succeed(xen: &mut Console, command: &str) -> String {
    xen.succeed(command, SOON).unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn our_guest_uses_disk_and_network_of_linux_on_xen() {
    let Some(files) = xen() else { return };
    let scratch = program::scratch();
    let path = scratch.join("disk.img");
    disk::create(&path, 64).unwrap();
    let (seed, offset, length) = (seed(), 3 * MIB + 512, 8 * MIB + 4608);
    let written = data(seed, length);
    let file = data(seed + 1, 3 * MIB + 17);
    let bulk = data(seed + 2, 8 * MIB);
    let (web, drain, source) = (web_server(file.clone()), drain(), source(bulk.clone()));
    let first = configuration(&format!(
        "disk-write {seed} {offset} {length}; disk-hash {offset} {length}; \
         http-get http://{HERE}:{web}/file; tcp-send {HERE} {drain} 8M {bulk}; \
         tcp-receive {HERE} {source} 8M {bulk}; info",
        web = web.port,
        drain = drain.port,
        source = source.port,
        bulk = seed + 2,
    ));
    let second = configuration(&format!("disk-hash {offset} {length}; shutdown"));

    let guest = program::content("WEIR_GUEST");
    let kernel: (&str, &[u8]) = ("guest", &guest);
    let contents = [kernel, ("first.cfg", first.as_bytes()), ("second.cfg", second.as_bytes())];
    let port = free_port();
    let network = format!("user,hostfwd=tcp:127.0.0.1:{port}-{ADDRESS}:7");
    let machine = files.machine(&contents, Clock::Patient, &scratch).unwrap();
    let mut xen = Console::start(&machine.disk(&path).network(network).time_limit(LIMIT)).unwrap();

    succeed(&mut xen, "xl create /first.cfg");
    let said = hear(&mut xen, "@run-begin info");
    let disk_sum = format!("sha256 {}", sha256(&written));
    for expected in [
        disk_sum.clone(),
        format!("{} bytes, sha256 {}", file.len(), sha256(&file)),
        format!("sent {} bytes, sha256 {}", bulk.len(), sha256(&bulk)),
        format!("received {} bytes, sha256 {}", bulk.len(), sha256(&bulk)),
    ] {
        assert!(said.contains(&expected), "no {expected:?}; seed {seed}\n{said}");
    }
    assert_eq!(said.matches(&disk_sum).count(), 2, "written and read; seed {seed}\n{said}");
    assert_eq!(web.finish(), "GET /file HTTP/1.0");
    assert!(drain.finish() == bulk, "what arrived here is not what was sent; seed {seed}");
    source.finish();
    for length in [1, 1460, 1461, 100_000] {
        echo(port, &data(seed, length), SOON).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
    }

    succeed(&mut xen, "xl destroy guest");
    succeed(&mut xen, "rm /var/log/xen/guest-guest.log");
    succeed(&mut xen, "xl create /second.cfg");
    succeed(&mut xen, "while xl domid guest > /dev/null 2>&1; do sleep 1; done");
    let said = heard(&mut xen);
    assert!(said.contains(&disk_sum), "it does not survive a new start; seed {seed}\n{said}");
    xen.end().unwrap();
    let disk = fs::read(&path).unwrap();
    assert!(disk[offset..offset + length] == written, "seed {seed}");
}
