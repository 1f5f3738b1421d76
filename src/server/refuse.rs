//! The response to a refused connection. Owns its delivery: a connection that is closed with unread bytes of the client
//! is reset, and the response may be lost. So the write side is closed first, and reading continues for a moment
//! (RFC 9112, 9.6). Bytes, time and concurrent refusals are bounded; beyond that a connection is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::limit::Full;
use crate::protocol::{Answer, Code, Refusal};

/// Maximum concurrent refusals.
const AT_A_TIME: usize = 50;
/// Timeout of a refusal: sending the response and waiting for the client to close.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Time to wait for the first bytes of a request. A client that receives a response before sending a request may treat
/// it as a connection error.
const FIRST_BYTES: Duration = Duration::from_millis(200);
/// Maximum bytes that are read and discarded.
const DISCARD: usize = 64 * 1024;

/// Answers refused connections.
#[derive(Clone)]
pub(super) struct Refuser(Arc<Semaphore>);

impl Refuser {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }

    /// Answers in a separate task, and closes.
    pub(super) fn refuse(&self, stream: TcpStream, full: Full) {
        let Ok(permit) = self.0.clone().try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let _ = timeout(TIMEOUT, respond(stream, full)).await;
            drop(permit);
        });
    }
}

async fn respond(mut stream: TcpStream, full: Full) -> std::io::Result<()> {
    let (status, refusal) = match full {
        Full::Replica => (
            "503 Service Unavailable",
            Refusal::new(
                Code::Unavailable,
                "All connections of this replica are in use; try again shortly",
            ),
        ),
        Full::Address => (
            "429 Too Many Requests",
            Refusal::new(
                Code::LimitExceeded,
                "Too many connections from this address; close some (MAX_CONNECTIONS_PER_ADDRESS)",
            ),
        ),
    };
    let body = serde_json::to_string(&Answer::from(refusal))?;
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\ncache-control: no-store\r\n\r\n{body}",
        body.len()
    );
    let (mut buffer, mut discarded) = ([0; 4096], 0);
    if let Ok(read) = timeout(FIRST_BYTES, stream.read(&mut buffer)).await {
        discarded += read?;
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while discarded < DISCARD {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => discarded += read,
        }
    }
    Ok(())
}
