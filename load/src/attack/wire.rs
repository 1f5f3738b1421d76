//! The attackers' clients: TCP from an address of their own, WebSocket frames made by hand, sessions of Engine.IO
//! opened either way, a pace that bounds them, and a tally of their actions. A failure here is the server's defence:
//! the caller counts it and goes on.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::Connection;

/// The attackers' address.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Time limit of each step that opens a connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Opcodes of frames (RFC 6455, 5.2).
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// A connection from the attackers' address.
pub(crate) async fn dial(address: SocketAddr, tally: &Tally) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ATTACKER, 0).into())?;
    let stream = timeout(PATIENCE, socket.connect(address)).await??;
    stream.set_nodelay(true)?;
    tally.connections.fetch_add(1, Ordering::Relaxed);
    Ok(stream)
}

/// A request without a body.
pub(crate) fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: attack\r\n{headers}\r\n").into_bytes()
}

/// A frame as a client sends it, with a mask of zeros, which changes nothing and costs nothing.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A WebSocket of Engine.IO.
pub(crate) struct WebSocket {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl WebSocket {
    /// Connects, and awaits the packet that opens the session.
    pub(crate) async fn open(address: SocketAddr, tally: &Tally) -> io::Result<Self> {
        let mut socket = Self {
            stream: dial(address, tally).await?,
            buffer: Vec::new(),
        };
        let ask = get(
            "/socket.io/?EIO=4&transport=websocket",
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        );
        socket.stream.write_all(&ask).await?;
        timeout(PATIENCE, socket.begin()).await??;
        Ok(socket)
    }

    /// Opens a session, and joins the namespace `/`.
    pub(crate) async fn join(address: SocketAddr, token: &str, tally: &Tally) -> io::Result<Self> {
        let mut socket = Self::open(address, tally).await?;
        let connect = format!(r#"40{{"token":"{token}"}}"#);
        socket.send(&frame(TEXT, connect.as_bytes())).await?;
        loop {
            let said = timeout(PATIENCE, socket.next()).await??;
            if said.starts_with(b"40") {
                return Ok(socket);
            }
            // A ping may come first.
            if said != b"2" {
                let said = String::from_utf8_lossy(&said).into_owned();
                return Err(io::Error::other(said));
            }
            socket.send(&frame(TEXT, b"3")).await?;
        }
    }

    async fn begin(&mut self) -> io::Result<()> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        if !self.buffer.starts_with(b"HTTP/1.1 101") {
            let first = self.buffer.split(|byte| *byte == b'\r').next();
            let first = String::from_utf8_lossy(first.unwrap_or_default()).into_owned();
            return Err(io::Error::other(first));
        }
        self.buffer.drain(..end);
        self.next().await?;
        Ok(())
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames).await
    }

    /// The next frame's payload; an error if the server closes. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let [first, second, rest @ ..] = &self.buffer[..] {
                let (head, length) = match (second & 0x7f, rest) {
                    (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
                    (126, _) => (4, usize::MAX - 4),
                    // A server that sends 64 KiB at once is not this one.
                    (127, _) => return Err(io::Error::other("a huge frame")),
                    (short, _) => (2, usize::from(short)),
                };
                if self.buffer.len() >= head + length {
                    if first & 0x0f == CLOSE {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    let payload = self.buffer[head..head + length].to_vec();
                    self.buffer.drain(..head + length);
                    return Ok(payload);
                }
            }
            self.more().await?;
        }
    }
}

/// Reads and forgets all that comes, until the connection ends.
pub(crate) async fn drain(mut from: impl tokio::io::AsyncRead + Unpin) {
    let mut buffer = vec![0; 64 * 1024];
    while matches!(from.read(&mut buffer).await, Ok(1..)) {}
}

/// A session by polling, on one connection.
pub(crate) struct Polling {
    pub(crate) connection: Connection,
    path: String,
}

