//! Readiness of this replica for traffic. Owns the answer of `/readyz`.
//!
//! ```text
//!               PostgreSQL answers, with this release's schema
//!   starting ───────────────────────────────────────────────▶ ready ◀──▶ unavailable
//!              and the keys of tokens were fetched             │     no good answer for longer than the grace,
//!                                                              │     or the limit of connections is reached
//!                                 shutdown, in any state ──▶ draining
//! ```
//!
//! Layer 4. A loop checks PostgreSQL; a probe only reads the last result, so it is answered immediately. The grace covers
//! short outages: during a failover of PostgreSQL all replicas would leave the load balancer at the same time, and
//! clients would get its error instead of ours. Redis is not checked: locks are correct without it.

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

/// Duration of an outage of PostgreSQL up to which a replica stays ready.
pub const GRACE: Duration = Duration::from_secs(5);
/// Interval between two checks while they succeed.
const IDLE: Duration = Duration::from_secs(1);
/// Interval between two checks while they fail.
const DEGRADED: Duration = Duration::from_millis(100);

/// Status of a replica, as load balancers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Ready for traffic.
    Ok,
    /// Not ready yet since its start.
    Starting,
    /// Not able to work.
    Unavailable,
    /// Shutting down.
    Draining,
}

#[derive(Default)]
struct Findings {
    /// Start of the last check that succeeded.
    last_success: Option<Instant>,
    /// Fault that the last check found.
    fault: Option<Unready>,
    draining: bool,
}

/// The health of one replica.
#[derive(Clone)]
pub struct Health {
    /// A std mutex: never held across an await.
    found: Arc<Mutex<Findings>>,
    /// The keys of tokens, if they are fetched.
    keys: Option<Arc<Jwks>>,
    /// The connections of clients.
    connections: ConnectionLimit,
}

impl Health {
    /// Health of a replica that is starting.
    #[must_use]
    pub fn new(keys: Option<Arc<Jwks>>, connections: ConnectionLimit) -> Self {
        Self {
            found: Arc::default(),
            keys,
            connections,
        }
    }

    fn found(&self) -> MutexGuard<'_, Findings> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the replica as draining from now on.
    pub fn drain(&self) {
        self.found().draining = true;
    }

    /// Status, with the reason if the replica is not ready.
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
        match found.last_success {
            Some(at) if at.elapsed() < GRACE && self.connections.is_full() => {
                let why = "all connections that this replica may have are in use".into();
                (Status::Unavailable, Some(why))
            }
            Some(at) if at.elapsed() < GRACE => (Status::Ok, None),
            Some(_) => {
                let why = found.fault.unwrap_or(Unready::NoAnswer);
                (Status::Unavailable, Some(why.to_string()))
            }
            None => {
                let why = found.fault.map(|fault| fault.to_string());
                let why = why.unwrap_or_else(|| "PostgreSQL has not answered yet".into());
                (Status::Starting, Some(why))
            }
        }
    }

    /// Checks PostgreSQL until stopped.
    pub async fn watch(self, store: Store, stop: CancellationToken) {
        let mut logged = None;
        let work = async {
            loop {
                let asked = Instant::now();
                let outcome = store.ready().await;
                let pause = if outcome.is_ok() { IDLE } else { DEGRADED };
                let fault = outcome.as_ref().err().map(|(why, _)| *why);
                let outage = fault.is_some_and(Unready::is_outage);
                metrics::gauge!(telemetry::DATABASE_UP).set(if outage { 0.0 } else { 1.0 });
                log_change(outcome, &mut logged);
                {
                    let mut found = self.found();
                    if fault.is_none() {
                        found.last_success = Some(asked);
                    }
                    found.fault = fault;
                }
                tokio::time::sleep(pause).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }
}

/// Logs a change, once: a replica that is not ready gets no requests, which would log the cause.
fn log_change(
    outcome: Result<(), (Unready, Option<StoreError>)>,
    logged: &mut Option<Result<(), Unready>>,
) {
    let now = match &outcome {
        Ok(()) => Ok(()),
        Err((why, _)) => Err(*why),
    };
    if *logged == Some(now) {
        return;
    }
    let first = logged.replace(now).is_none();
    match outcome {
        Ok(()) if first => {}
        Ok(()) => info!("PostgreSQL is available again"),
        Err((why, cause)) => {
            let error = cause.map_or_else(|| why.to_string(), |cause| cause.to_string());
            warn!(%why, error, "PostgreSQL check failed: {error}");
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
        health.found().fault = Some(Unready::Unavailable);
        let why = || Some("PostgreSQL is not available".to_owned());
        assert_eq!(health.status(), (Status::Starting, why()));
        health.found().last_success = Some(Instant::now());
        assert_eq!(health.status(), (Status::Ok, None));
        health.found().last_success = Some(Instant::now() - GRACE / 2);
        assert_eq!(health.status(), (Status::Ok, None));
        health.found().last_success = Some(Instant::now() - GRACE);
        assert_eq!(health.status(), (Status::Unavailable, why()));
        health.drain();
        assert_eq!(health.status().0, Status::Draining);
    }
}
