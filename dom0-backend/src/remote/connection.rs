//! One client's connection: bytes from and to the network, events of the protocol, and the session that comes of them.
//!
//! A round handles what the protocol says, moves bytes in all four directions as far as they go, and then waits for
//! whichever direction can go on. A connection has at most one session at a time.

use alloc::borrow::ToOwned;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use core::fmt;
use core::future::pending;
use core::time::Duration;

use ip_stack::TcpStream;
use pv_runtime::executor::{Either3, now, select3, sleep_until, spawn, yield_now};
use sunset::event::{ServExecRequest, ServOpenSession, ServPubkeyAuth};
use sunset::{ChanData, ChanFail, ChanHandle, Event, Runner, ServEvent};

use super::Server;
use super::terminal::SessionTerminal;
use crate::admin::{Admin, read_lines, talk};

/// Who may come, with a key.
const USER: &str = "admin";
/// How long a client may take to show its key.
const LOGIN_TIME: Duration = Duration::from_secs(30);
/// How long a client may be there without a session.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// Keys that a client may try.
const MOST_TRIES: u32 = 20;
/// Bytes of the longest packet that is understood, and room for those to send.
const PACKETS: usize = 16 << 10;
/// Bytes that are moved from a channel at once.
const PIECE: usize = 1024;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client left, or was cut off.
    Left,
    /// The client broke the protocol.
    Protocol(bool),
    /// The client did not show a key that opens the server: too many tries, or too slow.
    TurnedAway,
    /// The client had nothing to do.
    Idle,
}

impl Ending {
    /// Whether it was a stranger who did not get in.
    pub(super) const fn is_refusal(self) -> bool {
        matches!(self, Self::TurnedAway | Self::Protocol(false))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Left => "left",
            Self::Protocol(_) => "broke the protocol",
            Self::TurnedAway => "turned away: no authorized key",
            Self::Idle => "had nothing to do",
        })
    }
}

/// What a client wants to run.
enum Wish {
    Shell,
    Command(String),
}

/// A session: a channel, and once something runs in it, its terminal.
struct Session {
    channel: ChanHandle,
    wants_screen: bool,
    terminal: Option<Rc<SessionTerminal>>,
    /// Whether the client was told how it ended.
    has_ended: bool,
}

struct Connection<'a> {
    server: &'a Rc<Server>,
    runner: Runner<'a, sunset::Server>,
    stream: TcpStream,
    session: Option<Session>,
    is_known: bool,
    tries: u32,
    /// When a client without a session is sent away.
    deadline: Duration,
}

/// Serves a client to its end.
pub(super) async fn serve(stream: TcpStream, server: &Rc<Server>) -> Ending {
    let (mut input, mut output) = (vec![0; PACKETS], vec![0; PACKETS]);
    let mut connection = Connection {
        server,
        runner: Runner::new_server(&mut input, &mut output),
        stream,
        session: None,
        is_known: false,
        tries: 0,
        deadline: now() + LOGIN_TIME,
    };
    let ending = connection.run().await;
    if let Some(terminal) = connection.session.and_then(|session| session.terminal) {
        terminal.hang_up();
    }
    ending
}

