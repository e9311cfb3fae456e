//! One guest's console: its ring, its scrollback, and what waits to be typed.

use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};

use hypercall_abi::grant_table::GNTTAB_RESERVED_CONSOLE;
use hypercall_abi::io::console::XENCONS_OUT_SIZE;
use hypercall_abi::{DomainId, Errno, GrantReference, Port};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::{Notify, spawn, yield_now};
use pv_runtime::grant::{self, GrantAccess, GrantError, GrantMapping};
use ring::{AttachError, ConsoleBack, Corrupt, NotifyPeer, RingMemory};

use super::scrollback::Scrollback;

/// Typed bytes that may wait for the guest to take them.
const INPUT_LIMIT: usize = 4096;

/// Turns that are taken when a guest ends: enough to fill the scrollback.
const LAST_TURNS: usize = 32;

/// Why a guest's console cannot be had.
#[derive(Debug)]
pub enum ConsoleError {
    /// Its page is not granted.
    Page(GrantError),
    /// Its port cannot be connected to.
    Port(Errno),
    /// The ring makes no sense.
    Ring(AttachError),
}

impl fmt::Display for ConsoleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(error) => write!(formatter, "the console page cannot be mapped: {error:?}"),
            Self::Port(errno) => write!(formatter, "the console port cannot be connected to: {errno}"),
            Self::Ring(error) => write!(formatter, "the console ring makes no sense: {error:?}"),
        }
    }
}

impl core::error::Error for ConsoleError {}

/// The guest does not read what is typed, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputFull;

/// The ring while the guest is there.
struct Line {
    ring: ConsoleBack<GrantMapping>,
    channel: EventChannel,
}

/// What was printed and what is to be typed.
#[derive(Default)]
struct Text {
    scrollback: Scrollback,
    input: VecDeque<u8>,
}

/// What a turn did.
struct Turn {
    notify: NotifyPeer,
    moved: bool,
}

/// A guest's console.
pub struct GuestConsole {
    domain: DomainId,
    name: RefCell<String>,
    line: RefCell<Option<Line>>,
    text: RefCell<Text>,
    /// Rung when something was printed, or the console was closed.
    printed: Notify,
    /// Rung when something was typed, or the console was closed.
    typed: Notify,
}

impl GuestConsole {
    /// Maps a guest's console page, and starts the task that serves it.
    pub(super) fn open(domain: DomainId, name: &str, port: Port) -> Result<Rc<Self>, ConsoleError> {
        let reference = GrantReference(GNTTAB_RESERVED_CONSOLE);
        let page = grant::map(domain, reference, GrantAccess::ReadWrite).map_err(ConsoleError::Page)?;
        let channel = EventChannel::bind_interdomain(domain, port).map_err(ConsoleError::Port)?;
        let ring = ConsoleBack::attach(page).map_err(ConsoleError::Ring)?;
        let console = Rc::new(Self::new(domain, name, Some(Line { ring, channel })));
        spawn(Rc::clone(&console).serve());
        Ok(console)
    }

    fn new(domain: DomainId, name: &str, line: Option<Line>) -> Self {
        Self {
            domain,
            name: RefCell::new(name.to_owned()),
            line: RefCell::new(line),
            text: RefCell::default(),
            printed: Notify::new(),
            typed: Notify::new(),
        }
    }

    /// The guest's name.
    pub fn name(&self) -> String {
        self.name.borrow().clone()
    }

    /// Notes that the guest is called otherwise.
    pub fn rename(&self, name: &str) {
        *self.name.borrow_mut() = name.to_owned();
    }

    /// The guest's number.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Whether the guest is there.
    pub fn is_open(&self) -> bool {
        self.line.borrow().is_some()
    }

    /// The position behind what was printed so far.
    pub fn end(&self) -> u64 {
        self.text.borrow().scrollback.end()
    }

    /// What was printed, from a position on.
    pub fn since(&self, position: u64) -> Vec<u8> {
        self.text.borrow().scrollback.since(position)
    }

    /// The last lines.
    pub fn last_lines(&self, count: usize) -> Vec<u8> {
        self.text.borrow().scrollback.last_lines(count)
    }

    /// Types something.
    ///
    /// # Errors
    ///
    /// [`InputFull`]; nothing is typed then.
    pub fn send(&self, bytes: &[u8]) -> Result<(), InputFull> {
        let mut text = self.text.borrow_mut();
        if !self.is_open() || text.input.len() + bytes.len() > INPUT_LIMIT {
            return Err(InputFull);
        }
        text.input.extend(bytes);
        self.typed.ring();
        Ok(())
    }

