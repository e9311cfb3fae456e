//! Commands that only look: at domains, their virtual CPUs, their shares and how long they run.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hypercall_abi::domctl::DomctlGetdomaininfo;
use hypercall_abi::{DomainId, Errno, PAGE_SIZE, VcpuId};
use pv_runtime::executor::now;
use serde_json::{Value, json};

use super::Admin;
use super::answer::{Answer, Failure, Listing};
use super::command::ListForm;
use super::output;
use crate::toolstack::control::Affinity;
use crate::toolstack::{CpuSet, Guest, control, processors};

/// What dom0 is called.
pub const DOM0: &str = "Domain-0";

const KIBIBYTES_PER_PAGE: u64 = PAGE_SIZE as u64 / 1024;
const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// A domain: what the hypervisor says of it, and the guest if it is one of ours.
pub struct Domain {
    /// What the hypervisor says.
    pub info: DomctlGetdomaininfo,
    /// The guest.
    pub guest: Option<Rc<Guest>>,
}

impl Domain {
    /// Its name; one that nobody here made has none.
    pub fn name(&self) -> String {
        match &self.guest {
            Some(guest) => guest.name(),
            None if self.info.domain == DomainId::ZERO => DOM0.to_owned(),
            None => "(null)".to_owned(),
        }
    }

    /// How long it has been there, in seconds; unknown for one that nobody here made.
    fn uptime(&self) -> Option<u64> {
        match &self.guest {
            Some(guest) => Some(now().saturating_sub(guest.made_at).as_secs()),
            None if self.info.domain == DomainId::ZERO => Some(now().as_secs()),
            None => None,
        }
    }

    fn is_called(&self, name: &str) -> bool {
        self.name() == name || name.parse() == Ok(self.info.domain.0)
    }

    /// All that is known of it, for programs.
    fn facts(&self) -> Value {
        let info = &self.info;
        let mut facts = json!({
            "name": self.name(),
            "id": info.domain.0,
            "state": output::state_letters(info),
            "memory_kib": info.tot_pages * KIBIBYTES_PER_PAGE,
            "max_memory_kib": most_memory(info),
            "vcpus": info.nr_online_vcpus,
            "cpu_time_ns": info.cpu_time,
            "uptime_s": self.uptime(),
            "shutdown_reason": info.shutdown_reason(),
        });
        if let Some(guest) = &self.guest {
            let configuration = guest.configuration();
            facts["uuid"] = json!(guest.handle.to_string());
            facts["kernel"] = json!(configuration.kernel);
            facts["ramdisk"] = json!(configuration.ramdisk);
            facts["cmdline"] = json!(configuration.command_line);
            let disk = |disk: &crate::toolstack::GuestDisk| {
                let access = if disk.is_writable { "w" } else { "r" };
                json!({ "target": disk.target.to_string(), "name": disk.name, "access": access })
            };
            facts["disks"] = configuration.disks.iter().map(disk).collect();
            facts["macs"] = configuration.addresses().map(|address| json!(address.to_string())).collect();
        }
        facts
    }
}

/// KiB that a domain may have; none if nothing limits it.
fn most_memory(info: &DomctlGetdomaininfo) -> Option<u64> {
    info.max_pages.checked_mul(KIBIBYTES_PER_PAGE)
}

impl Admin {
    /// All domains, in the order of their numbers.
    pub(super) fn domains(&self) -> Result<Vec<Domain>, Errno> {
        let guests = self.toolstack().guests();
        let guest_of = |domain: DomainId| guests.iter().find(|guest| guest.domain == domain).cloned();
        let domain = |info: DomctlGetdomaininfo| Domain { guest: guest_of(info.domain), info };
        Ok(control::list_domains()?.into_iter().map(domain).collect())
    }

    /// The domains of these names or numbers; all if none is named.
    pub(super) fn domains_called(&self, names: &[String]) -> Result<Vec<Domain>, Failure> {
        let mut domains = self.domains()?;
        for name in names {
            if !domains.iter().any(|domain| domain.is_called(name)) {
                return Err(no_domain(name));
            }
        }
        domains.retain(|domain| names.is_empty() || names.iter().any(|name| domain.is_called(name)));
        Ok(domains)
    }

