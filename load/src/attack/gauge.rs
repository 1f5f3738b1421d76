//! A replica seen from outside: its readiness, its memory and the kernel's for it, and its counters. A figure that
//! cannot be had is zero, or fails the probe; it never ends a run.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Failure;
use crate::client::{Connection, request};
use crate::replica::memory_of;

/// Interval between two readiness probes, and the time limit of each.
const PROBE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum time until a replica is ready.
const START: Duration = Duration::from_secs(20);
/// Interval between two looks at memory.
const SAMPLE: Duration = Duration::from_millis(100);
/// Length at which a log is cut.
const LONG_LOG: u64 = 128 * 1024 * 1024;
/// Bytes in a page of the kernel's memory.
const PAGE: u64 = 4096;
/// Counters of which one must rise while an attack is tried.
const COUNTERS: [&str; 4] = [
    "apptlock_rate_limited_total",
    "apptlock_connections_closed_total",
    "apptlock_bad_payloads_total",
    "apptlock_socket_bad_payloads_total",
];

/// Answers of `/readyz`.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) asked: u64,
    /// Answers other than 200, and probes without one.
    pub(crate) failed: u64,
}

/// The most memory that was seen, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    /// Memory of the replica.
    pub(crate) resident: u64,
    /// Memory of TCP, for the whole machine.
    pub(crate) kernel: u64,
    /// Bytes that were cut from its log; no memory.
    pub(crate) log: u64,
}

/// Waits until a replica that has just started says that it is ready.
pub(crate) async fn await_ready(management: &str) -> Result<(), Failure> {
    let ask = request("GET", "/readyz", "");
    let asked = timeout(START, async {
        loop {
            if let Ok(mut connection) = Connection::open(management).await
                && let Ok((200, _)) = connection.ask(&ask).await
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let late = |_| format!("a replica was not ready for {START:?}");
    Ok(asked.await.map_err(late)?)
}

/// Asks until it is told to stop.
pub(crate) async fn probe(management: String, stop: watch::Receiver<bool>) -> Ready {
    let ask = request("GET", "/readyz", "");
    let mut ready = Ready::default();
    let mut kept: Option<Connection> = None;
    let mut tick = interval(PROBE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow() {
        tick.tick().await;
        let asked = timeout(PATIENCE, async {
            let mut connection = match kept.take().filter(|kept| !kept.is_over()) {
                Some(kept) => kept,
                None => Connection::open(&management).await?,
            };
            let (status, _) = connection.ask(&ask).await?;
            Ok::<_, std::io::Error>((connection, status))
        });
        ready.asked += 1;
        match asked.await {
            Ok(Ok((connection, status))) => {
                ready.failed += u64::from(status != 200);
                kept = Some(connection);
            }
            Ok(Err(_)) | Err(_) => ready.failed += 1,
        }
    }
    ready
}

/// Looks until it is told to stop. Cuts a log that grows, since a disk is soon full, and keeps count.
pub(crate) async fn sample(pid: u32, log: PathBuf, stop: watch::Receiver<bool>) -> Peak {
    let mut peak = Peak::default();
    let mut tick = interval(SAMPLE);
    while !*stop.borrow() {
        tick.tick().await;
        // A replica that is gone has none.
        peak.resident = peak.resident.max(memory_of(pid).unwrap_or_default());
        peak.kernel = peak.kernel.max(kernel());
        peak.log += cut(&log).unwrap_or_default();
    }
    peak
}

/// Empties a log that is too long, and returns how long it was. It is written to its end, wherever that is.
fn cut(log: &Path) -> std::io::Result<u64> {
    let length = std::fs::metadata(log)?.len();
    if length < LONG_LOG {
        return Ok(0);
    }
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    Ok(length)
}

/// The kernel's memory for TCP now, in bytes, of the whole machine (proc(5): sockstat).
pub(crate) fn kernel() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let mut words = line.unwrap_or_default().split_whitespace();
    let pages = words.find(|word| *word == "mem").and_then(|_| words.next());
    pages
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or_default()
        * PAGE
}

/// A replica's counters of misbehaviour so far.
pub(crate) async fn counted(management: &str) -> Result<BTreeMap<String, u64>, Failure> {
    let ask = request("GET", "/metrics", "");
    let mut connection = Connection::open(management).await?;
    let (status, body) = timeout(5 * PATIENCE, connection.ask(&ask)).await??;
    if status != 200 {
        return Err(format!("/metrics answered {status}").into());
    }
    let text = String::from_utf8_lossy(body);
    let mut counted = BTreeMap::new();
    for line in text.lines() {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        if COUNTERS.contains(&name)
            && let Some((series, value)) = line.rsplit_once(' ')
        {
            let value = value.parse::<f64>().unwrap_or_default() as u64;
            counted.insert(series.to_owned(), value);
        }
    }
    Ok(counted)
}

/// Counters that rose, and by how much.
pub(crate) fn risen(
    before: &BTreeMap<String, u64>,
    after: BTreeMap<String, u64>,
) -> Vec<(String, u64)> {
    let more = |series: &str, now: u64| now - before.get(series).copied().unwrap_or(0).min(now);
    let risen = after.into_iter().map(|(series, now)| {
        let more = more(&series, now);
        (series, more)
    });
    risen.filter(|(_, more)| *more > 0).collect()
}
