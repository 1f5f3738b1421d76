//! Connections to PostgreSQL. Owns the bounds of every wait for it, and that a connection in doubt is never used
//! again.
//!
//! ```text
//!   rows ──▶ get (idle, or new) ──▶ statement ──▶ back, idle
//!              │ too long            │ error, too long, or the caller is gone
//!              ▼                     ▼
//!           no answer             closed; if PostgreSQL seems unavailable, all idle ones too
//! ```
//!
//! An unavailable PostgreSQL either refuses, which is quick, or does not answer, which only a timeout notices. So every
//! wait is bounded on this side, and the sum stays below a request's deadline. After an outage the first statement
//! opens a new connection: no restart is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, info_span};

use super::error::StoreError;
use super::sql;
use super::statement::Statement;
use crate::config::Pooler;
use crate::telemetry::{self, TRACE};

/// Timeout of the wait for a connection, opening one included.
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(2200);
/// Timeout of a statement, on this side. PostgreSQL cancels it a little earlier ([`sql::SESSION`]), so that a statement
/// reported as failed is not in progress there.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2500);
/// Timeout of the check of an idle connection.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// Idle time up to which a connection is not checked.
const RECENT: Duration = Duration::from_secs(1);
/// Maximum age of a connection, so that a changed DNS record takes effect.
const MAX_AGE: Duration = Duration::from_secs(1800);

/// Opens connections, and checks them before reuse.
#[derive(Debug)]
struct Maker {
    options: PgConnectOptions,
    pooler: Pooler,
}

impl managed::Manager for Maker {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        // Behind a pooler it might reach the session of another client.
        if self.pooler == Pooler::None {
            connection.execute(sql::SESSION).await?;
        }
        Ok(connection)
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        if metrics.age() > MAX_AGE {
            return Err(RecycleError::message("old enough"));
        }
        if metrics.last_used() > RECENT {
            connection.ping().await?;
        }
        Ok(())
    }
}

/// Use of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// Connections that run a statement.
    pub busy: usize,
    /// Connections without one.
    pub idle: usize,
    /// Statements that wait for a connection.
    pub waiting: usize,
    /// Maximum number of connections.
    pub limit: usize,
}

/// A pool.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pool: managed::Pool<Maker>,
    pooler: Pooler,
    /// Set when the outcome of a statement is unknown.
    unknown_outcome: Arc<AtomicBool>,
}

/// A connection in use. Closed on drop, unless it was given back: also if the caller is gone, since the answer to its
/// statement would be taken for the next one's.
struct InUse(Option<Object<Maker>>);

impl InUse {
    fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

impl Connections {
    /// At most `max` of them, none yet.
    pub(super) fn new(options: PgConnectOptions, pooler: Pooler, max: usize) -> Self {
        let options = options.application_name("apptlock");
        let options = match pooler {
            Pooler::None => options,
            // A startup parameter that poolers reject.
            Pooler::Transaction => options.extra_float_digits(None),
        };
        let pool = managed::Pool::builder(Maker { options, pooler })
            .max_size(max)
            .create_timeout(Some(CONNECTION_TIMEOUT))
            .recycle_timeout(Some(PING_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("the only fault is a timeout without a runtime, and there is one");
        Self {
            pool,
            pooler,
            unknown_outcome: Arc::default(),
        }
    }

    /// True if, since the last call, the outcome of a statement became unknown: PostgreSQL may still commit it.
    pub(super) fn take_unknown_outcome(&self) -> bool {
        self.unknown_outcome.swap(false, Ordering::Relaxed)
    }

    /// Current use.
    pub(super) fn pool(&self) -> Pool {
        let now = self.pool.status();
        Pool {
            busy: now.size.saturating_sub(now.available),
            idle: now.available.min(now.size),
            waiting: now.waiting,
            limit: now.max_size,
        }
    }

    /// Runs one statement in a transaction of its own, and returns its rows. Success means that it is committed.
    ///
    /// # Errors
    /// [`StoreError`]: it changed nothing, or, if the connection was lost in between, the outcome is unknown.
    pub(super) async fn rows(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        let name = statement.name;
        // Only as part of a trace: the duties' own statements come several times a second.
        let span = if Span::current().is_disabled() {
            Span::none()
        } else {
            info_span!(
                target: TRACE, "postgres", otel.name = %format_args!("postgres {name}"), otel.kind = "client",
                db.system.name = "postgresql", db.operation.name = name, otel.status_code = tracing::field::Empty,
            )
        };
        let outcome = self.run(statement).instrument(span.clone()).await;
        if outcome.is_err() {
            span.record("otel.status_code", "ERROR");
            metrics::counter!(telemetry::DATABASE_ERRORS).increment(1);
        }
        outcome
    }

    async fn run(
        &self,
        Statement { name, query }: Statement<'_>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut used = InUse(Some(self.get().await?));
        let Some(connection) = used.0.as_deref_mut() else {
            return Err(StoreError::NoAnswer);
        };
        let work = async {
            match self.pooler {
                Pooler::None => query.fetch_all(connection).await,
                // The pooler may run every statement on another session, without its prepared statements: only a
                // transaction keeps them together.
                Pooler::Transaction => {
                    connection.execute(sql::BEGIN).await?;
                    let rows = query.persistent(false).fetch_all(&mut *connection).await?;
                    connection.execute(sql::COMMIT).await?;
                    Ok(rows)
                }
            }
        };
        let since = Instant::now();
        let done = tokio::time::timeout(STATEMENT_TIMEOUT, work).await;
        let took = since.elapsed();
        metrics::histogram!(telemetry::DATABASE_DURATION, "statement" => name)
            .record(took.as_secs_f64());
        debug!(statement = name, ?took, "statement finished");
        let fault = match done {
            Ok(Ok(rows)) => {
                used.give_back();
                return Ok(rows);
            }
            Ok(Err(error)) => StoreError::of_statement(error),
            Err(_) => StoreError::NoAnswer,
        };
        drop(used);
        if !fault.was_an_answer() {
            self.unknown_outcome.store(true, Ordering::Relaxed);
            self.close_idle();
        }
        Err(fault)
    }

    async fn get(&self) -> Result<Object<Maker>, StoreError> {
        let since = Instant::now();
        let got = tokio::time::timeout(CONNECTION_TIMEOUT, self.pool.get()).await;
        metrics::histogram!(telemetry::DATABASE_WAIT).record(since.elapsed().as_secs_f64());
        match got {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(PoolError::Closed)) => Err(StoreError::NoConnection),
            Ok(Err(PoolError::Backend(error))) => Err(StoreError::Unavailable(error)),
            Ok(Err(_)) | Err(_) => {
                metrics::counter!(telemetry::DATABASE_TIMEOUTS).increment(1);
                // Idle connections failed the check, one after the other, or none was free.
                self.close_idle();
                Err(StoreError::NoConnection)
            }
        }
    }

    /// Closes idle connections: they are from before the outage, and each would cost the next statement a wait.
    fn close_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Closes the pool, and its idle connections.
    pub(super) fn close(&self) {
        self.pool.close();
    }
}
