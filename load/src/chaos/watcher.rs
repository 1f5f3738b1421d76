//! A watcher: one Socket.IO client at one replica, subscribed to every appointment, as a browser would be.
//! Owns the received versions, and detects immediately if one does not rise. When its connection ends it
//! reconnects, which begins another session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::record::{Clock, Room, Session, appointment, id};
use crate::Failure;

/// Interval between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(100);
/// Time limit of connecting.
const PATIENCE: Duration = Duration::from_secs(5);
/// Version of an appointment without a subscription.
const NOTHING: i64 = -1;

/// Versions that a watcher shows now, for others to read.
#[derive(Debug)]
pub(crate) struct Shown(Vec<AtomicI64>);

impl Shown {
    pub(crate) fn new(appointments: usize) -> Self {
        Self((0..appointments).map(|_| AtomicI64::new(NOTHING)).collect())
    }

    /// Versions by appointment; `None` if it is not subscribed.
    pub(crate) fn versions(&self) -> Vec<Option<i64>> {
        self.0
            .iter()
            .map(|version| Some(version.load(Ordering::Relaxed)).filter(|v| *v != NOTHING))
            .collect()
    }

    fn set(&self, appointment: usize, version: i64) {
        if let Some(shown) = self.0.get(appointment) {
            shown.store(version, Ordering::Relaxed);
        }
    }
}

/// Everything that one watcher received.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) sessions: Vec<Session>,
    /// Versions that did not rise within one session.
    pub(crate) back: Vec<String>,
}

/// Watches until stopped.
pub(crate) async fn watch(
    replica: usize,
    address: String,
    clock: Clock,
    shown: Arc<Shown>,
    mut stop: watch::Receiver<bool>,
) -> Heard {
    let mut heard = Heard::default();
    loop {
        let mut session = Session {
            replica,
            rooms: vec![Room::default(); shown.0.len()],
            ended: clock.now(),
        };
        let stopped = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => true,
            // However it ended, another connection follows.
            _ = listen(&address, clock, &shown, &mut session, &mut heard.back) => false,
        };
        session.ended = clock.now();
        if session.rooms.iter().any(|room| !room.heard.is_empty()) {
            heard.sessions.push(session);
        }
        if stopped {
            return heard;
        }
        (0..shown.0.len()).for_each(|n| shown.set(n, NOTHING));
        tokio::time::sleep(AGAIN).await;
    }
}

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(address: &str) -> Result<Stream, Failure> {
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    let (mut stream, _) = tokio_tungstenite::connect_async(url).await?;
    for expected in ["0", "40"] {
        if expected == "40" {
            stream.send(Message::text("40{}")).await?;
        }
        match stream.next().await {
            Some(Ok(Message::Text(text))) if text.starts_with(expected) => {}
            other => return Err(format!("{other:?} where {expected} was due").into()),
        }
    }
    Ok(stream)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    appointment_id: String,
    version: i64,
}

#[derive(Deserialize)]
struct Snapshot {
    success: bool,
    #[serde(default)]
    version: i64,
}

async fn listen(
    address: &str,
    clock: Clock,
    shown: &Shown,
    session: &mut Session,
    back: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut stream = tokio::time::timeout(PATIENCE, connect(address)).await??;
    // Those to subscribe: at first all, later those that were refused because PostgreSQL was unavailable.
    let mut wanted: VecDeque<usize> = (0..session.rooms.len()).collect();
    let mut due = Instant::now();
    loop {
        let next = tokio::select! {
            () = sleep_until(due), if !wanted.is_empty() => {
                while let Some(n) = wanted.pop_front() {
                    let frame = format!(r#"42{n}["subscribe","{}"]"#, id(n));
                    stream.send(Message::text(frame)).await?;
                }
                continue;
            }
            next = stream.next() => next,
        };
        let text = match next {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_))) | None => return Ok(()),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(error.into()),
        };
        let now = clock.now();
        if text.as_str() == "2" {
            stream.send(Message::text("3")).await?;
        } else if let Some(event) = text.strip_prefix("42")
            && event.starts_with(r#"["lock-update""#)
        {
            let (_, update): (IgnoredAny, Update) = serde_json::from_str(event)?;
            let n =
                appointment(&update.appointment_id).ok_or("an update of what was never asked")?;
            let room = session.rooms.get_mut(n).ok_or("no such room")?;
            if let Some((last, at)) = room.heard.last()
                && update.version <= *last
            {
                back.push(format!(
                    "replica {}'s watcher heard of {} version {} at {now:?} after {last} at {at:?}",
                    session.replica + 1,
                    update.appointment_id,
                    update.version
                ));
            }
            room.heard.push((update.version, now));
            shown.set(n, update.version);
        } else if let Some(ack) = text.strip_prefix("43") {
            let begin = ack
                .find('[')
                .ok_or("an acknowledgement without a payload")?;
            let n: usize = ack[..begin].parse()?;
            let [snapshot]: [Snapshot; 1] = serde_json::from_str(&ack[begin..])?;
            if snapshot.success {
                let room = session.rooms.get_mut(n).ok_or("no such room")?;
                room.heard.push((snapshot.version, now));
                shown.set(n, snapshot.version);
            } else {
                due = Instant::now() + AGAIN;
                wanted.push_back(n);
            }
        }
    }
}
