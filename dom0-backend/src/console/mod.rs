//! Guests' consoles: what they print is kept, and what is typed gets to them.
//!
//! Each guest has a ring in a page that it shares with us. A task of its own empties the ring into a scrollback of
//! bounded size and fills it with what was typed. Readers have a position in the scrollback and wait for more; a
//! reader that is too slow misses what has left it. So a guest that never stops printing loses only its own old
//! lines, and takes only its own turns.
//!
//! When a guest ends, its scrollback stays for a while: the last lines of a crash are what one wants to see.

mod guest;
mod scrollback;
mod session;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use hashbrown::HashMap;
use hypercall_abi::{DomainId, Port};

pub use guest::{ConsoleError, GuestConsole, InputFull};
pub use scrollback::Scrollback;
pub use session::{SessionError, run_command};

/// What a guest printed, line by line, without what could make a terminal do more than show it.
pub fn harmless_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let shown = |character: &char| !character.is_control() || *character == '\t';
    text.lines().map(|line| line.chars().filter(shown).collect()).collect()
}

/// Consoles of guests that have ended, which are kept.
const KEPT: usize = 8;

/// All consoles.
#[derive(Default)]
pub struct Consoles {
    live: RefCell<HashMap<DomainId, Rc<GuestConsole>>>,
    /// The latest last.
    ended: RefCell<VecDeque<Rc<GuestConsole>>>,
}

impl Consoles {
    /// Takes up a guest's console.
    ///
    /// # Errors
    ///
    /// [`ConsoleError`] if its page or port cannot be had.
    pub fn open(&self, domain: DomainId, name: &str, port: Port) -> Result<(), ConsoleError> {
        let console = GuestConsole::open(domain, name, port)?;
        self.live.borrow_mut().insert(domain, console);
        Ok(())
    }

    /// The console of a guest that is there.
    pub fn of(&self, domain: DomainId) -> Option<Rc<GuestConsole>> {
        self.live.borrow().get(&domain).cloned()
    }

    /// The console that the latest guest of this name left, if it is still kept.
    pub fn left_by(&self, name: &str) -> Option<Rc<GuestConsole>> {
        self.ended.borrow().iter().rev().find(|console| console.name() == name).cloned()
    }

    /// Takes the last of what a guest printed, and lets go of its page.
    pub fn close(&self, domain: DomainId) {
        let Some(console) = self.live.borrow_mut().remove(&domain) else { return };
        console.close();
        let mut ended = self.ended.borrow_mut();
        ended.push_back(console);
        if ended.len() > KEPT {
            ended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cannot_command_the_terminal() {
        assert_eq!(harmless_lines(b"a\tb\r\n\x1b[2Jc\x07\xff\r\nd"), ["a\tb", "[2Jc\u{fffd}", "d"]);
        assert!(harmless_lines(b"").is_empty());
    }
}
