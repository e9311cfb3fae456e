//! Devices in a store, with front ends and a toolstack played by the test.

use core::cell::{Cell, RefCell};
use core::time::Duration;

use pv_runtime::executor::{Signal, sleep, testing};
use pv_runtime::xenbus::XenbusState::*;
use pv_runtime::xenbus::{XenbusState, read_state, switch_state};

use super::super::{ConnectError, Connection};
use super::*;
use crate::store_service::StoreService;

const BACK: &str = "/local/domain/0/backend/fake/7/3";
const FRONT: &str = "/local/domain/7/device/fake/3";

/// A back end that only notes what happens to it.
#[derive(Default)]
struct Fake {
    log: Rc<RefCell<Vec<&'static str>>>,
    refuses: Cell<bool>,
    offers_nothing: Cell<bool>,
    failure: Rc<Signal<String>>,
}

struct FakeConnection {
    log: Rc<RefCell<Vec<&'static str>>>,
    failure: Rc<Signal<String>>,
}

impl BackEnd for Fake {
    const KIND: &'static str = "fake";
    type Connection = FakeConnection;

    async fn offer(&self, device: &Device) -> Result<(), ConnectError> {
        self.log.borrow_mut().push("offer");
        if self.offers_nothing.get() {
            return Err(ConnectError::Missing("disk"));
        }
        Ok(device.store().write(&device.key("feature-fake"), "1").await?)
    }

    async fn connect(&self, device: &Device) -> Result<FakeConnection, ConnectError> {
        self.log.borrow_mut().push("connect");
        if self.refuses.get() {
            return Err(ConnectError::Missing("ring-ref"));
        }
        device.store().write(&device.key("connected"), "1").await?;
        Ok(FakeConnection { log: Rc::clone(&self.log), failure: Rc::clone(&self.failure) })
    }
}

impl Connection for FakeConnection {
    async fn failed(&self) -> String {
        self.failure.take().await
    }

    async fn close(self) {
        self.log.borrow_mut().push("close");
    }
}

/// The toolstack's and the guest's view.
struct Bench {
    store: Store,
    fake: Rc<Fake>,
}

impl Bench {
    async fn new() -> Self {
        let service = StoreService::new();
        let fake = Rc::new(Fake::default());
        let served = Rc::clone(&fake);
        let back_ends = service.connect();
        spawn(async move { serve(served, back_ends).await });
        Self { store: service.connect(), fake }
    }

    async fn create(&self) {
        let write = |key: &'static str, value: &'static str| async move {
            self.store.write(&format!("{BACK}/{key}"), value).await.expect("the store takes it");
        };
        self.front(Initialising).await;
        write("frontend", FRONT).await;
        write("frontend-id", "7").await;
        write("online", "1").await;
        write("state", "1").await;
    }

    async fn front(&self, state: XenbusState) {
        switch_state(&self.store, FRONT, state).await.expect("the store takes it");
    }

    /// The back end's state, once all is quiet.
    async fn back(&self) -> XenbusState {
        sleep(Duration::from_millis(1)).await;
        read_state(&self.store, BACK).await.expect("the store answers")
    }

    fn log(&self) -> Vec<&'static str> {
        self.fake.log.borrow_mut().drain(..).collect()
    }
}

#[test]
fn a_device_lives_and_is_used_again() {
    testing::run(async {
        let bench = Bench::new().await;
        bench.create().await;
        assert_eq!(bench.back().await, InitWait);
        for _ in 0..2 {
            bench.front(Initialised).await;
            assert_eq!(bench.back().await, Connected);
            bench.front(Connected).await;
            assert_eq!(bench.back().await, Connected);
            bench.front(Closing).await;
            assert_eq!(bench.back().await, Closing);
            bench.front(Closed).await;
            assert_eq!(bench.back().await, Closed);
            bench.front(Initialising).await;
            assert_eq!(bench.back().await, InitWait);
        }
        assert_eq!(bench.log(), ["offer", "connect", "close", "offer", "connect", "close", "offer"]);
    });
}

#[test]
fn a_device_that_was_there_before_is_found_too() {
    testing::run(async {
        let service = StoreService::new();
        let bench = Bench { store: service.connect(), fake: Rc::default() };
        bench.create().await;
        let (fake, store) = (Rc::clone(&bench.fake), service.connect());
        spawn(async move { serve(fake, store).await });
        assert_eq!(bench.back().await, InitWait);
    });
}

