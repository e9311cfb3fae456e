//! `top`: who uses how much of what, again and again.
//!
//! A round is the difference of two looks. On a terminal each round takes the place of the one before; otherwise
//! they come one below the other.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::{DomainId, Errno, PAGE_SIZE};
use pv_runtime::executor::{Either, now, select, sleep};
use serde_json::{Value, json};

use super::Admin;
use super::answer::{Answer, Failure};
use super::devices::{share, whole_share};
use super::output;
use crate::backend::Amounts;
use crate::toolstack::control;

/// Keys that end it: q and Ctrl-C.
const QUIT: [u8; 3] = [b'q', b'Q', 0x03];
/// Clears a terminal and goes to its upper left.
const CLEAR: &str = "\x1b[H\x1b[2J";
const PAGES_PER_MIB: u64 = (1 << 20) / PAGE_SIZE as u64;

/// What a device of a guest has moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Moved {
    name: String,
    /// KiB and requests or packets, to the guest and from it.
    in_kib: u64,
    ins: u64,
    out_kib: u64,
    outs: u64,
    /// What serving it cost domain 0.
    cost: Amounts,
}

/// What is known of a domain at a moment.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: String,
    state: String,
    cpu_time: u64,
    memory_mib: u64,
    vcpus: u32,
    disks: Vec<Moved>,
    interfaces: Vec<Moved>,
}

/// What is known of all at a moment.
struct Look {
    at: Duration,
    free_mib: u64,
    total_mib: u64,
    cpus: u32,
    domains: BTreeMap<DomainId, Seen>,
}

impl Admin {
    /// Shows rounds until `times` are over or a key ends it.
    pub(super) async fn top(
        &self,
        pause: Duration,
        times: Option<u32>,
        is_batch: bool,
        wants_json: bool,
    ) -> Result<Answer, Failure> {
        // Where nobody could end it, once is enough.
        let times = times.or_else(|| (wants_json || !self.terminal.is_screen()).then_some(1));
        let mut rounds = Vec::new();
        let mut before = self.look_around()?;
        while times.is_none_or(|times| (rounds.len() as u32) < times) {
            let is_quit =
                if is_batch || wants_json { wait(pause).await } else { self.wait_for_key(pause).await? };
            if is_quit {
                break;
            }
            let after = self.look_around()?;
            let round = Round { before: &before, after: &after };
            match (wants_json, is_batch) {
                (true, _) => {}
                (false, true) => self.terminal.print(format_args!("{}\n", round.text())),
                (false, false) => self.terminal.print(format_args!("{CLEAR}{}", round.text())),
            }
            self.terminal.drained().await?;
            rounds.push(if wants_json { round.facts() } else { Value::Null });
            before = after;
        }
        Ok(Answer::new("", if wants_json { Value::Array(rounds) } else { Value::Null }))
    }

    /// Waits for the time to be over, or for a key that ends the whole.
    async fn wait_for_key(&self, pause: Duration) -> Result<bool, Errno> {
        let end = now() + pause;
        loop {
            let mut typed = [0; 16];
            match select(self.terminal.read(&mut typed), sleep(end.saturating_sub(now()))).await {
                Either::First(count) => {
                    let typed = &typed[..count?];
                    if typed.is_empty() || typed.iter().any(|byte| QUIT.contains(byte)) {
                        return Ok(true);
                    }
                }
                Either::Second(()) => return Ok(false),
            }
        }
    }

    fn look_around(&self) -> Result<Look, Errno> {
        let machine = control::physical_info()?;
        let (disks, interfaces) = (self.reports.disks(), self.reports.interfaces());
        let seen = |domain: super::listing::Domain| {
            let info = &domain.info;
            let disks = disks.iter().filter(|disk| disk.guest == info.domain).map(|disk| Moved {
                name: format!("vbd {}", disk.number),
                in_kib: disk.counters.bytes_read.get() / 1024,
                ins: disk.counters.reads.get(),
                out_kib: disk.counters.bytes_written.get() / 1024,
                outs: disk.counters.writes.get(),
                cost: disk.counters.cost.get(),
            });
            let interfaces = interfaces.iter().filter(|vif| vif.guest == info.domain).map(|vif| Moved {
                name: format!("vif {}", vif.number),
                in_kib: vif.counters.rx_bytes.get() / 1024,
                ins: vif.counters.rx_packets.get(),
                out_kib: vif.counters.tx_bytes.get() / 1024,
                outs: vif.counters.tx_packets.get(),
                cost: vif.counters.cost.get(),
            });
            let seen = Seen {
                name: domain.name(),
                state: output::state_letters(info),
                cpu_time: info.cpu_time,
                memory_mib: info.tot_pages / PAGES_PER_MIB,
                vcpus: info.nr_online_vcpus,
                disks: disks.collect(),
                interfaces: interfaces.collect(),
            };
            (info.domain, seen)
        };
        Ok(Look {
            at: now(),
            free_mib: machine.free_pages / PAGES_PER_MIB,
            total_mib: machine.total_pages / PAGES_PER_MIB,
            cpus: machine.nr_cpus,
            domains: self.domains()?.into_iter().map(seen).collect(),
        })
    }
}

