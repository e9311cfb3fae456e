//! The commands: what can be typed, and what it means.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::words::{self, Unclosed};
use crate::toolstack::GuestConfiguration;

/// How long a guest may take for what it is told to run, unless said otherwise.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a console that are shown unless said otherwise.
const TAIL: usize = 40;

/// What there is to be said about each command: its words, and what it does.
const USAGES: [(&str, &str); 25] = [
    ("help [COMMAND]", "this list, or more about a command"),
    ("list", "the domains"),
    ("create [-c] NAME [SETTING...]", "make a guest and let it run; -c stays on its console"),
    ("shutdown [-w] NAME", "ask a guest to switch itself off; -w waits until it is gone"),
    ("reboot NAME", "ask a guest to end and be made anew"),
    ("destroy NAME", "take a guest apart, whatever it is doing"),
    ("pause NAME", "stop a guest"),
    ("unpause NAME", "let it go on"),
    ("console NAME", "talk to a guest; Ctrl-] leaves"),
    ("console NAME --tail [LINES]", "the last lines of a guest's console"),
    ("send NAME TEXT", "type a line at a guest's console"),
    ("guest-run [-t SECONDS] NAME COMMAND", "have a guest's shell run a command, and print its output"),
    ("block-list", "the guests' disks"),
    ("network-list", "the guests' network interfaces"),
    ("store ls [PATH]", "a part of the store"),
    ("store read PATH", "a value in the store"),
    ("store write PATH VALUE", "set a value in the store"),
    ("store rm PATH", "remove a part of the store"),
    ("info", "the machine and the hypervisor"),
    ("dmesg", "the hypervisor's log"),
    ("perf", "the hypervisor's counters"),
    ("bench micro [NAME]", "what things cost, in guests made for it or in this one"),
    ("bench traffic TEXT", "what requests or packets cost whose name in `bench micro` has this text"),
    ("sleep SECONDS", "do nothing for a while"),
    ("poweroff", "ask all guests to end, then switch the machine off; also: shutdown"),
];

/// What can be said of a guest.
const SETTINGS: &str = "\
Settings of `create`:
  kernel=FILE      its kernel, a file of the boot archive           [guest]
  ramdisk=FILE     its module, such as a RAM disk                   [none]
  memory=MIB       its memory                                       [64]
  vcpus=N          its virtual CPUs, 1 to 32                        [1]
  cmdline=\"TEXT\"   its command line                                 [empty]
  disk=TARGET[,NAME[,r|w]]
                   a disk; TARGET is a disk of the machine (disk0) or a part of one
                   (disk0@OFFSET, disk0@OFFSET+SIZE; sizes such as 64M);
                   r! or w! to have what another guest has
  vif, vif=mac=ADDRESS
                   a network interface at the switch
  on_poweroff=, on_reboot=, on_crash=
                   destroy, restart or preserve                     [destroy, restart, destroy]
  paused           do not let it run yet
";

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing was typed.
    Nothing,
    /// Show what can be typed.
    Help(Option<String>),
    /// List domains.
    List,
    /// Make a guest.
    Create(GuestConfiguration),
    /// Make a guest, and talk to it until it has ended.
    CreateAndAttend(GuestConfiguration),
    /// Ask a guest to switch itself off.
    Shutdown {
        /// Its name or number.
        guest: String,
        /// Whether to wait until it is gone.
        waits: bool,
    },
    /// Ask a guest to end and be made anew.
    Reboot(String),
    /// Take a guest apart.
    Destroy(String),
    /// Stop a guest.
    Pause(String),
    /// Let it go on.
    Unpause(String),
    /// Talk to a guest.
    Attach(String),
    /// Show a console's last lines.
    Tail {
        /// The guest's name or number.
        guest: String,
        /// How many lines.
        lines: usize,
    },
    /// Type a line at a guest's console.
    Send {
        /// The guest's name or number.
        guest: String,
        /// The line.
        text: String,
    },
    /// Have a guest's shell run something.
    GuestRun {
        /// The guest's name or number.
        guest: String,
        /// The command.
        command: String,
        /// How long it may take.
        limit: Duration,
    },
    /// Something with the store.
    Store(StoreCommand),
    /// List guests' disks.
    BlockList,
    /// List guests' network interfaces.
    NetworkList,
    /// Describe machine and hypervisor.
    Info,
    /// Show the hypervisor's log.
    Log,
    /// Show the hypervisor's counters.
    Counters,
    /// Measure what the hypervisor and the back ends cost, in guests made for it or in this one.
    Bench(Option<String>),
    /// Measure what requests or packets with this text in their name cost.
    BenchTraffic(String),
    /// Do nothing for a while.
    Sleep(Duration),
    /// End everything.
    PowerOff,
}

