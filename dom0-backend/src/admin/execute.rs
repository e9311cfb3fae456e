//! Doing what a command says.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use hypercall_abi::DomainId;
use pv_runtime::executor::sleep;
use pv_runtime::memory::page_count;
use pv_runtime::power::{Shutdown, shutdown};
use pv_runtime::{hypercall, print, println};

use super::Admin;
use super::command::{Command, StoreCommand, help};
use super::devices::{self, DeviceReports};
use super::output::{self, Dom0, Hypervisor};
use super::store_tree;
use crate::bench;
use crate::console::{GuestConsole, harmless_lines, run_command};
use crate::store::Nodes;
use crate::toolstack::{Guest, ShutdownRequest, control};

/// How long guests may take to end when the machine is to be switched off.
const POWER_OFF_TIME: Duration = Duration::from_secs(30);
/// How long `shutdown -w` waits.
const SHUTDOWN_TIME: Duration = Duration::from_secs(60);
/// Status of a command that failed.
const FAILED: u32 = 1;

/// Why a command failed, in words.
pub struct Failure(String);

impl<T: fmt::Display> From<T> for Failure {
    fn from(reason: T) -> Self {
        Self(reason.to_string())
    }
}

type Outcome = Result<(), Failure>;

/// Makes the list of a kind of devices.
type DeviceList = fn(&mut Nodes<'_>, &[Rc<Guest>], &dyn DeviceReports) -> Vec<Vec<String>>;

impl Admin {
    /// Does what a line says; the status.
    pub async fn run_line(&self, line: &str) -> u32 {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(misunderstood) => {
                println!("error: {}", misunderstood.0);
                return FAILED;
            }
        };
        let outcome = match command {
            Command::GuestRun { guest, command, limit } => self.run_in_guest(&guest, &command, limit).await,
            other => self.run(other).await.map(|()| 0),
        };
        outcome.unwrap_or_else(|failure| {
            println!("error: {}", failure.0);
            FAILED
        })
    }

    async fn run(&self, command: Command) -> Outcome {
        match command {
            Command::Nothing | Command::GuestRun { .. } => Ok(()),
            Command::Help(topic) => print_help(topic.as_deref()),
            Command::List => self.list(),
            Command::Create(configuration) => {
                let guest = self.toolstack.create(&configuration).await?;
                println!("domain {} is {}", guest.domain, guest.name());
                Ok(())
            }
            Command::CreateAndAttend(configuration) => {
                let guest = self.toolstack.create(&configuration).await?;
                self.attend(guest).await
            }
            Command::Shutdown { guest, waits } => self.shut_down(&guest, waits).await,
            Command::Reboot(guest) => {
                Ok(self.toolstack.request_shutdown(&*self.guest(&guest)?, ShutdownRequest::Reboot)?)
            }
            Command::Destroy(guest) => {
                let guest = self.guest(&guest)?;
                self.toolstack.end(&guest).await;
                Ok(())
            }
            Command::Pause(guest) => self.pause(&guest),
            Command::Unpause(guest) => self.unpause(&guest),
            Command::Attach(guest) if self.is_interactive => self.attach(&*self.console(&guest)?).await,
            Command::Attach(guest) => self.tail(&guest, usize::MAX),
            Command::Tail { guest, lines } => self.tail(&guest, lines),
            Command::Send { guest, text } => self.send(&guest, &text),
            Command::Store(command) => self.store(command),
            Command::BlockList => self.list_devices(devices::disks),
            Command::NetworkList => self.list_devices(devices::interfaces),
            Command::Info => self.describe_machine(),
            Command::Log => print_log(),
            Command::Counters => print_counters(),
            Command::Bench(guest) => Ok(bench::micro(&self.toolstack, guest.as_deref()).await?),
            Command::BenchTraffic(name) => Ok(bench::traffic(&self.toolstack, &name).await?),
            Command::Sleep(time) => {
                sleep(time).await;
                Ok(())
            }
            Command::PowerOff => self.power_off().await,
        }
    }

    fn guest(&self, name: &str) -> Result<Rc<Guest>, Failure> {
        self.toolstack.find(name).ok_or_else(|| Failure(format!("there is no guest {name:?}")))
    }

    /// The console of a guest that is there, or was until lately.
    fn console(&self, name: &str) -> Result<Rc<GuestConsole>, Failure> {
        let consoles = self.toolstack.consoles();
        let live = self.toolstack.find(name).and_then(|guest| consoles.of(guest.domain));
        let console = live.or_else(|| consoles.left_by(name));
        console.ok_or_else(|| Failure(format!("there is no guest {name:?}, and none left its console")))
    }

    fn list(&self) -> Outcome {
        let guests = self.toolstack.guests();
        print!("{}", output::LIST_HEAD);
        for info in control::list_domains()? {
            let known = guests.iter().find(|guest| guest.domain == info.domain);
            let name = match known {
                Some(guest) => guest.name(),
                None if info.domain == DomainId::ZERO => "Domain-0",
                None => "(null)",
            };
            print!("{}", output::list_line(name, &info));
        }
        Ok(())
    }

    async fn shut_down(&self, name: &str, waits: bool) -> Outcome {
        let guest = self.guest(name)?;
        self.toolstack.request_shutdown(&guest, ShutdownRequest::PowerOff)?;
        if waits && !self.toolstack.wait_until_gone(&guest, SHUTDOWN_TIME).await {
            return Err(Failure(format!("{name} did not end within {} s", SHUTDOWN_TIME.as_secs())));
        }
        Ok(())
    }

    fn pause(&self, name: &str) -> Outcome {
        let guest = self.guest(name)?;
        if guest.is_paused.get() {
            return Err(Failure(format!("{name} is paused already")));
        }
        Ok(self.toolstack.pause(&guest)?)
    }

    fn unpause(&self, name: &str) -> Outcome {
        let guest = self.guest(name)?;
        if !guest.is_paused.get() {
            return Err(Failure(format!("{name} is not paused")));
        }
        Ok(self.toolstack.unpause(&guest)?)
    }

    fn tail(&self, name: &str, lines: usize) -> Outcome {
        let text = self.console(name)?.last_lines(lines);
        harmless_lines(&text).iter().for_each(|line| println!("{line}"));
        Ok(())
    }

    fn send(&self, name: &str, text: &str) -> Outcome {
        let console = self.console(name)?;
        let sent = console.send(format!("{text}\n").as_bytes());
        sent.map_err(|_| Failure(format!("{name} does not read its console")))
    }

    async fn run_in_guest(&self, name: &str, command: &str, limit: Duration) -> Result<u32, Failure> {
        let console = self.console(name)?;
        let status = run_command(&console, command, limit, |line| print!("{line}")).await;
        status.map_err(|error| Failure(format!("{name}: {error}")))
    }

    fn store(&self, command: StoreCommand) -> Outcome {
        self.toolstack.service().with(|server| match command {
            StoreCommand::List(path) => {
                let tree = server.nodes(|nodes| store_tree::draw(nodes, &path))?;
                print!("{tree}");
                Ok(())
            }
            StoreCommand::Read(path) => {
                println!("{}", String::from_utf8_lossy(&server.read(&path)?));
                Ok(())
            }
            StoreCommand::Write(path, value) => Ok(server.write(&path, value)?),
            StoreCommand::Remove(path) => Ok(server.remove(&path)?),
        })
    }

    fn list_devices(&self, list: DeviceList) -> Outcome {
        let guests = self.toolstack.guests();
        let rows = self
            .toolstack
            .service()
            .with(|server| server.nodes(|nodes| list(nodes, &guests, &*self.reports)));
        print!("{}", output::table(&rows));
        Ok(())
    }

    fn describe_machine(&self) -> Outcome {
        let extra = hypercall::xen_extra_version()?;
        let extra = extra.split(|byte| *byte == 0).next().unwrap_or_default();
        let hypervisor = Hypervisor {
            version: self.info.hypervisor_version,
            extra: String::from_utf8_lossy(extra).into_owned(),
        };
        let pages = page_count();
        let dom0 = Dom0 { pages: (pages.total, pages.free) };
        print!("{}", output::machine(&control::physical_info()?, &hypervisor, &dom0));
        Ok(())
    }

    async fn power_off(&self) -> Outcome {
        self.toolstack.end_all(POWER_OFF_TIME).await;
        println!("switching the machine off");
        shutdown(Shutdown::PowerOff)
    }
}