async fn wait(pause: Duration) -> bool {
    sleep(pause).await;
    false
}

/// Two looks.
struct Round<'a> {
    before: &'a Look,
    after: &'a Look,
}

impl Round<'_> {
    /// Tenths of a percent of one processor that a domain used in between.
    fn permille(&self, domain: DomainId, seen: &Seen) -> u64 {
        let earlier = self.before.domains.get(&domain).map_or(0, |earlier| earlier.cpu_time);
        let elapsed = self.after.at.saturating_sub(self.before.at).as_nanos().max(1) as u64;
        seen.cpu_time.saturating_sub(earlier).saturating_mul(1000) / elapsed
    }

    /// What each request or packet of a device cost in between.
    fn each(&self, domain: DomainId, moved: &Moved) -> Each {
        let earlier = self.before.domains.get(&domain).and_then(|seen| seen.device(&moved.name));
        let none = Moved::default();
        let earlier = earlier.unwrap_or(&none);
        let count = (moved.ins + moved.outs).saturating_sub(earlier.ins + earlier.outs);
        let spent = moved.cost - earlier.cost;
        Each { ticks: whole_share(spent.ticks, count), hypercalls: share(spent.hypercalls(), count) }
    }

    fn text(&self) -> String {
        let Look { at, free_mib, total_mib, cpus, domains } = self.after;
        let mut text = format!(
            "weir: up {} s, {} domains, {cpus} CPUs, {total_mib} MiB of memory, {free_mib} free\n",
            at.as_secs(),
            domains.len()
        );
        text += "NAME           ID STATE   CPU(s)  CPU% MEM(M) VCPU  NETRX  NETTX  RD(K)  WR(K)\n";
        for (domain, seen) in domains {
            text += &self.line(*domain, seen);
            for moved in &seen.interfaces {
                text += &device_line(moved, &self.each(*domain, moved), ["rx", "tx"]);
            }
            for moved in &seen.disks {
                text += &device_line(moved, &self.each(*domain, moved), ["read", "written"]);
            }
        }
        text
    }

    fn line(&self, domain: DomainId, seen: &Seen) -> String {
        let sum = |moved: &[Moved], of: fn(&Moved) -> u64| moved.iter().map(of).sum::<u64>();
        let (permille, tenths) = (self.permille(domain, seen), seen.cpu_time / 100_000_000);
        format!(
            "{:<13.13} {:>3} {:<6} {:>7} {:>5} {:>6} {:>4} {:>6} {:>6} {:>6} {:>6}\n",
            seen.name,
            domain.0,
            seen.state,
            tenth(tenths),
            tenth(permille),
            seen.memory_mib,
            seen.vcpus,
            sum(&seen.interfaces, |moved| moved.in_kib),
            sum(&seen.interfaces, |moved| moved.out_kib),
            sum(&seen.disks, |moved| moved.in_kib),
            sum(&seen.disks, |moved| moved.out_kib),
        )
    }

    fn facts(&self) -> Value {
        let domains = self.after.domains.iter().map(|(domain, seen)| {
            let facts = |moved: &[Moved], ways, what| -> Vec<_> {
                moved.iter().map(|moved| moved.facts(&self.each(*domain, moved), ways, what)).collect()
            };
            json!({
                "id": domain.0,
                "name": seen.name,
                "state": seen.state,
                "cpu_time_ns": seen.cpu_time,
                "cpu_permille": self.permille(*domain, seen),
                "memory_mib": seen.memory_mib,
                "vcpus": seen.vcpus,
                "vifs": facts(&seen.interfaces, ["rx", "tx"], "packet"),
                "vbds": facts(&seen.disks, ["read", "written"], "request"),
            })
        });
        json!({
            "uptime_s": self.after.at.as_secs(),
            "free_mib": self.after.free_mib,
            "total_mib": self.after.total_mib,
            "cpus": self.after.cpus,
            "domains": domains.collect::<Vec<_>>(),
        })
    }
}

