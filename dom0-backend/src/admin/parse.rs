//! From a typed line to a command.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use device_drivers::pci::Address;
use hypercall_abi::DomainId;

use super::arguments::Arguments;
use super::command::*;
use super::usage::{self, NOT_YET};
use super::words::{self, Unclosed};
use crate::bench::{DiskRequests, PairTraffic, WireTraffic};
use crate::toolstack::GuestConfiguration;

/// How long a guest may take for what it is told to run, unless said otherwise.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a console that are shown unless said otherwise.
const TAIL: usize = 40;
/// Time between two looks of `top`, unless said otherwise.
const LOOK: Duration = Duration::from_secs(2);

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The command's name; empty if nothing was typed.
    pub name: String,
    /// Whether the answer is to be JSON.
    pub wants_json: bool,
    /// What it means.
    pub command: Result<Command, Misunderstood>,
}

/// Commands whose last words are free text.
const WITH_TEXT: [&str; 3] = ["send", "guest-run", "store"];
/// The word that asks for JSON.
const JSON: &str = "--json";

impl Order {
    /// What a line means. The word `xl` before a command is passed over.
    pub fn parse(line: &str) -> Self {
        let words = match words::split(line) {
            Ok(words) => words,
            Err(Unclosed(quote)) => {
                let command = Err(Misunderstood(format!("{quote} is not closed")));
                let wants_json = line.split_whitespace().any(|word| word == JSON);
                return Self { name: String::new(), wants_json, command };
            }
        };
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.first() == Some(&"xl") {
            words.remove(0);
        }
        let mut wants_json = false;
        for place in [0, 1] {
            if words.get(place) == Some(&JSON) {
                words.remove(place);
                wants_json = true;
            }
        }
        if words.last() == Some(&JSON) && !WITH_TEXT.contains(&words[0]) {
            words.pop();
            wants_json = true;
        }
        let Some((name, arguments)) = words.split_first() else {
            return Self { name: String::new(), wants_json, command: Ok(Command::Nothing) };
        };
        match command_of(name) {
            Ok(name) => {
                Self { name: name.to_owned(), wants_json, command: Command::of_words(name, arguments) }
            }
            Err(error) => Self { name: (*name).to_owned(), wants_json, command: Err(error) },
        }
    }
}

/// The command that a first word means.
fn command_of(name: &str) -> Result<&'static str, Misunderstood> {
    if name == "?" {
        return Ok("help");
    }
    usage::command_named(name).map_err(|beginning| {
        if NOT_YET.contains(&name) {
            return Misunderstood(format!("xl's command {name} is not there yet"));
        }
        match beginning.as_slice() {
            [] => Misunderstood(format!("there is no command {name:?}; try `help`")),
            several => Misunderstood(format!("{name:?} may mean: {}", several.join(" "))),
        }
    })
}

impl Command {
    /// What a command's words mean.
    fn of_words(name: &'static str, arguments: &[&str]) -> Result<Self, Misunderstood> {
        let text = |word: &str| word.to_owned();
        Ok(match (name, arguments) {
            ("help", []) => Self::Help(None),
            ("help", [topic]) => Self::Help(Some(text(topic))),
            ("list", _) => Self::list(arguments)?,
            ("create", _) => Self::Create(create_order(arguments)?),
            ("poweroff" | "shutdown", []) => Self::PowerOff,
            ("shutdown", _) => {
                let (whom, waits) = whom(name, arguments)?;
                Self::Shutdown { whom, waits }
            }
            ("reboot", _) => {
                let (whom, waits) = whom(name, arguments)?;
                Self::Reboot { whom, waits }
            }
            ("destroy", [guest] | ["-f", guest]) => Self::Destroy(text(guest)),
            ("pause", [guest]) => Self::Pause(text(guest)),
            ("unpause", [guest]) => Self::Unpause(text(guest)),
            ("console", _) => Self::console(arguments)?,
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
            ("store", ["quota"]) => Self::Store(StoreCommand::Quota),
            ("store", ["rm", path]) => Self::Store(StoreCommand::Remove(text(path))),
            ("sleep", [seconds]) => Self::Sleep(Duration::from_secs(number("seconds", seconds)?)),
            ("bench", ["micro"]) => Self::Bench(BenchCommand::Micro(None)),
            ("bench", ["micro", guest]) => Self::Bench(BenchCommand::Micro(Some(text(guest)))),
            ("bench", ["traffic", name]) => Self::Bench(BenchCommand::Traffic(text(name))),
            ("bench", ["create", count]) => Self::Bench(BenchCommand::Create(number("guests", count)?)),
            ("bench", ["guests", memory]) => Self::Bench(BenchCommand::Guests(number("MiB", memory)?)),
            ("bench", ["io", disk, action, order, bytes, depth, rounds]) => {
                Self::Bench(BenchCommand::Io(DiskRequests {
                    disk: text(disk),
                    kind: [text(action), text(order), text(bytes)],
                    depth: number::<u32>("depth", depth)?.max(1),
                    rounds: number("rounds", rounds)?,
                }))
            }
            ("bench", ["wire", near, far, kind, bytes, count, rounds]) => {
                Self::Bench(BenchCommand::Wire(WireTraffic {
                    ends: [text(near), text(far)],
                    kind: [text(kind), text(bytes)],
                    count: number::<u32>("count", count)?.max(1),
                    rounds: number("rounds", rounds)?,
                }))
            }
            ("bench", ["pair", bytes, count, rounds]) => Self::Bench(BenchCommand::Pair(PairTraffic {
                bytes: number("bytes", bytes)?,
                count: number::<u32>("count", count)?.max(1),
                rounds: number("rounds", rounds)?,
            })),
            ("perf", []) => Self::Counters,
            ("perf", ["-r" | "--reset"]) => Self::ResetCounters,
            ("drill", [rounds]) => Self::Drill(number("guests", rounds)?),
            _ => Self::looking(name, arguments)?,
        })
    }

