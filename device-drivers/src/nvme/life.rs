//! Starting a controller, watching over it, and stopping it (sections 3.5 and 3.6).
//!
//! Nothing here is urgent, so whether something was done is looked at once in a while: there is no interrupt that could
//! stay away.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use hypercall_abi::PAGE_SIZE;
use pv_runtime::executor::{Either, now, select, sleep};
use pv_runtime::memory::SharedMemory;

use super::command::{self, Command};
use super::identity::{self, Description, Identity};
use super::registers::{self, READY};
use super::{Controller, Namespace, Phase, SEGMENTS_NEEDED};
use crate::disk::IoError;
use crate::registers::Registers;
use crate::setup_error::SetupError;

/// How long a command of administration may take.
const ADMIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long bringing everything to stable storage may take at the end.
const SHUT_DOWN_PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether the controller has done what it was told.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a controller that runs is stopped.
enum Trouble {
    /// It has broken the rules.
    Broken,
    /// It says that it cannot go on.
    Fatal,
    /// It has not answered a request.
    Overdue(crate::disk::Extent),
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => formatter.write_str("it has broken the rules"),
            Self::Fatal => formatter.write_str("it says that it cannot go on"),
            Self::Overdue(extent) => write!(formatter, "it does not answer a {extent}"),
        }
    }
}

/// A disk that was found, and a text that identifies it.
pub type Found<R> = (Rc<Namespace<R>>, String);

impl<R: Registers> Controller<R> {
    /// Starts it; what disks it has.
    ///
    /// # Errors
    ///
    /// [`SetupError`]. It is stopped then; if it cannot be, the memory that it may use is lost.
    pub async fn start(self: &Rc<Self>) -> Result<Vec<Found<R>>, SetupError> {
        let started = self.bring_up_and_identify().await;
        if started.is_err() {
            self.phase.set(Phase::GivenUp);
            if self.stop().await.is_err() {
                core::mem::forget(Rc::clone(self));
            }
        }
        started
    }

    /// Looks after it while it runs: if it does not answer, or breaks the rules, it is stopped. Returns when it is given up.
    pub async fn look_after(&self) {
        while self.phase.get() != Phase::GivenUp {
            let trouble = match select(self.broken.wait(), self.watch.next(self.in_flight() == 0)).await {
                Either::First(()) => Some(Trouble::Broken),
                Either::Second(()) => self.trouble(),
            };
            let _changing = self.changing.lock().await;
            if let Some(trouble) = trouble.filter(|_| self.phase.get() != Phase::GivenUp) {
                self.start_anew(&trouble).await;
            }
        }
    }

    /// Ends its use: everything is brought to stable storage, what is under way fails, and it is stopped.
    ///
    /// # Errors
    ///
    /// [`SetupError::Stuck`] if it does not stop. What is under way stays so for ever, for it may still use the memory.
    pub async fn shut_down(&self) -> Result<(), SetupError> {
        let _changing = self.changing.lock().await;
        self.phase.set(Phase::GivenUp);
        self.broken.ring();
        let configuration = self.registers.read_u32(registers::CONFIGURATION);
        self.registers.write_u32(registers::CONFIGURATION, configuration | registers::SHUT_DOWN);
        let is_done = |status| status & registers::SHUT_DOWN_STATE == registers::SHUT_DOWN_DONE;
        if self.wait_for_status(SHUT_DOWN_PATIENCE, is_done).await.is_err() {
            log::warn!("{}: it does not say that everything is stored", self.errors.device());
        }
        let stopped = self.stop().await;
        if stopped.is_ok() {
            self.requests.borrow_mut().fail_all(IoError::Gone);
        }
        self.room.ring_all();
        stopped
    }

    fn trouble(&self) -> Option<Trouble> {
        // An interrupt that was lost is no trouble.
        self.take_completions();
        if self.registers.read_u32(registers::STATUS) & registers::FATAL != 0 {
            return Some(Trouble::Fatal);
        }
        self.requests.borrow().overdue(&self.watch).map(Trouble::Overdue)
    }

    /// Stops it, fails everything that it had and, unless it has broken the rules, starts it anew.
    async fn start_anew(&self, trouble: &Trouble) {
        let name = self.errors.device();
        log::error!("{name}: {trouble}: it is reset, and all that it has fails");
        let may_go_on = !matches!(trouble, Trouble::Broken);
        self.phase.set(if may_go_on { Phase::Starting } else { Phase::GivenUp });
        if let Err(error) = self.stop().await {
            log::error!("{name}: it cannot be stopped, its requests are lost: {error}");
            self.phase.set(Phase::GivenUp);
            self.room.ring_all();
            return;
        }
        self.requests.borrow_mut().fail_all(if may_go_on { IoError::Device } else { IoError::Gone });
        if may_go_on {
            let started = self.bring_up().await;
            match &started {
                Ok(()) => log::warn!("{name}: it runs again"),
                Err(error) => log::error!("{name}: given up: {error}"),
            }
            self.phase.set(if started.is_ok() { Phase::Running } else { Phase::GivenUp });
        }
        self.room.ring_all();
    }

