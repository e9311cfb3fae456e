//! Doing what a command says.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::VcpuId;
use pv_runtime::executor::{sleep, spawn, yield_now};
use pv_runtime::hypercall;
use pv_runtime::memory::page_count;
use pv_runtime::power::{Shutdown, shutdown};
use serde_json::{Value, json};

use super::Admin;
use super::answer::{Answer, Failure, Listing};
use super::command::{BenchCommand, Command, CreateOrder, Description, StoreCommand, Whom};
use super::devices::{self, DeviceReports};
use super::drill::ports_in_use;
use super::output::{self, Dom0, Hypervisor};
use super::parse::Order;
use super::usage::help;
use super::{store_quota, store_tree};
use crate::bench;
use crate::console::{GuestConsole, harmless_lines, run_command};
use crate::store::Nodes;
use crate::toolstack::{
    AdjustError, Described, Guest, GuestConfiguration, GuestDisk, GuestNic, PinError, PinOrder,
    ShutdownRequest, control, processors,
};

/// How long guests may take to end when the machine is to be switched off.
const POWER_OFF_TIME: Duration = Duration::from_secs(30);
/// How long after the answer to it the machine is switched off.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);
/// How long `shutdown -w` and `reboot -w` wait.
const SHUTDOWN_TIME: Duration = Duration::from_secs(60);

type Outcome = Result<Answer, Failure>;

