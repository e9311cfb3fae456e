//! A front end up to the point where it begins to deviate: found in the store, and connected as it should be.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use pv_runtime::BootInfo;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{sleep, timeout};
use pv_runtime::xenbus::{Device, RingTransport, Store, XenbusState};

use crate::during;
use crate::ring::Ring;

/// How long the back end may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look at a ring whose back end may be silent for ever.
const LOOK: Duration = Duration::from_millis(1);

/// A connection to the store.
pub fn store(info: &BootInfo) -> Result<Store, String> {
    let (frame, port) = info.store.ok_or("there is no store")?;
    Ok(Store::connect(during("the store's ring", RingTransport::new(frame, port))?))
}

/// A device and the port that goes with it.
pub struct Front {
    /// The device.
    pub device: Device,
    /// The port.
    pub channel: EventChannel,
}

impl Front {
    /// The first device of a kind, once its back end waits for us.
    pub async fn find(info: &BootInfo, kind: &str) -> Result<Self, String> {
        let store = store(info)?;
        let numbers = during("looking for devices", store.directory(&format!("device/{kind}")).await)?;
        let number = numbers.first().and_then(|number| number.parse().ok()).ok_or("there is no device")?;
        let device = during("the device", Device::frontend(&store, kind, number).await)?;
        let front = Self { channel: during("a port", EventChannel::alloc_unbound(device.peer()))?, device };
        front.wait_for(|state| state == XenbusState::InitWait).await?;
        Ok(front)
    }

    /// Publishes what the back end is to know of us, and says that it is all there.
    pub async fn publish(&self, keys: &[(&str, String)]) -> Result<(), String> {
        for (key, value) in keys {
            during(key, self.device.store().write(&self.device.key(key), value).await)?;
        }
        let port = format!("{}", self.channel.port());
        during("the port", self.device.store().write(&self.device.key("event-channel"), port).await)?;
        during("the state", self.device.switch_state(XenbusState::Initialised).await)
    }

    /// Goes on as connected, once the back end is.
    pub async fn connect(&self) -> Result<(), String> {
        match self.wait_for(is_decided).await? {
            XenbusState::Connected => {
                during("the state", self.device.switch_state(XenbusState::Connected).await)
            }
            state => Err(format!("the back end is {state:?}")),
        }
    }

    /// What the back end makes of it: its state once it is connected or has given up.
    pub async fn verdict(&self) -> Result<String, String> {
        Ok(format!("the back end is {:?}", self.wait_for(is_decided).await?))
    }

    /// Waits until the back end closes the device.
    pub async fn wait_until_closed(&self) -> Result<String, String> {
        let closed = |state| matches!(state, XenbusState::Closing | XenbusState::Closed);
        self.wait_for(closed).await.map(|_| String::from("the back end closed the device"))
    }

    async fn wait_for(&self, accept: impl Fn(XenbusState) -> bool) -> Result<XenbusState, String> {
        let state = timeout(PATIENCE, self.device.wait_for_peer_state(accept)).await;
        during("the back end's state", state.map_err(|_| "nothing happens")?)
    }

    /// Whether the back end has given the device up.
    pub async fn is_closed(&self) -> Result<bool, String> {
        let state = during("the back end's state", self.device.peer_state().await)?;
        Ok(matches!(state, XenbusState::Closing | XenbusState::Closed))
    }

    /// Tells the back end of requests, and waits until it has answered up to an index, or has closed the device.
    pub async fn exchange(&self, ring: &Ring, producer: u32) -> Result<Answer, String> {
        ring.publish(producer);
        during("notifying", self.channel.notify())?;
        let mut left = PATIENCE;
        while ring.answered() != producer {
            if self.is_closed().await? {
                return Ok(Answer::Closed);
            }
            left = left.checked_sub(LOOK).ok_or("the back end does not answer")?;
            sleep(LOOK).await;
        }
        Ok(Answer::Answered)
    }
}

/// How a back end takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answered all of them.
    Answered,
    /// It gave the device up.
    Closed,
}

fn is_decided(state: XenbusState) -> bool {
    matches!(state, XenbusState::Connected | XenbusState::Closing | XenbusState::Closed)
}
