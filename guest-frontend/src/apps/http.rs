//! Fetching a page over HTTP/1.0.

use alloc::format;
use alloc::vec::Vec;
use core::str;

use ip_stack::{Buffers, Stack, TcpStream};
use pv_runtime::println;

use super::command::Url;
use super::failure::Failure;
use super::hash::Hash;

/// The longest header that is read, in bytes.
const LONGEST_HEADER: usize = 16 << 10;
/// What ends a header.
const HEADER_END: &[u8] = b"\r\n\r\n";

/// Fetches a page, and prints its length and hash.
pub(super) async fn get(stack: &Stack, url: &Url) -> Result<(), Failure> {
    let Url { host, port, path } = url;
    let mut stream = TcpStream::connect(stack, *host, *port, Buffers::BULK).await?;
    stream.send_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut response = Response::default();
    let mut outcome = Ok(());
    while outcome.is_ok() {
        let received = stream.receive_with(|data| {
            outcome = response.add(data);
            data.len()
        });
        if received.await?.is_none() {
            break;
        }
    }
    outcome?;
    let (length, hash) = response.finish()?;
    println!("{length} bytes, sha256 {hash}");
    Ok(())
}

/// A response as it comes in.
#[derive(Default)]
struct Response {
    header: Vec<u8>,
    body: Option<Body>,
}

/// What is known of the body so far.
#[derive(Default)]
struct Body {
    length: u64,
    expected: Option<u64>,
    hash: Hash,
}

impl Response {
    /// Adds data; fails once the header shows that there is no page.
    fn add(&mut self, data: &[u8]) -> Result<(), Failure> {
        if let Some(body) = &mut self.body {
            body.add(data);
            return Ok(());
        }
        self.header.extend_from_slice(data);
        let Some(end) = self.header.windows(HEADER_END.len()).position(|window| window == HEADER_END) else {
            let too_long = self.header.len() > LONGEST_HEADER;
            return if too_long { Err(Failure::new("the header does not end")) } else { Ok(()) };
        };
        let rest = self.header.split_off(end + HEADER_END.len());
        let mut body = Body { expected: read_header(&self.header)?, ..Body::default() };
        body.add(&rest);
        self.body = Some(body);
        Ok(())
    }

    /// The length and hash of a page that is complete.
    fn finish(self) -> Result<(u64, alloc::string::String), Failure> {
        let body = self.body.ok_or_else(|| Failure::new("the header is cut off"))?;
        match body.expected {
            Some(expected) if expected != body.length => {
                Err(Failure::new(format!("{} of {expected} bytes came", body.length)))
            }
            _ => Ok((body.length, body.hash.text())),
        }
    }
}

impl Body {
    fn add(&mut self, data: &[u8]) {
        self.length += data.len() as u64;
        self.hash.add(data);
    }
}

/// Reads a header, status line and all. Returns the length that it promises, if it promises one.
fn read_header(header: &[u8]) -> Result<Option<u64>, Failure> {
    let text = str::from_utf8(header).map_err(|_| Failure::new("the header is no text"))?;
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    let mut words = status.split_ascii_whitespace();
    if !words.next().is_some_and(|word| word.starts_with("HTTP/1.")) || words.next() != Some("200") {
        return Err(Failure::new(format!("the server says `{status}`")));
    }
    let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    /// What comes of a response that arrives in pieces of `size` bytes.
    fn outcome(response: &str, size: usize) -> Result<u64, String> {
        let mut parser = Response::default();
        for piece in response.as_bytes().chunks(size) {
            parser.add(piece).map_err(|failure| failure.to_string())?;
        }
        parser.finish().map(|(length, _)| length).map_err(|failure| failure.to_string())
    }

    #[test]
    fn pieces_of_any_size_make_the_same_page() {
        let response = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello";
        for size in 1..response.len() {
            assert_eq!(outcome(response, size), Ok(5));
        }
    }

    #[test]
    fn a_page_without_a_length_ends_with_the_stream() {
        assert_eq!(outcome("HTTP/1.1 200 OK\r\n\r\n", 100), Ok(0));
        assert_eq!(outcome("HTTP/1.1 200 OK\r\n\r\n\r\n\r\n", 1), Ok(4));
    }

    #[test]
    fn what_is_no_page_is_a_failure() {
        let said = outcome("HTTP/1.0 404 Not Found\r\n\r\nsorry", 100);
        assert_eq!(said, Err("the server says `HTTP/1.0 404 Not Found`".to_string()));
        assert!(outcome("SSH-2.0-x\r\n\r\n", 100).is_err());
        assert!(outcome("HTTP/1.0 200 OK\r\n", 100).is_err());
        assert!(outcome("HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nshort", 100).is_err());
        assert!(outcome(&"x".repeat(LONGEST_HEADER + 1), 100).is_err());
    }
}
