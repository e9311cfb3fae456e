//! The words of commands.

use alloc::format;
use alloc::string::{String, ToString};
use core::str::{FromStr, SplitAsciiWhitespace};

use smoltcp::wire::Ipv4Address;

use super::failure::Failure;
use crate::bench::Benchmark;
use crate::bench::io::{Action, Order, Workload};
use crate::bench::net::Stream;
use crate::bench::wire;

/// What `help` prints.
pub const HELP: &str = "\
commands; sizes and offsets are bytes and may end in K, M or G; DISK is a number, 0 if left out
  info                                   memory, devices, what went through them
  echo-server [PORT]                     serve TCP echo, port 7 if none is given
  http-get http://HOST[:PORT][/PATH]     fetch, print length and SHA-256
  tcp-send HOST PORT BYTES SEED          send the data of SEED over TCP
  tcp-receive HOST PORT BYTES SEED       receive as much over TCP and compare
                                         (HOST `listen`: wait for a connection to PORT)
  disk-write SEED OFFSET LENGTH [DISK]   write the data of SEED, then flush
  disk-read OFFSET LENGTH [DISK]         print as hexadecimal
  disk-hash OFFSET LENGTH [DISK]         read, print SHA-256
  bench micro                            what hypercalls, events and memory cost
  bench start                            the time stamp counter at this kernel's first instruction
  bench disk ROUNDS DEPTH                read so many pages at a time; dom0 counts what it takes
  bench io ACTION ORDER BYTES DEPTH ROUNDS
                                         (requests to disk 0: read, write or flush; random or sequential)
                                         (dom0 counts what they take, or a kernel that is alone itself)
  bench check ACTION ORDER BYTES DEPTH ROUNDS DISK SEED
                                         (the same, on a disk that holds the data of SEED, compared)
  bench net MAC BYTES PACKETS ROUNDS     send so many packets at a time; dom0 counts what it takes
  bench sink MAC BYTES PACKETS ROUNDS    receive and compare them, in the guest that they are sent to
  bench wire KIND BYTES COUNT ROUNDS     (over a wire from the network interface to the last card of this domain's own:)
                                         (KIND send, receive, both: packets; tcp-send, tcp-receive: segments; request)
  hold-memory SECONDS SEED               fill free memory with the data of SEED, wait, compare
  sleep SECONDS                          wait
  spin SECONDS                           be busy, without asking the hypervisor for anything
  shutdown, reboot, crash                end this domain
  help                                   this";

/// The port of the echo service.
pub const ECHO_PORT: u16 = 7;

/// Who is at the other end of a TCP test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This host, to be connected to.
    Host(Ipv4Address),
    /// Whoever connects.
    Listen,
}

/// A TCP test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The other end.
    pub peer: Peer,
    /// The port, there or here.
    pub port: u16,
    /// How many bytes.
    pub bytes: u64,
    /// What data.
    pub seed: u64,
}

/// A run of bytes on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The disk's number, in the order in which disks were found.
    pub disk: usize,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// A place on the web, as far as HTTP/1.0 and numeric addresses go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// The host.
    pub host: Ipv4Address,
    /// The port.
    pub port: u16,
    /// The path, from its slash on.
    pub path: String,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print the commands.
    Help,
    /// Print what there is.
    Info,
    /// Serve TCP echo on a port.
    EchoServer(u16),
    /// Fetch a page.
    HttpGet(Url),
    /// Send data.
    TcpSend(Transfer),
    /// Receive data.
    TcpReceive(Transfer),
    /// Write data.
    DiskWrite {
        /// Which data.
        seed: u64,
        /// Where to.
        extent: Extent,
    },
    /// Print data.
    DiskRead(Extent),
    /// Hash data.
    DiskHash(Extent),
    /// Measure something.
    Bench(Benchmark),
    /// Fill memory and see whether it stays so.
    HoldMemory {
        /// How long.
        seconds: u64,
        /// Which data.
        seed: u64,
    },
    /// Wait.
    Sleep(u64),
    /// Be busy.
    Spin(u64),
    /// Switch off.
    Shutdown,
    /// Start anew.
    Reboot,
    /// Crash on purpose.
    Crash,
}