/// Makes the list of a kind of devices.
type DeviceList = fn(&mut Nodes<'_>, &[Rc<Guest>], &dyn DeviceReports) -> Listing;

/// Nothing needs to be said.
fn done() -> Outcome {
    Ok(Answer::default())
}

impl Admin {
    /// Does what a line says, and prints the answer; the status.
    pub async fn run_line(&self, line: &str) -> u32 {
        let order = Order::parse(line);
        let outcome = match order.command {
            Ok(command) => self.run(command, order.wants_json).await,
            Err(misunderstood) => Err(Failure::misused(&misunderstood.0)),
        };
        let terminal = &self.terminal;
        match (outcome, order.wants_json) {
            (Ok(answer), true) => {
                terminal.print(format_args!("{}\n", answer.line(&order.name)));
                answer.status
            }
            (Ok(answer), false) => {
                self.warn(&answer.warnings);
                terminal.write(answer.text.as_bytes());
                answer.status
            }
            (Err(failure), true) => {
                terminal.print(format_args!("{}\n", failure.line(&order.name)));
                failure.status
            }
            (Err(failure), false) => {
                terminal.print(format_args!("error: {}\n", failure.message));
                failure.status
            }
        }
    }

    fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.terminal.print(format_args!("warning: {warning}\n"));
        }
    }

    async fn run(&self, command: Command, wants_json: bool) -> Outcome {
        match command {
            Command::Nothing => done(),
            Command::Help(topic) => help_on(topic.as_deref()),
            Command::Create(order) => self.create(order, wants_json).await,
            Command::Shutdown { whom, waits } => self.shut_down(&whom, waits).await,
            Command::Reboot { whom, waits } => self.reboot(&whom, waits).await,
            Command::Destroy(guest) => {
                self.toolstack.end(&*self.guest(&guest)?).await;
                done()
            }
            Command::Pause(guest) => self.pause(&guest),
            Command::Unpause(guest) => self.unpause(&guest),
            Command::Attach(guest) if self.terminal.is_interactive() && !wants_json => {
                self.attach(&*self.console(&guest)?).await?;
                done()
            }
            Command::Attach(guest) => self.tail(&guest, usize::MAX),
            Command::Tail { guest, lines } => self.tail(&guest, lines),
            Command::Send { guest, text } => self.send(&guest, &text),
            Command::GuestRun { guest, command, limit } => {
                self.run_in_guest(&guest, &command, limit, wants_json).await
            }
            Command::SystemRequest { guest, letter } => {
                self.toolstack.send_system_request(&*self.guest(&guest)?, letter)?;
                done()
            }
            Command::Rename { guest, new } => {
                self.toolstack.rename(&*self.guest(&guest)?, &new)?;
                done()
            }
            Command::SetVcpus { guest, count } => {
                self.toolstack.plug_vcpus(&*self.guest(&guest)?, count)?;
                done()
            }
            Command::Interrupt { guest, vcpu } => self.interrupt(&guest, vcpu),
            Command::SetMemory { guest, kibibytes } => {
                self.toolstack.request_memory(&*self.guest(&guest)?, kibibytes)?;
                done()
            }
            Command::LimitMemory { guest, kibibytes } => {
                self.toolstack.limit_memory(&*self.guest(&guest)?, kibibytes)?;
                done()
            }
            Command::AttachDisk { guest, disk } => self.attach_disk(&guest, disk).await,
            Command::AttachNic { guest, nic } => self.attach_nic(&guest, nic).await,
            Command::DetachDisk(order) => {
                let guest = self.guest(&order.guest)?;
                self.toolstack.detach(&guest, guest.disk(&order.device)?, order.is_forced).await?;
                done()
            }
            Command::DetachNic(order) => {
                let guest = self.guest(&order.guest)?;
                self.toolstack.detach(&guest, guest.nic(&order.device)?, order.is_forced).await?;
                done()
            }
            Command::Shares { guest: Some(guest), weight, cap } if weight.or(cap).is_some() => {
                self.set_share(&guest, weight, cap)
            }
            Command::Pin { guest, order } => self.pin(&guest, &order),
            Command::Bench(what) => self.bench(what, wants_json).await,
            Command::Top { pause, times, is_batch } => {
                self.top(pause, times, is_batch || !self.terminal.is_screen(), wants_json).await
            }
            Command::Drill(rounds) => self.drill(rounds).await,
            Command::Sleep(time) => {
                sleep(time).await;
                done()
            }
            Command::PowerOff => self.power_off().await,
            looking => self.look(looking),
        }
    }

    /// Measures something. What comes of it is printed line by line, on the machine's console.
    async fn bench(&self, what: BenchCommand, wants_json: bool) -> Outcome {
        if wants_json {
            let message = "there is JSON of it from `cargo xtask bench micro --json` only";
            return Err(Failure::new("no-json", message));
        }
        if self.terminal.can_be_left() {
            return Err(Failure::new("no-console", "bench prints on the machine's console: run it there"));
        }
        match what {
            BenchCommand::Micro(guest) => bench::micro(&self.toolstack, guest.as_deref()).await?,
            BenchCommand::Traffic(name) => bench::traffic(&self.toolstack, &name).await?,
            BenchCommand::Io(requests) => bench::disk_requests(&self.toolstack, &requests).await?,
            BenchCommand::Wire(traffic) => bench::wire_traffic(&self.toolstack, &traffic).await?,
            BenchCommand::Pair(traffic) => bench::pair_traffic(&self.toolstack, &traffic).await?,
            BenchCommand::Create(count) => bench::creations(&self.toolstack, count).await?,
            BenchCommand::Guests(memory) => bench::population(&self.toolstack, memory).await?,
        }
        done()
    }

    /// Commands that change no domain, and need not wait for anything.
    fn look(&self, command: Command) -> Outcome {
        match command {
            Command::List { guest, form } => self.list(guest.as_deref(), form),
            Command::NumberOf(name) => self.number_of(&name),
            Command::NameOf(domain) => self.name_of(domain),
            Command::Uptime { guests, is_short } => self.uptime(&guests, is_short),
            Command::VcpuList(guests) => self.vcpu_list(&guests),
            Command::PoolList { shows_cpus } => self.pool_list(shows_cpus),
            Command::Shares { guest, .. } => self.shares(guest.as_deref()),
            Command::Store(command) => self.store(command),
            Command::BlockList(guests) => self.list_devices(&guests, devices::disks, devices::disks_as_xl),
            Command::NetworkList(guests) => {
                self.list_devices(&guests, devices::interfaces, devices::interfaces_as_xl)
            }
            Command::Info => self.describe_machine(),
            Command::Pci(command) => self.pci(&command),
            Command::Log { clears } => log(clears),
            Command::Counters => counters(),
            Command::ResetCounters => {
                control::reset_performance_counters()?;
                done()
            }
            _ => done(),
        }
    }

    fn guest(&self, name: &str) -> Result<Rc<Guest>, Failure> {
        self.toolstack.find(name).ok_or_else(|| match self.toolstack.is_in_making(name) {
            true => Failure::new("in-making", format!("{name} is still being made")),
            false => Failure::no_guest(name),
        })
    }

    /// One guest by its name, or all.
    fn guests(&self, whom: &Whom) -> Result<Vec<Rc<Guest>>, Failure> {
        match whom {
            Whom::One(name) => Ok(Vec::from([self.guest(name)?])),
            Whom::All => Ok(self.toolstack.guests()),
        }
    }

    /// The console of a guest that is there, or was until lately.
    fn console(&self, name: &str) -> Result<Rc<GuestConsole>, Failure> {
        let consoles = self.toolstack.consoles();
        let live = self.toolstack.find(name).and_then(|guest| consoles.of(guest.domain));
        let console = live.or_else(|| consoles.left_by(name));
        console.ok_or_else(|| {
            Failure::new("no-guest", format!("there is no guest {name:?}, and none left its console"))
        })
    }

    /// What a guest is to be like, from words or from a file.
    async fn described(&self, description: Description) -> Result<Described, Failure> {
        match description {
            Description::Words(configuration) => {
                Ok(Described { configuration: *configuration, warnings: Vec::new() })
            }
            Description::File { path, words } => {
                let content = self.toolstack.file(&path).await?;
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                Ok(GuestConfiguration::from_file(&path, &content, &words)?)
            }
        }
    }

    async fn create(&self, order: CreateOrder, wants_json: bool) -> Outcome {
        let mut described = self.described(order.description).await?;
        described.configuration.starts_paused |= order.pauses;
        if order.is_trial {
            self.toolstack.try_out(&described.configuration).await?;
            let name = &described.configuration.name;
            let answer = Answer::new(format!("{name} can be made\n"), json!({ "name": name }));
            return Ok(Answer { warnings: described.warnings, ..answer });
        }
        let guest = self.toolstack.create(&described.configuration).await?;
        if order.attaches && !wants_json {
            self.warn(&described.warnings);
            self.attend(guest).await?;
            return done();
        }
        let text = format!("domain {} is {}\n", guest.domain, guest.name());
        let answer = Answer::new(text, json!({ "id": guest.domain.0, "name": guest.name() }));
        Ok(Answer { warnings: described.warnings, ..answer })
    }

    async fn shut_down(&self, whom: &Whom, waits: bool) -> Outcome {
        let guests = self.guests(whom)?;
        for guest in &guests {
            self.toolstack.request_shutdown(guest, ShutdownRequest::PowerOff)?;
        }
        self.wait_until_gone(&guests, waits).await
    }

    async fn reboot(&self, whom: &Whom, waits: bool) -> Outcome {
        let guests = self.guests(whom)?;
        for guest in &guests {
            self.toolstack.request_shutdown(guest, ShutdownRequest::Reboot)?;
        }
        self.wait_until_gone(&guests, waits).await
    }

    async fn wait_until_gone(&self, guests: &[Rc<Guest>], waits: bool) -> Outcome {
        for guest in guests.iter().filter(|_| waits) {
            if !self.toolstack.wait_until_gone(guest, SHUTDOWN_TIME).await {
                let message = format!("{} did not end within {} s", guest.name(), SHUTDOWN_TIME.as_secs());
                return Err(Failure::new("timed-out", message));
            }
        }
        done()
    }

    fn pause(&self, name: &str) -> Outcome {
        let guest = self.guest(name)?;
        if guest.is_paused.get() {
            return Err(Failure::new("paused", format!("{name} is paused already")));
        }
        self.toolstack.pause(&guest)?;
        done()
    }

    fn unpause(&self, name: &str) -> Outcome {
        let guest = self.guest(name)?;
        if !guest.is_paused.get() {
            return Err(Failure::new("not-paused", format!("{name} is not paused")));
        }
        self.toolstack.unpause(&guest)?;
        done()
    }

    async fn attach_disk(&self, guest: &str, disk: GuestDisk) -> Outcome {
        let disk = self.toolstack.attach_disk(&*self.guest(guest)?, disk).await?;
        Ok(Answer::new("", json!({ "vdev": disk.device_number(), "name": disk.name })))
    }

    async fn attach_nic(&self, guest: &str, nic: GuestNic) -> Outcome {
        let guest = self.guest(guest)?;
        let nic = self.toolstack.attach_nic(&guest, nic).await?;
        let address = nic.address(&guest.name()).to_string();
        Ok(Answer::new("", json!({ "index": nic.number, "mac": address })))
    }

    fn set_share(&self, name: &str, weight: Option<u16>, cap: Option<u16>) -> Outcome {
        for domain in self.domains_called(&[name.to_owned()])? {
            let id = domain.info.domain;
            let mut share = control::share(id).map_err(AdjustError::from)?;
            (share.weight, share.cap) = (weight.unwrap_or(share.weight), cap.unwrap_or(share.cap));
            control::set_share(id, share).map_err(AdjustError::from)?;
        }
        done()
    }

    fn pin(&self, name: &str, order: &PinOrder) -> Outcome {
        for domain in self.domains_called(&[name.to_owned()])? {
            processors::pin(&domain.info, order)?;
        }
        done()
    }

    fn interrupt(&self, name: &str, vcpu: u32) -> Outcome {
        let domain = self.guest(name)?.domain;
        let all = processors::vcpu_numbers(&control::domain_info(domain)?);
        if !all.contains(&vcpu) {
            return Err(PinError::NoVcpu(vcpu, all.end).into());
        }
        control::send_nmi(domain, VcpuId(vcpu))?;
        done()
    }

    fn tail(&self, name: &str, lines: usize) -> Outcome {
        let text = self.console(name)?.last_lines(lines);
        Ok(Answer::lines(harmless_lines(&text)))
    }

    fn send(&self, name: &str, text: &str) -> Outcome {
        let console = self.console(name)?;
        let sent = console.send(format!("{text}\n").as_bytes());
        sent.map_err(|_| Failure::new("not-read", format!("{name} does not read its console")))?;
        done()
    }

    async fn run_in_guest(&self, name: &str, command: &str, limit: Duration, wants_json: bool) -> Outcome {
        let console = self.console(name)?;
        let mut lines = Vec::new();
        let status = run_command(&console, command, limit, |line| match wants_json {
            true => lines.push(line.trim_end().to_owned()),
            false => self.terminal.write(line.as_bytes()),
        });
        let status = status.await.map_err(|error| Failure::new("guest", format!("{name}: {error}")))?;
        let answer = Answer::new("", json!({ "lines": lines, "status": status }));
        Ok(Answer { status, ..answer })
    }

    fn store(&self, command: StoreCommand) -> Outcome {
        self.toolstack.service().with(|server| match command {
            StoreCommand::List(path) => {
                let tree = server.nodes(|nodes| store_tree::draw(nodes, &path))?;
                let lines: Vec<_> = tree.lines().collect();
                let json = json!({ "lines": lines });
                Ok(Answer::new(tree, json))
            }
            StoreCommand::Quota => Ok(store_quota::show(&server.accounts(), server.limits())),
            StoreCommand::Read(path) => {
                let value = String::from_utf8_lossy(&server.read(&path)?).into_owned();
                Ok(Answer::new(format!("{value}\n"), json!(value)))
            }
            StoreCommand::Write(path, value) => {
                server.write(&path, value)?;
                done()
            }
            StoreCommand::Remove(path) => {
                server.remove(&path)?;
                done()
            }
        })
    }

    /// Devices of all guests with what was counted, or those of some as `xl` shows them.
    fn list_devices(&self, names: &[String], all: DeviceList, as_xl: DeviceList) -> Outcome {
        let named = names.iter().map(|name| self.guest(name)).collect::<Result<Vec<_>, _>>()?;
        let (guests, list) = if named.is_empty() { (self.toolstack.guests(), all) } else { (named, as_xl) };
        let service = self.toolstack.service();
        let listing = service.with(|server| server.nodes(|nodes| list(nodes, &guests, &*self.reports)));
        Ok(listing.answer())
    }

    fn describe_machine(&self) -> Outcome {
        let extra = hypercall::xen_extra_version()?;
        let extra = extra.split(|byte| *byte == 0).next().unwrap_or_default();
        let hypervisor = Hypervisor {
            version: self.info.hypervisor_version,
            extra: String::from_utf8_lossy(extra).into_owned(),
        };
        let pages = page_count();
        let dom0 = Dom0 { pages: (pages.total, pages.free), ports: ports_in_use().len() };
        let rows = output::machine(&control::physical_info()?, &hypervisor, &dom0);
        let text = output::rows(&rows);
        let facts = rows.into_iter().map(|(name, value)| {
            let value = value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number));
            (name.to_owned(), value)
        });
        Ok(Answer::new(text, Value::Object(facts.collect())))
    }

    async fn power_off(&self) -> Outcome {
        self.toolstack.end_all(POWER_OFF_TIME).await;
        self.terminal.write(b"switching the machine off\n");
        if self.terminal.can_be_left() {
            // Who asked is to hear that it is done.
            spawn(async {
                sleep(LAST_WORDS_TIME).await;
                shutdown(Shutdown::PowerOff)
            });
            return done();
        }
        yield_now().await;
        shutdown(Shutdown::PowerOff)
    }
}

