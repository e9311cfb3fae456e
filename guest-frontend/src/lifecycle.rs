//! How a front end comes and goes: the states that both halves of a device go through.
//!
//! ```text
//!   ours    Initialising ───────▶ Initialised or Connected ─▶ Connected ──▶ Closing ──▶ Closed ─┐
//!   peer's         InitWait ▲ waits for it   Connected ▲ waits for it  any other ▲              │
//!              ▲                                                                                │
//!              └──────────────── the back end comes back, in place or restarted ◀───────────────┘
//! ```
//!
//! A back end may close at any time, ours to follow, and may come back: then all starts anew. One that broke
//! the rules is not given another chance.

#[cfg(test)]
mod tests;

use core::error::Error;
use core::fmt;
use core::time::Duration;

use hypercall_abi::Errno;
use pv_runtime::executor::{Either, select, timeout};
use pv_runtime::xenbus::{Device, StoreError, XenbusState};
use ring::AreaTooSmall;

use crate::buffer::{Grant, NotShared};
use crate::fault::Fault;

/// How long a back end may take to follow when the front end closes, before its memory is taken back anyway.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Why a front end could not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The store could not be read or written.
    Store(StoreError),
    /// There is no memory, grant or port.
    Resources(Errno),
    /// The back end lacks something that there is no way around.
    Unsuitable(&'static str),
    /// The back end went away meanwhile.
    PeerLeft,
}

impl From<StoreError> for ConnectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        Self::Resources(errno)
    }
}

impl<G: Grant> From<NotShared<G>> for ConnectError {
    fn from(failure: NotShared<G>) -> Self {
        Self::Resources(failure.errno)
    }
}

impl From<AreaTooSmall> for ConnectError {
    fn from(_: AreaTooSmall) -> Self {
        Self::Resources(Errno::EINVAL)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(formatter),
            Self::Resources(errno) => write!(formatter, "no memory, grant or port: {errno}"),
            Self::Unsuitable(lack) => write!(formatter, "the back end lacks {lack}"),
            Self::PeerLeft => formatter.write_str("the back end went away"),
        }
    }
}

impl Error for ConnectError {}

/// What is particular to a kind of device.
pub trait Driver {
    /// Connects to a back end that waits for it: publishes rings, and returns when both halves are connected.
    fn connect(&mut self, device: &Device) -> impl Future<Output = Result<(), ConnectError>>;

    /// Keeps the device going. Returns when the back end breaks the rules.
    fn serve(&mut self) -> impl Future<Output = Fault>;

    /// Finishes what can still be finished, since the back end asks for a close. It may take no notice.
    fn drain(&mut self) -> impl Future<Output = ()>;

    /// Takes all memory back, connected or not. The back end has had its chance to let go.
    fn disconnect(&mut self);

    /// Lets everybody know who waits that the device is gone for good.
    fn give_up(&mut self);
}

/// Runs a device for as long as it exists.
pub async fn run(device: &Device, mut driver: impl Driver) {
    while let Err(error) = until_removed(device, &mut driver).await {
        match error {
            Stop::Fault(fault) => {
                log::error!("{}: back end gives wrong answers: {fault}", device.directory())
            }
            Stop::Connect(ConnectError::PeerLeft) => continue,
            Stop::Connect(error) => log::error!("{}: {error}", device.directory()),
        }
        break;
    }
    driver.give_up();
}

/// Why a device no longer runs although it exists.
enum Stop {
    Fault(Fault),
    Connect(ConnectError),
}

impl<E: Into<ConnectError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Connect(error.into())
    }
}

/// Connects and serves again and again, until the device is removed.
async fn until_removed(device: &Device, driver: &mut impl Driver) -> Result<(), Stop> {
    while exists(device).await? {
        device.switch_state(XenbusState::Initialising).await?;
        if wait_until_offered(device).await? {
            let outcome = connect_and_serve(device, driver).await;
            close(device, driver).await?;
            outcome?;
        }
    }
    Ok(())
}

/// Whether the toolstack has not removed the device.
async fn exists(device: &Device) -> Result<bool, StoreError> {
    Ok(device.read_own::<u32>("backend-id").await?.is_some())
}

/// Waits until a back end offers the device. Returns false if the device is removed first.
async fn wait_until_offered(device: &Device) -> Result<bool, StoreError> {
    let removed = async {
        let watch = device.store().watch(device.directory()).await?;
        while exists(device).await? {
            watch.next().await;
        }
        Ok(false)
    };
    let offered =
        async { device.wait_for_peer_state(|state| state == XenbusState::InitWait).await.map(|_| true) };
    match select(offered, removed).await {
        Either::First(outcome) | Either::Second(outcome) => outcome,
    }
}

async fn connect_and_serve(device: &Device, driver: &mut impl Driver) -> Result<(), Stop> {
    driver.connect(device).await?;
    log::info!("{}: connected to {}", device.directory(), device.peer_directory());
    let peer_left = device.wait_for_peer_state(|state| !is_connected(state));
    let outcome = match select(driver.serve(), peer_left).await {
        Either::First(fault) => return Err(Stop::Fault(fault)),
        Either::Second(state) => state,
    };
    if outcome? == XenbusState::Closing {
        // Whoever does not answer in time has its requests asked again of the next back end.
        let _ = timeout(CLOSE_TIME, driver.drain()).await;
    }
    Ok(())
}

/// Whether a back end in this state still serves the device.
fn is_connected(state: XenbusState) -> bool {
    matches!(state, XenbusState::Connected | XenbusState::Reconfiguring | XenbusState::Reconfigured)
}

/// Leaves the back end, and takes the memory back once it had the time to let go.
async fn close(device: &Device, driver: &mut impl Driver) -> Result<(), StoreError> {
    if exists(device).await? {
        device.switch_state(XenbusState::Closing).await?;
        let _ = timeout(CLOSE_TIME, device.wait_for_peer_state(|state| !is_connected(state))).await;
        device.switch_state(XenbusState::Closed).await?;
    }
    let gone = device.wait_for_peer_state(|state| !is_connected(state) && state != XenbusState::Closing);
    let _ = timeout(CLOSE_TIME, gone).await;
    driver.disconnect();
    log::info!("{}: closed", device.directory());
    Ok(())
}

/// Waits until the back end is connected.
///
/// # Errors
///
/// [`ConnectError::PeerLeft`] if it closes instead.
pub async fn wait_until_connected(device: &Device) -> Result<(), ConnectError> {
    let decided = |state| {
        matches!(
            state,
            XenbusState::Connected | XenbusState::Closing | XenbusState::Closed | XenbusState::Unknown
        )
    };
    match device.wait_for_peer_state(decided).await? {
        XenbusState::Connected => Ok(()),
        _ => Err(ConnectError::PeerLeft),
    }
}