    /// Commands that look at domains, or change something about one.
    fn looking(name: &'static str, arguments: &[&str]) -> Result<Self, Misunderstood> {
        let text = |word: &str| word.to_owned();
        let all = |words: &[&str]| words.iter().map(|word| text(word)).collect::<Vec<_>>();
        Ok(match (name, arguments) {
            ("sysrq", [guest, letter]) => {
                let mut letters = letter.chars();
                let (Some(letter), None) = (letters.next().filter(char::is_ascii_graphic), letters.next())
                else {
                    return Err(Misunderstood(format!("{letter:?} is no single letter")));
                };
                Self::SystemRequest { guest: text(guest), letter }
            }
            ("domid", [guest]) => Self::NumberOf(text(guest)),
            ("domname", [domain]) => Self::NameOf(DomainId(number("a domain", domain)?)),
            ("rename", [guest, new]) => Self::Rename { guest: text(guest), new: text(new) },
            ("uptime", ["-s", guests @ ..]) => Self::Uptime { guests: all(guests), is_short: true },
            ("uptime", guests) => Self::Uptime { guests: all(guests), is_short: false },
            ("vcpu-list", guests) => Self::VcpuList(all(guests)),
            ("vcpu-pin", _) => Self::pin(arguments)?,
            ("vcpu-set", _) => Self::plug(arguments)?,
            ("trigger", _) => Self::trigger(arguments)?,
            ("cpupool-list", [] | ["Pool-0"]) => Self::PoolList { shows_cpus: false },
            ("cpupool-list", ["-c" | "--cpus"] | ["-c" | "--cpus", "Pool-0"]) => {
                Self::PoolList { shows_cpus: true }
            }
            ("mem-set", [guest, size]) => Self::SetMemory { guest: text(guest), kibibytes: kibibytes(size)? },
            ("mem-max", [guest, size]) => {
                Self::LimitMemory { guest: text(guest), kibibytes: kibibytes(size)? }
            }
            ("sched-credit2", _) => Self::shares(arguments)?,
            ("block-attach", [guest, words @ ..]) if !words.is_empty() => {
                Self::AttachDisk { guest: text(guest), disk: described(words)? }
            }
            ("network-attach", [guest, words @ ..]) => {
                Self::AttachNic { guest: text(guest), nic: described(words)? }
            }
            ("block-detach", _) => Self::DetachDisk(detachment(name, arguments)?),
            ("network-detach", _) => Self::DetachNic(detachment(name, arguments)?),
            ("block-list", guests) => Self::BlockList(all(guests)),
            ("network-list", guests) => Self::NetworkList(all(guests)),
            ("top", _) => Self::top(arguments)?,
            ("pci-assignable-add", [address]) => Self::Pci(PciCommand::MakeAssignable(function(address)?)),
            ("pci-assignable-remove", [address]) => {
                Self::Pci(PciCommand::MakeUnassignable(function(address)?))
            }
            ("pci-assignable-list", []) => Self::Pci(PciCommand::Assignable),
            ("pci-list", [guest]) => Self::Pci(PciCommand::Of(text(guest))),
            ("info", [] | ["-n"]) => Self::Info,
            ("dmesg", []) => Self::Log { clears: false },
            ("dmesg", ["-c" | "--clear"]) => Self::Log { clears: true },
            _ => return Err(usage(name)),
        })
    }

