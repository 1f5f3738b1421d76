//! Frame limits of one WebSocket (RFC 6455, 5.2), enforced below Socket.IO, before anything is parsed. Owns the cost of
//! every frame, whatever it contains: a client over its budget is not read. A binary frame closes the connection, since
//! no event is binary; so does a long namespace name, since the refusal would repeat it to a client that reads nothing.
//!
//! ```text
//!   bytes ──▶ frame headers ──▶ spend ──▶ within the budget: passed on
//!                  │ binary       │ over it: nothing is read for a while
//!                  ▼              ▼ persistently over it
//!                closed         closed
//! ```
//!
//! A frame that was read is passed on and paid for before the next read, so the debt is at most one read. Nothing is
//! read either while too many events are unanswered: data in the client's buffers costs nothing here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::connect_error::with_code;
use crate::limits::{FrameBudget, Verdict};
use crate::server::{ConnectionHandle, count_closed};

/// Mask of the opcode in a frame's first byte.
const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
/// Interval of checks for a client that has read some of its answers.
const BACKLOG_CHECK: Duration = Duration::from_millis(5);
/// Maximum length of a header: two bytes, eight of an extended length, four of a mask.
const MAX_HEADER: usize = 14;

/// Maximum size of a packet for a namespace other than the root, in bytes: none exists, and the refusal repeats the
/// name.
pub(super) const MAX_FOREIGN: u64 = 512;
/// Maximum size of a message before joining, in bytes: a token is smaller. A longer message would be buffered until it
/// is complete.
const MAX_BEFORE_JOINING: u64 = 16 * 1024;
/// Bytes at the start of a message that show its type: Engine.IO type, Socket.IO type, namespace.
const HEAD: usize = 3;

/// Cost of a frame or a packet of that many bytes: one, plus one for each KiB, since long ones take long to parse.
pub(super) fn cost(length: u64) -> u32 {
    u32::try_from(length / 1024).map_or(u32::MAX, |more| more.saturating_add(1))
}

/// True if the start of a packet names a namespace other than the root.
pub(super) fn is_foreign(head: &[u8]) -> bool {
    matches!(head, [b'4', b'0'..=b'6', b'/', ..])
}

/// Scanner of a byte stream for frame headers and the starts of messages.
#[derive(Debug, Default)]
struct Scanner {
    header: [u8; MAX_HEADER],
    /// Bytes of the header received so far.
    have: usize,
    /// Bytes of the payload still to come, and examined so far.
    payload: u64,
    seen: usize,
    mask: [u8; 4],
    /// True if this is a data frame, not a control frame.
    data: bool,
    /// Start of the message, over all its frames, and the message's length so far.
    head: [u8; HEAD],
    known: usize,
    message: u64,
}

/// Findings of a scan.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Cost of the frames.
    cost: u32,
    binary: bool,
    /// A long packet for a namespace other than the root.
    foreign: bool,
}

