//! The server's own key, and the keys that open it.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use sunset::{PubKey, SignKey};

use crate::toolstack::Toolstack;

/// The server's private key (Ed25519, in OpenSSH's form, without a passphrase).
const HOST_KEY: &str = "ssh/host_key";
/// Public keys, one a line.
const AUTHORIZED: &str = "ssh/authorized_keys";
/// Keys that are looked at.
const MOST_KEYS: usize = 64;

/// Why the keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// A file cannot be read.
    File(&'static str, String),
    /// The server's key is not one.
    HostKey,
    /// No key would open the server.
    Authorized,
}

impl fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name, error) => write!(formatter, "{name}: {error}"),
            Self::HostKey => {
                write!(formatter, "{HOST_KEY}: no Ed25519 key in OpenSSH's form without a passphrase")
            }
            Self::Authorized => write!(formatter, "{AUTHORIZED}: no line begins with ssh-ed25519"),
        }
    }
}

impl core::error::Error for KeyError {}

/// All keys.
pub(super) struct Keys {
    host: SignKey,
    /// As they stand in the file.
    authorized: Vec<String>,
}

impl Keys {
    /// Reads them from dom0's files.
    pub(super) async fn load(toolstack: &Toolstack) -> Result<Self, KeyError> {
        let host = read(toolstack, HOST_KEY).await?;
        let authorized = read(toolstack, AUTHORIZED).await?;
        Self::from_files(&host, &authorized)
    }

    fn from_files(host: &[u8], authorized: &[u8]) -> Result<Self, KeyError> {
        let host = SignKey::from_openssh(host).map_err(|_| KeyError::HostKey)?;
        let text = String::from_utf8_lossy(authorized);
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("ssh-ed25519 "));
        let authorized: Vec<_> = lines.take(MOST_KEYS).map(ToOwned::to_owned).collect();
        if authorized.is_empty() {
            return Err(KeyError::Authorized);
        }
        Ok(Self { host, authorized })
    }

    /// The server's key.
    pub(super) fn host(&self) -> &SignKey {
        &self.host
    }

    /// Whether this key opens the server.
    pub(super) fn open_with(&self, key: &PubKey<'_>) -> bool {
        self.authorized.iter().any(|line| key.matches_openssh(line).unwrap_or(false))
    }
}

async fn read(toolstack: &Toolstack, name: &'static str) -> Result<Vec<u8>, KeyError> {
    let content = toolstack.file(name).await;
    content.map(|content| content.to_vec()).map_err(|error| KeyError::File(name, alloc::format!("{error}")))
}