/// What can be done with the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCommand {
    /// Show a part.
    List(String),
    /// Show a value.
    Read(String),
    /// Set a value.
    Write(String, String),
    /// Remove a part.
    Remove(String),
}

/// Why a line is no command, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misunderstood(pub String);

impl Command {
    /// What a line means. The word `xl` before a command is passed over.
    ///
    /// # Errors
    ///
    /// [`Misunderstood`].
    pub fn parse(line: &str) -> Result<Self, Misunderstood> {
        let words =
            words::split(line).map_err(|Unclosed(quote)| Misunderstood(format!("{quote} is not closed")))?;
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.first() == Some(&"xl") {
            words.remove(0);
        }
        match words.split_first() {
            None => Ok(Self::Nothing),
            Some((name, arguments)) => Self::of_words(name, arguments),
        }
    }

    fn of_words(name: &str, arguments: &[&str]) -> Result<Self, Misunderstood> {
        let text = |word: &str| word.to_owned();
        Ok(match (name, arguments) {
            ("help" | "?", []) => Self::Help(None),
            ("help", [topic]) => Self::Help(Some(text(topic))),
            ("list", []) => Self::List,
            ("create", ["-c", guest, settings @ ..]) if !guest.contains('=') => {
                Self::CreateAndAttend(configuration(guest, settings)?)
            }
            ("create", [guest, settings @ ..]) if !guest.contains('=') && *guest != "-c" => {
                Self::Create(configuration(guest, settings)?)
            }
            ("poweroff" | "shutdown", []) => Self::PowerOff,
            ("shutdown", [guest]) => Self::Shutdown { guest: text(guest), waits: false },
            ("shutdown", ["-w", guest]) => Self::Shutdown { guest: text(guest), waits: true },
            ("reboot", [guest]) => Self::Reboot(text(guest)),
            ("destroy", [guest]) => Self::Destroy(text(guest)),
            ("pause", [guest]) => Self::Pause(text(guest)),
            ("unpause", [guest]) => Self::Unpause(text(guest)),
            ("console", [guest]) => Self::Attach(text(guest)),
            ("console", [guest, "--tail" | "--recent"] | ["--tail" | "--recent", guest]) => {
                Self::Tail { guest: text(guest), lines: TAIL }
            }
            ("console", [guest, "--tail", lines] | ["--tail", lines, guest]) => {
                Self::Tail { guest: text(guest), lines: number("lines", lines)? }
            }
            ("send", [guest, words @ ..]) if !words.is_empty() => {
                Self::Send { guest: text(guest), text: words.join(" ") }
            }
            ("guest-run", ["-t", seconds, guest, words @ ..]) if !words.is_empty() => {
                Self::guest_run(guest, words, Duration::from_secs(number("seconds", seconds)?))
            }
            ("guest-run", [guest, words @ ..]) if !words.is_empty() && *guest != "-t" => {
                Self::guest_run(guest, words, RUN_LIMIT)
            }
            ("store", ["ls"]) => Self::Store(StoreCommand::List(text("/"))),
            ("store", ["ls", path]) => Self::Store(StoreCommand::List(text(path))),
            ("store", ["read", path]) => Self::Store(StoreCommand::Read(text(path))),
            ("store", ["write", path, value]) => Self::Store(StoreCommand::Write(text(path), text(value))),
            ("store", ["rm", path]) => Self::Store(StoreCommand::Remove(text(path))),
            ("block-list", []) => Self::BlockList,
            ("network-list", []) => Self::NetworkList,
            ("info", []) => Self::Info,
            ("dmesg", []) => Self::Log,
            ("perf", []) => Self::Counters,
            ("bench", ["micro"]) => Self::Bench(None),
            ("bench", ["micro", guest]) => Self::Bench(Some(text(guest))),
            ("bench", ["traffic", name]) => Self::BenchTraffic(text(name)),
            ("sleep", [seconds]) => Self::Sleep(Duration::from_secs(number("seconds", seconds)?)),
            _ => return Err(misunderstood(name)),
        })
    }

    fn guest_run(guest: &str, words: &[&str], limit: Duration) -> Self {
        Self::GuestRun { guest: guest.to_owned(), command: words.join(" "), limit }
    }
}

fn configuration(guest: &str, settings: &[&str]) -> Result<GuestConfiguration, Misunderstood> {
    GuestConfiguration::parse(guest, settings.iter().copied())
        .map_err(|error| Misunderstood(format!("{error}")))
}

fn number<T: core::str::FromStr>(what: &str, word: &str) -> Result<T, Misunderstood> {
    word.parse().map_err(|_| Misunderstood(format!("{word:?} is no number of {what}")))
}

/// How a command is to be typed, or that there is none.
fn misunderstood(name: &str) -> Misunderstood {
    let usages: Vec<_> = usages_of(name).map(|(usage, _)| format!("usage: {usage}")).collect();
    if usages.is_empty() {
        return Misunderstood(format!("there is no command {name:?}; try `help`"));
    }
    Misunderstood(usages.join("\n"))
}

