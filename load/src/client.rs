//! A minimal HTTP/1.1 client on a persistent connection, so that the machine's time goes to the server. The caller
//! judges an answer; a connection that failed once is not used again.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;

/// Each connection acquires and releases an appointment of its own until time is up. Returns the time of each
/// cycle.
pub(crate) async fn drive(
    addresses: &[String],
    connections: usize,
    length: Duration,
) -> Result<Vec<Duration>, Failure> {
    let until = Instant::now() + length;
    let workers: Vec<_> = (0..connections)
        .map(|n| tokio::spawn(work(addresses[n % addresses.len()].clone(), n, until)))
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await??);
    }
    Ok(all)
}

async fn work(address: String, n: usize, until: Instant) -> Result<Vec<Duration>, Failure> {
    let mut connection = Connection::open(&address).await?;
    let acquire = request(
        "POST",
        &format!("/api/appointments/bench-{n}/acquire-lock"),
        &format!(
            r#"{{"userId":"user{n}","userInfo":{{"name":"User {n}","email":"user{n}@example.com"}}}}"#
        ),
    );
    let release = request(
        "DELETE",
        &format!("/api/appointments/bench-{n}/release-lock"),
        &format!(r#"{{"userId":"user{n}"}}"#),
    );
    let mut cycles = Vec::new();
    while Instant::now() < until {
        let since = Instant::now();
        for (request, wanted) in [(&acquire, 201), (&release, 200)] {
            let (status, body) = connection.ask(request).await?;
            if status != wanted {
                let body = String::from_utf8_lossy(body);
                return Err(format!("{status} and not {wanted}: {body}").into());
            }
        }
        cycles.push(since.elapsed());
    }
    Ok(cycles)
}

/// The bytes of a request with a JSON body.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A connection to one replica.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Uses a stream that is connected.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(4096),
        }
    }

    /// True if the server has closed it, or has sent unrequested data.
    pub(crate) fn is_over(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads its answer to the end: status and body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some(head) = find(&self.buffer, b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&self.buffer[..head]).map_err(io::Error::other)?;
            let length: usize = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse().ok())
                .ok_or_else(|| io::Error::other("an answer without content-length"))?;
            let end = head + 4 + length;
            if self.buffer.len() < end {
                continue;
            }
            let status = text
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok())
                .ok_or_else(|| io::Error::other("an answer without a status"))?;
            return Ok((status, &self.buffer[head + 4..end]));
        }
    }
}

/// Reads one request to its end, and returns how long its body was; `None` if there is none any more.
pub(crate) async fn swallow(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<u64>> {
    loop {
        if let Some(head) = find(buffer, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse::<usize>().ok())
                .ok_or_else(|| io::Error::other("a request without content-length"))?;
            let end = head + 4 + length;
            if buffer.len() >= end {
                buffer.drain(..end);
                return Ok(Some(length as u64));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
