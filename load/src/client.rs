//! A plain HTTP/1.1 client on a kept-alive connection: as little as it takes, so that the machine's time goes
//! to the server.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;

/// Each connection acquires and releases an appointment of its own until time is up. Returns how long each
/// cycle took.
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
    let mut stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
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
    let mut buffer = Vec::with_capacity(4096);
    let mut cycles = Vec::new();
    while Instant::now() < until {
        let since = Instant::now();
        exchange(&mut stream, &acquire, &mut buffer, "201").await?;
        exchange(&mut stream, &release, &mut buffer, "200").await?;
        cycles.push(since.elapsed());
    }
    Ok(cycles)
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends a request and reads its answer to the end, which must have the status.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut Vec<u8>,
    status: &str,
) -> Result<(), Failure> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err("the server closed the connection".into());
        }
        let Some(head) = find(buffer, b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&buffer[..head])?;
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .ok_or("an answer without content-length")?
            .parse()?;
        if buffer.len() < head + 4 + length {
            continue;
        }
        if text.split(' ').nth(1) != Some(status) {
            return Err(format!("not {status}: {}", String::from_utf8_lossy(buffer)).into());
        }
        return Ok(());
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