impl Connection<'_> {
    async fn run(&mut self) -> Ending {
        loop {
            match self.round() {
                Err(ending) => return ending,
                // Others want their turn too.
                Ok(true) => yield_now().await,
                Ok(false) => {
                    if !self.wait().await {
                        return if self.is_known { Ending::Idle } else { Ending::TurnedAway };
                    }
                }
            }
        }
    }

    /// Does all that can be done at once; whether there was anything.
    fn round(&mut self) -> Result<bool, Ending> {
        let broken = Ending::Protocol(self.is_known);
        let mut has_moved = self.take_events()?;
        has_moved |= self.move_session().map_err(|_| broken)?;
        has_moved |= self.send()?;
        has_moved |= self.receive()?;
        Ok(has_moved)
    }

    /// Waits until there may be something to do; `false` if the client's time is up.
    async fn wait(&mut self) -> bool {
        let terminal = self.session.as_ref().and_then(|session| session.terminal.clone());
        let (wants_data, has_output) = (self.runner.is_input_ready(), self.runner.is_output_pending());
        let changed = async {
            match &terminal {
                Some(terminal) => terminal.changed().await,
                None => pending().await,
            }
        };
        let is_at_work =
            self.session.as_ref().is_some_and(|session| session.terminal.is_some() && !session.has_ended);
        let time = async { if is_at_work { pending().await } else { sleep_until(self.deadline).await } };
        let ready = self.stream.ready(wants_data, has_output);
        !matches!(select3(ready, changed, time).await, Either3::Third(()))
    }

    /// Handles what the protocol has come to.
    fn take_events(&mut self) -> Result<bool, Ending> {
        let broken = Ending::Protocol(self.is_known);
        let mut has_progressed = false;
        loop {
            let event = match self.runner.progress().map_err(|_| broken)? {
                Event::None => return Ok(has_progressed),
                Event::Serv(event) => event,
                Event::Progressed | Event::Cli(_) => {
                    has_progressed = true;
                    continue;
                }
            };
            has_progressed = true;
            let handled = match event {
                ServEvent::Hostkeys(asked) => asked.hostkeys(&[self.server.keys.host()]),
                ServEvent::FirstAuth(mut attempt) => {
                    attempt.enable_password_auth(false).and_then(|()| attempt.reject())
                }
                ServEvent::PasswordAuth(attempt) => attempt.reject(),
                ServEvent::PubkeyAuth(attempt) => {
                    self.tries += 1;
                    if self.tries > MOST_TRIES {
                        return Err(Ending::TurnedAway);
                    }
                    check_key(self.server, attempt)
                }
                ServEvent::Authenticated => {
                    self.is_known = true;
                    self.deadline = now() + IDLE_TIME;
                    Ok(())
                }
                ServEvent::OpenSession(asked) => open(&mut self.session, asked),
                ServEvent::SessionPty(asked) => match &mut self.session {
                    Some(session) if session.terminal.is_none() => {
                        session.wants_screen = true;
                        asked.succeed()
                    }
                    _ => asked.fail(),
                },
                ServEvent::SessionShell(asked) => {
                    match begin(&mut self.session, &self.server.admin, Wish::Shell) {
                        true => asked.succeed(),
                        false => asked.fail(),
                    }
                }
                ServEvent::SessionExec(asked) => run(&mut self.session, &self.server.admin, asked),
                ServEvent::SessionSubsystem(asked) => asked.fail(),
                ServEvent::SessionEnv(asked) => asked.fail(),
                ServEvent::Defunct => return Err(Ending::Left),
                ServEvent::PollAgain => Ok(()),
            };
            handled.map_err(|_| broken)?;
        }
    }

    /// Moves bytes between the channel and the terminal, and brings a session to its end.
    fn move_session(&mut self) -> sunset::Result<bool> {
        let Some(session) = &mut self.session else { return Ok(false) };
        let mut has_moved = false;
        if let Some(terminal) = &session.terminal {
            has_moved |= take_typed(&mut self.runner, session, terminal)?;
            has_moved |= show(&mut self.runner, session, terminal)?;
            if let Some(status) = terminal.status().filter(|_| !session.has_ended) {
                session.has_ended = self.runner.channel_exit(&session.channel, status)?;
                has_moved |= session.has_ended;
                self.deadline = now() + IDLE_TIME;
            }
        }
        if self.runner.is_channel_closed(&session.channel)
            && let Some(session) = self.session.take()
        {
            self.close(session)?;
            has_moved = true;
        }
        Ok(has_moved)
    }

    /// Lets go of a session whose channel the client has closed.
    fn close(&mut self, session: Session) -> sunset::Result<()> {
        if let Some(terminal) = session.terminal {
            terminal.hang_up();
        }
        self.deadline = now() + IDLE_TIME;
        self.runner.channel_done(session.channel)
    }

    /// Sends what there is to send, as far as there is room.
    fn send(&mut self) -> Result<bool, Ending> {
        if !self.runner.is_output_pending() {
            return Ok(false);
        }
        let runner = &mut self.runner;
        let sent = self.stream.send_now(|room| {
            let ready = runner.output_buf();
            let length = ready.len().min(room.len());
            room[..length].copy_from_slice(&ready[..length]);
            length
        });
        let sent = sent.map_err(|_| Ending::Left)?;
        self.runner.consume_output(sent);
        Ok(sent > 0)
    }

    /// Takes what has come, as far as it can be taken.
    fn receive(&mut self) -> Result<bool, Ending> {
        if !self.runner.is_input_ready() {
            return Ok(false);
        }
        let broken = Ending::Protocol(self.is_known);
        let runner = &mut self.runner;
        let mut taken = Ok(0);
        let received = self.stream.receive_now(|data| {
            taken = runner.input(data);
            *taken.as_ref().unwrap_or(&0)
        });
        let received = received.map_err(|_| Ending::Left)?.ok_or(Ending::Left)?;
        taken.map_err(|_| broken)?;
        Ok(received > 0)
    }
}

