//! `drill`: guests are made and taken apart, and meanwhile one step after the other fails on purpose. After each, the
//! books must be what they were before.
//!
//! First every step fails once, then any; now and then none does, and the guest lives for a moment.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::event_channel::{EVTCHNSTAT_CLOSED, EvtchnStatus};
use hypercall_abi::{DomainId, Errno, Port};
use pv_runtime::hypercall;
use serde_json::json;

use super::Admin;
use super::answer::{Answer, Failure};
use super::store_tree;
use crate::toolstack::{GuestConfiguration, SettingError, control};

/// What the guests are called.
const NAME: &str = "drill";
/// Ports of dom0 that are looked at: the lowest, which are given first.
const PORTS: u32 = 512;

/// The hypervisor's counter of the grants that dom0 has mapped.
const GRANTS: &str = "domain 0 grants mapped";

/// Who has what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Books {
    free_pages: u64,
    claimed_pages: u64,
    /// Grants of guests that dom0 has mapped.
    grants: u64,
    domains: Vec<DomainId>,
    /// The ports of dom0 that are in use.
    ports: Vec<u32>,
    store: String,
}

impl Books {
    /// What is different by now, in words; empty if nothing is.
    fn difference(&self, later: &Self) -> String {
        let mut words = Vec::new();
        for (what, before, after) in [
            ("free pages", self.free_pages, later.free_pages),
            ("claimed pages", self.claimed_pages, later.claimed_pages),
            ("mapped grants", self.grants, later.grants),
            ("domains", self.domains.len() as u64, later.domains.len() as u64),
            ("ports", self.ports.len() as u64, later.ports.len() as u64),
        ] {
            if before != after {
                words.push(format!("{before} {what} before, {after} after"));
            }
        }
        let new = later.store.lines().find(|line| !self.store.lines().any(|known| known == *line));
        let gone = self.store.lines().find(|line| !later.store.lines().any(|known| known == *line));
        words.extend(new.map(|line| format!("new in the store: {}", line.trim())));
        words.extend(gone.map(|line| format!("gone from the store: {}", line.trim())));
        if words.is_empty() && self != later {
            words.push("something else is in other places".to_owned());
        }
        words.join("; ")
    }
}

/// A row of numbers without a pattern (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(limit.max(1))) as u32
    }
}

impl Admin {
    /// Makes `rounds` guests as described.
    pub(super) async fn drill(&self, rounds: u32) -> Result<Answer, Failure> {
        let configuration =
            self.drill_configuration().map_err(|error| Failure::new("configuration", format!("{error}")))?;
        // The first one fills the books with what is kept for all later ones.
        let steps = self.drill_once(&configuration, None).await?;
        let mut books = self.books()?;
        let (mut dice, mut failed) = (Dice(0x9e37_79b9_7f4a_7c15), 0);
        for round in 0..rounds {
            let fails_at = if round < steps { round } else { dice.below(steps + 1) };
            let fails_at = Some(fails_at).filter(|step| *step < steps);
            self.drill_once(&configuration, fails_at).await?;
            failed += u32::from(fails_at.is_some());
            let now = self.books()?;
            let difference = books.difference(&now);
            if !difference.is_empty() {
                let step = fails_at.map_or("none".to_owned(), |step| format!("{step}"));
                let message = format!("round {round}, failing step {step}: {difference}");
                return Err(Failure::new("unbalanced", message));
            }
            books = now;
        }
        let lived = rounds - failed;
        let text = format!(
            "{rounds} guests: {failed} failed in one of {steps} steps, {lived} lived; nothing is left\n"
        );
        Ok(Answer::new(text, json!({ "rounds": rounds, "steps": steps, "failed": failed, "lived": lived })))
    }

