//! A session's terminal: two queues between a command and the connection that carries it.
//!
//! Input is bounded: the connection takes no more from the client than there is room for. Output is what an answer
//! needs, for a command that writes without end waits until it is [drained](Terminal::poll_drained).

use alloc::collections::VecDeque;
use core::cell::RefCell;
use core::task::{Context, Poll};

use hypercall_abi::Errno;
use pv_runtime::executor::Notify;

use crate::admin::Terminal;

/// Typed bytes that may wait.
const INPUT_LIMIT: usize = 4096;
/// Output that may wait before a command that writes without end has to.
const DRAINED: usize = 32 << 10;

#[derive(Default)]
struct State {
    input: VecDeque<u8>,
    input_has_ended: bool,
    output: VecDeque<u8>,
    /// The last byte that was written.
    last: u8,
    /// Nobody is there any more.
    is_gone: bool,
    /// How the command ended.
    status: Option<u32>,
}

/// The terminal of one session.
pub(super) struct SessionTerminal {
    is_screen: bool,
    state: RefCell<State>,
    /// For the command: something was typed, or will never be.
    typed: Notify,
    /// For the command: output was taken.
    taken: Notify,
    /// For the connection: there is output, room for input, or an end.
    changed: Notify,
}

impl SessionTerminal {
    /// A terminal; a screen if the client asked for one.
    pub(super) fn new(is_screen: bool) -> Self {
        Self {
            is_screen,
            state: RefCell::default(),
            typed: Notify::new(),
            taken: Notify::new(),
            changed: Notify::new(),
        }
    }

    /// How many more typed bytes are taken.
    pub(super) fn input_room(&self) -> usize {
        INPUT_LIMIT.saturating_sub(self.state.borrow().input.len())
    }

    /// Types something, for which there is room.
    pub(super) fn type_in(&self, bytes: &[u8]) {
        self.state.borrow_mut().input.extend(bytes);
        self.typed.ring();
    }

    /// Notes that nothing more will be typed.
    pub(super) fn end_input(&self) {
        if !core::mem::replace(&mut self.state.borrow_mut().input_has_ended, true) {
            self.typed.ring();
        }
    }

    /// Notes that nobody is there any more.
    pub(super) fn hang_up(&self) {
        let mut state = self.state.borrow_mut();
        state.is_gone = true;
        state.output.clear();
        drop(state);
        self.typed.ring();
        self.taken.ring();
    }

    /// Lets `body` at the beginning of what is to be shown; it returns how many bytes it took, and that is returned.
    pub(super) fn take_output<E>(&self, body: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        let mut state = self.state.borrow_mut();
        let taken = body(state.output.as_slices().0)?;
        state.output.drain(..taken);
        if taken > 0 {
            self.taken.ring();
        }
        Ok(taken)
    }

    /// Notes how the command ended.
    pub(super) fn finish(&self, status: u32) {
        self.state.borrow_mut().status = Some(status);
        self.changed.ring();
    }

    /// How the command ended, once it has and all output was taken.
    pub(super) fn status(&self) -> Option<u32> {
        let state = self.state.borrow();
        state.status.filter(|_| state.output.is_empty())
    }

    /// Waits until something has changed for the connection.
    pub(super) async fn changed(&self) {
        self.changed.wait().await;
    }
}

impl Terminal for SessionTerminal {
    fn write(&self, text: &[u8]) {
        let mut state = self.state.borrow_mut();
        if state.is_gone {
            return;
        }
        for byte in text {
            // A screen's cursor goes back to the left only if it is told to.
            if self.is_screen && *byte == b'\n' && state.last != b'\r' {
                state.output.push_back(b'\r');
            }
            state.output.push_back(*byte);
            state.last = *byte;
        }
        self.changed.ring();
    }

    fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Errno>> {
        loop {
            let mut state = self.state.borrow_mut();
            if state.is_gone {
                return Poll::Ready(Err(Errno::EIO));
            }
            let count = into.len().min(state.input.len());
            if count > 0 || state.input_has_ended {
                into.iter_mut().zip(state.input.drain(..count)).for_each(|(into, byte)| *into = byte);
                self.changed.ring();
                return Poll::Ready(Ok(count));
            }
            if self.typed.poll_wait(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_drained(&self, context: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        loop {
            let state = self.state.borrow();
            if state.is_gone {
                return Poll::Ready(Err(Errno::EIO));
            }
            if state.output.len() <= DRAINED {
                return Poll::Ready(Ok(()));
            }
            if self.taken.poll_wait(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn is_interactive(&self) -> bool {
        true
    }

    fn is_screen(&self) -> bool {
        self.is_screen
    }

    fn can_be_left(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use pv_runtime::executor::testing;

    fn shown(terminal: &SessionTerminal) -> Vec<u8> {
        let mut shown = Vec::new();
        let take = |bytes: &[u8]| {
            shown.extend_from_slice(bytes);
            Ok::<_, ()>(bytes.len())
        };
        terminal.take_output(take).unwrap();
        shown
    }

    #[test]
    fn a_screen_is_told_to_go_to_the_left() {
        let (screen, pipe) = (SessionTerminal::new(true), SessionTerminal::new(false));
        for terminal in [&screen, &pipe] {
            terminal.write(b"a\nb\r");
            terminal.write(b"\nc");
        }
        assert_eq!(shown(&screen), b"a\r\nb\r\nc");
        assert_eq!(shown(&pipe), b"a\nb\r\nc");
    }

    #[test]
    fn what_is_typed_is_read_and_then_the_end() {
        testing::run(async {
            let terminal: &dyn Terminal = &{
                let terminal = SessionTerminal::new(false);
                terminal.type_in(b"abc");
                terminal.end_input();
                terminal
            };
            let mut typed = [0; 2];
            assert_eq!((terminal.read(&mut typed).await, typed), (Ok(2), *b"ab"));
            assert_eq!(terminal.read(&mut typed).await, Ok(1));
            assert_eq!(terminal.read(&mut typed).await, Ok(0));
        });
    }

    #[test]
    fn a_terminal_that_is_gone_ends_whatever_waits_for_it() {
        testing::run(async {
            let terminal = SessionTerminal::new(false);
            terminal.write(&[0; DRAINED + 1]);
            terminal.hang_up();
            terminal.write(b"lost");
            assert!(shown(&terminal).is_empty());
            let terminal: &dyn Terminal = &terminal;
            assert_eq!(terminal.drained().await, Err(Errno::EIO));
            assert_eq!(terminal.read(&mut [0]).await, Err(Errno::EIO));
        });
    }

    #[test]
    fn the_end_of_a_command_comes_behind_its_output() {
        let terminal = SessionTerminal::new(false);
        terminal.write(b"x");
        terminal.finish(3);
        assert_eq!(terminal.status(), None);
        shown(&terminal);
        assert_eq!(terminal.status(), Some(3));
    }
}
