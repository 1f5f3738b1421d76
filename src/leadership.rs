//! Election of the replica that sweeps.
//!
//! ```text
//!               elected (a new term)            another replica leads, or the trust expired
//!   follower ────────────────────────▶ leader ─────────────────────────────────────────────▶ follower
//!      ▲                                 │ renews every third of the lease: same term
//!      └────── resigned, at shutdown ◀───┘
//! ```
//!
//! Layer 4. PostgreSQL decides, by one row with an expiry. A leader counts its lease from *before* the request, so its
//! trust always expires before the row does; and the sweep's SQL names the term, so that a leader that was paused past
//! its lease sweeps nothing. On failure: without an answer the trust expires.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{Candidate, Store};
use crate::telemetry;

/// Duration of a leadership that is not renewed. With the interval below, another replica sweeps within ten seconds of
/// the leader's death.
const LEASE: Duration = Duration::from_secs(5);
/// Interval between two campaigns, of leaders and followers.
const INTERVAL: Duration = Duration::from_millis(1500);

/// A term of leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Number, which rises with every change of the leader.
    pub number: i64,
    /// End of the trust, by the monotonic clock of this machine.
    pub trusted_until: Instant,
}

impl Term {
    /// True until the trust expires.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        Instant::now() < self.trusted_until
    }
}

fn record(term: Option<i64>) {
    metrics::gauge!(telemetry::LEADER).set(if term.is_some() { 1.0 } else { 0.0 });
    metrics::gauge!(telemetry::LEADER_TERM).set(term.unwrap_or(0) as f64);
}

/// Campaigns until stopped, then resigns. `elected` holds the current term.
pub async fn campaign(
    store: Store,
    name: String,
    elected: watch::Sender<Option<Term>>,
    stop: CancellationToken,
) {
    let mut was = None;
    loop {
        let asked = Instant::now();
        let answer = store
            .campaign(&Candidate {
                name: &name,
                ttl: LEASE,
            })
            .await;
        let term = match &answer {
            Ok(number) => number.map(|number| Term {
                number,
                trusted_until: asked + LEASE,
            }),
            Err(_) => elected.borrow().filter(Term::is_trusted),
        };
        let number = term.map(|term| term.number);
        if number != was {
            match (number, answer) {
                (Some(term), _) => info!(term, "this replica sweeps expired leases"),
                (None, Ok(_)) => info!("another replica sweeps expired leases"),
                (None, Err(error)) => {
                    warn!(%error, "this replica no longer sweeps expired leases");
                }
            }
            was = number;
            // Only on a change: another replica may lead in this process, and share the gauge.
            record(number);
        }
        elected.send_replace(term);
        if stop
            .run_until_cancelled(tokio::time::sleep(INTERVAL))
            .await
            .is_none()
        {
            break;
        }
    }
    elected.send_replace(None);
    if was.is_some() {
        record(None);
    }
    if let Some(term) = was
        && let Err(error) = store.resign(&name, term).await
    {
        warn!(%error, "could not resign leadership; another replica takes over in a few seconds");
    }
}
