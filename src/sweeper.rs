//! Sweeper of expired leases. Owns its schedule: the next deadline, instead of a fixed interval.
//!
//! Layer 4. Correctness does not depend on it: an expired lease is free everywhere already. It only records the end and
//! publishes it to the room. On failure it retries soon; only the leader sweeps.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::leadership::Term;
use crate::locks::{LockError, Locks};
use crate::store::Store;
use crate::telemetry;

/// Maximum pause. A lease granted after the last sweep cannot expire before its TTL has passed, so a pause of one TTL
/// misses none; this bounds it further for replicas that are configured differently.
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// Pause while an open transaction holds the row of a due lease, or while the election is renewed.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Pause after a failure. An expiry is to be published within a second of the deadline.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// Interval between two counts of the leases in force.
const GAUGE_INTERVAL: Duration = Duration::from_secs(5);
/// Delay after the deadline, so that the lease is surely due.
const MARGIN: Duration = Duration::from_millis(2);

/// Sweeps while this replica leads, until stopped.
pub async fn run(
    locks: Locks,
    name: String,
    mut elected: watch::Receiver<Option<Term>>,
    stop: CancellationToken,
) {
    let sweep = async {
        let mut logged = false;
        loop {
            let term = *elected.borrow_and_update();
            let pause = match term {
                Some(term) if term.is_trusted() => match sweep_due(&locks, &name, term).await {
                    Ok(pause) => {
                        logged = false;
                        pause
                    }
                    Err(error) => {
                        if !logged {
                            warn!(%error, "could not end expired leases; retrying");
                        }
                        logged = true;
                        FAILURE_PAUSE
                    }
                },
                // The election is being renewed; the same term may return.
                Some(_) => RETRY_INTERVAL,
                None => MAX_PAUSE,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = elected.wait_for(|now| now.map(|t| t.number) != term.map(|t| t.number)) => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    };
    stop.run_until_cancelled(sweep).await;
}

/// Counts the leases in force while this replica leads, until stopped. Other replicas report 0, so that the sum over
/// all replicas is right.
pub async fn lease_gauge(
    store: Store,
    elected: watch::Receiver<Option<Term>>,
    stop: CancellationToken,
) {
    let mut led = false;
    let work = async {
        loop {
            let leads = elected.borrow().is_some_and(|term| term.is_trusted());
            // Another replica may lead in this process, and share the gauge.
            if !leads && led {
                metrics::gauge!(telemetry::LEASES).set(0.0);
            } else if leads && let Ok(count) = store.count_leases().await {
                metrics::gauge!(telemetry::LEASES).set(count as f64);
            }
            led = leads;
            tokio::time::sleep(GAUGE_INTERVAL).await;
        }
    };
    stop.run_until_cancelled(work).await;
    if led {
        metrics::gauge!(telemetry::LEASES).set(0.0);
    }
}

/// Ends due leases, and returns the pause until the next sweep.
async fn sweep_due(locks: &Locks, name: &str, term: Term) -> Result<Duration, LockError> {
    let mut found;
    loop {
        found = locks.sweep(name, term.number).await?;
        if !Locks::is_full_batch(found) || !term.is_trusted() {
            break;
        }
    }
    let longest = MAX_PAUSE.min(locks.ttl());
    Ok(match locks.next_expiry().await? {
        None => longest,
        Some(Duration::ZERO) if found == 0 => RETRY_INTERVAL,
        Some(wait) => (wait + MARGIN).min(longest),
    })
}