    fn list(arguments: &[&str]) -> Result<Self, Misunderstood> {
        let taken = Arguments::take(arguments, &["-l", "--long", "-v", "--verbose"], &[]);
        let taken = taken.ok_or_else(|| usage("list"))?;
        let form = match (taken.has(&["-l", "--long"]), taken.has(&["-v", "--verbose"])) {
            (true, _) => ListForm::Json,
            (false, true) => ListForm::LongLines,
            (false, false) => ListForm::Lines,
        };
        match taken.operands.as_slice() {
            [] => Ok(Self::List { guest: None, form }),
            [guest] => Ok(Self::List { guest: Some((*guest).to_owned()), form }),
            _ => Err(usage("list")),
        }
    }

    fn console(arguments: &[&str]) -> Result<Self, Misunderstood> {
        let text = |word: &str| word.to_owned();
        Ok(match arguments {
            [guest] | ["-t", "pv", guest] | ["-n", "0", guest] if !guest.starts_with('-') => {
                Self::Attach(text(guest))
            }
            [guest, "--tail" | "--recent"] | ["--tail" | "--recent", guest] => {
                Self::Tail { guest: text(guest), lines: TAIL }
            }
            [guest, "--tail", lines] | ["--tail", lines, guest] => {
                Self::Tail { guest: text(guest), lines: number("lines", lines)? }
            }
            _ => return Err(usage("console")),
        })
    }

    fn top(arguments: &[&str]) -> Result<Self, Misunderstood> {
        let valued = ["-d", "--delay", "-i", "--iterations"];
        let taken = Arguments::take(arguments, &["-b", "--batch"], &valued);
        let taken = taken.filter(|taken| taken.operands.is_empty()).ok_or_else(|| usage("top"))?;
        let pause = taken.value(&["-d", "--delay"]).map(|word| number("seconds", word)).transpose()?;
        let times = taken.value(&["-i", "--iterations"]).map(|word| number("times", word)).transpose()?;
        Ok(Self::Top {
            pause: pause.map_or(LOOK, Duration::from_secs),
            times,
            is_batch: taken.has(&["-b", "--batch"]),
        })
    }

    fn guest_run(guest: &str, words: &[&str], limit: Duration) -> Self {
        Self::GuestRun { guest: guest.to_owned(), command: words.join(" "), limit }
    }
}

/// One guest or all, and whether to wait for it.
fn whom(name: &str, arguments: &[&str]) -> Result<(Whom, bool), Misunderstood> {
    let flags = ["-a", "--all", "-w", "--wait", "-F"];
    let taken = Arguments::take(arguments, &flags, &[]).ok_or_else(|| usage(name))?;
    let whom = match (taken.has(&["-a", "--all"]), taken.operands.as_slice()) {
        (true, []) => Whom::All,
        (false, [guest]) => Whom::One((*guest).to_owned()),
        _ => return Err(usage(name)),
    };
    Ok((whom, taken.has(&["-w", "--wait"])))
}

/// What the words of a device say. They may be words of their own, as `xl` has them, or have commas between them.
fn described<T: core::str::FromStr<Err: fmt::Display>>(words: &[&str]) -> Result<T, Misunderstood> {
    words.join(",").parse().map_err(|error| Misunderstood(format!("{error}")))
}

fn detachment(name: &str, arguments: &[&str]) -> Result<Detachment, Misunderstood> {
    let taken = Arguments::take(arguments, &["--force"], &[]).ok_or_else(|| usage(name))?;
    let [guest, device] = taken.operands.as_slice() else { return Err(usage(name)) };
    let is_forced = taken.has(&["--force"]);
    Ok(Detachment { guest: (*guest).to_owned(), device: (*device).to_owned(), is_forced })
}