fn help_on(topic: Option<&str>) -> Outcome {
    let unknown = || Failure::misused(&format!("there is no command {:?}", topic.unwrap_or_default()));
    let text = help(topic).ok_or_else(unknown)?;
    let lines: Vec<_> = text.lines().collect();
    let json = json!({ "lines": lines });
    Ok(Answer::new(text, json))
}

fn log(clears: bool) -> Outcome {
    let log = String::from_utf8_lossy(&control::read_log()?).into_owned();
    if clears {
        control::clear_log()?;
    }
    let lines: Vec<_> = log.lines().collect();
    let json = json!({ "lines": lines });
    Ok(Answer::new(log, json))
}

fn counters() -> Outcome {
    let counters = control::performance_counters()?;
    let facts = counters.iter().map(|counter| {
        let value = match counter.values.as_slice() {
            [_] | [_, _] => json!(counter.value()),
            values => json!(values),
        };
        (counter.name.clone(), value)
    });
    Ok(Answer::new(output::counters(&counters), Value::Object(facts.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::MachineConsole;
    use crate::admin::answer::{FAILED, MISUSED, SUCCEEDED};
    use crate::admin::devices::tests::NoReports;
    use crate::toolstack::{Inventory, Toolstack, tests::toolstack};
    use alloc::boxed::Box;
    use hypercall_abi::DomainId;
    use pv_runtime::BootInfo;
    use pv_runtime::executor::testing;

    /// Commands where there is no hypervisor.
    fn admin(toolstack: &Rc<Toolstack>) -> Admin {
        let info = Box::leak(Box::new(BootInfo {
            memory_pages: 1024,
            command_line: String::new(),
            module: None,
            is_initial_domain: true,
            is_privileged: true,
            store: None,
            console: None,
            domain_id: DomainId::ZERO,
            hypervisor_version: (4, 17),
        }));
        let terminal = Rc::new(MachineConsole { has_person: false });
        Admin::new(Rc::clone(toolstack), Rc::new(NoReports), info, terminal)
    }

    /// The statuses of lines, one after the other.
    fn statuses<const COUNT: usize>(lines: [&'static str; COUNT]) -> [u32; COUNT] {
        testing::run(async move {
            let admin = admin(&toolstack(Inventory::default()));
            let mut statuses = [0; COUNT];
            for (status, line) in statuses.iter_mut().zip(lines) {
                *status = admin.run_line(line).await;
            }
            statuses
        })
    }

    /// Why a line fails.
    async fn failure(admin: &Admin, line: &str) -> Failure {
        let command = Order::parse(line).command.expect("a command");
        admin.run(command, false).await.expect_err(line)
    }

    #[test]
    fn a_guest_that_is_being_made_can_be_neither_made_nor_destroyed() {
        testing::run(async {
            let toolstack = toolstack(Inventory::default());
            let admin = admin(&toolstack);
            let making = toolstack.hold_name("web");
            for line in ["destroy web", "pause web", "block-attach web disk0", "shutdown -w web"] {
                let failure = failure(&admin, line).await;
                assert_eq!(
                    (failure.kind, &*failure.message),
                    ("in-making", "web is still being made"),
                    "{line}"
                );
            }
            let second = failure(&admin, "create web kernel=notes").await;
            assert_eq!(
                (second.kind, &*second.message),
                ("name-in-use", "there is a guest called web already")
            );
            drop(making);
            assert_eq!(failure(&admin, "destroy web").await.message, "there is no guest \"web\"");
        });
    }

    #[test]
    fn a_guest_that_ignores_shutdown_is_waited_for_only_so_long() {
        testing::run(async {
            let toolstack = toolstack(Inventory::default());
            toolstack.add(Guest::new(
                DomainId(4),
                crate::toolstack::Handle::DOM0,
                GuestConfiguration::new("web").unwrap(),
                Duration::ZERO,
            ));
            let admin = admin(&toolstack);
            for line in ["shutdown -w web", "reboot -w web", "shutdown -w -a"] {
                let begun = pv_runtime::executor::now();
                let failure = failure(&admin, line).await;
                assert_eq!(
                    (failure.kind, &*failure.message),
                    ("timed-out", "web did not end within 60 s"),
                    "{line}"
                );
                assert_eq!((pv_runtime::executor::now() - begun).as_secs(), 60);
            }
            assert_eq!(toolstack.guests().len(), 1, "and it is still there");
        });
    }

    #[test]
    fn what_succeeds_has_status_zero() {
        assert_eq!(
            statuses(["", "help", "help create --json", "store ls", "block-list", "network-list", "sleep 3"]),
            [SUCCEEDED; 7]
        );
    }

    #[test]
    fn what_fails_has_another() {
        let lines = [
            "destroy web",
            "console web --tail",
            "send web x",
            "guest-run web x",
            "rename web other",
            "block-list web --json",
            "mem-set web 5",
            "create web.cfg",
            "block-attach web disk0",
            "block-detach web xvdb",
            "network-attach web",
            "network-detach --force web 0",
        ];
        assert_eq!(statuses(lines), [FAILED; 12]);
        assert_eq!(statuses(["nonsense", "help nonsense", "list -x --json", "migrate a b"]), [MISUSED; 4]);
        let lines = ["block-attach web", "block-detach web", "network-attach", "network-detach web 0 1"];
        assert_eq!(statuses(lines), [MISUSED; 4]);
        assert_eq!(statuses(["create web", "list", "info", "dmesg", "perf"]), [FAILED; 5], "no hypervisor");
    }

    #[test]
    fn the_store_keeps_what_is_written() {
        let lines = [
            "store read /a",
            "store write /a/b \"c d\"",
            "store read /a/b",
            "store rm /a",
            "store read /a/b",
            "store rm /none/x",
        ];
        assert_eq!(statuses(lines), [FAILED, 0, 0, 0, FAILED, FAILED]);
    }
}