/// Answers whether a key would do, or does: the protocol asks both, and has checked the signature of the second.
fn check_key(server: &Server, attempt: ServPubkeyAuth<'_, '_>) -> sunset::Result<()> {
    let is_admin = attempt.username().is_ok_and(|name| name == USER);
    let opens = attempt.pubkey().is_ok_and(|key| server.keys.open_with(&key));
    if is_admin && opens { attempt.allow() } else { attempt.reject() }
}

/// Opens a session, unless there is one.
fn open(session: &mut Option<Session>, asked: ServOpenSession<'_, '_>) -> sunset::Result<()> {
    if session.is_some() {
        return asked.reject(ChanFail::SSH_OPEN_RESOURCE_SHORTAGE);
    }
    let channel = asked.accept()?;
    *session = Some(Session { channel, wants_screen: false, terminal: None, has_ended: false });
    Ok(())
}

/// Runs the command that the client asks for.
fn run(session: &mut Option<Session>, admin: &Admin, asked: ServExecRequest<'_, '_>) -> sunset::Result<()> {
    let Ok(command) = asked.command().map(ToOwned::to_owned) else { return asked.fail() };
    match begin(session, admin, Wish::Command(command)) {
        true => asked.succeed(),
        false => asked.fail(),
    }
}

/// Runs what the client wishes; `false` if something runs already.
fn begin(session: &mut Option<Session>, admin: &Admin, wish: Wish) -> bool {
    let Some(session) = session.as_mut().filter(|session| session.terminal.is_none()) else { return false };
    let terminal = Rc::new(SessionTerminal::new(session.wants_screen));
    session.terminal = Some(Rc::clone(&terminal));
    let admin = admin.at(terminal.clone());
    let is_screen = session.wants_screen;
    spawn(async move {
        let status = match wish {
            Wish::Command(command) => admin.run_line(&command).await,
            Wish::Shell if is_screen => talk(&admin).await,
            Wish::Shell => read_lines(&admin).await,
        };
        terminal.finish(status);
    });
    true
}

/// Passes on what the client sends.
fn take_typed(
    runner: &mut Runner<'_, sunset::Server>,
    session: &Session,
    terminal: &SessionTerminal,
) -> sunset::Result<bool> {
    if runner.is_channel_eof(&session.channel) {
        terminal.end_input();
        return Ok(false);
    }
    let is_for_us = runner.read_channel_ready().is_some_and(|(number, ..)| number == session.channel.num());
    if is_for_us && session.has_ended {
        runner.discard_read_channel(&session.channel)?;
        return Ok(true);
    }
    let mut piece = [0; PIECE];
    let room = terminal.input_room().min(PIECE);
    if !is_for_us || room == 0 {
        return Ok(false);
    }
    let count = runner.read_channel(&session.channel, ChanData::Normal, &mut piece[..room])?;
    terminal.type_in(&piece[..count]);
    Ok(count > 0)
}

/// Passes on what is to be shown.
fn show(
    runner: &mut Runner<'_, sunset::Server>,
    session: &Session,
    terminal: &SessionTerminal,
) -> sunset::Result<bool> {
    if session.has_ended || runner.is_channel_closed(&session.channel) {
        return Ok(false);
    }
    let shown =
        terminal.take_output(|bytes| runner.write_channel(&session.channel, ChanData::Normal, bytes))?;
    Ok(shown > 0)
}