fn print_help(topic: Option<&str>) -> Outcome {
    let unknown = || Failure(format!("there is no command {:?}", topic.unwrap_or_default()));
    print!("{}", help(topic).ok_or_else(unknown)?);
    Ok(())
}

fn print_log() -> Outcome {
    let log = control::read_log()?;
    print!("{}", String::from_utf8_lossy(&log));
    Ok(())
}

fn print_counters() -> Outcome {
    print!("{}", output::counters(&control::performance_counters()?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::devices::tests::NoReports;
    use crate::toolstack::{Inventory, tests::toolstack};
    use alloc::boxed::Box;
    use pv_runtime::BootInfo;
    use pv_runtime::executor::testing;

    /// The statuses of lines, one after the other, where there is no hypervisor.
    fn statuses<const COUNT: usize>(lines: [&'static str; COUNT]) -> [u32; COUNT] {
        testing::run(async move {
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
            let admin = Admin::new(toolstack(Inventory::default()), Box::new(NoReports), info, false);
            let mut statuses = [0; COUNT];
            for (status, line) in statuses.iter_mut().zip(lines) {
                *status = admin.run_line(line).await;
            }
            statuses
        })
    }

    #[test]
    fn what_succeeds_has_status_zero() {
        assert_eq!(
            statuses(["", "help", "help create", "store ls", "block-list", "network-list", "sleep 3"]),
            [0; 7]
        );
    }

    #[test]
    fn what_fails_has_another() {
        let lines = [
            "nonsense",
            "help nonsense",
            "destroy web",
            "console web --tail",
            "send web x",
            "guest-run web x",
        ];
        assert_eq!(statuses(lines), [FAILED; 6]);
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
