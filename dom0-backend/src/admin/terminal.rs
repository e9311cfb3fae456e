//! Where a command's text goes to and what is typed comes from: the machine's console, or somebody's session.

use core::fmt::{self, Write};
use core::future::poll_fn;
use core::task::{Context, Poll};

use hypercall_abi::Errno;
use pv_runtime::console::Console;

/// A place where commands are given and answered.
pub trait Terminal {
    /// Shows text in which a line feed ends a line.
    fn write(&self, text: &[u8]);

    /// Waits for something typed, and takes at least one byte of it; none at the end of all that will be typed.
    ///
    /// # Errors
    ///
    /// If nothing can be typed any more because the terminal is gone.
    fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Errno>>;

    /// Waits until nearly all that was written has been taken. Who writes without end calls it now and then.
    ///
    /// # Errors
    ///
    /// If the terminal is gone.
    fn poll_drained(&self, context: &mut Context<'_>) -> Poll<Result<(), Errno>>;

    /// Whether somebody is there to type, so that a command may take the terminal over.
    fn is_interactive(&self) -> bool;

    /// Whether it is a screen: it is typed at key by key, and can be cleared.
    fn is_screen(&self) -> bool;

    /// Whether who is there can leave.
    fn can_be_left(&self) -> bool;
}

impl dyn Terminal + '_ {
    /// Takes what is typed: see [`poll_read`](Self::poll_read).
    pub(crate) async fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        poll_fn(|context| self.poll_read(context, into)).await
    }

    /// See [`poll_drained`](Self::poll_drained).
    pub(crate) async fn drained(&self) -> Result<(), Errno> {
        poll_fn(|context| self.poll_drained(context)).await
    }

    /// Shows formatted text.
    pub(crate) fn print(&self, text: fmt::Arguments<'_>) {
        struct Writer<'a>(&'a (dyn Terminal + 'a));
        impl Write for Writer<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        // The writer itself never fails.
        let _ = Writer(self).write_fmt(text);
    }
}

/// The machine's console: for a person, or for what a script prints.
#[derive(Clone, Copy, Debug)]
pub struct MachineConsole {
    /// Whether a person is there.
    pub has_person: bool,
}

impl Terminal for MachineConsole {
    fn write(&self, text: &[u8]) {
        Console.write(text);
    }

    fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Errno>> {
        Console.poll_read(context, into)
    }

    fn poll_drained(&self, _: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        Poll::Ready(Ok(()))
    }

    fn is_interactive(&self) -> bool {
        self.has_person
    }

    fn is_screen(&self) -> bool {
        self.has_person
    }

    fn can_be_left(&self) -> bool {
        false
    }
}
