//! Remote administration: an SSH server on a network card that no guest has a part of.
//!
//! Whoever holds one of the authorized keys gets what there is at dom0's prompt; anybody else gets nothing. SSH itself
//! is the crate `sunset`, which does no I/O: a [connection] moves bytes between it, a TCP stream and a
//! [session's terminal](terminal), which commands use as they use the machine's console.
//!
//! ```text
//!   card ─ ip_stack ─ TcpStream ══ Connection ══ Session's terminal ─ admin
//!                                     ║
//!                                  sunset (keys, packets, channels)
//! ```
//!
//! What strangers can use up is bounded: connections in number and each in memory, time until they have shown a key, and
//! lines in the log.

mod connection;
mod keys;
mod terminal;

use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::time::Duration;

use ip_stack::{AddressPlan, Buffers, Port, Stack, TcpStream};
use pv_runtime::executor::{now, spawn};

use crate::admin::Admin;
use crate::toolstack::Toolstack;

use keys::Keys;

/// Where the server listens.
const PORT: u16 = 22;
/// Connections at once.
const CONNECTIONS: usize = 8;
/// Crates whose messages a stranger can bring about.
const TALKATIVE: &str = "sunset";
/// How often at most it is logged that somebody was turned away.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle client is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Where remote administration is to take place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The network card, such as `nic1`.
    pub card: alloc::string::String,
    /// Where its address comes from.
    pub plan: AddressPlan,
}

impl Place {
    /// From the command line's `ssh=CARD[,ADDRESS/PREFIX[,GATEWAY]]`.
    ///
    /// # Errors
    ///
    /// That the address is none.
    pub fn parse(text: &str) -> Result<Self, ip_stack::BadAddress> {
        let (card, plan) = match text.split_once(',') {
            Some((card, address)) => (card, address.parse()?),
            None => (text, AddressPlan::Dhcp),
        };
        Ok(Self { card: card.into(), plan })
    }
}

/// Why there is no remote administration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// A file that is needed is not there, or makes no sense.
    Key(keys::KeyError),
    /// There are no random numbers to be had.
    NoRandomness,
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(formatter),
            Self::NoRandomness => formatter
                .write_str("the processor has no source of random numbers (RDRAND), and keys need them"),
        }
    }
}

impl core::error::Error for StartError {}

impl From<keys::KeyError> for StartError {
    fn from(error: keys::KeyError) -> Self {
        Self::Key(error)
    }
}

/// What all connections share.
struct Server {
    keys: Keys,
    admin: Admin,
    /// When it was last logged that somebody was turned away.
    logged: Cell<Option<Duration>>,
}

/// Starts the server. Keys come from dom0's files.
///
/// # Errors
///
/// [`StartError`].
pub async fn start(
    toolstack: &Toolstack,
    admin: Admin,
    port: Rc<dyn Port>,
    plan: AddressPlan,
) -> Result<(), StartError> {
    getrandom::fill(&mut [0; 32]).map_err(|_| StartError::NoRandomness)?;
    let keys = Keys::load(toolstack).await?;
    pv_runtime::console::quieten(TALKATIVE);
    let server = Rc::new(Server { keys, admin, logged: Cell::new(None) });
    let stack = Stack::start(port, plan);
    for _ in 0..CONNECTIONS {
        spawn(accept_for_ever(stack.clone(), Rc::clone(&server)));
    }
    spawn(announce(stack));
    Ok(())
}

async fn announce(stack: Stack) {
    let address = stack.wait_for_address().await;
    log::info!("remote administration: SSH at {}, port {PORT}", address.address());
}

async fn accept_for_ever(stack: Stack, server: Rc<Server>) {
    loop {
        match TcpStream::accept(&stack, PORT, Buffers::SMALL).await {
            Ok(stream) => {
                stream.keep_alive(KEEP_ALIVE);
                server.serve(stream).await;
            }
            Err(error) => {
                log::error!("remote administration ends: {error}");
                return;
            }
        }
    }
}

impl Server {
    async fn serve(self: &Rc<Self>, stream: TcpStream) {
        let peer = stream.remote_endpoint();
        let ending = connection::serve(stream, self).await;
        match peer {
            Some(peer) if ending.is_refusal() => self.log_rarely(format_args!("SSH client {peer}: {ending}")),
            _ => log::debug!("SSH client {peer:?}: {ending}"),
        }
    }

    fn log_rarely(&self, text: fmt::Arguments<'_>) {
        let is_due = self.logged.get().is_none_or(|last| now() >= last + LOG_INTERVAL);
        if is_due {
            self.logged.set(Some(now()));
            log::warn!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_card_and_where_its_address_comes_from() {
        assert_eq!(Place::parse("nic1"), Ok(Place { card: "nic1".into(), plan: AddressPlan::Dhcp }));
        let place = Place::parse("nic0,10.0.0.2/24,10.0.0.1").unwrap();
        assert_eq!((place.card.as_str(), place.plan), ("nic0", "10.0.0.2/24,10.0.0.1".parse().unwrap()));
        assert!(Place::parse("nic1,nonsense").is_err());
    }
}
