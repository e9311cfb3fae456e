//! The console: where text goes to and comes from.
//!
//! The initial domain has the hypervisor's own console, by hypercall and a virtual interrupt. Any other domain
//! has a ring in a page, served by the initial domain; what does not fit into the ring waits in a backlog of
//! bounded size. Writing never waits.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};
use core::fmt::{self, Write};
use core::future::poll_fn;
use core::task::{Context, Poll};

use hypercall_abi::Errno;
use hypercall_abi::xen::VIRQ_CONSOLE;
use log::{LevelFilter, Log, Metadata, Record};
use ring::ConsoleFront;

use crate::boot::BootInfo;
use crate::event_channel::EventChannel;
use crate::executor::{self, Notify};
use crate::memory::BuilderPage;
use crate::{hypercall, kernel_local};

/// Bytes that may wait for room in the ring.
const BACKLOG_BYTES: usize = 64 * 1024;
/// How often the ring is tried again when the domain is about to end.
const LAST_TRIES: usize = 1000;
/// Bytes of a line that are put together before they are written.
const LINE_BYTES: usize = 256;

/// The ring of a domain that has one.
struct RingConsole {
    ring: ConsoleFront<BuilderPage>,
    channel: EventChannel,
    backlog: VecDeque<u8>,
}

/// Where text goes.
enum Device {
    /// Nowhere yet, or nowhere at all.
    None,
    /// To the hypervisor. The channel, if there is one, tells of input.
    Hypervisor(Option<EventChannel>),
    /// To the ring.
    Ring(RingConsole),
}

kernel_local! {
    static DEVICE: RefCell<Device> = RefCell::new(Device::None);
}

kernel_local! {
    static INPUT: Notify = Notify::new();
}

impl RingConsole {
    /// Puts text behind the backlog, and what fits into the ring. Text beyond the backlog's bound is lost.
    fn write(&mut self, text: &[u8]) {
        let room = BACKLOG_BYTES.saturating_sub(self.backlog.len());
        self.backlog.extend(&text[..text.len().min(room)]);
        self.drain();
    }

    /// Moves what fits from the backlog into the ring.
    fn drain(&mut self) {
        let mut notify = false;
        while !self.backlog.is_empty() {
            let (first, _) = self.backlog.as_slices();
            // A peer that breaks the ring gets no more text; the backlog's bound keeps that harmless.
            let Ok(transfer) = self.ring.write(first) else { break };
            notify |= transfer.notify.needed();
            if transfer.count == 0 {
                break;
            }
            self.backlog.drain(..transfer.count);
        }
        self.notify_if(notify);
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let transfer = self.ring.read(into).map_err(|_| Errno::EIO)?;
        self.notify_if(transfer.notify.needed());
        Ok(transfer.count)
    }

    fn notify_if(&self, needed: bool) {
        if needed {
            // Fails only if the other end is gone, and then nobody misses the event.
            let _ = self.channel.notify();
        }
    }
}

impl Device {
    fn write(&mut self, text: &[u8]) {
        match self {
            Self::None => {}
            Self::Hypervisor(_) => {
                // There is no place left to report to.
                let _ = hypercall::console_write(text);
            }
            Self::Ring(ring) => ring.write(text),
        }
    }

    /// Writes text in which a line feed stands for the end of a line. The hypervisor adds the carriage return
    /// by itself; a ring is taken literally.
    fn write_lines(&mut self, text: &[u8]) {
        let Self::Ring(ring) = self else { return self.write(text) };
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    ring.write(line);
                    ring.write(b"\r\n");
                }
                None => ring.write(line),
            }
        }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::None => Ok(0),
            Self::Hypervisor(_) => hypercall::console_read(into),
            Self::Ring(ring) => ring.read(into),
        }
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Hypervisor(Some(channel)) => channel.poll_wait(context),
            Self::Ring(ring) => ring.channel.poll_wait(context),
            Self::None | Self::Hypervisor(None) => Poll::Pending,
        }
    }

    fn open(info: &BootInfo) -> Self {
        let Some((frame, port)) = info.console else { return Self::Hypervisor(None) };
        let Ok(page) = BuilderPage::find(frame) else { return Self::None };
        let Ok(ring) = ConsoleFront::attach(page) else { return Self::None };
        Self::Ring(RingConsole { ring, channel: EventChannel::from_port(port), backlog: VecDeque::new() })
    }
}

/// Opens the console and makes it the destination of `log`. The word `log=<level>` of the command line says
/// how much is logged; without it, `info`.
pub(crate) fn init(info: &BootInfo) {
    DEVICE.with(|device| device.replace(Device::open(info)));
    let level = info.option("log").and_then(|level| level.parse().ok());
    log::set_max_level(level.unwrap_or(LevelFilter::Info));
    // Fails only if there is a logger already, and there is none before this.
    let _ = log::set_logger(&Logger);
}