impl Scanner {
    fn scan(&mut self, mut bytes: &[u8]) -> Found {
        let mut found = Found::default();
        while !bytes.is_empty() {
            if self.payload > 0 {
                let some = bytes
                    .len()
                    .min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.keep_head(&bytes[..some]);
                found.foreign |= self.message > MAX_FOREIGN && is_foreign(&self.head[..self.known]);
                self.payload -= some as u64;
                bytes = &bytes[some..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if let Some(length) = self.length() {
                found.cost = found.cost.saturating_add(cost(length));
                let opcode = self.header[0] & OPCODE;
                found.binary |= opcode == BINARY;
                self.data = opcode <= BINARY;
                if self.data && opcode != CONTINUATION {
                    (self.known, self.message) = (0, 0);
                }
                // A client must mask its frames; of one that does not, the header may be shorter than a mask.
                let masked = self.header[1] & 0x80 != 0;
                let mask = self.header[..self.have].last_chunk::<4>();
                self.mask = mask.filter(|_| masked).copied().unwrap_or_default();
                (self.payload, self.seen) = (length, 0);
                if self.data {
                    self.message = self.message.saturating_add(length);
                }
                self.have = 0;
            }
        }
        found
    }

    /// Keeps the start of a message.
    fn keep_head(&mut self, payload: &[u8]) {
        if self.data {
            for byte in payload.iter().take(HEAD - self.known) {
                self.head[self.known] = byte ^ self.mask[self.seen % 4];
                self.known += 1;
                self.seen += 1;
            }
        }
    }

    /// Length of the payload, once the header is complete.
    fn length(&self) -> Option<u64> {
        if self.have < 2 {
            return None;
        }
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        let short = self.header[1] & 0x7f;
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.have < 2 + extended + mask {
            return None;
        }
        let long = self.header[2..2 + extended].iter();
        Some(match extended {
            0 => u64::from(short),
            _ => long.fold(0, |length, byte| length << 8 | u64::from(*byte)),
        })
    }
}

/// Stream whose frames are charged to a budget.
pub(super) struct Frames<S> {
    stream: S,
    scanner: Scanner,
    budget: Arc<FrameBudget>,
    connection: Option<ConnectionHandle>,
    /// Cost of frames that were passed on but not paid for.
    owed: u32,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    closed: bool,
}

impl<S> Frames<S> {
    pub(super) fn new(
        stream: S,
        budget: Arc<FrameBudget>,
        connection: Option<ConnectionHandle>,
    ) -> Self {
        Self {
            stream,
            scanner: Scanner::default(),
            budget,
            connection,
            owed: 0,
            waiting: None,
            closed: false,
        }
    }

    fn close(&mut self, reason: &'static str) {
        self.closed = true;
        count_closed(reason);
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }

    /// Waits for that time, or until the connection is aborted.
    fn wait(&mut self, time: Duration) {
        let aborted = self.connection.as_ref().map(ConnectionHandle::aborted);
        self.waiting = Some(Box::pin(async move {
            match aborted {
                Some(aborted) => tokio::select! {
                    () = sleep(time) => {}
                    () = aborted => {}
                },
                None => sleep(time).await,
            }
        }));
    }

    /// Ready once nothing is being waited for; `true` if something was.
    fn waited(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(false);
        };
        ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        self.closed |= self
            .connection
            .as_ref()
            .is_some_and(ConnectionHandle::is_aborted);
        Poll::Ready(true)
    }

    /// Waits until the debt is paid and few enough events are unanswered.
    fn pay(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let again = ready!(self.waited(cx));
            if self.closed {
                return Poll::Ready(());
            }
            if self.owed == 0 {
                if !self.budget.is_behind() {
                    return Poll::Ready(());
                }
                self.wait(BACKLOG_CHECK);
                continue;
            }
            match self.budget.spend(self.owed, again) {
                Verdict::Admit => self.owed = 0,
                Verdict::Wait(time) => self.wait(time),
                Verdict::End => self.close("flood"),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.pay(cx));
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let found = self.scanner.scan(&buffer.filled()[before..]);
        self.owed = self.owed.saturating_add(found.cost);
        let too_long = !self.budget.has_joined() && self.scanner.message > MAX_BEFORE_JOINING;
        if found.binary || found.foreign || too_long {
            buffer.set_filled(before);
            self.close(if found.binary { "binary" } else { "flood" });
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.budget.has_joined()
            && let Some(patched) = with_code(bytes)
        {
            return Pin::new(&mut self.stream).poll_write(cx, &patched);
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client's frame of that length.
    fn frame(opcode: u8, length: usize) -> Vec<u8> {
        saying(0x80 | opcode, &vec![0x7f; length])
    }

    fn saying(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        let mut frame = vec![first];
        match u16::try_from(length) {
            Ok(short @ ..=125) => frame.push(0x80 | u8::try_from(short).unwrap()),
            Ok(medium) => {
                frame.push(0x80 | 126);
                frame.extend(medium.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn a_long_name_of_a_namespace_is_seen_however_it_comes() {
        let name = "A".repeat(600);
        let foreign = |frames: &[Vec<u8>], at_once: usize| {
            let mut scanner = Scanner::default();
            let bytes = frames.concat();
            bytes.chunks(at_once).any(|some| scanner.scan(some).foreign)
        };
        let long = format!("40/{name},");
        for at_once in [1, 7, 4096] {
            assert!(foreign(&[saying(0x81, long.as_bytes())], at_once));
            // In fragments, with a ping between them.
            let parts = [
                saying(0x01, b"4"),
                frame(9, 3),
                saying(0x00, b"0/"),
                saying(0x80, name.as_bytes()),
            ];
            assert!(foreign(&parts, at_once));
            for harmless in [
                "40/x,",
                &format!("42[\"{name}\"]"),
                &format!("40{{\"token\":\"{name}\"}}"),
            ] {
                let twice = [saying(0x81, b"40/x,"), saying(0x81, harmless.as_bytes())];
                assert!(!foreign(&twice, at_once), "{harmless}");
            }
        }
    }

    proptest! {
        /// However the bytes arrive.
        #[test]
        fn every_frame_is_found_once(
            lengths in prop::collection::vec(prop_oneof![0usize..5, 120usize..130, 65_530usize..65_540], 0..20),
            cuts in prop::collection::vec(1usize..400, 1..50),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(1, *length)).collect();
            let (mut scanner, mut rest, mut frames) = (Scanner::default(), &bytes[..], 0);
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let (some, more) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                let found = scanner.scan(some);
                prop_assert!(!found.binary);
                frames += found.cost;
                rest = more;
            }
            let whole: u32 = lengths.iter().map(|length| cost(*length as u64)).sum();
            prop_assert_eq!(frames, whole);
        }
    }

    #[test]
    fn a_binary_frame_is_seen_between_others() {
        let mut scanner = Scanner::default();
        let bytes = [frame(1, 3), frame(2, 0), frame(10, 1)].concat();
        let found = scanner.scan(&bytes);
        assert_eq!(
            found,
            Found {
                cost: 3,
                binary: true,
                foreign: false
            }
        );
    }

    #[test]
    fn an_unmasked_frame_is_scanned_too() {
        for length in [0, 1, 2, 5, 125, 126, 300] {
            let mut bytes = vec![0x81];
            match length {
                126.. => bytes.extend([126, (length >> 8) as u8, (length & 0xff) as u8]),
                short => bytes.push(short as u8),
            }
            bytes.extend(std::iter::repeat_n(b'4', length));
            bytes.extend([0x89, 0x00]);
            for part in [1, 2, bytes.len()] {
                let mut scanner = Scanner::default();
                let cost: u32 = bytes.chunks(part).map(|it| scanner.scan(it).cost).sum();
                assert_eq!(cost, 2, "{length} bytes, {part} at a time");
            }
        }
    }
}
