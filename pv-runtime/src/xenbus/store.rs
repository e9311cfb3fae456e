//! The operations of the store.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::str;

use hypercall_abi::io::xs_wire::*;
use hypercall_abi::{DomainId, Errno, MachineFrame, Port};

use super::client::{Client, check_text};
use super::error::StoreError;
use super::permission::Permission;
use super::transport::Transport;
use super::watch::Watch;
use crate::executor;

/// How often a transaction is tried before the conflict is reported.
const MOST_TRIES: usize = 100;

/// The tree of the store, seen directly or from within a transaction.
///
/// A path that does not start with `/` starts at the domain's home, `/local/domain/<number>`.
#[derive(Clone)]
pub struct StoreView {
    client: Rc<Client>,
    transaction: u32,
}

impl StoreView {
    async fn request(&self, kind: u32, body: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.client.request(kind, self.transaction, body).await
    }

    /// Reads a value as text.
    ///
    /// # Errors
    ///
    /// `Refused(ENOENT)` if there is no such node, `Malformed` if the value is not text.
    pub async fn read(&self, path: &str) -> Result<String, StoreError> {
        String::from_utf8(self.read_bytes(path).await?).map_err(|_| StoreError::Malformed)
    }

    /// Reads a value as bytes.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub async fn read_bytes(&self, path: &str) -> Result<Vec<u8>, StoreError> {
        self.request(XS_READ, terminated(path)?).await
    }

    /// Writes a value; the node and those above it are made if they are not there.
    ///
    /// # Errors
    ///
    /// `Refused(EACCES)` if this domain may not.
    pub async fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), StoreError> {
        let mut body = terminated(path)?;
        body.extend_from_slice(value.as_ref());
        self.request(XS_WRITE, body).await.map(drop)
    }

    /// Makes a node without a value, if it is not there.
    ///
    /// # Errors
    ///
    /// `Refused(EACCES)` if this domain may not.
    pub async fn mkdir(&self, path: &str) -> Result<(), StoreError> {
        self.request(XS_MKDIR, terminated(path)?).await.map(drop)
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    ///
    /// `Refused(EACCES)` if this domain may not, `Refused(ENOENT)` if not even the node above is there.
    pub async fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.request(XS_RM, terminated(path)?).await.map(drop)
    }

    /// The names of a node's children.
    ///
    /// # Errors
    ///
    /// `Refused(ENOENT)` if there is no such node.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>, StoreError> {
        match self.request(XS_DIRECTORY, terminated(path)?).await {
            Ok(body) => texts(&body),
            Err(StoreError::Refused(Errno::E2BIG)) => self.directory_in_parts(path).await,
            Err(error) => Err(error),
        }
    }

    /// Reads a list that is too long for one reply. A part starts with the list's generation; if that changes,
    /// the list is read anew.
    async fn directory_in_parts(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let mut list = Vec::new();
        let mut generation = Vec::new();
        loop {
            let mut body = terminated(path)?;
            body.extend_from_slice(&terminated(&alloc::format!("{}", list.len()))?);
            let part = self.request(XS_DIRECTORY_PART, body).await?;
            let end = part.iter().position(|byte| *byte == 0).ok_or(StoreError::Malformed)?;
            let (now, names) = part.split_at(end);
            if !list.is_empty() && now != generation {
                list.clear();
                continue;
            }
            generation = now.to_vec();
            list.extend_from_slice(&names[1..]);
            // The last part ends with an empty name.
            if names.ends_with(b"\0\0") || names.len() <= 1 {
                break;
            }
        }
        texts(&list)
    }

    /// A node's permissions, its owner's first.
    ///
    /// # Errors
    ///
    /// `Refused(ENOENT)` if there is no such node.
    pub async fn get_permissions(&self, path: &str) -> Result<Vec<Permission>, StoreError> {
        let body = self.request(XS_GET_PERMS, terminated(path)?).await?;
        texts(&body)?.iter().map(|text| Permission::parse(text)).collect()
    }

    /// Sets a node's permissions; the first entry names the owner.
    ///
    /// # Errors
    ///
    /// `Refused(EACCES)` if this domain is not the owner.
    pub async fn set_permissions(&self, path: &str, permissions: &[Permission]) -> Result<(), StoreError> {
        let mut body = terminated(path)?;
        body.extend_from_slice(&Permission::encode(permissions));
        self.request(XS_SET_PERMS, body).await.map(drop)
    }
}

impl fmt::Debug for StoreView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StoreView").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

/// A connection to the store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store(StoreView);

