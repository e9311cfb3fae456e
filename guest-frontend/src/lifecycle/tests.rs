//! The states of a device, with a driver that only notes what happens to it.

use std::cell::RefCell;
use std::rc::Rc;
use std::string::ToString;
use std::time::Duration;
use std::vec::Vec;

use hypercall_abi::DomainId;
use pv_runtime::executor::testing;
use pv_runtime::executor::{JoinHandle, Notify, now, sleep, spawn};
use pv_runtime::xenbus::Store;

use super::*;
use crate::testing::FakeStore;

const OURS: &str = "device/vif/0";
const PEERS: &str = "/local/domain/0/backend/vif/1/0";

/// What happened to the driver, in order.
#[derive(Clone, Default)]
struct Diary(Rc<RefCell<Vec<&'static str>>>);

impl Diary {
    fn note(&self, event: &'static str) {
        self.0.borrow_mut().push(event);
    }

    /// What happened since the last look.
    fn news(&self) -> Vec<&'static str> {
        self.0.take()
    }
}

struct FakeDriver {
    diary: Diary,
    /// Rung when the back end breaks the rules.
    offence: Rc<Notify>,
}

impl Driver for FakeDriver {
    async fn connect(&mut self, device: &Device) -> Result<(), ConnectError> {
        self.diary.note("connect");
        device.switch_state(XenbusState::Initialised).await?;
        wait_until_connected(device).await?;
        device.switch_state(XenbusState::Connected).await?;
        self.diary.note("connected");
        Ok(())
    }

    async fn serve(&mut self) -> Fault {
        self.offence.wait().await;
        Fault::NoSuchExtra
    }

    async fn drain(&mut self) {
        self.diary.note("drain");
    }

    fn disconnect(&mut self) {
        self.diary.note("disconnect");
    }

    fn give_up(&mut self) {
        self.diary.note("give up");
    }
}

/// A device that runs, the store that it is in, and what happens to it.
struct Scene {
    store: FakeStore,
    diary: Diary,
    offence: Rc<Notify>,
    task: JoinHandle<()>,
}

impl Scene {
    /// A device whose back end is in `state`.
    async fn begin(state: XenbusState) -> Self {
        let store = FakeStore::default();
        store.set(&[OURS, "/backend-id"].concat(), "0");
        store.set_state(PEERS, state);
        let client = Store::connect(store.clone());
        let device = Device::new(client, OURS.to_string(), PEERS.to_string(), DomainId(0));
        let (diary, offence) = (Diary::default(), Rc::new(Notify::new()));
        let driver = FakeDriver { diary: diary.clone(), offence: Rc::clone(&offence) };
        let task = spawn(async move { run(&device, driver).await });
        let scene = Self { store, diary, offence, task };
        scene.settle().await;
        scene
    }

