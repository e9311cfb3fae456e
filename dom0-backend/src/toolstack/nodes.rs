//! What the store says of a guest: its home, its console, its devices, and who may read and write what.
//!
//! Names, values and permissions are those that `xl` writes, because front ends and back ends of any origin go
//! by them. Everything of a guest's is written in one transaction, so nobody sees half a guest.
//!
//! A node inherits the permissions of the one above it; so only where they change they are set.

use alloc::format;
use alloc::string::{String, ToString};

use hypercall_abi::io::pciif::key;
use hypercall_abi::io::xenbus::XenbusState;
use hypercall_abi::{DomainId, MachineFrame, Port};
use pv_runtime::xenbus::domain_path;

use super::configuration::GuestConfiguration;
use super::disk::{GuestDisk, Target};
use super::handle::Handle;
use super::nic::{GuestNic, SWITCH};
use super::pci::GuestPci;
use crate::net::Vlan;
use crate::store::{Error, Grant, Nodes, Permissions, Rights, Seedling};

/// The domain that runs the back ends.
const BACK_END: DomainId = DomainId::ZERO;
/// Bytes of a guest's console output that are kept, at least.
const CONSOLE_LIMIT: usize = 1 << 20;
/// The largest packet of a network interface, without its link header.
const MTU: u32 = 1500;

/// A guest that has been built, as the store needs to know it.
pub struct Built<'a> {
    /// Its number.
    pub domain: DomainId,
    /// Its handle.
    pub handle: Handle,
    /// What it is to be like.
    pub configuration: &'a GuestConfiguration,
    /// Frame of its store page and the port that goes with it.
    pub store: (MachineFrame, Port),
    /// Frame of its console page and the port that goes with it.
    pub console: (MachineFrame, Port),
    /// When it was made, in seconds since 1970.
    pub start_time: u64,
}

/// For the guest to read.
fn readable(guest: DomainId) -> Permissions {
    Permissions::new(DomainId::ZERO, Rights::empty(), &[Grant { domain: guest, rights: Rights::READ }])
}

/// For one domain to do with as it likes, and another to read.
fn shared(owner: DomainId, reader: DomainId) -> Permissions {
    Permissions::new(owner, Rights::empty(), &[Grant { domain: reader, rights: Rights::READ }])
}

/// A directory that is being written, and planted in the tree when all of it is there.
struct Directory(Seedling);

impl Directory {
    fn new(nodes: &mut Nodes<'_>, path: &str, permissions: &Permissions) -> Result<Self, Error> {
        nodes.seedling(path, permissions).map(Self)
    }

    fn write(&mut self, key: &str, value: impl ToString) -> Result<(), Error> {
        self.0.write(key, value.to_string())
    }

    /// A key that the guest may change.
    fn write_for_guest(&mut self, key: &str, guest: DomainId) -> Result<(), Error> {
        self.0.put(key, "", &Permissions::private(guest))
    }

    fn plant(self, nodes: &mut Nodes<'_>) -> Result<(), Error> {
        nodes.plant(self.0)
    }
}

/// Writes all that there is to say of a guest, before its store is opened to it.
///
/// # Errors
///
/// What the store says; nothing is written then.
pub fn write(nodes: &mut Nodes<'_>, built: &Built<'_>) -> Result<(), Error> {
    write_home(nodes, built)?;
    write_machine(nodes, built)?;
    write_console(nodes, built)?;
    for disk in &built.configuration.disks {
        write_disk(nodes, built.domain, disk)?;
    }
    for nic in &built.configuration.nics {
        write_nic(nodes, built.domain, &built.configuration.name, nic)?;
    }
    write_pci(nodes, built.domain, &built.configuration.pci)
}

/// Where it stands, below a guest's home, whether a virtual CPU is plugged in.
fn availability_key(vcpu: u32) -> String {
    format!("cpu/{vcpu}/availability")
}

fn availability(is_plugged: bool) -> &'static str {
    if is_plugged { "online" } else { "offline" }
}

/// Plugs in the first `count` of a guest's `all` virtual CPUs, and unplugs the others.
///
/// # Errors
///
/// What the store says; nothing is changed then.
pub fn plug_vcpus(nodes: &mut Nodes<'_>, guest: DomainId, count: u32, all: u32) -> Result<(), Error> {
    let home = domain_path(guest);
    (0..all).try_for_each(|number| {
        nodes.write(&format!("{home}/{}", availability_key(number)), availability(number < count))
    })
}