impl Polling {
    /// Opens a session, and joins the namespace `/`.
    pub(crate) async fn join(address: SocketAddr, token: &str, tally: &Tally) -> io::Result<Self> {
        let connection = Connection::over(dial(address, tally).await?);
        let mut polling = Self {
            connection,
            path: "/socket.io/?EIO=4&transport=polling".into(),
        };
        let opened = timeout(PATIENCE, polling.poll()).await??;
        let (_, rest) = opened
            .split_once(r#""sid":""#)
            .ok_or_else(|| io::Error::other(opened.clone()))?;
        let (sid, _) = rest.split_once('"').unwrap_or_default();
        polling.path.push_str("&sid=");
        polling.path.push_str(sid);
        let connect = polling.packets(&format!(r#"40{{"token":"{token}"}}"#));
        timeout(PATIENCE, polling.post(&connect)).await??;
        loop {
            let said = timeout(PATIENCE, polling.poll()).await??;
            if said.split('\x1e').any(|packet| packet == "2") {
                let pong = polling.packets("3");
                timeout(PATIENCE, polling.post(&pong)).await??;
            } else if !said.starts_with("40") {
                return Err(io::Error::other(said));
            }
            if said.split('\x1e').any(|packet| packet.starts_with("40")) {
                return Ok(polling);
            }
        }
    }

    /// The answer to a poll; it may take long.
    pub(crate) async fn poll(&mut self) -> io::Result<String> {
        let ask = get(&self.path, "");
        match self.connection.ask(&ask).await? {
            (200, body) => Ok(String::from_utf8_lossy(body).into_owned()),
            (status, _) => Err(io::Error::other(status.to_string())),
        }
    }

    /// The request that sends packets.
    pub(crate) fn packets(&self, packets: &str) -> Vec<u8> {
        format!(
            "POST {} HTTP/1.1\r\nhost: attack\r\ncontent-type: text/plain;charset=UTF-8\r\n\
             content-length: {}\r\n\r\n{packets}",
            self.path,
            packets.len()
        )
        .into_bytes()
    }

    /// Sends such a request.
    pub(crate) async fn post(&mut self, request: &[u8]) -> io::Result<()> {
        match self.connection.ask(request).await? {
            (200, _) => Ok(()),
            (status, _) => Err(io::Error::other(status.to_string())),
        }
    }

    /// The same session, on one more connection.
    pub(crate) async fn beside(&self, address: SocketAddr, tally: &Tally) -> io::Result<Self> {
        Ok(Self {
            connection: Connection::over(dial(address, tally).await?),
            path: self.path.clone(),
        })
    }
}

/// A rate limit in turns per second, common to all who share it.
pub(crate) struct Pace {
    gap: Duration,
    /// The moment of the next turn. Locked only to take one.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn per_second(turns: u32) -> Self {
        Self {
            gap: Duration::from_secs(1) / turns,
            next: Mutex::new(Instant::now()),
        }
    }

    pub(crate) async fn turn(&self) {
        let at = {
            let mut next = self
                .next
                .lock()
                .unwrap_or_else(|broken| broken.into_inner());
            let at = (*next).max(Instant::now());
            *next = at + self.gap;
            at
        };
        sleep_until(at).await;
    }
}

/// The attackers' actions and their results. All that was written counts, even if the server ends the connection before
/// it has read it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Answers and ends of connections by what they were. Locked only to count one.
    seen: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    pub(crate) fn requests(&self, more: u64) {
        self.requests.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn frames(&self, more: u64) {
        self.frames.fetch_add(more, Ordering::Relaxed);
    }

    /// Counts an answer, or how a connection ended.
    pub(crate) fn saw(&self, what: impl std::fmt::Display) {
        let what: String = what.to_string().chars().take(60).collect();
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        *seen.entry(what).or_default() += 1;
    }

    /// The actions, in one line.
    pub(crate) fn volume(&self) -> String {
        let of = |count: &AtomicU64, what: &str| match count.load(Ordering::Relaxed) {
            0 => String::new(),
            n => format!("{n} {what}, "),
        };
        let mut volume = of(&self.requests, "requests") + &of(&self.frames, "frames");
        volume += &of(&self.connections, "connections");
        let mib = self.bytes.load(Ordering::Relaxed) / 1024 / 1024;
        if mib > 0 {
            volume += &format!("{mib} MiB, ");
        }
        volume.trim_end_matches(", ").to_owned()
    }

    /// Answers and ends of connections, the most frequent first.
    pub(crate) fn seen(&self) -> Vec<(String, u64)> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        let mut seen: Vec<_> = seen.iter().map(|(what, n)| (what.clone(), *n)).collect();
        seen.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        seen
    }
}