    /// A guest with all devices that the machine has to give.
    fn drill_configuration(&self) -> Result<GuestConfiguration, SettingError> {
        let inventory = self.toolstack().inventory();
        let disk = inventory.disks.first().map(|disk| format!("disk={},xvda,r!", disk.name));
        let vif = inventory.has_switch.then(|| "vif".to_owned());
        let words: Vec<_> = ["memory=16".to_owned()].into_iter().chain(disk).chain(vif).collect();
        GuestConfiguration::parse(NAME, words.iter().map(String::as_str))
    }

    /// Makes a guest, of which one step fails or none; takes it apart if it came to be. How many steps were passed.
    async fn drill_once(
        &self,
        configuration: &GuestConfiguration,
        fails_at: Option<u32>,
    ) -> Result<u32, Failure> {
        let faults = self.toolstack().faults();
        faults.begin(fails_at);
        let made = self.toolstack().create(configuration).await;
        let passed = faults.passed();
        faults.begin(None);
        match (made, fails_at) {
            (Ok(guest), None) => {
                self.toolstack().end(&guest).await;
                Ok(passed)
            }
            (Ok(guest), Some(step)) => {
                self.toolstack().end(&guest).await;
                Err(Failure::new(
                    "drill",
                    format!("step {step} was to fail, and the guest was made all the same"),
                ))
            }
            (Err(_), Some(_)) => Ok(passed),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn books(&self) -> Result<Books, Failure> {
        let machine = control::physical_info()?;
        let store = self.toolstack().service().with(|server| {
            let tree = server.nodes(|nodes| store_tree::draw(nodes, "/"))?;
            server.audit().map_err(|imbalance| Failure::new("store", format!("{imbalance:?}")))?;
            Ok::<_, Failure>(tree)
        })?;
        Ok(Books {
            free_pages: machine.free_pages,
            claimed_pages: machine.outstanding_pages,
            grants: mapped_grants()?,
            domains: control::list_domains()?.iter().map(|info| info.domain).collect(),
            ports: ports_in_use(),
            store,
        })
    }
}

/// How many grants dom0 has mapped, as the hypervisor counts.
fn mapped_grants() -> Result<u64, Errno> {
    let counters = control::performance_counters()?;
    let counter = counters.iter().find(|counter| counter.name == GRANTS);
    counter.map(|counter| counter.value()).ok_or(Errno::ENOENT)
}

/// The ports of dom0 that are in use, among those that are looked at.
pub(super) fn ports_in_use() -> Vec<u32> {
    (1..PORTS).filter(|port| is_in_use(Port(*port))).collect()
}

fn is_in_use(port: Port) -> bool {
    let mut status = EvtchnStatus { dom: DomainId::SELF, port, ..Default::default() };
    let asked: Result<(), Errno> = hypercall::event_channel_op(&mut status);
    asked.is_ok() && status.status != EVTCHNSTAT_CLOSED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Books {
        Books {
            free_pages: 100,
            claimed_pages: 0,
            grants: 1,
            domains: [DomainId(0)].into(),
            ports: [1, 2].into(),
            store: "a = \"1\"\n b = \"2\"\n".into(),
        }
    }

    #[test]
    fn a_difference_is_named() {
        assert_eq!(books().difference(&books()), "");
        let less = Books { free_pages: 99, claimed_pages: 3, ..books() };
        assert_eq!(
            books().difference(&less),
            "100 free pages before, 99 after; 0 claimed pages before, 3 after"
        );
        let more = Books { store: "a = \"1\"\n c = \"2\"\n".into(), ports: [1].into(), ..books() };
        assert_eq!(
            books().difference(&more),
            "2 ports before, 1 after; new in the store: c = \"2\"; gone from the store: b = \"2\""
        );
        let moved = Books { ports: [1, 3].into(), ..books() };
        assert_eq!(books().difference(&moved), "something else is in other places");
    }

    #[test]
    fn dice_fall_everywhere() {
        let mut dice = Dice(1);
        let mut seen = [false; 7];
        (0..200).for_each(|_| seen[dice.below(7) as usize] = true);
        assert_eq!(seen, [true; 7]);
    }
}
