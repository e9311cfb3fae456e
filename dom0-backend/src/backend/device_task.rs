//! One device: watches both halves and takes the steps of its life.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use hypercall_abi::io::xenbus::XenbusState;
use pv_runtime::executor::{Either3, select3};
use pv_runtime::xenbus::{Device, StoreError, read_state};

use super::error::ConnectError;
use super::life::{Step, View, next_step};

/// A kind of back end.
pub trait BackEnd: 'static {
    /// The kind's name in the store, such as `vbd`.
    const KIND: &'static str;
    /// A connection to a front end.
    type Connection: Connection;

    /// Writes into the device's directory what we can do.
    fn offer(&self, device: &Device) -> impl Future<Output = Result<(), ConnectError>>;

    /// Connects to the front end's rings.
    fn connect(&self, device: &Device) -> impl Future<Output = Result<Self::Connection, ConnectError>>;
}

/// A connection to a front end. Dropping one is not enough: it is to be [closed](Self::close).
pub trait Connection {
    /// Waits until the front end has done something after which there is no going on, and says what.
    fn failed(&self) -> impl Future<Output = String>;

    /// Ends what is under way and gives the rings up.
    fn close(self) -> impl Future<Output = ()>;
}

/// The task of a device.
struct DeviceTask<B: BackEnd> {
    back_end: Rc<B>,
    device: Device,
    own: XenbusState,
    /// How far the front end had come when the device was shut for a fault, if it has not moved since.
    refused: Option<XenbusState>,
    connection: Option<B::Connection>,
}

/// Takes a device through its life, until its directory is gone.
pub(super) async fn run<B: BackEnd>(back_end: Rc<B>, device: Device) {
    let mut task =
        DeviceTask { back_end, device, own: XenbusState::Unknown, refused: None, connection: None };
    if let Err(error) = task.live().await {
        log::error!("{}: given up: {error}", task.device.directory());
    }
    task.disconnect().await;
}

impl<B: BackEnd> DeviceTask<B> {
    async fn live(&mut self) -> Result<(), StoreError> {
        let store = self.device.store().clone();
        let own_changes = store.watch(self.device.directory()).await?;
        let front_changes = store.watch(&self.device.peer_key("state")).await?;
        loop {
            loop {
                match next_step(&self.look().await?) {
                    Step::Wait => break,
                    Step::End => return Ok(()),
                    step => self.take(step).await?,
                }
            }
            let failure = async {
                match &self.connection {
                    Some(connection) => connection.failed().await,
                    None => core::future::pending().await,
                }
            };
            let event = select3(own_changes.next(), front_changes.next(), failure).await;
            if let Either3::Third(reason) = event {
                self.shut(&reason).await?;
            }
        }
    }

    /// Looks how things stand.
    async fn look(&mut self) -> Result<View, StoreError> {
        let asked = read_state(self.device.store(), self.device.directory()).await?;
        let front = self.device.peer_state().await?;
        // A number that cannot be read means what a missing one does.
        let online = self.device.read_own::<u32>("online").await.unwrap_or_default();
        self.refused = self.refused.filter(|refused| *refused == front);
        let is_refused = self.refused.is_some();
        Ok(View { own: self.own, asked, front, is_online: online.unwrap_or(0) != 0, is_refused })
    }

    async fn take(&mut self, step: Step) -> Result<(), StoreError> {
        if step != Step::Connect {
            self.disconnect().await;
        }
        let outcome = match step {
            Step::Wait | Step::End => Ok(()),
            Step::Offer => self.offer().await,
            Step::Connect => self.connect().await,
            Step::Close => self.switch(XenbusState::Closing).await,
            Step::Finish => self.switch(XenbusState::Closed).await,
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(ConnectError::Store(StoreError::Disconnected)) => Err(StoreError::Disconnected),
            Err(error) => self.shut(&format!("{error}")).await,
        }
    }

    async fn offer(&mut self) -> Result<(), ConnectError> {
        self.back_end.offer(&self.device).await?;
        self.switch(XenbusState::InitWait).await
    }

    async fn connect(&mut self) -> Result<(), ConnectError> {
        self.connection = Some(self.back_end.connect(&self.device).await?);
        self.switch(XenbusState::Connected).await
    }

    /// Gives the front end up for what it did: its device is closed, and nothing else.
    async fn shut(&mut self, reason: &str) -> Result<(), StoreError> {
        log::warn!("{}: closed: {reason}", self.device.directory());
        self.disconnect().await;
        self.refused = Some(self.device.peer_state().await?);
        match self.switch(XenbusState::Closed).await {
            Err(ConnectError::Store(error)) if error == StoreError::Disconnected => Err(error),
            // The directory may have gone meanwhile; that shows at the next look.
            _ => Ok(()),
        }
    }

    async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }

    async fn switch(&mut self, state: XenbusState) -> Result<(), ConnectError> {
        self.own = state;
        // A directory that the toolstack has removed must not come to life again.
        if read_state(self.device.store(), self.device.directory()).await? == XenbusState::Unknown {
            return Ok(());
        }
        Ok(self.device.switch_state(state).await?)
    }
}