fn write_home(nodes: &mut Nodes<'_>, built: &Built<'_>) -> Result<(), Error> {
    let (guest, kibibytes) = (built.domain, built.configuration.memory * 1024);
    let most = built.configuration.most_memory.unwrap_or(built.configuration.memory) * 1024;
    let mut home = Directory::new(nodes, &domain_path(guest), &readable(guest))?;
    home.write("vm", format!("/vm/{}", built.handle))?;
    home.write("name", &built.configuration.name)?;
    home.write("domid", guest)?;
    for number in 0..built.configuration.all_vcpus() {
        home.write(&availability_key(number), availability(number < built.configuration.vcpus))?;
    }
    home.write("memory/static-max", most)?;
    home.write("memory/target", kibibytes)?;
    home.write("memory/videoram", 0)?;
    home.write("store/ring-ref", built.store.0.0)?;
    home.write("store/port", built.store.1)?;
    home.write("control/platform-feature-multiprocessor-suspend", 0)?;
    home.write("control/platform-feature-xs_reset_watches", 1)?;
    for key in [
        "control/shutdown",
        "control/feature-poweroff",
        "control/feature-reboot",
        "control/feature-suspend",
        "control/sysrq",
        "data",
    ] {
        home.write_for_guest(key, guest)?;
    }
    home.write_for_guest("device/suspend/event-channel", guest)?;
    home.plant(nodes)
}

fn write_machine(nodes: &mut Nodes<'_>, built: &Built<'_>) -> Result<(), Error> {
    let mut machine = Directory::new(nodes, &format!("/vm/{}", built.handle), &readable(built.domain))?;
    machine.write("uuid", built.handle)?;
    machine.write("name", &built.configuration.name)?;
    machine.write("image/ostype", "linux")?;
    machine.write("image/kernel", &built.configuration.kernel)?;
    machine.write("image/cmdline", &built.configuration.command_line)?;
    machine.write("start_time", built.start_time)?;
    machine.plant(nodes)
}

fn write_console(nodes: &mut Nodes<'_>, built: &Built<'_>) -> Result<(), Error> {
    let guest = built.domain;
    let (front, back) = (format!("{}/console", domain_path(guest)), back_end("console", guest, 0));
    let mut console = Directory::new(nodes, &front, &readable(guest))?;
    console.write("backend", &back)?;
    console.write("backend-id", BACK_END)?;
    console.write("type", "xenconsoled")?;
    console.write("output", "pty")?;
    console.write("tty", "")?;
    console.write("limit", CONSOLE_LIMIT)?;
    console.write("ring-ref", built.console.0.0)?;
    console.write("port", built.console.1)?;
    console.plant(nodes)?;
    let mut console = Directory::new(nodes, &back, &shared(BACK_END, guest))?;
    console.write("frontend", front)?;
    console.write("frontend-id", guest)?;
    console.write("online", 1)?;
    console.write("state", XenbusState::Initialising.number())?;
    console.write("protocol", "vt100")?;
    console.plant(nodes)
}

/// Writes both halves of a disk.
///
/// # Errors
///
/// What the store says.
pub fn write_disk(nodes: &mut Nodes<'_>, guest: DomainId, disk: &GuestDisk) -> Result<(), Error> {
    let Some(number) = disk.device_number() else { return Ok(()) };
    let mut back = write_pair(nodes, "vbd", guest, number, |front| {
        front.write("virtual-device", number)?;
        front.write("device-type", "disk")
    })?;
    back.write("params", &disk.target)?;
    back.write("dev", &disk.name)?;
    back.write("type", if matches!(disk.target, Target::File(_)) { "file" } else { "phy" })?;
    back.write("mode", if disk.is_writable { "w" } else { "r" })?;
    back.write("device-type", "disk")?;
    back.write("bootable", 1)?;
    back.write("removable", 0)?;
    back.write("online", 1)?;
    back.write("state", XenbusState::Initialising.number())?;
    back.plant(nodes)
}