fn create_order(arguments: &[&str]) -> Result<CreateOrder, Misunderstood> {
    // Those of `xl` that change nothing here: its own process does not stay, and there is nothing to be quiet about.
    let without_effect = ["-q", "--quiet", "-F", "-e", "-A", "-V"];
    let flags = [&["-p", "-c", "-n", "--dryrun", "--dry-run"], without_effect.as_slice()].concat();
    let taken = Arguments::take(arguments, &flags, &["-f", "--defconfig"]).ok_or_else(|| usage("create"))?;
    let file = taken.value(&["-f", "--defconfig"]);
    let (first, words) = match (file, taken.operands.as_slice()) {
        (Some(file), words) => (file, words),
        (None, [first, words @ ..]) if !first.contains('=') => (*first, words),
        _ => return Err(usage("create")),
    };
    let description = if file.is_some() || is_file(first) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Description::File { path: first.to_owned(), words }
    } else {
        let configuration = GuestConfiguration::parse(first, words.iter().copied());
        Description::Words(Box::new(configuration.map_err(|error| Misunderstood(format!("{error}")))?))
    };
    Ok(CreateOrder {
        description,
        pauses: taken.has(&["-p"]),
        attaches: taken.has(&["-c"]),
        is_trial: taken.has(&["-n", "--dryrun", "--dry-run"]),
    })
}

/// Whether a word names a configuration file, and not a guest.
fn is_file(word: &str) -> bool {
    word.contains('/') || word.ends_with(".cfg")
}

pub(super) fn number<T: core::str::FromStr>(what: &str, word: &str) -> Result<T, Misunderstood> {
    word.parse().map_err(|_| Misunderstood(format!("{word:?} is no number of {what}")))
}

/// The address of a PCI function.
fn function(word: &str) -> Result<Address, Misunderstood> {
    word.parse()
        .map_err(|_| Misunderstood(format!("{word:?} is no address of a PCI device, such as 00:04.0")))
}

/// An amount of memory: MiB, or with a letter behind it that says of what.
fn kibibytes(word: &str) -> Result<u64, Misunderstood> {
    let unit = word.bytes().last().filter(u8::is_ascii_alphabetic);
    let digits = word.strip_suffix(|last: char| last.is_ascii_alphabetic()).unwrap_or(word);
    let shift = match unit.map(|unit| unit.to_ascii_lowercase()) {
        Some(b'k') => 0,
        None | Some(b'm') => 10,
        Some(b'g') => 20,
        Some(b't') => 30,
        Some(_) => {
            return Err(Misunderstood(format!("{word:?} is no amount of memory, such as 64 or 65536k")));
        }
    };
    let amount = digits.parse::<u64>().ok().filter(|amount| amount.leading_zeros() > 44);
    let amount = amount.filter(|amount| *amount > 0);
    amount
        .map(|amount| amount << shift)
        .ok_or_else(|| Misunderstood(format!("{word:?} is no amount of memory, such as 64 or 65536k")))
}

