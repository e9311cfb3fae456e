//! One half of a split device: where it is in the store, and how the halves keep step.
//!
//! Front end and back end each have a directory, in which the other's is named. Each writes how far it has come
//! to the key `state` of its own directory and watches the other's.

use alloc::format;
use alloc::string::String;
use core::str::FromStr;

use hypercall_abi::DomainId;
use hypercall_abi::io::xenbus::{STATE_KEY, XenbusState};

use super::error::StoreError;
use super::store::{Store, StoreView};

/// The home of a domain: `/local/domain/5`.
pub fn domain_path(domain: DomainId) -> String {
    format!("/local/domain/{domain}")
}

/// Where a domain's own front end is, from its home on: `device/vif/0`.
pub fn frontend_path(kind: &str, index: u32) -> String {
    format!("device/{kind}/{index}")
}

/// Where a domain's back end for another domain is, from its home on: `backend/vif/5/0`.
pub fn backend_path(kind: &str, frontend: DomainId, index: u32) -> String {
    format!("backend/{kind}/{frontend}/{index}")
}

/// The state in a directory. Where there is none, or nonsense, it is [`XenbusState::Unknown`].
///
/// # Errors
///
/// If the store cannot be asked.
pub async fn read_state(view: &StoreView, directory: &str) -> Result<XenbusState, StoreError> {
    let text = match view.read(&format!("{directory}/{STATE_KEY}")).await {
        Ok(text) => text,
        Err(StoreError::Refused(_) | StoreError::Malformed) => return Ok(XenbusState::Unknown),
        Err(error) => return Err(error),
    };
    let number = text.trim().parse().ok();
    Ok(number.and_then(XenbusState::from_number).unwrap_or(XenbusState::Unknown))
}

/// Writes the state of a directory.
///
/// # Errors
///
/// If the store refuses.
pub async fn switch_state(view: &StoreView, directory: &str, state: XenbusState) -> Result<(), StoreError> {
    view.write(&format!("{directory}/{STATE_KEY}"), format!("{}", state.number())).await
}

/// Waits until the state of a directory is one that `accept` likes, and returns it.
///
/// # Errors
///
/// If the store cannot be asked.
pub async fn wait_for_state(
    store: &Store,
    directory: &str,
    accept: impl Fn(XenbusState) -> bool,
) -> Result<XenbusState, StoreError> {
    let watch = store.watch(&format!("{directory}/{STATE_KEY}")).await?;
    loop {
        watch.next().await;
        let state = read_state(store, directory).await?;
        if accept(state) {
            return Ok(state);
        }
    }
}

/// One half of a device, its directory and that of the other half.
#[derive(Clone, Debug)]
pub struct Device {
    store: Store,
    directory: String,
    peer_directory: String,
    peer: DomainId,
}

impl Device {
    /// A device whose directories are known.
    pub fn new(store: Store, directory: String, peer_directory: String, peer: DomainId) -> Self {
        Self { store, directory, peer_directory, peer }
    }

    /// The front end in a directory of this domain; its keys `backend` and `backend-id` name the other half.
    ///
    /// # Errors
    ///
    /// If there is no such front end, or the keys make no sense.
    pub async fn frontend(store: &Store, kind: &str, index: u32) -> Result<Self, StoreError> {
        Self::find(store, frontend_path(kind, index), "backend").await
    }

    /// The back end of this domain for another; its keys `frontend` and `frontend-id` name the other half.
    ///
    /// # Errors
    ///
    /// If there is no such back end, or the keys make no sense.
    pub async fn backend(
        store: &Store,
        kind: &str,
        frontend: DomainId,
        index: u32,
    ) -> Result<Self, StoreError> {
        Self::find(store, backend_path(kind, frontend, index), "frontend").await
    }

    async fn find(store: &Store, directory: String, other_half: &str) -> Result<Self, StoreError> {
        let peer_directory = store.read(&format!("{directory}/{other_half}")).await?;
        let peer = store.read(&format!("{directory}/{other_half}-id")).await?;
        let peer = peer.trim().parse().map_err(|_| StoreError::Malformed)?;
        Ok(Self::new(store.clone(), directory, peer_directory, DomainId(peer)))
    }

    /// The connection to the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// This half's directory.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The other half's directory.
    pub fn peer_directory(&self) -> &str {
        &self.peer_directory
    }

    /// The domain of the other half.
    pub fn peer(&self) -> DomainId {
        self.peer
    }

    /// The path of a key of this half.
    pub fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.directory)
    }

    /// The path of a key of the other half.
    pub fn peer_key(&self, key: &str) -> String {
        format!("{}/{key}", self.peer_directory)
    }

    /// Says how far this half has come.
    ///
    /// # Errors
    ///
    /// If the store refuses.
    pub async fn switch_state(&self, state: XenbusState) -> Result<(), StoreError> {
        switch_state(&self.store, &self.directory, state).await
    }

    /// How far the other half has come.
    ///
    /// # Errors
    ///
    /// If the store cannot be asked.
    pub async fn peer_state(&self) -> Result<XenbusState, StoreError> {
        read_state(&self.store, &self.peer_directory).await
    }

    /// Waits until the other half's state is one that `accept` likes, and returns it.
    ///
    /// # Errors
    ///
    /// If the store cannot be asked.
    pub async fn wait_for_peer_state(
        &self,
        accept: impl Fn(XenbusState) -> bool,
    ) -> Result<XenbusState, StoreError> {
        wait_for_state(&self.store, &self.peer_directory, accept).await
    }

    /// Reads a key of the other half that may be missing, as a number or what else can be parsed.
    ///
    /// # Errors
    ///
    /// `Malformed` if there is something that cannot be parsed.
    pub async fn read_peer<T: FromStr>(&self, key: &str) -> Result<Option<T>, StoreError> {
        read_optional(&self.store, &self.peer_key(key)).await
    }

    /// Reads a key of this half that may be missing, as a number or what else can be parsed.
    ///
    /// # Errors
    ///
    /// `Malformed` if there is something that cannot be parsed.
    pub async fn read_own<T: FromStr>(&self, key: &str) -> Result<Option<T>, StoreError> {
        read_optional(&self.store, &self.key(key)).await
    }
}

async fn read_optional<T: FromStr>(view: &StoreView, path: &str) -> Result<Option<T>, StoreError> {
    match view.read(path).await {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| StoreError::Malformed),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