impl Command {
    /// Reads a line. Returns `None` if it is empty.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that says what is wrong with the line.
    pub fn parse(line: &str) -> Result<Option<Self>, Failure> {
        let mut words = Words(line.split_ascii_whitespace());
        let Some(name) = words.0.next() else { return Ok(None) };
        let command = match name {
            "help" => Self::Help,
            "info" => Self::Info,
            "echo-server" => Self::EchoServer(words.optional("PORT")?.unwrap_or(ECHO_PORT)),
            "http-get" => Self::HttpGet(words.required("URL")?),
            "tcp-send" => Self::TcpSend(words.transfer()?),
            "tcp-receive" => Self::TcpReceive(words.transfer()?),
            "disk-write" => Self::DiskWrite { seed: words.required("SEED")?, extent: words.extent()? },
            "disk-read" => Self::DiskRead(words.extent()?),
            "disk-hash" => Self::DiskHash(words.extent()?),
            "bench" => words.bench()?,
            "hold-memory" => {
                Self::HoldMemory { seconds: words.required("SECONDS")?, seed: words.required("SEED")? }
            }
            "sleep" => Self::Sleep(words.required("SECONDS")?),
            "spin" => Self::Spin(words.required("SECONDS")?),
            "shutdown" => Self::Shutdown,
            "reboot" => Self::Reboot,
            "crash" => Self::Crash,
            _ => return Err(Failure::new(format!("no command `{name}`; try `help`"))),
        };
        words.end()?;
        Ok(Some(command))
    }
}

/// The words of a line that are still to be read.
struct Words<'a>(SplitAsciiWhitespace<'a>);

impl Words<'_> {
    /// The next word, if there is one.
    fn optional<T: FromStr>(&mut self, what: &str) -> Result<Option<T>, Failure> {
        let Some(word) = self.0.next() else { return Ok(None) };
        let value = word.parse().map_err(|_| Failure::new(format!("`{word}` is no {what}")))?;
        Ok(Some(value))
    }

    /// The next word.
    fn required<T: FromStr>(&mut self, what: &str) -> Result<T, Failure> {
        self.optional(what)?.ok_or_else(|| Failure::new(format!("{what} is missing")))
    }

    fn transfer(&mut self) -> Result<Transfer, Failure> {
        Ok(Transfer {
            peer: self.required("HOST")?,
            port: self.required("PORT")?,
            bytes: self.required::<Size>("BYTES")?.0,
            seed: self.required("SEED")?,
        })
    }

    fn extent(&mut self) -> Result<Extent, Failure> {
        let offset = self.required::<Size>("OFFSET")?.0;
        let length = self.required::<Size>("LENGTH")?.0;
        Ok(Extent { disk: self.optional("DISK")?.unwrap_or(0), offset, length })
    }

    fn bench(&mut self) -> Result<Command, Failure> {
        let benchmark = match self.0.next() {
            Some("micro") => Benchmark::Micro,
            Some("start") => Benchmark::Start,
            Some("disk") => {
                Benchmark::Disk { rounds: self.required("ROUNDS")?, depth: self.required("DEPTH")? }
            }
            Some("io") => Benchmark::Io { workload: self.workload()?, rounds: self.required("ROUNDS")? },
            Some("check") => Benchmark::Check {
                workload: self.workload()?,
                rounds: self.required("ROUNDS")?,
                disk: self.required("DISK")?,
                seed: self.required("SEED")?,
            },
            Some("net") => Benchmark::Net(self.stream()?),
            Some("sink") => Benchmark::Sink(self.stream()?),
            Some("wire") => Benchmark::Wire { workload: self.traffic()?, rounds: self.required("ROUNDS")? },
            Some(word) => return Err(Failure::new(format!("no benchmark `{word}`; try `help`"))),
            None => return Err(Failure::new("KIND is missing; try `help`")),
        };
        Ok(Command::Bench(benchmark))
    }

    fn workload(&mut self) -> Result<Workload, Failure> {
        let action = match self.0.next() {
            Some("read") => Action::Read,
            Some("write") => Action::Write,
            Some("flush") => Action::Flush,
            _ => return Err(Failure::new("ACTION is read, write or flush")),
        };
        let order = match self.0.next() {
            Some("random") => Order::Random,
            Some("sequential") => Order::Sequential,
            _ => return Err(Failure::new("ORDER is random or sequential")),
        };
        let bytes = self.required::<Size>("BYTES")?.0 as usize;
        Ok(Workload { action, order, bytes, depth: self.required("DEPTH")? })
    }

    fn stream(&mut self) -> Result<Stream, Failure> {
        Ok(Stream {
            other: self.required("MAC")?,
            bytes: self.required::<Size>("BYTES")?.0 as usize,
            packets: self.required("PACKETS")?,
            rounds: self.required("ROUNDS")?,
        })
    }

    fn traffic(&mut self) -> Result<wire::Workload, Failure> {
        Ok(wire::Workload {
            kind: self.required("KIND")?,
            bytes: self.required::<Size>("BYTES")?.0 as usize,
            count: self.required("COUNT")?,
        })
    }

    fn end(&mut self) -> Result<(), Failure> {
        match self.0.next() {
            Some(word) => Err(Failure::new(format!("`{word}` is one word too many"))),
            None => Ok(()),
        }
    }
}

