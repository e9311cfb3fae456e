//! A machine whose domain 0 is administered over SSH, by this computer's own client.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use xtask::machine::Running;
use xtask::remote::{self, Remote};
use xtask::scratch::Scratch;

use crate::call::text;
use crate::{Dom0, Prompt, program};

/// What domain 0 says when it listens.
const LISTENS: &str = "remote administration: SSH at ";
/// How long a client may take, in seconds.
const LIMIT_SECONDS: &str = "90";
const LIMIT: Duration = Duration::from_secs(90);

/// The machine, and the keys to it.
pub struct RemoteDom0 {
    /// Domain 0's prompt at the machine itself.
    pub prompt: Prompt,
    remote: Remote,
    port: u16,
    keys: Scratch,
}

impl RemoteDom0 {
    /// Starts the machine, and waits until domain 0 listens. It has no network card but the one for this.
    ///
    /// # Panics
    ///
    /// If it does not in time.
    pub fn start(dom0: Dom0) -> Self {
        let keys = program::scratch();
        let remote = Remote::at(keys.join("ssh"));
        remote.make_keys().unwrap_or_else(|error| panic!("{error:#}"));
        let port = remote::free_port().unwrap_or_else(|error| panic!("{error:#}"));
        let read = |name: &str| std::fs::read(remote.path(name)).expect("the keys were made");
        let dom0 = dom0
            .file("ssh/host_key", read("host_key"))
            .file("ssh/authorized_keys", read("client_key.pub"))
            .own_words("noguest ssh=nic0")
            .with(move |machine| Remote::connect(machine, port));
        let mut prompt = dom0.start();
        if !prompt.console().contains(LISTENS) {
            prompt.wait_for(LISTENS);
        }
        Self { prompt, remote, port, keys }
    }

    /// The client's command, up to what is to be run; it ends when its time is up.
    pub fn client(&self) -> Command {
        let client = self.remote.client(self.port);
        let mut timed = Command::new("timeout");
        timed.arg(LIMIT_SECONDS).arg(client.get_program()).args(client.get_args());
        timed
    }

    /// The same with another key: the file of its private half.
    pub fn client_with_key(&self, key: &Path) -> Command {
        let known = self.remote.path("client_key");
        let client = self.client();
        let mut other = Command::new(client.get_program());
        other.args(client.get_args().map(|word| if word == known { key.as_os_str() } else { word }));
        other
    }

    /// Runs a command, without anything to read; what came of it.
    ///
    /// # Panics
    ///
    /// If the client cannot be started.
    pub fn ssh(&self, command: &str) -> Output {
        output(self.client().arg(command).stdin(Stdio::null()))
    }

    /// The same, which is expected to succeed; what it printed.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn succeed(&self, command: &str) -> String {
        let output = self.ssh(command);
        assert!(output.status.success(), "{command}: {output:?}");
        text(&output.stdout)
    }

    /// Starts a session to talk to: on a screen of its own, as at a terminal.
    ///
    /// # Panics
    ///
    /// If the client cannot be started.
    pub fn talk(&self, command: &[&str]) -> Running {
        let mut client = self.client();
        let destination = client.get_args().last().map(ToOwned::to_owned);
        // The pseudo-terminal is asked for although there is none here.
        client.args(["-tt"]).args(command);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = client.spawn().unwrap_or_else(|error| panic!("{destination:?}: {error}"));
        Running::new(child, Some(LIMIT))
    }

    /// A bare connection to domain 0's port.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn connection(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the port is forwarded");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit can be set");
        stream
    }

    /// A directory for a test's own keys.
    pub fn keys(&self) -> &Path {
        self.keys.path()
    }
}

/// Runs a client to its end.
///
/// # Panics
///
/// If it cannot be started.
pub fn output(client: &mut Command) -> Output {
    client.output().unwrap_or_else(|error| panic!("{client:?}: {error}"))
}
