//! A disk as its users see it, and as the driver fills it.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use hypercall_abi::Errno;
use pv_runtime::executor::{Notify, Signal};
use pv_runtime::grant::Grant;

use super::buffer::{BufferPool, DataBuffer};
use super::queue::{BlockCounters, BlockQueue};
use super::request::{Action, BlockError, Completion, Geometry, Outcome, Request, Sector};
use crate::buffer::GrantsTo;

/// Memory for a disk's requests.
pub type DiskBuffer = DataBuffer<Grant>;

/// What a disk is and has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Its size and ways.
    pub geometry: Geometry,
    /// What went through since the back end was connected; none if this domain drives the disk itself.
    pub counters: Option<BlockCounters>,
}

/// The state that users and driver of a disk share.
pub(super) struct Shared {
    /// Requests that the driver has not taken yet.
    pub(super) submitted: RefCell<Vec<Request<Grant>>>,
    /// For the driver: there are such requests.
    pub(super) poke: Notify,
    /// The ring, while a back end is connected.
    pub(super) queue: RefCell<Option<BlockQueue<GrantsTo>>>,
    pub(super) geometry: Cell<Option<Geometry>>,
    /// For users: the geometry became known, or the disk is gone.
    pub(super) changed: Notify,
    pub(super) is_gone: Cell<bool>,
    /// Whether this domain drives the disk itself.
    pub(super) is_owned: Cell<bool>,
    pub(super) buffers: BufferPool<Grant>,
}

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(pub(super) Rc<Shared>);

impl Disk {
    /// A disk whose back end is not connected yet.
    pub fn new() -> Self {
        Self(Rc::new(Shared {
            submitted: RefCell::default(),
            poke: Notify::new(),
            queue: RefCell::new(None),
            geometry: Cell::new(None),
            changed: Notify::new(),
            is_gone: Cell::new(false),
            is_owned: Cell::new(false),
            buffers: BufferPool::new(),
        }))
    }

    /// Memory for requests of up to `bytes` bytes, with anything in it. Whoever uses it again for the next request
    /// spares everybody the work of making it known to the back end.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there are not that many pages in a row.
    pub fn buffer(&self, bytes: usize) -> Result<DiskBuffer, Errno> {
        self.0.buffers.take(bytes)
    }

    /// Waits until a back end was connected once, and says what disk it is.
    ///
    /// # Errors
    ///
    /// [`BlockError::Gone`] if there will be none.
    pub async fn geometry(&self) -> Result<Geometry, BlockError> {
        while self.0.geometry.get().is_none() && !self.0.is_gone.get() {
            self.0.changed.wait().await;
        }
        // A ring lets one waiter pass; nobody waits again after this, so it can be passed on.
        self.0.changed.ring();
        self.0.geometry.get().filter(|_| !self.0.is_gone.get()).ok_or(BlockError::Gone)
    }

    /// What the disk is and has done, if a back end is connected or none is needed.
    pub fn info(&self) -> Option<DiskInfo> {
        let counters = self.0.queue.borrow().as_ref().map(BlockQueue::counters);
        let geometry = self.0.geometry.get()?;
        (counters.is_some() || self.0.is_owned.get()).then_some(DiskInfo { geometry, counters })
    }

    /// Fills the first `length` bytes of `buffer` with what lies on the disk from `start` on.
    pub async fn read(&self, start: Sector, buffer: DiskBuffer, length: usize) -> Outcome<Grant> {
        self.transfer(Action::Read, start, buffer, length).await
    }

    /// Writes the first `length` bytes of `buffer` to the disk from `start` on.
    pub async fn write(&self, start: Sector, buffer: DiskBuffer, length: usize) -> Outcome<Grant> {
        self.transfer(Action::Write, start, buffer, length).await
    }

    /// Brings to stable storage what answered writes have written.
    ///
    /// # Errors
    ///
    /// If the disk cannot.
    pub async fn flush(&self) -> Result<(), BlockError> {
        self.geometry().await?;
        self.submit(Action::Flush, Sector(0), None, 0).take().await.result
    }

    async fn transfer(
        &self,
        action: Action,
        start: Sector,
        buffer: DiskBuffer,
        length: usize,
    ) -> Outcome<Grant> {
        assert!(length <= buffer.size(), "{length} bytes in a buffer of {}", buffer.size());
        match self.geometry().await.and_then(|geometry| geometry.check(action, start, length)) {
            Ok(()) => self.submit(action, start, Some(buffer), length).take().await,
            Err(error) => Outcome { buffer: Some(buffer), result: Err(error) },
        }
    }

    /// Hands a request to the driver; it is on its way even if nobody waits for the outcome.
    fn submit(
        &self,
        action: Action,
        start: Sector,
        buffer: Option<DiskBuffer>,
        length: usize,
    ) -> Completion<Grant> {
        let completion = Rc::new(Signal::new());
        if self.0.is_gone.get() {
            completion.set(Outcome { buffer, result: Err(BlockError::Gone) });
            return completion;
        }
        let request = Request { action, start, length, buffer, completion: Rc::clone(&completion) };
        self.0.submitted.borrow_mut().push(request);
        self.0.poke.ring();
        completion
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}
