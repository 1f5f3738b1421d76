//! The attack of those who stay: connections that each ask for what there is not, and then are silent for as long as
//! they may. A connection that the server ends is opened again, within a pace; one that is not served waits for a place.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::Target;
use super::wire::{self, Pace};

/// Connections at once: more than the replica has places, and fewer than files that may be open here.
pub(crate) const MOST: usize = 3000;
/// Connections a second, at most.
const OPENED: u32 = 1000;
/// Interval between two requests of a connection: shorter than the server's idle limit.
const SILENCE: Duration = Duration::from_secs(60);

/// Attacks until the given moment.
pub(crate) async fn run(target: Arc<Target>, until: Instant) -> Vec<String> {
    let pace = Arc::new(Pace::per_second(OPENED));
    let served = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..MOST {
        let (target, pace, served) = (target.clone(), pace.clone(), served.clone());
        tasks.spawn(async move {
            loop {
                pace.turn().await;
                let ended = stay(&target, &served).await;
                let why = ended.map_or_else(|error| error.kind().to_string(), |()| "closed".into());
                target.tally.saw(why);
            }
        });
    }
    let mut most = 0;
    while Instant::now() + Duration::from_millis(500) < until {
        sleep(Duration::from_millis(100)).await;
        most = most.max(served.load(Ordering::Relaxed));
    }
    target.tally.saw(format!("{most} served at once"));
    Vec::new()
}

/// Counts a connection while it lasts.
struct Served<'a>(&'a AtomicUsize);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn stay(target: &Target, served: &AtomicUsize) -> io::Result<()> {
    let mut stream = wire::dial(target.address, &target.tally).await?;
    let ask = wire::get("/nothing", "");
    let mut counted = None;
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&ask).await?;
        target.tally.requests(1);
        let silent = Instant::now() + SILENCE;
        while let Some(left) = silent.checked_duration_since(Instant::now()) {
            let Ok(read) = timeout(left, stream.read(&mut buffer)).await else {
                break;
            };
            match read? {
                0 => return Ok(()),
                _ if counted.is_none() => {
                    target.tally.saw(String::from_utf8_lossy(&buffer[9..12]));
                    served.fetch_add(1, Ordering::Relaxed);
                    counted = Some(Served(served));
                }
                _ => {}
            }
        }
    }
}
