//! Deletion of old history.
//!
//! Layer 4. Transitions write the history themselves, in the same statement. The leader deletes what is older than
//! `HISTORY_RETENTION`, a small batch at a time, so that no statement holds many rows. On failure it retries after the
//! next pause.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::leadership::Term;
use crate::store::Store;
use crate::telemetry;

/// Maximum number of records deleted by one statement.
const BATCH: i64 = 500;
/// Interval between two batches while there are more.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// Interval otherwise, unless the retention is shorter.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Deletes history older than `retention` while this replica leads, until stopped.
pub async fn forget(
    store: Store,
    name: String,
    retention: Duration,
    mut elected: watch::Receiver<Option<Term>>,
    stop: CancellationToken,
) {
    let pause = MAX_INTERVAL.min(retention);
    let work = async {
        loop {
            let Ok(term) = elected.wait_for(Option::is_some).await.map(|term| *term) else {
                return;
            };
            let Some(term) = term.filter(Term::is_trusted) else {
                tokio::time::sleep(MIN_INTERVAL).await;
                continue;
            };
            match store.forget(&name, term.number, retention, BATCH).await {
                Ok(count) => {
                    metrics::counter!(telemetry::FORGOTTEN)
                        .increment(u64::try_from(count).unwrap_or(0));
                    if count > 0 {
                        debug!(count, "old history deleted");
                    }
                    tokio::time::sleep(if count < BATCH { pause } else { MIN_INTERVAL }).await;
                }
                Err(error) => {
                    warn!(%error, "could not delete old history; trying again");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