    pub(super) fn list(&self, guest: Option<&str>, form: ListForm) -> Result<Answer, Failure> {
        let domains = self.domains_called(&guest.map(ToOwned::to_owned).into_iter().collect::<Vec<_>>())?;
        let facts: Vec<_> = domains.iter().map(Domain::facts).collect();
        let text = match form {
            ListForm::Json => json!(facts).to_string() + "\n",
            ListForm::Lines => list_lines(&domains, |_| String::new(), ""),
            ListForm::LongLines => {
                let uuid = |domain: &Domain| {
                    let handle =
                        domain.guest.as_ref().map_or(crate::toolstack::Handle::DOM0, |guest| guest.handle);
                    let reason =
                        domain.info.shutdown_reason().map_or("-".to_owned(), |reason| reason.to_string());
                    format!(" {handle} {reason:>15}")
                };
                list_lines(&domains, uuid, " UUID                                 Shutdown reason")
            }
        };
        Ok(Answer::new(text, json!(facts)))
    }

    pub(super) fn number_of(&self, name: &str) -> Result<Answer, Failure> {
        let found = self.domains()?.into_iter().find(|domain| domain.name() == name);
        let number = found.ok_or_else(|| no_domain(name))?.info.domain;
        Ok(Answer::new(format!("{number}\n"), json!(number.0)))
    }

    pub(super) fn name_of(&self, domain: DomainId) -> Result<Answer, Failure> {
        let found = self.domains()?.into_iter().find(|known| known.info.domain == domain);
        let name = found.ok_or_else(|| no_domain(&domain.to_string()))?.name();
        Ok(Answer::new(format!("{name}\n"), json!(name)))
    }

    pub(super) fn uptime(&self, names: &[String], is_short: bool) -> Result<Answer, Failure> {
        let mut listing = Listing::new(&[("Name", "name"), ("ID", "id"), ("Uptime", "uptime")]);
        let mut lines = String::new();
        for domain in self.domains_called(names)? {
            let (name, id) = (domain.name(), domain.info.domain);
            let time = domain.uptime().map(time_words);
            lines += &format!("{name} ({id}) up {}\n", time.as_deref().unwrap_or("-"));
            listing.push([json!(name), json!(id.0), json!(time)].into());
        }
        let answer = listing.answer();
        Ok(if is_short { Answer { text: lines, ..answer } } else { answer })
    }

    pub(super) fn vcpu_list(&self, names: &[String]) -> Result<Answer, Failure> {
        let mut listing = Listing::new(&[
            ("Name", "name"),
            ("ID", "id"),
            ("VCPU", "vcpu"),
            ("CPU", "cpu"),
            ("State", "state"),
            ("Time(s)", "time_s"),
            ("Affinity (Hard / Soft)", "affinity"),
        ]);
        let present = processors::present()?;
        for domain in self.domains_called(names)? {
            for number in processors::vcpu_numbers(&domain.info) {
                let id = VcpuId(number);
                let Ok(vcpu) = control::vcpu_info(domain.info.domain, id) else { continue };
                let Ok(affinity) = control::affinity(domain.info.domain, id) else { continue };
                let is_online = vcpu.online != 0;
                let letter = |holds: u8, letter: char| if holds != 0 { letter } else { '-' };
                let state = match is_online {
                    true => format!("{}{}-", letter(vcpu.running, 'r'), letter(vcpu.blocked, 'b')),
                    false => "--p".to_owned(),
                };
                listing.push(Vec::from([
                    json!(domain.name()),
                    json!(domain.info.domain.0),
                    json!(number),
                    if is_online { json!(vcpu.cpu) } else { Value::Null },
                    json!(state),
                    json!(seconds(vcpu.cpu_time)),
                    json!(affinity_text(&affinity, present)),
                ]));
            }
        }
        Ok(listing.answer())
    }

    /// The pool in which all processors and domains are.
    pub(super) fn pool_list(&self, shows_cpus: bool) -> Result<Answer, Failure> {
        let present = processors::present()?;
        let name = json!("Pool-0");
        if shows_cpus {
            let mut listing = Listing::new(&[("Name", "name"), ("CPU list", "cpus")]);
            listing.push([name, json!(present.numbers())].into());
            return Ok(listing.answer());
        }
        let mut listing = Listing::new(&[
            ("Name", "name"),
            ("CPUs", "cpus"),
            ("Sched", "scheduler"),
            ("Active", "active"),
            ("Domain count", "domains"),
        ]);
        let domains = self.domains()?.len();
        listing.push([name, json!(present.count()), json!("credit2"), json!("y"), json!(domains)].into());
        Ok(listing.answer())
    }