/// What a request or a packet cost domain 0; none if there was none.
struct Each {
    ticks: Option<u64>,
    hypercalls: Option<String>,
}

impl Seen {
    /// The device of this name.
    fn device(&self, name: &str) -> Option<&Moved> {
        self.interfaces.iter().chain(&self.disks).find(|moved| moved.name == name)
    }
}

impl Moved {
    fn facts(&self, each: &Each, [ins, outs]: [&str; 2], what: &str) -> Value {
        let mut facts = json!({ "name": self.name });
        facts[ins] = json!(self.ins);
        facts[format!("{ins}_kib")] = json!(self.in_kib);
        facts[outs] = json!(self.outs);
        facts[format!("{outs}_kib")] = json!(self.out_kib);
        facts["ticks"] = json!(self.cost.ticks);
        facts["hypercalls"] = json!(self.cost.hypercalls());
        facts[format!("ticks_per_{what}")] = json!(each.ticks);
        facts[format!("hypercalls_per_{what}")] = json!(each.hypercalls);
        facts
    }
}

fn device_line(moved: &Moved, each: &Each, [ins, outs]: [&str; 2]) -> String {
    let Moved { name, in_kib, ins: in_count, out_kib, outs: out_count, .. } = moved;
    let each = match each {
        Each { ticks: Some(ticks), hypercalls: Some(calls) } => {
            format!("; each {ticks} ticks, {calls} calls")
        }
        _ => String::new(),
    };
    format!("  {name:<10} {ins} {in_count} ({in_kib}K), {outs} {out_count} ({out_kib}K){each}\n")
}

/// A number of tenths.
fn tenth(tenths: u64) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(seconds: u64, cpu_time: u64) -> Look {
        let cost = Amounts { ticks: seconds * 1000, grant_calls: seconds, ..Amounts::default() };
        let moved = |name: &str| Moved {
            name: name.into(),
            in_kib: 7,
            ins: 2,
            out_kib: 123_456,
            outs: seconds * 16,
            cost,
        };
        let seen = Seen {
            name: "a-guest-with-a-long-name".into(),
            state: "-b----".into(),
            cpu_time,
            memory_mib: 64,
            vcpus: 1,
            disks: [moved("vbd 51712")].into(),
            interfaces: [moved("vif 0"), moved("vif 1")].into(),
        };
        Look {
            at: Duration::from_secs(seconds),
            free_mib: 800,
            total_mib: 1000,
            cpus: 1,
            domains: [(DomainId(12), seen)].into(),
        }
    }

    #[test]
    fn a_round_is_pleasant_in_80_columns() {
        let (before, after) = (look(10, 1_000_000_000), look(12, 1_500_000_000));
        let text = Round { before: &before, after: &after }.text();
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        let line = "a-guest-with-  12 -b----     1.5  25.0     64    1     14 246912      7 123456";
        assert_eq!(text.lines().nth(2), Some(line));
        assert_eq!(text.lines().count(), 6);
        let device = "  vif 1      rx 2 (7K), tx 192 (123456K); each 63 ticks, 0.06 calls";
        assert_eq!(text.lines().nth(4), Some(device));
        let idle = Round { before: &after, after: &after }.text();
        assert!(idle.contains("(123456K)\n"), "{idle}");
    }

    #[test]
    fn programs_get_the_same() {
        let (before, after) = (look(10, 0), look(11, 100_000_000));
        let facts = Round { before: &before, after: &after }.facts();
        assert_eq!(facts["domains"][0]["cpu_permille"], json!(100));
        assert_eq!(facts["domains"][0]["vifs"][1]["tx_kib"], json!(123_456));
        assert_eq!(facts["domains"][0]["vbds"][0]["ticks_per_request"], json!(63));
        assert_eq!(facts["domains"][0]["vifs"][0]["hypercalls_per_packet"], json!("0.06"));
        assert_eq!(facts["free_mib"], json!(800));
    }
}
