//! Peers for guests, on this computer's loopback: a web server, a source and a drain of data, a client of echo.
//!
//! A guest reaches the servers as 10.0.2.2. Each serves on a thread of its own and ends with the first connection, or
//! with the test.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long a peer may be silent before a connection is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes passed on at once.
const CHUNK: usize = 64 << 10;

/// A port of this computer that nobody uses now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a listener has an address").port()
}

/// A server for one connection.
pub struct Server<T> {
    /// The port it listens on.
    pub port: u16,
    outcome: Receiver<io::Result<T>>,
}

impl<T: Send + 'static> Server<T> {
    /// Listens, and has the first connection served.
    fn start(serve: impl FnOnce(TcpStream) -> io::Result<T> + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let (sender, outcome) = mpsc::channel();
        thread::spawn(move || {
            let served = listener.accept().and_then(|(stream, _)| {
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                serve(stream)
            });
            // Nobody may be interested any more.
            let _ = sender.send(served);
        });
        Self { port, outcome }
    }

    /// What came of the connection.
    ///
    /// # Panics
    ///
    /// If there was none, or it failed.
    #[track_caller]
    pub fn finish(self) -> T {
        let outcome = self.outcome.recv_timeout(SILENCE).expect("somebody connects");
        outcome.unwrap_or_else(|error| panic!("the connection failed: {error}"))
    }
}

/// A web server with one file; what comes of it is the request's first line.
pub fn web_server(file: Vec<u8>) -> Server<String> {
    Server::start(move |mut stream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", file.len())?;
        stream.write_all(&file)?;
        close(&stream)?;
        Ok(String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned())
    })
}

/// Sends data to whoever connects.
pub fn source(data: Vec<u8>) -> Server<()> {
    Server::start(move |mut stream| {
        stream.write_all(&data)?;
        close(&stream)
    })
}

/// Takes all data of whoever connects.
pub fn drain() -> Server<Vec<u8>> {
    Server::start(|mut stream| {
        let mut data = Vec::new();
        stream.read_to_end(&mut data)?;
        Ok(data)
    })
}

/// Says that nothing more will come, and waits until the other end has nothing more to say either.
fn close(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut &*stream, &mut io::sink()).map(drop)
}

/// Sends data to the echo service behind a port of this computer, and makes sure that the same comes back.
///
/// # Errors
///
/// If the connection fails, or other data comes back.
pub fn echo(port: u16, data: &[u8], limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_write_timeout(Some(limit))?;
    let (mut reader, mut writer) = (stream.try_clone()?, stream);
    thread::scope(|scope| {
        let sender =
            scope.spawn(move || writer.write_all(data).and_then(|()| writer.shutdown(Shutdown::Write)));
        let back = read_until(&mut reader, data.len(), deadline)?;
        sender.join().expect("the sender does not panic")?;
        if back == data { Ok(()) } else { Err(io::Error::other("what came back is not what was sent")) }
    })
}

/// Reads a number of bytes and the end of the stream.
fn read_until(reader: &mut TcpStream, length: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A time limit of zero would mean none.
        reader.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match reader.read(&mut chunk)? {
            0 => return Ok(data),
            count => data.extend_from_slice(&chunk[..count]),
        }
        if data.len() > length {
            return Err(io::Error::other("more came back than was sent"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn an_echo_is_told_from_other_answers() {
        let faithful = Server::start(|stream| io::copy(&mut &stream, &mut &stream));
        echo(faithful.port, b"hello", SOON).unwrap();
        assert_eq!(faithful.finish(), 5);
        let wrong = Server::start(|mut stream| stream.write_all(b"hallo").and_then(|()| close(&stream)));
        assert!(echo(wrong.port, b"hello", SOON).is_err());
        let silent = drain();
        assert!(echo(silent.port, b"hello", SOON).is_err());
    }

    #[test]
    fn data_goes_from_source_to_drain() {
        let (from, to) = (source(vec![7; 100_000]), drain());
        let mut input = TcpStream::connect((Ipv4Addr::LOCALHOST, from.port)).unwrap();
        let mut output = TcpStream::connect((Ipv4Addr::LOCALHOST, to.port)).unwrap();
        io::copy(&mut input, &mut output).unwrap();
        drop((input, output));
        from.finish();
        assert_eq!(to.finish(), vec![7; 100_000]);
    }

    #[test]
    fn the_web_server_tells_what_was_asked_for() {
        let server = web_server(b"page".to_vec());
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        drop(stream);
        assert_eq!(answer, "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npage");
        assert_eq!(server.finish(), "GET /x HTTP/1.0");
    }
}
