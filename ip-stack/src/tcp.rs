//! TCP connections as futures.

use alloc::vec;
use core::error::Error;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::{IpEndpoint, Ipv4Address};

use super::stack::Stack;

/// How long the other end may leave data unacknowledged before the connection is given up.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Memory of a connection, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// For what came and was not taken: the window.
    pub receive: usize,
    /// For what was not acknowledged.
    pub send: usize,
}

impl Buffers {
    /// For questions and answers.
    pub const SMALL: Self = Self { receive: 16 << 10, send: 16 << 10 };
    /// For as much as possible as fast as possible.
    pub const BULK: Self = Self { receive: 512 << 10, send: 512 << 10 };
}

/// Why a connection does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionError {
    /// The interface is not connected.
    NoInterface,
    /// The address or port cannot be used.
    Unusable,
    /// Nobody listens there, or nobody answers.
    Refused,
    /// The other end reset the connection, or no longer answers.
    Lost,
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NoInterface => "the network interface is not connected",
            Self::Unusable => "the address or port cannot be used",
            Self::Refused => "nobody answers there",
            Self::Lost => "the connection is lost",
        })
    }
}

impl Error for ConnectionError {}

/// A TCP connection. When it is dropped, what was written is still sent, followed by the end of the stream.
pub struct TcpStream {
    stack: Stack,
    handle: SocketHandle,
}

impl TcpStream {
    fn new(stack: &Stack, buffers: Buffers) -> Self {
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(buffers.receive), buffer(buffers.send));
        socket.set_timeout(Some(TIMEOUT));
        socket.set_congestion_control(CongestionControl::Reno);
        socket.set_nagle_enabled(false);
        Self { stack: stack.clone(), handle: stack.add(socket) }
    }

    /// Connects to a port of a host.
    ///
    /// # Errors
    ///
    /// If there is no way there, or nobody answers.
    pub async fn connect(
        stack: &Stack,
        address: Ipv4Address,
        port: u16,
        buffers: Buffers,
    ) -> Result<Self, ConnectionError> {
        let stream = Self::new(stack, buffers);
        let local_port = stack.ephemeral_port();
        let started = stack.with_interface(stream.handle, |socket, interface| {
            socket.connect(interface.context(), (address, port), local_port)
        });
        started.ok_or(ConnectionError::NoInterface)?.map_err(|_| ConnectionError::Unusable)?;
        stack.poke();
        stream.wait(|socket| !matches!(socket.state(), State::SynSent | State::SynReceived)).await;
        match stream.stack.with(stream.handle, |socket| socket.state()) {
            State::Closed => Err(ConnectionError::Refused),
            _ => Ok(stream),
        }
    }

    /// Waits for somebody to connect to a port.
    ///
    /// # Errors
    ///
    /// If the port is zero.
    pub async fn accept(stack: &Stack, port: u16, buffers: Buffers) -> Result<Self, ConnectionError> {
        let stream = Self::new(stack, buffers);
        stack.with(stream.handle, |socket| socket.listen(port)).map_err(|_| ConnectionError::Unusable)?;
        stream.wait(|socket| !matches!(socket.state(), State::Listen | State::SynReceived)).await;
        Ok(stream)
    }

    /// Who is at the other end.
    pub fn remote_endpoint(&self) -> Option<IpEndpoint> {
        self.stack.with(self.handle, |socket| socket.remote_endpoint())
    }

    /// Waits until `condition` holds. It is looked at whenever the socket's state changes, or data or room comes.
    async fn wait(&self, condition: impl Fn(&Socket<'static>) -> bool) {
        poll_fn(|context| {
            self.stack.with(self.handle, |socket| {
                if condition(socket) {
                    return Poll::Ready(());
                }
                socket.register_recv_waker(context.waker());
                socket.register_send_waker(context.waker());
                Poll::Pending
            })
        })
        .await;
    }

    /// Asks the other end now and then whether it is there, so that one that has vanished is noticed.
    pub fn keep_alive(&self, interval: core::time::Duration) {
        self.stack.with(self.handle, |socket| socket.set_keep_alive(Some(interval.into())));
        self.stack.poke();
    }

    /// Waits until there is data or the end of it, if `data` is wanted, or room, if `room` is; or until the connection
    /// is over.
    pub async fn ready(&self, data: bool, room: bool) {
        self.wait(|socket| {
            let has_data = data && (socket.can_recv() || !socket.may_recv());
            let has_room = room && (socket.can_send() || !socket.may_send());
            has_data || has_room || !socket.is_open()
        })
        .await;
    }

    /// Lets `body` at data that has come; it returns how many bytes it took. Returns how many that were, none if
    /// nothing has come yet, or `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lost`] if the stream broke off.
    pub fn receive_now(
        &mut self,
        body: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<Option<usize>, ConnectionError> {
        let taken = self.stack.with(self.handle, |socket| {
            if !socket.can_recv() {
                return socket.recv(|_| (0, 0));
            }
            socket.recv(|data| {
                let taken = body(data);
                (taken, taken)
            })
        });
        self.stack.poke();
        match taken {
            Ok(taken) => Ok(Some(taken)),
            Err(smoltcp::socket::tcp::RecvError::Finished) => Ok(None),
            Err(smoltcp::socket::tcp::RecvError::InvalidState) => Err(ConnectionError::Lost),
        }
    }

    /// Waits for data, and lets `body` at it: see [`receive_now`](Self::receive_now).
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lost`] if the stream broke off.
    pub async fn receive_with(
        &mut self,
        body: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<Option<usize>, ConnectionError> {
        self.ready(true, false).await;
        self.receive_now(body)
    }

    /// Lets `body` fill the room there is, which may be none; it returns how many bytes it wrote, and that is returned.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lost`] if nothing can be sent any more.
    pub fn send_now(&mut self, body: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, ConnectionError> {
        let written = self.stack.with(self.handle, |socket| {
            socket.send(|room| {
                let written = body(room);
                (written, written)
            })
        });
        self.stack.poke();
        written.map_err(|_| ConnectionError::Lost)
    }

    /// Waits for room, and lets `body` fill it: see [`send_now`](Self::send_now).
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lost`] if nothing can be sent any more.
    pub async fn send_with(
        &mut self,
        body: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, ConnectionError> {
        self.ready(false, true).await;
        self.send_now(body)
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lost`] if not all can be sent.
    pub async fn send_all(&mut self, data: &[u8]) -> Result<(), ConnectionError> {
        let mut rest = data;
        while !rest.is_empty() {
            let written = self
                .send_with(|room| {
                    let length = room.len().min(rest.len());
                    room[..length].copy_from_slice(&rest[..length]);
                    length
                })
                .await?;
            rest = &rest[written..];
        }
        Ok(())
    }

    /// Ends the stream to the other end, and waits until all that was written has arrived there.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Lost`] if the other end stops to answer first.
    pub async fn finish(&mut self) -> Result<(), ConnectionError> {
        self.stack.with(self.handle, Socket::close);
        self.stack.poke();
        let is_ended = |socket: &Socket<'static>| {
            !matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck)
        };
        self.wait(is_ended).await;
        let unsent = self.stack.with(self.handle, |socket| socket.send_queue());
        if unsent == 0 { Ok(()) } else { Err(ConnectionError::Lost) }
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.stack.with(self.handle, Socket::close);
        self.stack.abandon(self.handle);
    }
}