/// Passes input on to readers and empties the backlog. A task of its own.
pub(crate) async fn service() {
    bind_hypervisor_input();
    loop {
        poll_fn(|context| DEVICE.with(|device| device.borrow().poll_event(context))).await;
        DEVICE.with(|device| {
            if let Device::Ring(ring) = &mut *device.borrow_mut() {
                ring.drain();
            }
        });
        INPUT.with(Notify::ring);
    }
}

/// Only the initial domain gets this interrupt; without it there is output but no input.
fn bind_hypervisor_input() {
    if !DEVICE.with(|device| matches!(&*device.borrow(), Device::Hypervisor(_))) {
        return;
    }
    match EventChannel::bind_virq(VIRQ_CONSOLE) {
        Ok(channel) => {
            DEVICE.with(|device| device.replace(Device::Hypervisor(Some(channel))));
        }
        Err(errno) => log::warn!("no console input: {errno}"),
    }
}

/// The console, for programs that talk to a person. There is one; more values of this type mean the same one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl Console {
    /// Waits for input and takes what is there, at least one byte.
    ///
    /// # Errors
    ///
    /// `EIO` if the other end broke the ring.
    pub async fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        poll_fn(|context| self.poll_read(context, into)).await
    }

    /// The same, step by step.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Errno>> {
        loop {
            let count = DEVICE.with(|device| device.borrow_mut().read(into))?;
            if count != 0 || into.is_empty() {
                return Poll::Ready(Ok(count));
            }
            if INPUT.with(|input| input.poll_wait(context)).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Writes bytes as they are.
    pub fn write(&self, bytes: &[u8]) {
        DEVICE.with(|device| device.borrow_mut().write(bytes));
    }
}

/// Puts pieces of text together, so that a line goes out in one or two steps.
struct LineWriter<'a> {
    device: &'a mut Device,
    buffer: [u8; LINE_BYTES],
    length: usize,
}

impl<'a> LineWriter<'a> {
    fn new(device: &'a mut Device) -> Self {
        Self { device, buffer: [0; LINE_BYTES], length: 0 }
    }
}

impl Write for LineWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(LINE_BYTES) {
            if self.length + piece.len() > LINE_BYTES {
                self.device.write_lines(&self.buffer[..self.length]);
                self.length = 0;
            }
            self.buffer[self.length..][..piece.len()].copy_from_slice(piece);
            self.length += piece.len();
        }
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        self.device.write_lines(&self.buffer[..self.length]);
    }
}

/// Prints text; [`print!`](crate::print!) and [`println!`](crate::println!) call it.
pub fn print(text: fmt::Arguments<'_>) {
    DEVICE.with(|device| {
        // Formatting may log from within; that text is lost rather than mixed in.
        let Ok(mut device) = device.try_borrow_mut() else { return };
        // The writer itself never fails.
        let _ = LineWriter::new(&mut device).write_fmt(text);
    });
}

/// Prints text when something has gone wrong badly: also where there is no console yet.
pub(crate) fn print_in_distress(text: fmt::Arguments<'_>) {
    DEVICE.with(|device| match device.try_borrow_mut() {
        Ok(mut device) if !matches!(*device, Device::None) => {
            let _ = LineWriter::new(&mut device).write_fmt(text);
        }
        _ => {
            let _ = LineWriter::new(&mut Device::Hypervisor(None)).write_fmt(text);
        }
    });
}

/// Gives the other end of the ring time to take what is there. To be called when the domain is about to end.
pub(crate) fn flush() {
    for _ in 0..LAST_TRIES {
        let empty = DEVICE.with(|device| match device.try_borrow_mut().as_deref_mut() {
            Ok(Device::Ring(ring)) => {
                ring.drain();
                ring.backlog.is_empty()
            }
            _ => true,
        });
        if empty {
            return;
        }
        hypercall::sched_yield();
    }
}

kernel_local! {
    static QUIET: Cell<Option<&'static str>> = Cell::new(None);
}

/// Shows messages of this crate only where all debugging messages are shown: somebody else decides how many there are.
pub fn quieten(name: &'static str) {
    QUIET.with(|quiet| quiet.set(Some(name)));
}

fn is_quiet(target: &str) -> bool {
    let name = QUIET.with(Cell::get);
    log::max_level() < LevelFilter::Debug && name.is_some_and(|name| target.split("::").next() == Some(name))
}

/// Sends `log` records to the console.
struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && !is_quiet(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let time = executor::now();
        print(format_args!(
            "{}[{:5}.{:06}] {:5} {}: {}\n",
            author(),
            time.as_secs(),
            time.subsec_micros(),
            record.level(),
            record.target(),
            record.args()
        ));
    }

    fn flush(&self) {}
}

/// What a record begins with: on the line that the initial domain shares with the hypervisor, who wrote it.
fn author() -> &'static str {
    let shares = |device: &RefCell<Device>| {
        device.try_borrow().is_ok_and(|device| matches!(*device, Device::Hypervisor(_)))
    };
    if DEVICE.with(shares) { "(dom0) " } else { "" }
}

/// Prints to the console, without ending the line.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}