/// How a command is to be typed.
pub(super) fn usage(name: &str) -> Misunderstood {
    let usages: Vec<_> = usage::usages_of(name).map(|(usage, _)| format!("usage: {usage}")).collect();
    Misunderstood(usages.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolstack::{CpuSet, PinOrder};

    fn parse(line: &str) -> Command {
        Order::parse(line).command.unwrap_or_else(|error| panic!("{line}: {}", error.0))
    }

    #[test]
    fn commands_are_understood_with_and_without_xl() {
        let list = Command::List { guest: None, form: ListForm::Lines };
        assert_eq!(parse("list"), list);
        assert_eq!(parse("  xl   list "), list);
        assert_eq!(parse(""), Command::Nothing);
        assert_eq!(parse("destroy 3"), Command::Destroy("3".into()));
        assert_eq!(parse("shutdown"), Command::PowerOff);
        assert_eq!(
            parse("shutdown -w web"),
            Command::Shutdown { whom: Whom::One("web".into()), waits: true }
        );
        assert_eq!(parse("shut -a"), Command::Shutdown { whom: Whom::All, waits: false });
    }

    #[test]
    fn a_guest_is_described_by_its_settings() {
        let Command::Create(order) = parse("create -p web memory=32 cmdline=\"a b\" disk=disk0 vif") else {
            panic!("not understood");
        };
        assert!(order.pauses && !order.attaches && !order.is_trial);
        let Description::Words(guest) = order.description else { panic!("no words") };
        assert_eq!((guest.name.as_str(), guest.memory, guest.command_line.as_str()), ("web", 32, "a b"));
        assert_eq!((guest.disks.len(), guest.nics.len()), (1, 1));
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
    fn the_store_has_five_verbs() {
        assert_eq!(parse("store quota"), Command::Store(StoreCommand::Quota));
        assert_eq!(parse("store ls"), Command::Store(StoreCommand::List("/".into())));
        assert_eq!(
            parse("store write /a \"b c\""),
            Command::Store(StoreCommand::Write("/a".into(), "b c".into()))
        );
    }

    #[test]
    fn mistakes_say_what_is_right() {
        let message = |line: &str| Order::parse(line).command.unwrap_err().0;
        assert_eq!(message("lsit"), "there is no command \"lsit\"; try `help`");
        assert_eq!(message("destroy"), "usage: destroy NAME");
        assert_eq!(message("console"), "usage: console NAME\nusage: console NAME --tail [LINES]");
        assert_eq!(message("console a --tail x"), "\"x\" is no number of lines");
        assert_eq!(message("create a memory=x"), "memory=x: a number of MiB from 1 to 65536 is expected");
        assert!(message("create memory=5").starts_with("usage: create [-p] [-c] [-n] FILE"));
        assert_eq!(message("migrate web there"), "xl's command migrate is not there yet");
        assert_eq!(message("dom"), "\"dom\" may mean: domid domname");
        assert_eq!(
            message("sched-credit2 -d a -c 50%"),
            "\"50%\" is no cap: per cent of a CPU up to 65535, 0 for none"
        );
        assert!(message("sched-credit2 -c 50").starts_with("usage: sched-credit2 "));
        assert!(message("vcpu-pin a 0").starts_with("usage: vcpu-pin "));
        assert_eq!(message("vcpu-set a 0"), "\"0\" is no number of virtual CPUs");
        assert_eq!(message("trigger a button"), "\"button\" is nothing to trigger; nmi is");
        assert_eq!(
            message("trigger a power"),
            "a paravirtual guest has no power button, only nmi; see `shutdown`, `reboot`, `pause`"
        );
        assert_eq!(message("cpupool-list other"), "usage: cpupool-list [-c] [Pool-0]");
        assert_eq!(message("vcpu-pin a x 0"), "\"x\" is no number of a virtual CPU");
        assert_eq!(message("vcpu-pin a 0 0,^0"), "the list leaves no CPU to run on");
        assert_eq!(message("vcpu-pin a 0 0 x"), "\"x\" is no list of CPUs, such as 0-3,5 or all or all,^1");
        assert_eq!(message("sched-credit2 -d a -w 0"), "\"0\" is no weight: a number from 1 to 65535");
        assert_eq!(message("mem-set a lots"), "\"lots\" is no amount of memory, such as 64 or 65536k");
        assert_eq!(message("mem-set a 0"), "\"0\" is no amount of memory, such as 64 or 65536k");
        assert_eq!(message("sysrq a bc"), "\"bc\" is no single letter");
        assert_eq!(message("list -x"), "usage: list [-l] [-v] [NAME]");
        assert_eq!(message("send a 'b"), "' is not closed");
        assert_eq!(message("guest-run -t 5 a"), "usage: guest-run [-t SECONDS] NAME COMMAND");
    }

    #[test]
    fn a_file_is_told_from_a_name() {
        let description = |line: &str| match parse(line) {
            Command::Create(order) => order.description,
            other => panic!("{other:?}"),
        };
        let file = |path: &str, words: &[&str]| Description::File {
            path: path.into(),
            words: words.iter().map(|word| String::from(*word)).collect(),
        };
        assert_eq!(description("create web.cfg memory=64"), file("web.cfg", &["memory=64"]));
        assert_eq!(description("create /etc/web"), file("/etc/web", &[]));
        assert_eq!(description("create -f web"), file("web", &[]));
        assert!(matches!(description("create web"), Description::Words(_)));
    }

    #[test]
    fn json_may_be_asked_for_but_not_by_a_guests_words() {
        let wants = |line: &str| Order::parse(line).wants_json;
        for line in ["list --json", "--json list", "xl list --json", "console a --tail --json", "'x --json"] {
            assert!(wants(line), "{line}");
        }
        let order = Order::parse("guest-run a b --json");
        assert!(!order.wants_json);
        assert!(matches!(order.command, Ok(Command::GuestRun { command, .. }) if command == "b --json"));
        assert!(wants("guest-run --json a b"));
    }

    #[test]
    fn virtual_cpus_are_pinned_one_or_all() {
        let pin = |order| Command::Pin { guest: "a".into(), order };
        let order = PinOrder { vcpu: Some(1), hard: Some(CpuSet(5)), ..PinOrder::default() };
        assert_eq!(parse("vcpu-pin a 1 0,2"), pin(order));
        assert_eq!(parse("vcpu-pin -f a 1 0,2 -"), pin(order));
        assert_eq!(parse("vcpu-pin a 1 0,2 --dedicated"), pin(PinOrder { is_dedicated: true, ..order }));
        let order = PinOrder { soft: Some(CpuSet(2)), ..PinOrder::default() };
        assert_eq!(parse("vcpu-pin a all - 1"), pin(order));
    }

    #[test]
    fn amounts_of_memory_have_units() {
        let amount = |word: &str| kibibytes(word).ok();
        assert_eq!(amount("64"), Some(65536));
        assert_eq!(amount("64m"), Some(65536));
        assert_eq!(amount("65536K"), Some(65536));
        assert_eq!(amount("2g"), Some(2 << 20));
        assert_eq!(
            (amount("x"), amount("5q"), amount("99999999999999999t"), amount("")),
            (None, None, None, None)
        );
    }

    #[test]
    fn devices_are_described_by_words_or_by_commas() {
        let disk = |line: &str| match parse(line) {
            Command::AttachDisk { guest, disk } if guest == "web" => disk,
            other => panic!("{other:?}"),
        };
        assert_eq!(disk("block-attach web phy:disk0 xvdb r"), disk("block-attach web disk0,xvdb,r"));
        assert_eq!(disk("xl block-attach web vdev=xvdb target=disk0"), disk("block-attach web disk0,xvdb"));
        let nic = |line: &str| match parse(line) {
            Command::AttachNic { guest, nic } if guest == "web" => nic,
            other => panic!("{other:?}"),
        };
        assert_eq!(nic("network-attach web").mac, None);
        assert_eq!(
            nic("network-attach web mac=00:16:3e:00:00:01 bridge=switch0"),
            nic("network-attach web mac=00:16:3e:00:00:01,bridge=switch0")
        );
        let detachment =
            |device: &str, is_forced| Detachment { guest: "web".into(), device: device.into(), is_forced };
        assert_eq!(parse("block-detach web xvdb"), Command::DetachDisk(detachment("xvdb", false)));
        assert_eq!(parse("network-detach --force web 1"), Command::DetachNic(detachment("1", true)));
    }

    #[test]
    fn mistakes_about_devices_say_what_is_right() {
        let message = |line: &str| Order::parse(line).command.unwrap_err().0;
        for line in ["block-attach", "block-attach web"] {
            assert_eq!(message(line), "usage: block-attach NAME TARGET[,DISK[,r|w]]", "{line}");
        }
        for line in ["block-detach", "block-detach web", "block-detach web a b", "block-detach -x web a"] {
            assert_eq!(message(line), "usage: block-detach [--force] NAME DISK", "{line}");
        }
        for line in ["network-detach", "network-detach web", "network-detach web 0 1"] {
            assert_eq!(message(line), "usage: network-detach [--force] NAME NUMBER|ADDRESS", "{line}");
        }
        assert!(message("network-attach").starts_with("usage: network-attach NAME ["));
        assert_eq!(
            message("block-attach web disk0 sdb"),
            "\"sdb\" is no name for a guest's disk: xvda to xvdp"
        );
        assert_eq!(
            message("block-attach web disk0 xvdb rx"),
            "\"rx\" is no access to a disk: r, w, r! or w!"
        );
        assert_eq!(
            message("block-attach web disk0 xvdb r more"),
            "disk=disk0,xvdb,r,more: TARGET,NAME,ACCESS is expected"
        );
        assert_eq!(
            message("block-attach web qcow2:x"),
            "disk=qcow2:x: NAME, NAME@OFFSET or NAME@OFFSET+SIZE in whole sectors (such as disk0@64M), or a file's path, is expected"
        );
        assert_eq!(
            message("network-attach web mac=1:2"),
            "\"1:2\" is no address for an interface, such as 00:16:3e:12:34:56"
        );
        assert_eq!(message("network-attach web script=x"), "vif: \"script=x\" is not there yet");
    }

    #[test]
    fn everything_that_help_names_is_a_command() {
        for name in usage::names() {
            let error = Command::of_words(name, &["too", "many", "words", "=", "x"]);
            assert!(error.is_ok() || !error.unwrap_err().0.starts_with("there is no command"), "{name}");
        }
    }
}
