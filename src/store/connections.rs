//! Connections to PostgreSQL. Owns how long anything may wait for it, and that a connection which may not be
//! well is never used again.
//!
//! ```text
//!   rows ──▶ get (idle, or new) ──▶ statement ──▶ back, idle
//!              │ too long            │ error, too long, or nobody waits any more
//!              ▼                     ▼
//!           no answer             closed at once; where PostgreSQL seems gone, all idle ones with it
//! ```
//!
//! PostgreSQL can be away in two ways: it refuses, which is quick, or it says nothing, which only a clock
//! notices. So every wait has its bound here, on this side, and the sum stays below a request's deadline.
//! After an outage the first statement opens a new connection: nothing need be restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, info_span};

use super::statement::Statement;
use super::{StoreError, sql};
use crate::config::Pooler;
use crate::telemetry::{self, TRACE};

/// How long a statement waits for a connection, opening one included.
const CONNECTING: Duration = Duration::from_millis(2200);
/// How long a statement may take, as this side sees it. PostgreSQL gives up a little earlier by itself
/// ([`sql::SESSION`]), so that what was put off has left nothing behind there.
pub(super) const STATEMENT: Duration = Duration::from_millis(2500);
/// How long an idle connection may take to show that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// A connection used this recently is taken to live.
const RECENT: Duration = Duration::from_secs(1);
/// No connection gets older than this, so that a name that points elsewhere is noticed.
const OLDEST: Duration = Duration::from_secs(1800);

/// Makes connections, and looks at them before they are used again.
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
        // What is said behind a pooler may be said to somebody else's session.
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
        if metrics.age() > OLDEST {
            return Err(RecycleError::message("old enough"));
        }
        if metrics.last_used() > RECENT {
            connection.ping().await?;
        }
        Ok(())
    }
}

/// How connections are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// Statements run on them.
    pub busy: usize,
    /// They wait for one.
    pub idle: usize,
    /// Statements that wait for a connection.
    pub waiting: usize,
    /// The most there may be.
    pub limit: usize,
}

/// Some connections, shared by those who ask.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pool: managed::Pool<Maker>,
    pooler: Pooler,
    /// Whether the outcome of a statement is not known.
    unknown_outcome: Arc<AtomicBool>,
}

/// A connection in use. Closed when it is dropped, unless it was given back: also where nobody waits for
/// its statement any more, since its answer would be taken for the next one's.
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
    /// At most `most` of them, none yet.
    pub(super) fn new(options: PgConnectOptions, pooler: Pooler, most: usize) -> Self {
        let options = options.application_name("apptlock");
        let options = match pooler {
            Pooler::None => options,
            // A start parameter that poolers refuse.
            Pooler::Transaction => options.extra_float_digits(None),
        };
        let pool = managed::Pool::builder(Maker { options, pooler })
            .max_size(most)
            .create_timeout(Some(CONNECTING))
            .recycle_timeout(Some(SIGN_OF_LIFE))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("the only fault is a timeout without a runtime, and there is one");
        Self {
            pool,
            pooler,
            unknown_outcome: Arc::default(),
        }
    }

    /// Whether, since this was last asked, a statement was sent of which nobody knows what became: PostgreSQL
    /// may carry it out yet.
    pub(super) fn take_unknown_outcome(&self) -> bool {
        self.unknown_outcome.swap(false, Ordering::Relaxed)
    }

    /// How they are used now.
    pub(super) fn pool(&self) -> Pool {
        let now = self.pool.status();
        Pool {
            busy: now.size.saturating_sub(now.available),
            idle: now.available.min(now.size),
            waiting: now.waiting,
            limit: now.max_size,
        }
    }

    /// Runs one statement to its end, in a transaction of its own, and returns its rows. Success means that
    /// it is committed.
    ///
    /// # Errors
    /// [`StoreError`]: it was not carried out, or, where the connection was lost in between, nobody knows.
    pub(super) async fn rows(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        let name = statement.name;
        // Only as a part of something: the duties' own statements come several times a second.
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
                // The pooler may give every statement another session, and prepares nothing by name there:
                // so all that belongs together is held together by a transaction.
                Pooler::Transaction => {
                    connection.execute(sql::BEGIN).await?;
                    let rows = query.persistent(false).fetch_all(&mut *connection).await?;
                    connection.execute(sql::COMMIT).await?;
                    Ok(rows)
                }
            }
        };
        let since = Instant::now();
        let done = tokio::time::timeout(STATEMENT, work).await;
        let took = since.elapsed();
        metrics::histogram!(telemetry::DATABASE_DURATION, "statement" => name)
            .record(took.as_secs_f64());
        debug!(statement = name, ?took, "PostgreSQL was asked");
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
            self.forget_idle();
        }
        Err(fault)
    }

    async fn get(&self) -> Result<Object<Maker>, StoreError> {
        let since = Instant::now();
        let got = tokio::time::timeout(CONNECTING, self.pool.get()).await;
        metrics::histogram!(telemetry::DATABASE_WAIT).record(since.elapsed().as_secs_f64());
        match got {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(PoolError::Closed)) => Err(StoreError::NoConnection),
            Ok(Err(PoolError::Backend(error))) => Err(StoreError::Unavailable(error)),
            Ok(Err(_)) | Err(_) => {
                metrics::counter!(telemetry::DATABASE_TIMEOUTS).increment(1);
                // Idle connections that show no sign of life, one after the other, or none to be had.
                self.forget_idle();
                Err(StoreError::NoConnection)
            }
        }
    }

    /// What is idle was opened before PostgreSQL went away: each would cost the next one who asks a wait.
    fn forget_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Hands out none any more, and closes those that are idle.
    pub(super) fn close(&self) {
        self.pool.close();
    }
}
