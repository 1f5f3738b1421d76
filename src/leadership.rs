//! Which replica sweeps. Owns the election.
//!
//! ```text
//!               elected (a new term)                the row is another's, or the trust ran out
//!   follower ────────────────────────▶ leader ─────────────────────────────────────────────▶ follower
//!      ▲                                 │ asks again every third of the lease: same term
//!      └────── resigned, at a stop ◀─────┘
//! ```
//!
//! Layer 4. PostgreSQL decides, by one row with an expiry. A leader trusts its election from the moment
//! *before* it asked, so its own belief always ends before the row does; and the sweep's SQL names the term,
//! so that a leader that was paused past its lease sweeps nothing. On failure: no answer, no trust.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{Candidate, Store};
use crate::telemetry;

/// How long the duty stays with a leader that no longer asks. With the pause below, another replica sweeps
/// within ten seconds of its death.
const LEASE: Duration = Duration::from_secs(5);
/// Between two campaigns, a leader's or a follower's.
const PAUSE: Duration = Duration::from_millis(1500);

/// An election won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Rises with every change of hands.
    pub number: i64,
    /// Until when the leader may believe it, by its own monotonic clock.
    pub trusted_until: Instant,
}

impl Term {
    /// Whether the leader may still believe that it leads.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        Instant::now() < self.trusted_until
    }
}

fn tell(term: Option<i64>) {
    metrics::gauge!(telemetry::LEADER).set(if term.is_some() { 1.0 } else { 0.0 });
    metrics::gauge!(telemetry::LEADER_TERM).set(term.unwrap_or(0) as f64);
}

/// Stands for the duty until stopped, then gives it up. What it holds is in `elected`.
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
            // Only then: another replica may lead in this process, and share the gauge.
            tell(number);
        }
        elected.send_replace(term);
        if stop
            .run_until_cancelled(tokio::time::sleep(PAUSE))
            .await
            .is_none()
        {
            break;
        }
    }
    elected.send_replace(None);
    if was.is_some() {
        tell(None);
    }
    if let Some(term) = was
        && let Err(error) = store.resign(&name, term).await
    {
        warn!(%error, "could not give the sweeper's duty up; another replica has it in a few seconds");
    }
}
