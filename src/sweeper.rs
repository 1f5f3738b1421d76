//! Makes expiry prompt. Owns when to look: at the next deadline, not on a fixed beat.
//!
//! Layer 4. Nothing needs the sweeper to be right: a lease that has run out is free everywhere already. It
//! only records the end and tells the room. On failure it looks again soon; leadership decides whether it
//! works at all.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::leadership::Term;
use crate::locks::{LockError, Locks};
use crate::store::Store;
use crate::telemetry;

/// The longest sleep. A lease granted after the last look cannot end before its TTL has passed, so sleeping
/// no longer than a TTL misses none; this bounds it further for replicas that are configured differently.
const LONGEST: Duration = Duration::from_secs(15);
/// Where a due lease is held by somebody's open transaction, or the election is being asked for again.
const AGAIN: Duration = Duration::from_millis(200);
/// After a failure. Expiry is to be told within a second of the deadline.
const FAILED: Duration = Duration::from_millis(500);
/// Between two countings of the leases in force.
const GAUGE_INTERVAL: Duration = Duration::from_secs(5);
/// Beyond the deadline, so that the lease is surely due when it is looked at.
const MARGIN: Duration = Duration::from_millis(2);

/// Sweeps while this replica leads, until stopped.
pub async fn run(
    locks: Locks,
    name: String,
    mut elected: watch::Receiver<Option<Term>>,
    stop: CancellationToken,
) {
    let sweep = async {
        let mut told = false;
        loop {
            let term = *elected.borrow_and_update();
            let pause = match term {
                Some(term) if term.is_trusted() => match sweep_due(&locks, &name, term).await {
                    Ok(pause) => {
                        told = false;
                        pause
                    }
                    Err(error) => {
                        if !told {
                            warn!(%error, "could not sweep; trying until it works");
                        }
                        told = true;
                        FAILED
                    }
                },
                // The election is being asked for again; the same term may come back.
                Some(_) => AGAIN,
                None => LONGEST,
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

/// Counts the leases in force while this replica leads, until stopped. Others say 0, so that the sum over
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

/// Ends what is due, and says how long there is nothing to do.
async fn sweep_due(locks: &Locks, name: &str, term: Term) -> Result<Duration, LockError> {
    let mut found;
    loop {
        found = locks.sweep(name, term.number).await?;
        if !Locks::is_full_batch(found) || !term.is_trusted() {
            break;
        }
    }
    let longest = LONGEST.min(locks.ttl());
    Ok(match locks.next_expiry().await? {
        None => longest,
        Some(Duration::ZERO) if found == 0 => AGAIN,
        Some(wait) => (wait + MARGIN).min(longest),
    })
}
