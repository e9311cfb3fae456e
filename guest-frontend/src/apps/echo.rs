//! The echo service: everything comes back.

use alloc::vec;

use ip_stack::{Buffers, ConnectionError, Stack, TcpStream};
use pv_runtime::executor::spawn;

/// How many connections can be served at once.
const CONNECTIONS: usize = 8;
/// Bytes passed on at once.
const CHUNK: usize = 16 << 10;

/// Serves TCP echo on a port from now on.
pub fn serve_echo(stack: &Stack, port: u16) {
    for _ in 0..CONNECTIONS {
        let stack = stack.clone();
        spawn(async move {
            while let Ok(stream) = TcpStream::accept(&stack, port, Buffers::SMALL).await {
                if let Err(error) = serve(stream).await {
                    log::debug!("echo: {error}");
                }
            }
        });
    }
}

/// Serves one connection until the other end has no more to say.
async fn serve(mut stream: TcpStream) -> Result<(), ConnectionError> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let received = stream.receive_with(|data| {
            let length = data.len().min(CHUNK);
            chunk[..length].copy_from_slice(&data[..length]);
            length
        });
        match received.await? {
            Some(length) => stream.send_all(&chunk[..length]).await?,
            None => return stream.finish().await,
        }
    }
}