/// Writes both halves of an interface of the guest called `name`.
///
/// # Errors
///
/// What the store says.
pub fn write_nic(nodes: &mut Nodes<'_>, guest: DomainId, name: &str, nic: &GuestNic) -> Result<(), Error> {
    let address = nic.address(name);
    let mut back = write_pair(nodes, "vif", guest, nic.number, |front| {
        front.write("handle", nic.number)?;
        front.write("mac", address)?;
        front.write("mtu", MTU)
    })?;
    back.write("handle", nic.number)?;
    back.write("mac", address)?;
    back.write("mtu", MTU)?;
    back.write("bridge", SWITCH)?;
    if nic.vlan != Vlan::UNTAGGED {
        back.write("vlan", nic.vlan.number())?;
    }
    if !nic.is_strict {
        back.write("antispoof", 0)?;
    }
    back.write("type", "vif")?;
    back.write("hotplug-status", "connected")?;
    back.write("online", 1)?;
    back.write("state", XenbusState::Initialising.number())?;
    back.plant(nodes)
}

/// Writes both halves of the one device that stands for all that a guest drives itself, if there are any.
fn write_pci(nodes: &mut Nodes<'_>, guest: DomainId, devices: &[GuestPci]) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let mut back = write_pair(nodes, "pci", guest, 0, |_| Ok(()))?;
    for (number, device) in devices.iter().enumerate() {
        back.write(&format!("{}{number}", key::DEV), format!("0000:{}", device.address))?;
        back.write(&format!("opts-{number}"), format!("permissive={}", u8::from(device.is_permissive)))?;
        back.write(&format!("state-{number}"), XenbusState::Initialising.number())?;
    }
    back.write(key::NUM_DEVS, devices.len())?;
    back.write("online", 1)?;
    back.write("state", XenbusState::Initialising.number())?;
    back.plant(nodes)
}

/// Writes what the two halves of a device say of each other, and the front end as `more` says; gives the back
/// end's directory, to be planted last: it is what a back end waits for.
fn write_pair(
    nodes: &mut Nodes<'_>,
    kind: &str,
    guest: DomainId,
    number: u32,
    more: impl FnOnce(&mut Directory) -> Result<(), Error>,
) -> Result<Directory, Error> {
    let front_path = front_end(kind, guest, number);
    let back_path = back_end(kind, guest, number);
    let mut front = Directory::new(nodes, &front_path, &shared(guest, BACK_END))?;
    front.write("backend", &back_path)?;
    front.write("backend-id", BACK_END)?;
    more(&mut front)?;
    front.write("state", XenbusState::Initialising.number())?;
    front.plant(nodes)?;
    let mut back = Directory::new(nodes, &back_path, &shared(BACK_END, guest))?;
    back.write("frontend", front_path)?;
    back.write("frontend-id", guest)?;
    Ok(back)
}

/// The directory of a device's front end.
pub fn front_end(kind: &str, guest: DomainId, number: u32) -> String {
    format!("{}/device/{kind}/{number}", domain_path(guest))
}

/// The directory of a device's back end.
pub fn back_end(kind: &str, guest: DomainId, number: u32) -> String {
    format!("{}/backend/{kind}/{guest}/{number}", domain_path(BACK_END))
}

/// The directories of a guest's back ends that can be closed, each with the device's kind and number.
pub fn back_ends(nodes: &mut Nodes<'_>, guest: DomainId) -> alloc::vec::Vec<String> {
    let mut found = alloc::vec::Vec::new();
    for kind in ["vbd", "vif", "pci"] {
        let directory = format!("{}/backend/{kind}/{guest}", domain_path(BACK_END));
        let numbers = nodes.list(&directory).unwrap_or_default();
        found.extend(numbers.into_iter().map(|number| format!("{directory}/{number}")));
    }
    found
}

/// Tells the back ends of a guest that it is gone: its front ends are, and they themselves are to close.
pub fn announce_end(nodes: &mut Nodes<'_>, guest: DomainId) {
    remove_path(nodes, &format!("{}/device", domain_path(guest)));
    for directory in back_ends(nodes, guest) {
        ask_to_close(nodes, &directory);
    }
}

/// Asks the back end with this directory to close for good.
pub fn ask_to_close(nodes: &mut Nodes<'_>, directory: &str) {
    let closing = XenbusState::Closing.number().to_string();
    for (key, value) in [("online", "0"), ("state", closing.as_str())] {
        if let Err(error) = nodes.write(&format!("{directory}/{key}"), value) {
            log::warn!("{directory}/{key}: {error}");
        }
    }
}

/// Removes all that is said of a device, and of its guest's having any of its kind if it was the last.
pub fn remove_device(nodes: &mut Nodes<'_>, kind: &str, guest: DomainId, number: u32) {
    for half in [front_end(kind, guest, number), back_end(kind, guest, number)] {
        remove_path(nodes, &half);
        let above = half.rsplit_once('/').map_or("", |(above, _)| above);
        if nodes.list(above).is_ok_and(|left| left.is_empty()) {
            remove_path(nodes, above);
        }
    }
}