    pub(super) fn shares(&self, guest: Option<&str>) -> Result<Answer, Failure> {
        let mut listing =
            Listing::new(&[("Name", "name"), ("ID", "id"), ("Weight", "weight"), ("Cap", "cap")]);
        let names: Vec<_> = guest.map(ToOwned::to_owned).into_iter().collect();
        for domain in self.domains_called(&names)? {
            let id = domain.info.domain;
            let share = control::share(id).map_err(crate::toolstack::AdjustError::from)?;
            listing.push([json!(domain.name()), json!(id.0), json!(share.weight), json!(share.cap)].into());
        }
        Ok(listing.answer())
    }
}

/// Where a virtual CPU may and should run, as `xl` shows it; and whether nobody else runs there.
fn affinity_text(affinity: &Affinity, present: CpuSet) -> String {
    let (hard, soft) = (affinity.hard.text(present), affinity.soft.text(present));
    let alone = if affinity.is_dedicated { ", dedicated" } else { "" };
    format!("{hard} / {soft}{alone}")
}

fn no_domain(name: &str) -> Failure {
    Failure::new("no-guest", format!("there is no domain {name:?}"))
}

fn list_lines(domains: &[Domain], more: impl Fn(&Domain) -> String, head: &str) -> String {
    let line = |domain: &Domain| {
        let line = output::list_line(&domain.name(), &domain.info);
        format!("{}{}\n", line.trim_end_matches('\n'), more(domain))
    };
    let head = format!("{}{head}\n", output::LIST_HEAD.trim_end_matches('\n'));
    head + &domains.iter().map(line).collect::<String>()
}

/// Seconds with a tenth, as a text, for they are exact so.
fn seconds(nanoseconds: u64) -> String {
    let tenths = nanoseconds / (NANOSECONDS_PER_SECOND / 10);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Hours, minutes and seconds, and days before them if there are any.
fn time_words(seconds: u64) -> String {
    let (minutes, days) = (seconds / 60, seconds / 86400);
    let time = format!("{}:{:02}:{:02}", minutes / 60 % 24, minutes % 60, seconds % 60);
    match days {
        0 => time,
        1 => format!("1 day, {time}"),
        _ => format!("{days} days, {time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_xl_does() {
        assert_eq!(time_words(59), "0:00:59");
        assert_eq!(time_words(3 * 3600 + 62), "3:01:02");
        assert_eq!(time_words(86400 + 5), "1 day, 0:00:05");
        assert_eq!(time_words(3 * 86400), "3 days, 0:00:00");
        assert_eq!(seconds(12_345_000_000), "12.3");
    }

    #[test]
    fn affinity_is_written_as_xl_does() {
        let text = |hard, soft, is_dedicated| {
            let affinity = Affinity { hard: CpuSet(hard), soft: CpuSet(soft), is_dedicated };
            affinity_text(&affinity, CpuSet::first(4))
        };
        assert_eq!(text(0xf, 0xf, false), "all / all");
        assert_eq!(text(0xb, 4, false), "0-1,3 / 2");
        assert_eq!(text(2, 0xf, true), "1 / all, dedicated");
    }

    #[test]
    fn a_domain_has_a_name_and_a_number() {
        let info = DomctlGetdomaininfo { max_pages: u64::MAX, ..Default::default() };
        let dom0 = Domain { info, guest: None };
        assert!(dom0.is_called("Domain-0") && dom0.is_called("0") && !dom0.is_called("1"));
        assert_eq!(dom0.facts()["name"], json!("Domain-0"));
        assert_eq!(dom0.facts()["max_memory_kib"], Value::Null);
        let lines = list_lines(&[dom0], |_| " x".to_owned(), " X");
        assert!(lines.lines().next().unwrap().ends_with("Time(s) X"), "{lines}");
        assert!(lines.lines().nth(1).unwrap().ends_with(" x"), "{lines}");
    }
}