impl Deref for Store {
    type Target = StoreView;

    fn deref(&self) -> &StoreView {
        &self.0
    }
}

impl Store {
    /// Starts to talk over a transport.
    pub fn connect(transport: impl Transport + 'static) -> Self {
        let client = Client::new(Box::new(transport));
        executor::spawn(Rc::clone(&client).dispatch());
        Self(StoreView { client, transaction: 0 })
    }

    /// Watches a path and all below it. The node need not be there.
    ///
    /// # Errors
    ///
    /// `Refused(EINVAL)` if the path is none.
    pub async fn watch(&self, path: &str) -> Result<Watch, StoreError> {
        self.0.client.watch(path).await
    }

    /// Runs `body` so that its reads and writes happen as if at one moment. It runs again when somebody else
    /// changed what it read, so it must have no other effect.
    ///
    /// # Errors
    ///
    /// What `body` returns, with nothing written; `Refused(EAGAIN)` if others never stop changing things.
    pub async fn transaction<R>(
        &self,
        body: impl AsyncFn(&Transaction) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        for _ in 0..MOST_TRIES {
            let transaction = self.start_transaction().await?;
            let value = body(&transaction).await?;
            match transaction.commit().await {
                Err(StoreError::Refused(Errno::EAGAIN)) => {}
                outcome => return outcome.map(|()| value),
            }
        }
        Err(StoreError::Refused(Errno::EAGAIN))
    }

    /// Starts a transaction; dropping it undoes it.
    ///
    /// # Errors
    ///
    /// `Refused(ENOSPC)` if this domain has too many already.
    pub async fn start_transaction(&self) -> Result<Transaction, StoreError> {
        let body = self.request(XS_TRANSACTION_START, terminated("")?).await?;
        let number = texts(&body)?.first().and_then(|text| text.parse().ok());
        let transaction = number.filter(|number| *number != 0).ok_or(StoreError::Malformed)?;
        Ok(Transaction { view: StoreView { client: Rc::clone(&self.0.client), transaction }, ended: false })
    }

    /// Tells the store of a new domain: its ring's frame and its event channel.
    ///
    /// # Errors
    ///
    /// `Refused(EACCES)` unless this domain runs the toolstack.
    pub async fn introduce(
        &self,
        domain: DomainId,
        frame: MachineFrame,
        port: Port,
    ) -> Result<(), StoreError> {
        let body = alloc::format!("{domain}\0{}\0{port}\0", frame.0);
        self.request(XS_INTRODUCE, body.into_bytes()).await.map(drop)
    }

    /// Tells the store that a domain is gone.
    ///
    /// # Errors
    ///
    /// As for [`introduce`](Self::introduce).
    pub async fn release(&self, domain: DomainId) -> Result<(), StoreError> {
        self.request(XS_RELEASE, alloc::format!("{domain}\0").into_bytes()).await.map(drop)
    }

    /// The home of a domain, as the store tells it.
    ///
    /// # Errors
    ///
    /// If the reply makes no sense.
    pub async fn domain_path(&self, domain: DomainId) -> Result<String, StoreError> {
        let body = self.request(XS_GET_DOMAIN_PATH, alloc::format!("{domain}\0").into_bytes()).await?;
        texts(&body)?.into_iter().next().ok_or(StoreError::Malformed)
    }
}

/// A transaction: what it writes becomes visible to others all at once, or not at all.
#[derive(Debug)]
pub struct Transaction {
    view: StoreView,
    ended: bool,
}

impl Deref for Transaction {
    type Target = StoreView;

    fn deref(&self) -> &StoreView {
        &self.view
    }
}

impl Transaction {
    /// Makes the changes visible.
    ///
    /// # Errors
    ///
    /// `Refused(EAGAIN)` if somebody else changed what was read; nothing is written then.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.ended = true;
        self.view.request(XS_TRANSACTION_END, terminated("T")?).await.map(drop)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            let undo = b"F\0".to_vec();
            self.view.client.send_unheeded(XS_TRANSACTION_END, self.view.transaction, undo);
        }
    }
}

/// Text with the zero that ends it.
fn terminated(text: &str) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::from(check_text(text)?);
    bytes.push(0);
    Ok(bytes)
}

/// Texts that each end with a zero; empty ones are left out.
fn texts(body: &[u8]) -> Result<Vec<String>, StoreError> {
    let text = str::from_utf8(body).map_err(|_| StoreError::Malformed)?;
    Ok(text.split('\0').filter(|text| !text.is_empty()).map(String::from).collect())
}
