//! The answer to a connection that finds no place. Owns that the client gets it: a connection that is closed while
//! bytes of the client are unread is reset, and the answer may be lost with it. So writing ends first, and what the
//! client sends is read on for a moment (RFC 9112, 9.6). Both are bounded; beyond the bound a connection is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::limit::Full;
use crate::protocol::{Answer, Code, Refusal};

/// Connections that are being refused at a time.
const AT_A_TIME: usize = 50;
/// Time for the answer, and time for the client to close.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time for the first bytes of a request. A client that hears an answer before it has asked may take it for a fault of
/// the connection, and never see it.
const FIRST_BYTES: Duration = Duration::from_millis(200);
/// Maximum of what is read and thrown away, in bytes.
const DISCARD: usize = 64 * 1024;

/// Refuses connections.
#[derive(Clone)]
pub(super) struct Refuser(Arc<Semaphore>);

impl Refuser {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }

    /// Answers in a task of its own, and closes.
    pub(super) fn refuse(&self, stream: TcpStream, why: Full) {
        let Ok(permit) = self.0.clone().try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, say(stream, why)).await;
            drop(permit);
        });
    }
}

async fn say(mut stream: TcpStream, why: Full) -> std::io::Result<()> {
    let (status, refusal) = match why {
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