impl FromStr for Peer {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "listen" => Ok(Self::Listen),
            _ => word.parse().map(Self::Host).map_err(drop),
        }
    }
}

/// A number of bytes, such as `4096` or `4K`.
struct Size(u64);

impl FromStr for Size {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let unit = match word.bytes().last() {
            Some(b'K' | b'k') => 1 << 10,
            Some(b'M' | b'm') => 1 << 20,
            Some(b'G' | b'g') => 1 << 30,
            _ => 1,
        };
        let digits = if unit == 1 { word } else { &word[..word.len() - 1] };
        let number: u64 = digits.parse().map_err(drop)?;
        number.checked_mul(unit).map(Self).ok_or(())
    }
}

impl FromStr for Url {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let word = word.strip_prefix("http://").unwrap_or(word);
        let (place, path) = match word.find('/') {
            Some(slash) => word.split_at(slash),
            None => (word, "/"),
        };
        let (host, port) = match place.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(drop)?),
            None => (place, 80),
        };
        Ok(Self { host: host.parse().map_err(drop)?, port, path: path.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::EthernetAddress;

    fn parsed(line: &str) -> Command {
        Command::parse(line).unwrap().unwrap()
    }

    fn complaint(line: &str) -> String {
        Command::parse(line).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_line_is_no_command() {
        assert_eq!(Command::parse(""), Ok(None));
        assert_eq!(Command::parse(" \t "), Ok(None));
    }

    #[test]
    fn every_command_that_help_lists_is_known() {
        let names = HELP.lines().filter_map(|line| line.strip_prefix("  ")?.split_ascii_whitespace().next());
        for name in names.filter(|name| !name.starts_with('(')) {
            let name = name.trim_end_matches(',');
            let known = Command::parse(name).map_err(|failure| failure.to_string());
            assert!(known.as_ref().err().is_none_or(|text| !text.starts_with("no command")), "{known:?}");
        }
    }

    #[test]
    fn sizes_may_have_a_unit() {
        let extent = Extent { disk: 0, offset: 1 << 20, length: 3 << 30 };
        assert_eq!(parsed("disk-hash 1M 3G"), Command::DiskHash(extent));
        let extent = Extent { disk: 2, offset: 512, length: 4096 };
        assert_eq!(parsed("disk-write 7 512 4k 2"), Command::DiskWrite { seed: 7, extent });
        assert_eq!(complaint("disk-hash 1T 1"), "`1T` is no OFFSET");
        assert_eq!(complaint("disk-hash M 1"), "`M` is no OFFSET");
        assert_eq!(complaint("disk-hash 99999999999999G 1"), "`99999999999999G` is no OFFSET");
    }

    #[test]
    fn a_transfer_names_a_host_or_listens() {
        let peer = Peer::Host(Ipv4Address::new(10, 0, 0, 1));
        let transfer = Transfer { peer, port: 9000, bytes: 100 << 20, seed: 42 };
        assert_eq!(parsed("tcp-send 10.0.0.1 9000 100M 42"), Command::TcpSend(transfer));
        let transfer = Transfer { peer: Peer::Listen, ..transfer };
        assert_eq!(parsed("tcp-receive listen 9000 100M 42"), Command::TcpReceive(transfer));
        assert_eq!(complaint("tcp-send example.org 9000 1 1"), "`example.org` is no HOST");
        assert_eq!(complaint("tcp-send 10.0.0.1 9000 1"), "SEED is missing");
    }

    #[test]
    fn a_url_has_defaults() {
        let host = Ipv4Address::new(10, 0, 0, 1);
        let url = Url { host, port: 8080, path: "/a/b?c".to_string() };
        assert_eq!(parsed("http-get http://10.0.0.1:8080/a/b?c"), Command::HttpGet(url));
        let url = Url { host, port: 80, path: "/".to_string() };
        assert_eq!(parsed("http-get 10.0.0.1"), Command::HttpGet(url));
        assert_eq!(complaint("http-get 10.0.0.1:http/"), "`10.0.0.1:http/` is no URL");
    }

    #[test]
    fn benchmarks_have_their_own_words() {
        assert_eq!(parsed("bench micro"), Command::Bench(Benchmark::Micro));
        assert_eq!(parsed("bench disk 8 32"), Command::Bench(Benchmark::Disk { rounds: 8, depth: 32 }));
        let workload = Workload { action: Action::Read, order: Order::Random, bytes: 4096, depth: 32 };
        assert_eq!(
            parsed("bench io read random 4K 32 8"),
            Command::Bench(Benchmark::Io { workload, rounds: 8 })
        );
        let check = Benchmark::Check { workload, rounds: 8, disk: 1, seed: 7 };
        assert_eq!(parsed(&format!("bench check {workload} 8 1 7")), Command::Bench(check));
        let other = EthernetAddress([0, 0x16, 0x3e, 0, 0xab, 1]);
        let stream = Stream { other, bytes: 1500, packets: 128, rounds: 8 };
        assert_eq!(parsed("bench net 00:16:3e:00:ab:01 1500 128 8"), Command::Bench(Benchmark::Net(stream)));
        assert_eq!(
            parsed("bench sink 00:16:3e:00:ab:01 1500 128 8"),
            Command::Bench(Benchmark::Sink(stream))
        );
        let workload = wire::Workload { kind: wire::Kind::TcpSend, bytes: 1460, count: 44 };
        assert_eq!(
            parsed(&format!("bench wire {workload} 8")),
            Command::Bench(Benchmark::Wire { workload, rounds: 8 })
        );
    }

    #[test]
    fn wrong_lines_are_explained() {
        assert_eq!(complaint("dance"), "no command `dance`; try `help`");
        assert_eq!(complaint("echo-server 70000"), "`70000` is no PORT");
        assert_eq!(complaint("info now"), "`now` is one word too many");
        assert_eq!(complaint("bench"), "KIND is missing; try `help`");
        assert_eq!(complaint("bench nothing"), "no benchmark `nothing`; try `help`");
        assert_eq!(complaint("bench disk 1"), "DEPTH is missing");
        assert_eq!(complaint("bench io erase"), "ACTION is read, write or flush");
        assert_eq!(complaint("bench io read"), "ORDER is random or sequential");
    }
}