/// Removes all that is said of a guest.
pub fn remove(nodes: &mut Nodes<'_>, guest: DomainId, handle: Handle) {
    let mut paths = alloc::vec![domain_path(guest), format!("/vm/{handle}")];
    for kind in ["console", "vbd", "vif", "pci"] {
        paths.push(format!("{}/backend/{kind}/{guest}", domain_path(BACK_END)));
    }
    paths.iter().for_each(|path| remove_path(nodes, path));
}

/// Removes a node and all below it, if it is there.
pub fn remove_path(nodes: &mut Nodes<'_>, path: &str) {
    match nodes.remove(path) {
        Ok(()) | Err(Error::NotFound) => {}
        Err(error) => log::warn!("{path} cannot be removed: {error}"),
    }
}

/// What is said of dom0, which nobody builds.
///
/// # Errors
///
/// What the store says.
pub fn write_dom0(nodes: &mut Nodes<'_>, memory_pages: usize) -> Result<(), Error> {
    let kibibytes = memory_pages * 4;
    let home = domain_path(DomainId::ZERO);
    for (key, value) in [
        ("name", "Domain-0".to_string()),
        ("domid", "0".to_string()),
        ("vm", format!("/vm/{}", Handle::DOM0)),
        ("cpu/0/availability", "online".to_string()),
        ("memory/target", kibibytes.to_string()),
        ("memory/static-max", kibibytes.to_string()),
        ("control/shutdown", String::new()),
    ] {
        nodes.write(&format!("{home}/{key}"), value)?;
    }
    nodes.write(&format!("/vm/{}/name", Handle::DOM0), "Domain-0")?;
    nodes.write(&format!("/vm/{}/uuid", Handle::DOM0), Handle::DOM0.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Limits, Server};
    use alloc::vec::Vec;

    const GUEST: DomainId = DomainId(5);

    fn store_of(words: &[&str]) -> Server {
        let mut server = Server::new(Limits::default());
        let configuration = GuestConfiguration::parse("web", words.iter().copied()).unwrap();
        let built = Built {
            domain: GUEST,
            handle: Handle([7; 16]),
            configuration: &configuration,
            store: (MachineFrame(0x123), Port(1)),
            console: (MachineFrame(0x124), Port(2)),
            start_time: 1_700_000_000,
        };
        server.transaction(|nodes| write(nodes, &built)).unwrap();
        server
    }

    fn value(server: &mut Server, path: &str) -> String {
        let bytes = server.read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn permissions(server: &mut Server, path: &str) -> String {
        format!("{:?}", server.permissions(path).unwrap()).replace('\0', " ")
    }

    #[test]
    fn the_home_says_who_the_guest_is() {
        let mut server = store_of(&["memory=32"]);
        let home = "/local/domain/5";
        for (key, expected) in [
            ("name", "web"),
            ("domid", "5"),
            ("memory/target", "32768"),
            ("store/ring-ref", "291"),
            ("store/port", "1"),
            ("console/ring-ref", "292"),
            ("console/port", "2"),
            ("console/type", "xenconsoled"),
            ("control/shutdown", ""),
            ("vm", "/vm/07070707-0707-0707-0707-070707070707"),
        ] {
            assert_eq!(value(&mut server, &format!("{home}/{key}")), expected, "{key}");
        }
        assert_eq!(value(&mut server, "/vm/07070707-0707-0707-0707-070707070707/name"), "web");
    }

    #[test]
    fn virtual_cpus_that_are_plugged_in_may_come_up() {
        let mut server = store_of(&["vcpus=2", "maxvcpus=3"]);
        let all = |server: &mut Server| {
            [0, 1, 2].map(|number| value(server, &format!("/local/domain/5/cpu/{number}/availability")))
        };
        assert_eq!(all(&mut server), ["online", "online", "offline"]);
        assert!(server.read("/local/domain/5/cpu/3/availability").is_err());
        server.transaction(|nodes| plug_vcpus(nodes, GUEST, 1, 3)).unwrap();
        assert_eq!(all(&mut server), ["online", "offline", "offline"]);
    }

    #[test]
    fn devices_that_a_guest_drives_itself_are_one_device_of_the_store() {
        let mut server = store_of(&["pci=00:04.0,permissive=1", "pci=01:00.1,permissive=1"]);
        let (front, back) = ("/local/domain/5/device/pci/0", "/local/domain/0/backend/pci/5/0");
        assert_eq!(value(&mut server, &format!("{front}/backend")), back);
        for (key, expected) in [
            ("num_devs", "2"),
            ("dev-0", "0000:00:04.0"),
            ("dev-1", "0000:01:00.1"),
            ("opts-1", "permissive=1"),
        ] {
            assert_eq!(value(&mut server, &format!("{back}/{key}")), expected, "{key}");
        }
        let ends = server.nodes(|nodes| back_ends(nodes, GUEST));
        assert_eq!(ends, [back], "it is waited for when the guest ends");
        assert!(store_of(&[]).read(front).is_err());
    }

    #[test]
    fn a_disk_has_two_halves_that_name_each_other() {
        let mut server = store_of(&["disk=disk0@1M,xvda,r"]);
        let (front, back) = ("/local/domain/5/device/vbd/51712", "/local/domain/0/backend/vbd/5/51712");
        assert_eq!(value(&mut server, &format!("{front}/backend")), back);
        assert_eq!(value(&mut server, &format!("{back}/frontend")), front);
        assert_eq!(value(&mut server, &format!("{back}/params")), "disk0@1048576");
        assert_eq!(value(&mut server, &format!("{back}/mode")), "r");
        for half in [front, back] {
            assert_eq!(value(&mut server, &format!("{half}/state")), "1");
        }
    }

    #[test]
    fn a_nic_has_the_same_address_at_both_ends() {
        let mut server = store_of(&["vif", "vif=mac=00:16:3e:00:00:09,vlan=7,antispoof=0"]);
        let ends = ["/local/domain/5/device/vif/1/mac", "/local/domain/0/backend/vif/5/1/mac"];
        assert_eq!(ends.map(|path| value(&mut server, path)), ["00:16:3e:00:00:09"; 2]);
        assert_eq!(value(&mut server, "/local/domain/0/backend/vif/5/0/handle"), "0");
        for (key, expected) in [("vlan", "7"), ("antispoof", "0")] {
            assert_eq!(value(&mut server, &format!("/local/domain/0/backend/vif/5/1/{key}")), expected);
            assert!(server.read(&format!("/local/domain/0/backend/vif/5/0/{key}")).is_err(), "as usual");
        }
    }

    #[test]
    fn each_may_write_only_what_is_its_own() {
        let mut server = store_of(&["disk=disk0", "vif"]);
        for (path, expected) in [
            ("/local/domain/5", "n0 r5"),
            ("/local/domain/5/name", "n0 r5"),
            ("/local/domain/5/memory/target", "n0 r5"),
            ("/local/domain/5/control", "n0 r5"),
            ("/local/domain/5/control/shutdown", "n5"),
            ("/local/domain/5/data", "n5"),
            ("/local/domain/5/console/port", "n0 r5"),
            ("/local/domain/5/device", "n0 r5"),
            ("/local/domain/5/device/vbd/51712", "n5 r0"),
            ("/local/domain/5/device/vbd/51712/state", "n5 r0"),
            ("/local/domain/0/backend/vbd/5/51712/state", "n0 r5"),
            ("/local/domain/0/backend/vif/5/0/mac", "n0 r5"),
        ] {
            assert_eq!(permissions(&mut server, path), expected, "{path}");
        }
    }

    #[test]
    fn nothing_of_a_guest_is_left() {
        let mut server = store_of(&["disk=disk0", "vif"]);
        server.nodes(|nodes| {
            assert_eq!(back_ends(nodes, GUEST).len(), 2);
            announce_end(nodes, GUEST);
            assert_eq!(&*nodes.read("/local/domain/0/backend/vif/5/0/state").unwrap(), b"5");
            assert_eq!(nodes.list("/local/domain/5/device"), Err(Error::NotFound));
            remove(nodes, GUEST, Handle([7; 16]));
            for directory in
                ["/local/domain", "/vm", "/local/domain/0/backend/vbd", "/local/domain/0/backend/vif"]
            {
                let left: Vec<_> = nodes.list(directory).unwrap();
                assert!(left.iter().all(|name| name == "0"), "{directory}: {left:?}");
            }
            remove(nodes, GUEST, Handle([7; 16]));
        });
        server.audit().unwrap();
    }
}