    /// Waits until something was printed behind a position, or the guest is gone.
    pub async fn wait_beyond(&self, position: u64) {
        poll_fn(|context| {
            // Another reader may have taken the ring of the bell, so the position decides.
            loop {
                if self.end() > position || !self.is_open() {
                    return Poll::Ready(());
                }
                if self.printed.poll_wait(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Moves bytes until the guest is gone or breaks its ring.
    async fn serve(self: Rc<Self>) {
        while self.is_open() {
            if self.turn() {
                yield_now().await;
            } else {
                poll_fn(|context| self.poll_event(context)).await;
            }
        }
    }

    /// Moves what can be moved; whether there was anything.
    fn turn(&self) -> bool {
        let mut line = self.line.borrow_mut();
        let Some(open) = line.as_mut() else { return false };
        match move_bytes(&mut open.ring, &mut self.text.borrow_mut()) {
            Ok(turn) => {
                if turn.notify.needed() {
                    // Fails only if the guest closed its end, and then it misses nothing.
                    let _ = open.channel.notify();
                }
                if turn.moved {
                    self.printed.ring();
                }
                turn.moved
            }
            Err(corrupt) => {
                log::warn!("console of domain {}: the guest broke the ring: {corrupt}", self.domain);
                *line = None;
                self.printed.ring();
                false
            }
        }
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        let typed = self.typed.poll_wait(context);
        match self.line.borrow().as_ref() {
            Some(line) if typed.is_pending() => line.channel.poll_wait(context),
            _ => Poll::Ready(()),
        }
    }

    /// Takes what was printed and has not been fetched yet.
    pub fn catch_up(&self) {
        // Bounded, because the guest may still be printing on another processor.
        let _ = (0..LAST_TURNS).all(|_| self.turn());
    }

    /// Takes the last of what was printed, and lets go of the page.
    pub(super) fn close(&self) {
        self.catch_up();
        *self.line.borrow_mut() = None;
        self.printed.ring();
        self.typed.ring();
    }
}

/// Moves bytes from the ring to the scrollback and from the input to the ring: at most a ring's worth.
fn move_bytes<M: RingMemory>(ring: &mut ConsoleBack<M>, text: &mut Text) -> Result<Turn, Corrupt> {
    let mut printed = [0; XENCONS_OUT_SIZE];
    let taken = ring.read(&mut printed)?;
    text.scrollback.push(&printed[..taken.count]);
    let (first, _) = text.input.as_slices();
    let given = ring.write(first)?;
    text.input.drain(..given.count);
    Ok(Turn { notify: taken.notify | given.notify, moved: taken.count + given.count > 0 })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;
    use pv_runtime::executor::testing;
    use ring::ConsoleFront;

    #[derive(Clone)]
    struct Page(Rc<[AtomicU32]>);

    impl AsRef<[AtomicU32]> for Page {
        fn as_ref(&self) -> &[AtomicU32] {
            &self.0
        }
    }

    fn ends() -> (ConsoleFront<Page>, ConsoleBack<Page>) {
        let page = Page((0..1024).map(|_| AtomicU32::new(0)).collect());
        (ConsoleFront::attach(page.clone()).unwrap(), ConsoleBack::attach(page).unwrap())
    }

    /// A console without a guest, to be printed to by the test.
    pub fn console(name: &str) -> Rc<GuestConsole> {
        Rc::new(GuestConsole::new(DomainId(7), name, None))
    }

    impl GuestConsole {
        /// As if the guest had printed this.
        pub fn print(&self, text: &str) {
            self.text.borrow_mut().scrollback.push(text.as_bytes());
            self.printed.ring();
        }
    }

    #[test]
    fn what_is_printed_is_kept_and_what_is_typed_arrives() {
        let (mut front, mut back) = ends();
        let mut text = Text::default();
        assert_eq!(front.write(b"login: ").unwrap().count, 7);
        text.input.extend(b"root\n");
        let turn = move_bytes(&mut back, &mut text).unwrap();
        assert!(turn.moved && turn.notify.needed());
        assert_eq!(text.scrollback.since(0), b"login: ");
        let mut typed = [0; 16];
        assert_eq!(front.read(&mut typed).unwrap().count, 5);
        assert_eq!(&typed[..5], b"root\n");
        assert!(!move_bytes(&mut back, &mut text).unwrap().moved);
    }

    #[test]
    fn a_turn_is_no_longer_than_a_ring() {
        let (mut front, mut back) = ends();
        let mut text = Text::default();
        for _ in 0..100 {
            assert_eq!(front.write(&[b'x'; 4096]).unwrap().count, 2048);
            assert!(move_bytes(&mut back, &mut text).unwrap().moved);
        }
        assert_eq!(text.scrollback.end(), 100 * 2048);
    }

    #[test]
    fn what_is_typed_waits_for_room() {
        let (mut front, mut back) = ends();
        let mut text = Text::default();
        text.input.extend([b'k'; 3000]);
        let mut arrived = 0;
        while !text.input.is_empty() {
            assert!(move_bytes(&mut back, &mut text).unwrap().moved);
            let mut typed = [0; 600];
            arrived += front.read(&mut typed).unwrap().count;
        }
        while let count @ 1.. = front.read(&mut [0; 600]).unwrap().count {
            arrived += count;
        }
        assert_eq!(arrived, 3000);
    }

    #[test]
    fn nothing_can_be_typed_without_a_guest() {
        assert_eq!(console("a").send(b"x"), Err(InputFull));
    }

    #[test]
    fn all_readers_wake_up() {
        testing::run(async {
            // `wait_beyond` also returns when the guest is gone, as it is here; so only the end is looked at.
            let console = console("a");
            console.print("hello");
            console.wait_beyond(0).await;
            assert_eq!((console.end(), console.since(2)), (5, b"llo".to_vec()));
        });
    }
}
