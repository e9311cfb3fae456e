//! QEMU's control socket: what happens to a machine from outside, such as that somebody pulls a cable.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use xtask::machine::Machine;
use xtask::scratch::Scratch;

use crate::program;

/// How long QEMU may take for an answer.
const SOON: Duration = Duration::from_secs(10);

/// The place of a control socket, before and while its machine runs.
pub struct QemuControl {
    directory: Scratch,
}

impl QemuControl {
    /// A place that nobody else uses.
    pub fn new() -> Self {
        Self { directory: program::scratch() }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("control")
    }

    /// Gives a machine the socket.
    pub fn attach(&self) -> impl FnOnce(Machine) -> Machine + use<> {
        let socket = format!("unix:{},server=on,wait=off", self.path().display());
        move |machine| machine.argument("-qmp").argument(socket)
    }

    /// Plugs in the cable of the machine's first network card, or pulls it.
    ///
    /// # Panics
    ///
    /// If QEMU does not do it.
    pub fn set_link(&self, is_up: bool) {
        self.execute(&format!(r#"{{"execute":"set_link","arguments":{{"name":"net0","up":{is_up}}}}}"#));
    }

    /// Has a command executed, on a connection of its own.
    fn execute(&self, command: &str) {
        let mut stream = UnixStream::connect(self.path()).expect("QEMU listens");
        stream.set_read_timeout(Some(SOON)).expect("a socket takes a time limit");
        let mut answers = BufReader::new(stream.try_clone().expect("a socket has two ends")).lines();
        for line in [r#"{"execute":"qmp_capabilities"}"#, command] {
            writeln!(stream, "{line}").expect("QEMU takes a command");
            let answer =
                answers.by_ref().map(|line| line.expect("QEMU answers")).find(|line| is_answer(line));
            assert!(answer.as_ref().is_some_and(|answer| answer.contains("return")), "{line}: {answer:?}");
        }
    }
}

impl Default for QemuControl {
    fn default() -> Self {
        Self::new()
    }
}

/// Greetings and events are none.
fn is_answer(line: &str) -> bool {
    line.starts_with("{\"return\"") || line.starts_with("{\"error\"")
}
