//! A machine with our domain 0: a description that is either given commands to execute or a place to type at.

use std::time::Duration;

use xtask::archive::{Archive, EXEC, GUEST};
use xtask::boot::{self, Load};
use xtask::machine::Machine;
use xtask::scratch::Scratch;

use crate::program;
use crate::prompt::Prompt;
use crate::report::Report;

/// How long such a machine may run unless told otherwise.
const LIMIT: Duration = Duration::from_secs(120);

/// A machine with domain 0, in the making. Without words for domain 0 to the contrary there are no guests at first.
pub struct Dom0 {
    files: Vec<(String, Vec<u8>)>,
    words: String,
    own_words: String,
    change: Box<dyn FnOnce(Machine) -> Machine>,
}

impl Dom0 {
    /// Domain 0 with the guest's kernel in its archive; no disk, no network.
    pub fn new() -> Self {
        Self {
            files: vec![(GUEST.to_owned(), program::content("WEIR_GUEST"))],
            words: String::new(),
            own_words: "noguest".to_owned(),
            change: Box::new(|machine| machine),
        }
    }

    /// Lets domain 0 make its usual guest at start-up.
    #[must_use]
    pub fn with_usual_guest(self) -> Self {
        Self { own_words: String::new(), ..self }
    }

    /// Puts a file into the boot archive.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// Puts a test's kernel into the boot archive, by the variable that names it.
    #[must_use]
    pub fn kernel(self, name: &str, variable: &str) -> Self {
        self.file(name, program::content(variable))
    }

    /// What the hypervisor is told in addition.
    #[must_use]
    pub fn words(self, words: &str) -> Self {
        Self { words: words.to_owned(), ..self }
    }

    /// What domain 0 is told, instead of that there are no guests at first.
    #[must_use]
    pub fn own_words(self, words: &str) -> Self {
        Self { own_words: words.to_owned(), ..self }
    }

    /// Changes the machine.
    #[must_use]
    pub fn with(self, change: impl FnOnce(Machine) -> Machine + 'static) -> Self {
        let before = self.change;
        Self { change: Box::new(|machine| change(before(machine))), ..self }
    }

    /// Connects the machine to QEMU's own network, where 10.0.2.2 is this computer. Each `(here, address, port)` makes
    /// a guest's port reachable at a port of this computer.
    #[must_use]
    pub fn network(self, forwards: &[(u16, &str, u16)]) -> Self {
        let mut backend = "user".to_owned();
        for (here, address, port) in forwards {
            backend += &format!(",hostfwd=tcp:127.0.0.1:{here}-{address}:{port}");
        }
        self.with(move |machine| machine.network(backend))
    }

    /// Executes commands, one after the other; returns when the machine has ended.
    pub fn run<T: AsRef<str>>(self, commands: impl IntoIterator<Item = T>) -> Report {
        let commands: Vec<String> = commands.into_iter().map(|command| command.as_ref().to_owned()).collect();
        let (machine, _files) = self.machine(&commands);
        let mut running = machine.spawn().unwrap_or_else(|error| panic!("{error:#}"));
        Report::follow(&mut running)
    }

    /// Starts the machine, and waits until commands can be typed.
    pub fn start(self) -> Prompt {
        let (machine, files) = self.machine(&[]);
        Prompt::start(&machine, Some(files))
    }

    /// The machine, and the directory with what it boots from.
    fn machine(self, commands: &[String]) -> (Machine, Scratch) {
        let mut archive = Archive::new();
        for (name, content) in &self.files {
            archive.add(name, content).expect("the archive takes any file");
        }
        if !commands.is_empty() {
            archive.add_commands(commands).unwrap_or_else(|error| panic!("{EXEC}: {error}"));
        }
        let archive = archive.finish().expect("the archive can be finished");
        let scratch = program::scratch();
        let load = Load {
            images: &program::images(),
            archive: &archive,
            hypervisor_words: Some(&self.words),
            dom0_words: &self.own_words,
        };
        let machine = boot::on_weir(load, &scratch).unwrap_or_else(|error| panic!("{error:#}"));
        let machine = machine.processors(program::processors()).time_limit(LIMIT);
        ((self.change)(machine), scratch)
    }
}

impl Default for Dom0 {
    fn default() -> Self {
        Self::new()
    }
}
