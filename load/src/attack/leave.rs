//! The attack of those who leave and stay: a user joins the namespace, leaves it, and keeps the connection, again and
//! again, by WebSocket and by polling. Owns how many connections were still open long after they had left. What the
//! server refuses is tried again, within a pace.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Target;
use super::wire::{self, PATIENCE, Pace, Polling, TEXT, WebSocket};

/// Workers that join at the same time: fewer than the sockets that the replica accepts.
const WORKERS: usize = 16;
/// Joins a second, of which the server lets an address try two hundred.
const JOINS: u32 = 90;
/// Connections that are wanted: as many as the replica has places.
const WANTED: usize = 1050;
/// Time after which a socket that left should have no connection.
const LONG_AGO: Duration = Duration::from_secs(15);
/// Connections that may still be open by then; more are a breach.
const LINGERING: usize = 20;
/// Time limit of a poll, which is answered with a ping if with nothing else.
const POLL: Duration = Duration::from_secs(40);

/// Connections that were left and are still open.
#[derive(Default)]
struct Left {
    /// The moment at which each was left; `None` once it is closed. Locked for single entries and for counts.
    since: Mutex<Vec<Option<Instant>>>,
    held: AtomicUsize,
}

impl Left {
    fn add(&self) -> usize {
        self.held.fetch_add(1, Ordering::Relaxed);
        let mut since = self
            .since
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        since.push(Some(Instant::now()));
        since.len() - 1
    }

    fn closed(&self, n: usize) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        let mut since = self
            .since
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        since[n] = None;
    }

    fn lingering(&self) -> usize {
        let since = self
            .since
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        let open = since.iter().flatten();
        open.filter(|since| since.elapsed() > LONG_AGO).count()
    }
}

/// Attacks until the given moment.
pub(crate) async fn run(target: Arc<Target>, until: Instant) -> Vec<String> {
    let left = Arc::new(Left::default());
    let pace = Arc::new(Pace::per_second(JOINS));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..WORKERS {
        tasks.spawn(work(n, target.clone(), pace.clone(), left.clone()));
    }
    let (mut most, mut held) = (0, 0);
    while Instant::now() + Duration::from_millis(500) < until {
        sleep(Duration::from_millis(250)).await;
        most = most.max(left.lingering());
        held = held.max(left.held.load(Ordering::Relaxed));
    }
    target.tally.saw(format!("{held} held at once"));
    if most > LINGERING {
        let long_ago = LONG_AGO.as_secs();
        return vec![format!("{most} open {long_ago} s after leaving")];
    }
    Vec::new()
}

async fn work(n: usize, target: Arc<Target>, pace: Arc<Pace>, left: Arc<Left>) {
    let mut holders = tokio::task::JoinSet::new();
    for turn in n.. {
        while left.held.load(Ordering::Relaxed) >= WANTED {
            sleep(Duration::from_millis(100)).await;
        }
        pace.turn().await;
        let left_one = if turn % 2 == 0 {
            by_websocket(&target).await.map(Kept::WebSocket)
        } else {
            by_polling(&target).await.map(Kept::Polling)
        };
        match left_one {
            Ok(connection) => {
                let (target, left) = (target.clone(), left.clone());
                holders.spawn(async move {
                    let number = left.add();
                    let ended = connection.keep().await;
                    left.closed(number);
                    let why = ended.map_or_else(|error| error.to_string(), |()| "closed".into());
                    target.tally.saw(format!("left, then: {why}"));
                });
            }
            Err(refused) => target.tally.saw(format!("refused: {refused}")),
        }
        // Those that have ended need not be kept.
        while holders.try_join_next().is_some() {}
    }
}

/// A connection whose namespace was left.
enum Kept {
    WebSocket(WebSocket),
    Polling(Polling),
}

impl Kept {
    /// Answers pings until the server ends it.
    async fn keep(self) -> io::Result<()> {
        match self {
            Self::WebSocket(mut socket) => loop {
                if socket.next().await? == b"2" {
                    socket.send(&wire::frame(TEXT, b"3")).await?;
                }
            },
            Self::Polling(mut polling) => {
                let pong = polling.packets("3");
                loop {
                    let said = timeout(POLL, polling.poll()).await??;
                    if said.split('\x1e').any(|packet| packet == "1") {
                        return Ok(());
                    }
                    if said.split('\x1e').any(|packet| packet == "2") {
                        timeout(PATIENCE, polling.post(&pong)).await??;
                    }
                }
            }
        }
    }
}

async fn by_websocket(target: &Target) -> io::Result<WebSocket> {
    let mut socket = WebSocket::join(target.address, &target.token, &target.tally).await?;
    socket.send(&wire::frame(TEXT, b"41")).await?;
    target.tally.frames(1);
    Ok(socket)
}

async fn by_polling(target: &Target) -> io::Result<Polling> {
    let mut polling = Polling::join(target.address, &target.token, &target.tally).await?;
    let leave = polling.packets("41");
    timeout(PATIENCE, polling.post(&leave)).await??;
    target.tally.requests(1);
    Ok(polling)
}