    /// Lets everything happen that happens by itself.
    async fn settle(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    /// Puts the back end into a state, and lets what follows happen. Returns our state, and what happened.
    async fn peer_becomes(&self, state: XenbusState) -> (XenbusState, Vec<&'static str>) {
        self.store.set_state(PEERS, state);
        self.settle().await;
        (self.state(), self.diary.news())
    }

    fn state(&self) -> XenbusState {
        self.store.state(OURS).expect("the device has a state")
    }

    /// Goes all the way to a connection.
    async fn connect(&self) {
        self.peer_becomes(XenbusState::InitWait).await;
        self.peer_becomes(XenbusState::Connected).await;
        assert_eq!(self.state(), XenbusState::Connected);
    }
}

#[test]
fn each_step_waits_for_the_back_end_s() {
    testing::run(async {
        let scene = Scene::begin(XenbusState::Initialising).await;
        assert_eq!((scene.state(), scene.diary.news()), (XenbusState::Initialising, vec![]));
        let step = scene.peer_becomes(XenbusState::InitWait).await;
        assert_eq!(step, (XenbusState::Initialised, vec!["connect"]));
        let step = scene.peer_becomes(XenbusState::Connected).await;
        assert_eq!(step, (XenbusState::Connected, vec!["connected"]));
        let step = scene.peer_becomes(XenbusState::Reconfigured).await;
        assert_eq!(step, (XenbusState::Connected, vec![]));
    });
}

#[test]
fn a_back_end_that_closes_is_followed_and_may_come_back() {
    testing::run(async {
        let scene = Scene::begin(XenbusState::Initialising).await;
        for _ in 0..3 {
            scene.connect().await;
            scene.diary.news();
            let step = scene.peer_becomes(XenbusState::Closing).await;
            assert_eq!(step, (XenbusState::Closed, vec!["drain"]), "memory is kept until it has let go");
            let step = scene.peer_becomes(XenbusState::Closed).await;
            assert_eq!(step, (XenbusState::Initialising, vec!["disconnect"]));
        }
    });
}

#[test]
fn a_back_end_that_dies_without_a_word_is_left() {
    testing::run(async {
        let scene = Scene::begin(XenbusState::Initialising).await;
        scene.connect().await;
        scene.diary.news();
        scene.store.remove(PEERS);
        scene.settle().await;
        assert_eq!((scene.state(), scene.diary.news()), (XenbusState::Initialising, vec!["disconnect"]));
        scene.connect().await;
    });
}

#[test]
fn a_back_end_that_does_not_let_go_is_not_waited_for_for_ever() {
    testing::run(async {
        let scene = Scene::begin(XenbusState::Initialising).await;
        scene.connect().await;
        scene.diary.news();
        scene.peer_becomes(XenbusState::Closing).await;
        let start = now();
        while !scene.diary.news().contains(&"disconnect") {
            sleep(Duration::from_millis(100)).await;
        }
        let waited = now() - start;
        assert!(waited >= CLOSE_TIME - Duration::from_secs(1) && waited < 2 * CLOSE_TIME, "{waited:?}");
    });
}

#[test]
fn a_back_end_that_breaks_the_rules_gets_no_other_chance() {
    testing::run(async {
        let scene = Scene::begin(XenbusState::Initialising).await;
        scene.connect().await;
        scene.diary.news();
        scene.offence.ring();
        scene.settle().await;
        assert_eq!(scene.state(), XenbusState::Closing);
        let step = scene.peer_becomes(XenbusState::Closed).await;
        assert_eq!(step, (XenbusState::Closed, vec!["disconnect", "give up"]));
        assert!(scene.task.is_finished());
        let step = scene.peer_becomes(XenbusState::InitWait).await;
        assert_eq!(step, (XenbusState::Closed, vec![]));
    });
}

#[test]
fn a_back_end_that_goes_away_while_connecting_is_tried_again() {
    testing::run(async {
        let scene = Scene::begin(XenbusState::InitWait).await;
        assert_eq!(scene.diary.news(), ["connect"]);
        let step = scene.peer_becomes(XenbusState::Closed).await;
        assert_eq!(step, (XenbusState::Initialising, vec!["disconnect"]));
        scene.connect().await;
        assert!(!scene.task.is_finished());
    });
}

#[test]
fn a_removed_device_is_given_up_connected_or_not() {
    testing::run(async {
        let waiting = Scene::begin(XenbusState::Initialising).await;
        waiting.store.remove(OURS);
        waiting.settle().await;
        assert_eq!(waiting.diary.news(), ["give up"]);
        assert!(waiting.task.is_finished());

        let scene = Scene::begin(XenbusState::Initialising).await;
        scene.connect().await;
        scene.diary.news();
        let step = scene.peer_becomes(XenbusState::Closing).await;
        assert_eq!(step, (XenbusState::Closed, vec!["drain"]));
        scene.store.remove(OURS);
        scene.store.remove(PEERS);
        scene.settle().await;
        assert_eq!(scene.diary.news(), ["disconnect", "give up"]);
        assert!(scene.task.is_finished());
        assert_eq!(scene.store.get(&[OURS, "/state"].concat()), None, "nothing is written any more");
    });
}
