//! Whether this replica wants traffic. Owns what `/readyz` says.
//!
//! ```text
//!               PostgreSQL answers, with this release's schema
//!   starting ───────────────────────────────────────────────▶ ready ◀──▶ unavailable
//!              and the keys of tokens were fetched             │     no good answer for longer than a grace,
//!                                                              │     or clients found no connection a moment ago
//!                                     a stop, from anywhere ──▶ draining
//! ```
//!
//! Layer 4. A loop asks PostgreSQL; a probe only reads what it found, so it is answered at once. The grace is for
//! what passes by itself: while PostgreSQL changes hands, all replicas would leave the balancer at the same
//! time, and clients would get its error in the place of ours. Redis is not asked: locks are right without it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::Jwks;
use crate::server::ConnectionLimit;
use crate::store::{Store, StoreError, Unready};
use crate::telemetry;

/// For how long PostgreSQL may be away.
pub const GRACE: Duration = Duration::from_secs(5);
/// Between two questions while all is well.
const IDLE: Duration = Duration::from_secs(1);
/// Between two questions while it is not.
const DEGRADED: Duration = Duration::from_millis(100);

/// What a replica is to a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It wants traffic.
    Ok,
    /// It has not been ready yet.
    Starting,
    /// It cannot work.
    Unavailable,
    /// It is stopping.
    Draining,
}

#[derive(Default)]
struct Found {
    /// When PostgreSQL was asked last that then gave a good answer.
    well: Option<Instant>,
    /// What was wrong with the last answer.
    fault: Option<Unready>,
    draining: bool,
}

/// The health of one replica.
#[derive(Clone)]
pub struct Health {
    /// A std mutex: held for a look, never across an await.
    found: Arc<Mutex<Found>>,
    /// The keys of tokens, where they are fetched.
    keys: Option<Arc<Jwks>>,
    /// The connections of clients.
    connections: ConnectionLimit,
}

impl Health {
    /// Of a replica that was not ready yet.
    #[must_use]
    pub fn new(keys: Option<Arc<Jwks>>, connections: ConnectionLimit) -> Self {
        Self {
            found: Arc::default(),
            keys,
            connections,
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more traffic, from now on.
    pub fn drain(&self) {
        self.found().draining = true;
    }

    /// What it is, and why where that is not good.
    #[must_use]
    pub fn status(&self) -> (Status, Option<String>) {
        let found = self.found();
        if found.draining {
            return (Status::Draining, Some("this replica is stopping".into()));
        }
        if let Some(keys) = &self.keys
            && keys.age().is_none()
        {
            let why = keys.fault().unwrap_or_else(|| "no answer yet".into());
            let why = format!("the JWK set of JWT_JWKS_URL was never fetched: {why}");
            return (Status::Starting, Some(why));
        }
        match found.well {
            Some(at) if at.elapsed() < GRACE && self.connections.is_full() => {
                let why = "all connections that this replica may have are in use".into();
                (Status::Unavailable, Some(why))
            }
            Some(at) if at.elapsed() < GRACE => (Status::Ok, None),
            Some(_) => {
                let why = found.fault.unwrap_or(Unready::Silent);
                (Status::Unavailable, Some(why.to_string()))
            }
            None => {
                let why = found.fault.map(|fault| fault.to_string());
                let why = why.unwrap_or_else(|| "PostgreSQL has not answered yet".into());
                (Status::Starting, Some(why))
            }
        }
    }

    /// Asks PostgreSQL until stopped.
    pub async fn watch(self, store: Store, stop: CancellationToken) {
        let mut told = None;
        let work = async {
            loop {
                let asked = Instant::now();
                let outcome = store.ready().await;
                let pause = if outcome.is_ok() { IDLE } else { DEGRADED };
                let fault = outcome.as_ref().err().map(|(why, _)| *why);
                let away = fault.is_some_and(Unready::is_away);
                metrics::gauge!(telemetry::DATABASE_UP).set(if away { 0.0 } else { 1.0 });
                tell(outcome, &mut told);
                {
                    let mut found = self.found();
                    if fault.is_none() {
                        found.well = Some(asked);
                    }
                    found.fault = fault;
                }
                tokio::time::sleep(pause).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }
}

/// Says what became of PostgreSQL, once: nobody asks a replica that is not ready, so no request would tell.
fn tell(
    outcome: Result<(), (Unready, Option<StoreError>)>,
    told: &mut Option<Result<(), Unready>>,
) {
    let now = match &outcome {
        Ok(()) => Ok(()),
        Err((why, _)) => Err(*why),
    };
    if *told == Some(now) {
        return;
    }
    let first = told.replace(now).is_none();
    match outcome {
        Ok(()) if first => {}
        Ok(()) => info!("PostgreSQL is well again"),
        Err((why, cause)) => {
            let error = cause.map_or_else(|| why.to_string(), |cause| cause.to_string());
            warn!(%why, error, "PostgreSQL is of no use to this replica: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_counts_only_beyond_the_grace() {
        let none = crate::limits::Proxies::default();
        let limit = ConnectionLimit::of_clients(9, 9, 9, none);
        let health = Health::new(None, limit);
        assert_eq!(health.status().0, Status::Starting);
        health.found().fault = Some(Unready::Away);
        let why = || Some("PostgreSQL is not available".to_owned());
        assert_eq!(health.status(), (Status::Starting, why()));
        health.found().well = Some(Instant::now());
        assert_eq!(health.status(), (Status::Ok, None));
        health.found().well = Some(Instant::now() - GRACE / 2);
        assert_eq!(health.status(), (Status::Ok, None));
        health.found().well = Some(Instant::now() - GRACE);
        assert_eq!(health.status(), (Status::Unavailable, why()));
        health.drain();
        assert_eq!(health.status().0, Status::Draining);
    }
}
