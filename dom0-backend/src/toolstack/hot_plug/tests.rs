//! Devices for a guest whose front ends the test plays; a back end that only keeps step.

use hypercall_abi::DomainId;
use pv_runtime::executor::testing;
use pv_runtime::xenbus::{Device, Store, read_state, switch_state};

use super::super::tests::toolstack;
use super::super::{Inventory, MachineDisk};
use super::*;
use crate::admin::store_tree;
use crate::backend::{BackEnd, ConnectError, Connection, serve};

/// A disk's back end that connects to any front end, if it offers anything.
struct Disks {
    offers: bool,
}

struct Connected;

impl BackEnd for Disks {
    const KIND: &'static str = "vbd";
    type Connection = Connected;

    async fn offer(&self, _: &Device) -> Result<(), ConnectError> {
        if self.offers { Ok(()) } else { Err(ConnectError::NoSource("disk".into())) }
    }

    async fn connect(&self, _: &Device) -> Result<Connected, ConnectError> {
        Ok(Connected)
    }
}

impl Connection for Connected {
    async fn failed(&self) -> String {
        core::future::pending().await
    }

    async fn close(self) {}
}

struct Bench {
    toolstack: Rc<Toolstack>,
    guest: Rc<Guest>,
    store: Store,
}

impl Bench {
    /// A guest with `words`, on a machine with two disks and a switch.
    fn new(words: &[&'static str]) -> Self {
        let disk = |name: &str| MachineDisk { name: name.into(), sectors: 2048, partitions: Vec::new() };
        let disks = Vec::from([disk("disk0"), disk("disk1")]);
        let toolstack = toolstack(Inventory { disks, has_switch: true });
        let guest = add_guest(&toolstack, 4, "web", words);
        let store = toolstack.service().connect();
        let bench = Self { toolstack, guest, store };
        // What all guests leave: the directories in which they have their devices.
        bench.toolstack.service().with(|server| {
            [
                "/local/domain/4/name",
                "/local/domain/4/device/suspend",
                "/local/domain/0/backend/vbd/x",
                "/local/domain/0/backend/vif/x",
            ]
            .map(|path| server.write(path, "").expect("the store takes it"))
        });
        bench
    }

    fn with_back_end(words: &[&'static str], offers: bool) -> Self {
        let bench = Self::new(words);
        let store = bench.toolstack.service().connect();
        spawn(async move { serve(Rc::new(Disks { offers }), store).await });
        bench
    }

    /// The whole store.
    fn drawn(&self) -> String {
        self.toolstack.service().with(|server| server.nodes(|all| store_tree::draw(all, "/"))).unwrap()
    }

    async fn attach(&self, text: &str) -> Result<String, PlugError> {
        let disk = text.parse().expect("a disk");
        self.toolstack.attach_disk(&self.guest, disk).await.map(|disk| disk.name)
    }

    async fn detach(&self, name: &str, is_forced: bool) -> Result<(), PlugError> {
        self.toolstack.detach(&self.guest, self.guest.disk(name)?, is_forced).await
    }

    /// Lets the guest take one of its disks as far as this.
    async fn front(&self, number: u32, state: XenbusState) {
        let front = nodes::front_end("vbd", self.guest.domain, number);
        switch_state(&self.store, &front, state).await.expect("the store takes it");
    }

    async fn back(&self, number: u32) -> XenbusState {
        sleep(Duration::from_millis(1)).await;
        let back = nodes::back_end("vbd", self.guest.domain, number);
        read_state(&self.store, &back).await.expect("the store answers")
    }

    fn disks(&self) -> Vec<String> {
        self.guest.configuration().disks.iter().map(|disk| disk.name.clone()).collect()
    }
}

fn add_guest(toolstack: &Toolstack, number: u16, name: &str, words: &[&'static str]) -> Rc<Guest> {
    let configuration = GuestConfiguration::parse(name, words.iter().copied()).expect("sound words");
    let handle = format!("11111111-2222-3333-4444-{number:012}").parse().expect("a handle");
    toolstack.add(Guest::new(DomainId(number), handle, configuration, Duration::ZERO))
}

const XVDB: u32 = 51728;

#[test]
fn a_disk_comes_and_goes_and_comes_again() {
    testing::run(async {
        let bench = Bench::with_back_end(&["disk=disk0"], true);
        let before = bench.drawn();
        for _ in 0..2 {
            assert_eq!(bench.attach("disk1,,r").await.as_deref(), Ok("xvdb"));
            assert_eq!(bench.disks(), ["xvda", "xvdb"]);
            bench.front(XVDB, XenbusState::Initialised).await;
            assert_eq!(bench.back(XVDB).await, XenbusState::Connected);
            bench.front(XVDB, XenbusState::Connected).await;
            let toolstack = Rc::clone(&bench.toolstack);
            let guest = Rc::clone(&bench.guest);
            let plug = guest.disk("51728").expect("it is there");
            let detached = spawn(async move { toolstack.detach(&guest, plug, false).await });
            assert_eq!(bench.back(XVDB).await, XenbusState::Closing, "the guest is asked");
            bench.front(XVDB, XenbusState::Closed).await;
            assert_eq!(detached.join().await, Ok(()));
            assert_eq!(bench.drawn(), before);
            assert_eq!(bench.disks(), ["xvda"]);
        }
    });
}

#[test]
fn a_guest_that_does_not_let_go_is_waited_for_only_so_long() {
    testing::run(async {
        let bench = Bench::with_back_end(&["disk=disk0"], true);
        let before = bench.drawn();
        for _ in 0..2 {
            bench.attach("disk1").await.expect("it is free");
            bench.front(XVDB, XenbusState::Connected).await;
            assert_eq!(bench.back(XVDB).await, XenbusState::Connected);
            let begun = now();
            let error = bench.detach("xvdb", false).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "web has not let go of xvdb within 10 s; it goes when the guest does so, or at once with --force"
            );
            assert_eq!((now() - begun).as_secs(), 10);
            let error = bench.attach("disk1,xvdb").await.unwrap_err();
            assert_eq!(error.to_string(), "xvdb is being detached, and the guest has not let it go yet");
            assert!(bench.detach("xvdb", false).await.is_err(), "and once more");
            assert_eq!(bench.detach("xvdb", true).await, Ok(()));
            assert_eq!(bench.drawn(), before);
        }
    });
}

#[test]
fn a_device_that_is_let_go_late_goes_then() {
    testing::run(async {
        let bench = Bench::with_back_end(&["disk=disk0"], true);
        let before = bench.drawn();
        bench.attach("disk1").await.expect("it is free");
        bench.front(XVDB, XenbusState::Connected).await;
        assert_eq!(bench.back(XVDB).await, XenbusState::Connected);
        assert!(bench.detach("xvdb", false).await.is_err());
        bench.front(XVDB, XenbusState::Closed).await;
        sleep(LOOK).await;
        assert_eq!(bench.drawn(), before);
        assert_eq!(bench.attach("disk1").await.as_deref(), Ok("xvdb"));
    });
}

#[test]
fn what_the_back_end_does_not_offer_is_taken_back() {
    testing::run(async {
        let bench = Bench::with_back_end(&[], false);
        let before = bench.drawn();
        let error = bench.attach("disk1").await.unwrap_err();
        assert_eq!(error.to_string(), "domain 0 does not offer xvda; its log says why (`dmesg`)");
        assert_eq!((bench.drawn(), bench.disks().len()), (before, 0));
    });
}

#[test]
fn a_guest_that_is_destroyed_meanwhile_ends_the_attempt() {
    testing::run(async {
        // Nobody offers anything here, so both must wait.
        let bench = Bench::new(&[]);
        let (toolstack, guest) = (Rc::clone(&bench.toolstack), Rc::clone(&bench.guest));
        let attached = spawn(async move {
            let disk = "disk1".parse().expect("a disk");
            toolstack.attach_disk(&guest, disk).await
        });
        sleep(LOOK).await;
        bench.toolstack.end(&bench.guest).await;
        assert_eq!(attached.join().await, Err(PlugError::GuestGone("web".into())));
        let drawn = bench.drawn();
        assert!(!drawn.contains("51712") && !drawn.contains("suspend"), "{drawn}");
        assert_eq!(bench.attach("disk1").await, Err(PlugError::NotRunning("web".into())));
    });
}

#[test]
fn what_does_not_go_together_is_refused_and_changes_nothing() {
    testing::run(async {
        let bench = Bench::with_back_end(&["disk=disk0,xvda,r"], true);
        add_guest(&bench.toolstack, 5, "db", &["disk=disk1@0+4K", "disk=disk0,xvdb,r"]);
        let before = bench.drawn();
        for (text, message) in [
            (
                "disk1",
                "disk1 is in use by db; to share it all the same, put ! behind the access, as in disk1,xvda,w!",
            ),
            (
                "disk1,xvdb,r",
                "disk1 is in use by db; to share it all the same, put ! behind the access, as in disk1,xvda,w!",
            ),
            ("disk0,xvdb,w", "xvda and xvdb are the same sectors, and one may be written"),
            ("disk1@4K,xvda", "two disks are called xvda"),
            ("disk7,xvdb", "the machine has no disk7 (it has disk0 disk1)"),
            ("disk1@2M,xvdb", "disk1@2097152 is not on the disk: disk1 has 1048576 bytes"),
        ] {
            let error = bench.attach(text).await.unwrap_err();
            assert_eq!(error.to_string(), message, "{text}");
        }
        assert_eq!((bench.drawn(), bench.disks()), (before, Vec::from(["xvda".to_owned()])));
        assert_eq!(bench.attach("disk0,xvdb,r").await.as_deref(), Ok("xvdb"), "all who have it read it");
        assert_eq!(
            bench.detach("xvdc", false).await.unwrap_err().to_string(),
            "web has no disk \"xvdc\"; it has xvda xvdb"
        );
    });
}

#[test]
fn a_guest_has_at_most_sixteen_disks() {
    testing::run(async {
        let bench = Bench::with_back_end(&[], true);
        for _ in 0..16 {
            bench.attach("disk0,,r").await.expect("it is free");
        }
        let error = bench.attach("disk0,,r").await.unwrap_err();
        assert_eq!(error.to_string(), "a guest has at most 16 disks");
    });
}

#[test]
fn an_interface_gets_the_number_behind_the_highest_and_keeps_its_address() {
    testing::run(async {
        let bench = Bench::new(&["vif=mac=00:16:3e:00:00:01", "vif"]);
        add_guest(&bench.toolstack, 5, "db", &["vif=mac=00:16:3e:00:00:05"]);
        let second = bench.guest.next_configuration().nics[1].mac;
        // Nobody offers it: the attempt ends after some time, and all is as before.
        let before = bench.drawn();
        let error = bench.toolstack.attach_nic(&bench.guest, GuestNic::default()).await.unwrap_err();
        assert_eq!(error, PlugError::NotOffered("interface 2".into()));
        assert_eq!(bench.drawn(), before);
        assert_eq!(bench.guest.next_configuration().nics[1].mac, second);
        for (mac, message) in [
            ("00:16:3e:00:00:01", "two interfaces have the address 00:16:3e:00:00:01"),
            ("00:16:3e:00:00:05", "00:16:3e:00:00:05 is the address of an interface of db"),
        ] {
            let nic = format!("mac={mac}").parse().expect("an interface");
            let error = bench.toolstack.attach_nic(&bench.guest, nic).await.unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        assert_eq!(bench.guest.nic("00:16:3e:00:00:01"), Ok(Plug::Nic(0)));
        assert_eq!(bench.guest.nic("1"), Ok(Plug::Nic(1)));
        let error = bench.guest.nic("2").unwrap_err();
        assert_eq!(error.to_string(), "web has no interface \"2\"; it has 0 1");
    });
}
