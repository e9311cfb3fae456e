//! The NVM Express disk (base specification 1.x and 2.x, the command set for disks, over PCI).
//!
//! ```text
//!   registers   what the controller can do, starting and stopping it
//!   command     submissions, and what a status means
//!   queue       a pair of queues: how commands go out and come back
//!   life        starting, stopping and starting anew
//!   identity    what controller and namespaces say of themselves
//!   namespace   a disk
//!   requests    users' requests, each as one command or several
//!   pages       where a command's data is
//! ```
//!
//! There are two pairs of queues: one for administration, which is used only while the controller is started, and one for
//! all requests of all namespaces.
//!
//! A controller that breaks the rules is given up. One that does not answer a request is stopped, what it had fails, and
//! it is started anew. In both cases users are told only when it has stopped, for until then it may use their memory; if
//! it cannot be stopped, they are never told.

mod command;
#[cfg(test)]
mod fake;
mod identity;
mod life;
mod namespace;
mod pages;
mod queue;
mod registers;
mod requests;
#[cfg(test)]
mod tests;

use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use pv_runtime::executor::{AsyncLock, Notify};
use pv_runtime::memory::Page;

use crate::disk::{ErrorLog, Extent, IoError, RoomList, Segment, SubmitError, Ticket, Watch};
use crate::registers::Registers;
use crate::setup_error::SetupError;
use queue::QueuePair;
use registers::Capabilities;
use requests::{Requests, Target};

pub use namespace::Namespace;
pub use registers::LENGTH as REGISTERS_LENGTH;

/// The class of PCI functions that speak this protocol.
pub const CLASS: u32 = 0x01_0802;

/// The queues for administration, and how many commands there are at once.
const ADMIN_QUEUE: u16 = 0;
const ADMIN_DEPTH: u16 = 7;
/// Doorbells: two for the queues above, two for those of requests.
const DOORBELLS: usize = 4;
/// The fewest segments of a request that every front end may send.
const SEGMENTS_NEEDED: u16 = 11;

/// Bytes that the doorbells of a controller with these registers take.
pub fn doorbells_length(registers: &impl Registers) -> usize {
    DOORBELLS * Capabilities(registers.read_u64(registers::CAPABILITIES)).doorbell_stride()
}

/// What a controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It is being started.
    Starting,
    /// It takes requests.
    Running,
    /// It has broken the rules, and is to be stopped.
    Broken,
    /// It is not used any more.
    GivenUp,
}

/// A controller.
#[derive(Debug)]
pub struct Controller<R> {
    registers: R,
    doorbells: R,
    capabilities: Capabilities,
    /// The entry of its table by which it announces completed requests.
    interrupt: u16,
    phase: Cell<Phase>,
    admin: RefCell<QueuePair>,
    /// What it describes itself in.
    description: Page,
    requests: RefCell<Requests>,
    room: RoomList,
    errors: ErrorLog,
    watch: Watch,
    /// For who looks after it: it has broken the rules.
    broken: Notify,
    /// Held while it is started or stopped.
    changing: AsyncLock<()>,
}

impl<R: Registers> Controller<R> {
    /// The controller behind these registers, which is called `name` in the log, interrupts by entry `interrupt` of its
    /// table, and may take so long for a request. It is not started.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if it is of no kind that the driver knows, or there is no memory for its queues.
    pub fn new(
        registers: R,
        doorbells: R,
        interrupt: u16,
        name: String,
        patience: Duration,
    ) -> Result<Self, SetupError> {
        let capabilities = Capabilities(registers.read_u64(registers::CAPABILITIES));
        if !capabilities.has_disk_commands() {
            return Err(SetupError::Unsupported("it does not know the commands of disks"));
        }
        if !capabilities.has_small_pages() {
            return Err(SetupError::Unsupported("it does not know pages of 4 KiB"));
        }
        let requests = Requests::new(capabilities.queue_entries())?;
        if requests.queue.entries() <= SEGMENTS_NEEDED {
            return Err(SetupError::NoQueue);
        }
        Ok(Self {
            registers,
            doorbells,
            capabilities,
            interrupt,
            phase: Cell::new(Phase::Starting),
            admin: RefCell::new(QueuePair::new(ADMIN_QUEUE, ADMIN_DEPTH)?),
            description: Page::new()?,
            requests: RefCell::new(requests),
            room: RoomList::default(),
            errors: ErrorLog::new(name),
            watch: Watch::new(patience),
            broken: Notify::new(),
            changing: AsyncLock::new(()),
        })
    }

    /// Takes completions and reports them. To be called at each of the controller's interrupts.
    pub fn take_completions(&self) {
        if self.phase.get() != Phase::Running {
            return;
        }
        let mut requests = self.requests.borrow_mut();
        match requests.take_completions(&self.errors) {
            Ok(true) => {
                let doorbell = self.doorbell(&requests.queue) + self.capabilities.doorbell_stride();
                self.doorbells.write_u32(doorbell, requests.queue.head());
            }
            Ok(false) => {}
            Err(fault) => {
                log::error!("{}: given up: {fault}", self.errors.device());
                self.phase.set(Phase::Broken);
                self.broken.ring();
            }
        }
        drop(requests);
        self.room.ring_all();
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.requests.borrow().in_flight()
    }

    /// Submits a request that lies on one of the controller's disks.
    #[inline]
    fn submit(
        &self,
        target: &Target,
        extent: Extent,
        segments: &[Segment],
        ticket: Ticket,
    ) -> Result<(), SubmitError> {
        let commands = target.commands(segments).map_err(SubmitError::Refused)?;
        let mut requests = self.requests.borrow_mut();
        let has_room = match self.phase.get() {
            Phase::Broken | Phase::GivenUp => return Err(SubmitError::Refused(IoError::Gone)),
            Phase::Starting => false,
            Phase::Running => commands <= requests.queue.room(),
        };
        if !has_room {
            self.room.add(&ticket.completions);
            return Err(SubmitError::Full);
        }
        requests.submit(target, extent, segments, commands, ticket, self.watch.begin());
        Ok(())
    }

    /// Tells the controller of what was submitted.
    fn kick(&self) {
        if self.phase.get() == Phase::Running {
            self.tell(&mut self.requests.borrow_mut().queue);
        }
    }

    fn tell(&self, queue: &mut QueuePair) {
        if let Some(tail) = queue.tell() {
            self.doorbells.write_u32(self.doorbell(queue), tail);
        }
    }

    /// Where the doorbell of a queue's submissions is; that of its completions is the next one.
    fn doorbell(&self, queue: &QueuePair) -> usize {
        2 * usize::from(queue.number()) * self.capabilities.doorbell_stride()
    }
}