#[test]
fn a_front_end_that_breaks_the_rules_is_shut_and_may_start_over() {
    testing::run(async {
        let bench = Bench::new().await;
        bench.create().await;
        bench.front(Connected).await;
        assert_eq!(bench.back().await, Connected);
        bench.fake.failure.set("nonsense on the ring".into());
        assert_eq!(bench.back().await, Closed);
        assert_eq!(bench.log(), ["offer", "connect", "close"]);
        bench.front(Closing).await;
        assert_eq!(bench.back().await, Closed);
        bench.front(Initialising).await;
        assert_eq!(bench.back().await, InitWait);
    });
}

#[test]
fn a_front_end_that_cannot_be_connected_is_shut_once() {
    testing::run(async {
        let bench = Bench::new().await;
        bench.fake.refuses.set(true);
        bench.create().await;
        bench.front(Connected).await;
        assert_eq!(bench.back().await, Closed);
        assert_eq!(bench.log(), ["offer", "connect"]);
    });
}

#[test]
fn a_device_that_cannot_be_offered_is_tried_once_each_time_the_front_end_starts_over() {
    testing::run(async {
        let bench = Bench::new().await;
        bench.fake.offers_nothing.set(true);
        bench.create().await;
        assert_eq!(bench.back().await, Closed);
        assert_eq!(bench.log(), ["offer"]);
        bench.front(Closed).await;
        assert_eq!(bench.back().await, Closed);
        bench.front(Initialising).await;
        assert_eq!(bench.back().await, Closed);
        assert_eq!(bench.log(), ["offer"]);
    });
}

#[test]
fn a_guest_that_is_gone_is_let_go() {
    testing::run(async {
        let bench = Bench::new().await;
        bench.create().await;
        bench.front(Connected).await;
        assert_eq!(bench.back().await, Connected);
        bench.store.remove("/local/domain/7/device").await.expect("it is there");
        bench.store.write(&format!("{BACK}/online"), "0").await.expect("the store takes it");
        bench.store.write(&format!("{BACK}/state"), "5").await.expect("the store takes it");
        assert_eq!(bench.back().await, Closed);
        bench.store.remove("/local/domain/0/backend/fake/7").await.expect("it is there");
        assert_eq!(bench.back().await, Unknown, "nobody writes there any more");
        assert_eq!(bench.log(), ["offer", "connect", "close"]);
    });
}

#[test]
fn a_device_removed_at_once_is_disconnected() {
    testing::run(async {
        let bench = Bench::new().await;
        bench.create().await;
        bench.front(Connected).await;
        assert_eq!(bench.back().await, Connected);
        bench.store.remove(BACK).await.expect("it is there");
        assert_eq!(bench.back().await, Unknown);
        assert_eq!(bench.log(), ["offer", "connect", "close"]);
        bench.create().await;
        assert_eq!(bench.back().await, InitWait);
        assert_eq!(bench.log(), ["offer"]);
    });
}

#[test]
fn a_device_made_anew_at_the_same_place_is_a_new_one() {
    testing::run(async {
        let bench = Bench::new().await;
        bench.create().await;
        bench.front(Connected).await;
        assert_eq!(bench.back().await, Connected);
        let anew = bench.store.transaction(async |all| {
            all.remove(BACK).await?;
            all.write(&format!("{FRONT}/state"), "1").await?;
            all.write(&format!("{BACK}/frontend"), FRONT).await?;
            all.write(&format!("{BACK}/online"), "1").await?;
            all.write(&format!("{BACK}/state"), "1").await
        });
        anew.await.expect("the store takes it");
        assert_eq!(bench.back().await, InitWait);
        assert_eq!(bench.log(), ["offer", "connect", "close", "offer"]);
    });
}

#[test]
fn what_is_not_a_device_is_passed_over() {
    testing::run(async {
        let bench = Bench::new().await;
        for path in ["junk", "7/junk", "70000/1", "7/-1", "7/4294967296"] {
            let path = format!("/local/domain/0/backend/fake/{path}/state");
            bench.store.write(&path, "1").await.expect("the store takes it");
        }
        bench.create().await;
        assert_eq!(bench.back().await, InitWait);
        assert_eq!(bench.log(), ["offer"]);
    });
}