fn usages_of(name: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    USAGES.into_iter().filter(move |(usage, _)| usage.split(' ').next() == Some(name))
}

/// What `help` prints.
pub fn help(topic: Option<&str>) -> Option<String> {
    let usages: Vec<_> = match topic {
        None => USAGES.to_vec(),
        Some(name) => usages_of(name).collect(),
    };
    if usages.is_empty() {
        return None;
    }
    let lines = usages.iter().map(|(usage, meaning)| format!("  {usage:<38} {meaning}\n"));
    let settings = if topic == Some("create") { SETTINGS } else { "" };
    Some(lines.collect::<String>() + settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Command {
        Command::parse(line).unwrap_or_else(|error| panic!("{line}: {}", error.0))
    }

    #[test]
    fn commands_are_understood_with_and_without_xl() {
        assert_eq!(parse("list"), Command::List);
        assert_eq!(parse("  xl   list "), Command::List);
        assert_eq!(parse(""), Command::Nothing);
        assert_eq!(parse("destroy 3"), Command::Destroy("3".into()));
        assert_eq!(parse("shutdown"), Command::PowerOff);
        assert_eq!(parse("shutdown -w web"), Command::Shutdown { guest: "web".into(), waits: true });
    }

    #[test]
    fn a_guest_is_described_by_its_settings() {
        let Command::Create(guest) = parse("create web memory=32 cmdline=\"a b\" disk=disk0 vif") else {
            panic!("not understood");
        };
        assert_eq!((guest.name.as_str(), guest.memory, guest.command_line.as_str()), ("web", 32, "a b"));
        assert_eq!((guest.disks.len(), guest.nics.len()), (1, 1));
        let Command::CreateAndAttend(attended) = parse("create -c web memory=32") else {
            panic!("not understood");
        };
        assert_eq!((attended.name.as_str(), attended.memory), ("web", 32));
    }

    #[test]
    fn consoles_can_be_shown_typed_at_and_talked_to() {
        assert_eq!(parse("console a"), Command::Attach("a".into()));
        assert_eq!(parse("console a --tail 5"), Command::Tail { guest: "a".into(), lines: 5 });
        assert_eq!(parse("console --tail 5 a"), Command::Tail { guest: "a".into(), lines: 5 });
        assert_eq!(parse("console a --recent"), Command::Tail { guest: "a".into(), lines: 40 });
        assert_eq!(
            parse("send a \"two words\""),
            Command::Send { guest: "a".into(), text: "two words".into() }
        );
        let run = |limit| Command::GuestRun { guest: "a".into(), command: "hash 1".into(), limit };
        assert_eq!(parse("guest-run a hash 1"), run(Duration::from_secs(60)));
        assert_eq!(parse("guest-run -t 5 a \"hash 1\""), run(Duration::from_secs(5)));
    }

    #[test]
    fn the_store_has_four_verbs() {
        assert_eq!(parse("store ls"), Command::Store(StoreCommand::List("/".into())));
        assert_eq!(
            parse("store write /a \"b c\""),
            Command::Store(StoreCommand::Write("/a".into(), "b c".into()))
        );
    }

    #[test]
    fn mistakes_say_what_is_right() {
        let message = |line: &str| Command::parse(line).unwrap_err().0;
        assert_eq!(message("lsit"), "there is no command \"lsit\"; try `help`");
        assert_eq!(message("destroy"), "usage: destroy NAME");
        assert_eq!(message("console"), "usage: console NAME\nusage: console NAME --tail [LINES]");
        assert_eq!(message("console a --tail x"), "\"x\" is no number of lines");
        assert_eq!(message("create a memory=x"), "memory=x: a number of MiB from 1 to 65536 is expected");
        assert_eq!(message("create memory=5"), "usage: create [-c] NAME [SETTING...]");
        assert_eq!(message("create -c"), "usage: create [-c] NAME [SETTING...]");
        assert_eq!(message("send a 'b"), "' is not closed");
        assert_eq!(message("guest-run -t 5 a"), "usage: guest-run [-t SECONDS] NAME COMMAND");
    }

    #[test]
    fn everything_that_help_names_is_a_command() {
        for (usage, _) in USAGES {
            let name = usage.split(' ').next().unwrap();
            let error = Command::of_words(name, &["too", "many", "words", "=", "x"]);
            assert!(error.is_ok() || !error.unwrap_err().0.starts_with("there is no command"), "{name}");
        }
        assert!(help(Some("create")).unwrap().contains("kernel=FILE"));
        assert_eq!(help(Some("nonsense")), None);
        assert!(help(None).unwrap().lines().all(|line| line.len() <= 120));
    }
}