    async fn bring_up_and_identify(self: &Rc<Self>) -> Result<Vec<Found<R>>, SetupError> {
        self.bring_up().await?;
        let controller = Identity::of(&self.identify(command::IDENTIFY_CONTROLLER, 0).await?);
        let page = PAGE_SIZE as u32;
        let transfer_most = controller.transfer_pages.unwrap_or(u32::MAX).saturating_mul(page);
        // Where one command cannot carry what every front end may send, a request becomes several.
        let request_most = transfer_most.max(u32::from(SEGMENTS_NEEDED) * page);
        let segments_max = self.requests.borrow().segments_max(request_most);
        let mut disks = Vec::new();
        for namespace in self.namespaces(&controller).await? {
            let description = self.identify(command::IDENTIFY_NAMESPACE, namespace).await?;
            match identity::geometry(&description, &controller, segments_max) {
                Ok(Some(geometry)) => {
                    let disk = Namespace::new(self, namespace, geometry, transfer_most);
                    disks.push((Rc::new(disk), format!("{}/{namespace}", controller.serial)));
                }
                Ok(None) => {}
                Err(error) => {
                    log::error!("{}: namespace {namespace} is no disk: {error}", self.errors.device());
                }
            }
        }
        self.phase.set(Phase::Running);
        Ok(disks)
    }

    /// Brings it from any state to the one in which it takes requests, and knows nothing of earlier ones.
    async fn bring_up(&self) -> Result<(), SetupError> {
        self.stop().await?;
        self.admin.borrow_mut().clear();
        {
            let admin = self.admin.borrow();
            let entries = u32::from(admin.entries()) - 1;
            self.registers.write_u32(registers::ADMIN_QUEUES, entries | entries << 16);
            self.registers.write_u64(registers::ADMIN_SUBMISSIONS, admin.submissions());
            self.registers.write_u64(registers::ADMIN_COMPLETIONS, admin.completions());
        }
        self.registers.write_u32(registers::CONFIGURATION, registers::ENTRY_SIZES | registers::ENABLE);
        self.wait_for_status(self.patience(), |status| status & (READY | registers::FATAL) == READY).await?;
        self.create_queues().await
    }

    async fn create_queues(&self) -> Result<(), SetupError> {
        let commands = {
            let requests = self.requests.borrow();
            let (queue, entries) = (requests.queue.number(), requests.queue.entries());
            let (submissions, completions) = (requests.queue.submissions(), requests.queue.completions());
            [
                Command::want_one_queue(),
                Command::create_completions(queue, entries, completions, self.interrupt),
                Command::create_submissions(queue, entries, submissions),
            ]
        };
        for command in commands {
            self.administer(&command).await?;
        }
        Ok(())
    }

    /// Stops it: afterwards it uses no memory of ours, or of our users.
    async fn stop(&self) -> Result<(), SetupError> {
        let configuration = self.registers.read_u32(registers::CONFIGURATION);
        self.registers.write_u32(registers::CONFIGURATION, configuration & !registers::ENABLE);
        self.wait_for_status(self.patience(), |status| status & READY == 0).await
    }

    async fn namespaces(&self, controller: &Identity) -> Result<Vec<u32>, SetupError> {
        if self.registers.read_u32(registers::VERSION) < registers::VERSION_1_1 {
            return Ok((1..=controller.namespaces).take(identity::NAMESPACES_MAX).collect());
        }
        Ok(identity::namespaces(&self.identify(command::IDENTIFY_LIST, 0).await?))
    }

    async fn identify(&self, what: u32, namespace: u32) -> Result<Description, SetupError> {
        self.description.clear();
        let page = self.description.machine_frame().physical_address();
        self.administer(&Command::identify(what, namespace, page)).await?;
        Ok(Description::of(&self.description))
    }

    /// Has a command of administration carried out.
    async fn administer(&self, command: &Command) -> Result<(), SetupError> {
        let is_submitted = self.admin.borrow_mut().submit(command, 0);
        debug_assert!(is_submitted, "there is one at a time");
        self.tell(&mut self.admin.borrow_mut());
        let deadline = now() + ADMIN_PATIENCE;
        loop {
            let taken = self.admin.borrow_mut().take();
            if let Some(completion) = taken.map_err(|_| SetupError::CommandFailed)? {
                let doorbell = self.capabilities.doorbell_stride();
                self.doorbells.write_u32(doorbell, self.admin.borrow().head());
                return completion.status.result().map_err(|_| SetupError::CommandFailed);
            }
            if now() > deadline {
                return Err(SetupError::Stuck);
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for a status, or for the time to be up.
    async fn wait_for_status(
        &self,
        patience: Duration,
        is_reached: impl Fn(u32) -> bool,
    ) -> Result<(), SetupError> {
        let deadline = now() + patience;
        loop {
            let status = self.registers.read_u32(registers::STATUS);
            if status == u32::MAX {
                // Nobody answers there any more.
                return Err(SetupError::Stuck);
            }
            if is_reached(status) {
                return Ok(());
            }
            if now() > deadline {
                return Err(SetupError::Stuck);
            }
            sleep(PAUSE).await;
        }
    }

    /// How long it may take to start or stop.
    fn patience(&self) -> Duration {
        Duration::from_millis(500) * self.capabilities.patience().max(1) as u32
    }
}
