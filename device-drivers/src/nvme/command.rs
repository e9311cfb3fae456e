//! Commands, in the form in which they are submitted, and what comes back.

use crate::disk::IoError;

/// Words of a submission.
pub const COMMAND_WORDS: usize = 16;

/// Operation codes for administration (section 5).
mod admin {
    pub const CREATE_SUBMISSIONS: u32 = 0x01;
    pub const CREATE_COMPLETIONS: u32 = 0x05;
    pub const IDENTIFY: u32 = 0x06;
    pub const SET_FEATURES: u32 = 0x09;
}

/// Operation codes of the command set for disks.
pub const FLUSH: u32 = 0x00;
/// See [`FLUSH`].
pub const WRITE: u32 = 0x01;
/// See [`FLUSH`].
pub const READ: u32 = 0x02;

/// What [`Command::identify`] asks for: a namespace.
pub const IDENTIFY_NAMESPACE: u32 = 0;
/// See [`IDENTIFY_NAMESPACE`]: the controller.
pub const IDENTIFY_CONTROLLER: u32 = 1;
/// See [`IDENTIFY_NAMESPACE`]: the numbers of the namespaces that can be used.
pub const IDENTIFY_LIST: u32 = 2;

/// The feature that says how many queues there are.
const NUMBER_OF_QUEUES: u32 = 7;
/// Of a queue: its memory is in one piece.
const CONTIGUOUS: u32 = 1 << 0;
/// Of a queue of completions: it interrupts.
const INTERRUPTS: u32 = 1 << 1;

/// Places of words in a submission.
const NAMESPACE: usize = 1;
const FIRST_PAGE: usize = 6;
const OTHER_PAGES: usize = 8;
const PARAMETERS: usize = 10;

/// A submission. Its identifier, in the first word, is the queue's to fill in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command(pub [u32; COMMAND_WORDS]);

impl Command {
    fn new(operation: u32, namespace: u32, parameters: [u32; 2]) -> Self {
        let mut words = [0; COMMAND_WORDS];
        words[0] = operation;
        words[NAMESPACE] = namespace;
        words[PARAMETERS..][..2].copy_from_slice(&parameters);
        Self(words)
    }

    /// Says where the data is: the first byte's address, and what [`Pages`](super::pages::Pages) gives for the rest.
    #[inline]
    #[must_use]
    pub fn with_data(mut self, first: u64, others: u64) -> Self {
        self.0[FIRST_PAGE] = first as u32;
        self.0[FIRST_PAGE + 1] = (first >> 32) as u32;
        self.0[OTHER_PAGES] = others as u32;
        self.0[OTHER_PAGES + 1] = (others >> 32) as u32;
        self
    }

    /// Brings everything written to stable storage.
    pub fn flush(namespace: u32) -> Self {
        Self::new(FLUSH, namespace, [0; 2])
    }

    /// Reads or writes ([`READ`], [`WRITE`]) `blocks` blocks, at least one.
    #[inline]
    pub fn transfer(operation: u32, namespace: u32, first_block: u64, blocks: u32) -> Self {
        let mut command = Self::new(operation, namespace, [first_block as u32, (first_block >> 32) as u32]);
        command.0[PARAMETERS + 2] = blocks - 1;
        command
    }

    /// Describes something (`IDENTIFY_*`), in a page.
    pub fn identify(what: u32, namespace: u32, page: u64) -> Self {
        Self::new(admin::IDENTIFY, namespace, [what, 0]).with_data(page, 0)
    }

    /// Asks for one pair of queues for requests.
    pub fn want_one_queue() -> Self {
        Self::new(admin::SET_FEATURES, 0, [NUMBER_OF_QUEUES, 0])
    }

    /// Makes queue `queue` of completions, which interrupts by entry `interrupt` of the controller's table.
    pub fn create_completions(queue: u16, entries: u16, address: u64, interrupt: u16) -> Self {
        let how = CONTIGUOUS | INTERRUPTS | u32::from(interrupt) << 16;
        Self::new(admin::CREATE_COMPLETIONS, 0, [size_of_queue(queue, entries), how]).with_data(address, 0)
    }

    /// Makes queue `queue` of submissions, whose completions go to the queue of that number.
    pub fn create_submissions(queue: u16, entries: u16, address: u64) -> Self {
        let how = CONTIGUOUS | u32::from(queue) << 16;
        Self::new(admin::CREATE_SUBMISSIONS, 0, [size_of_queue(queue, entries), how]).with_data(address, 0)
    }
}

fn size_of_queue(queue: u16, entries: u16) -> u32 {
    u32::from(queue) | (u32::from(entries) - 1) << 16
}

/// What became of a command: type and code of its status; zero is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// The status in the last word of a completion.
    #[inline]
    pub const fn of(word: u32) -> Self {
        Self((word >> 17) as u16 & 0x7ff)
    }

    /// Success, or what to tell the user.
    ///
    /// # Errors
    ///
    /// The [`IoError`] that comes closest.
    #[inline]
    pub const fn result(self) -> Result<(), IoError> {
        match self.0 {
            0 => Ok(()),
            0x001 => Err(IoError::Unsupported),
            0x020 => Err(IoError::ReadOnly),
            0x080 => Err(IoError::OutOfRange),
            _ => Err(IoError::Device),
        }
    }
}
