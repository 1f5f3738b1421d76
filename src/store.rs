//! PostgreSQL, the authority on every lock. Owns the pool, the schema and every SQL text; the only place with sqlx.
//!
//! Layer 2. One statement per transition, in its own transaction: a reported success is on disk, and a failure left
//! nothing behind. If a connection is lost between the commit and the answer, the outcome is unknown: the caller
//! reads the state again, and reconcile shows it to all.
//!
//! Every statement reads `clock_timestamp()` after it holds the row, never `now()`, which is the start of the
//! transaction, before the wait for the row.

mod audit;
mod clock;
mod connections;
mod demo;
mod leadership;
mod locks;
mod reconcile;
mod row;
pub mod sql;
mod statement;
mod url;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, PgConnection, Row};

use crate::config::{BadSetting, Database};
use crate::telemetry;

pub use clock::Clock;
use connections::Connections;
pub use connections::Pool;
pub use demo::{LeaseNotInForce, Saved};
pub use leadership::Candidate;
pub use locks::{Acquired, Rejected, Swept};
use statement::statement;

/// Failure of a statement. Nothing was changed, or the change is on disk and reconcile shows it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or an error of the server.
    #[error("PostgreSQL is not available: {0}")]
    Unavailable(#[from] sqlx::Error),
    /// No free connection in time: all are busy, or none could be opened.
    #[error("PostgreSQL is not available: no free connection in time")]
    NoConnection,
    /// Timeout.
    #[error("PostgreSQL is not available: no answer in time")]
    NoAnswer,
    /// Timeout of the wait for the appointment's row, which another transaction holds. PostgreSQL itself is available.
    #[error("another transaction holds the appointment's row in PostgreSQL")]
    RowHeld,
    /// Error in the statement itself, a violated constraint for example: a bug of ours, and no outage.
    #[error("PostgreSQL refused a statement: {0}")]
    BadStatement(sqlx::Error),
    /// Failure of a migration.
    #[error("schema migration failed: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// Reason why the database cannot be used, as readiness probes report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// No connection.
    #[error("PostgreSQL is not available")]
    Unavailable,
    /// Timeout.
    #[error("PostgreSQL does not answer")]
    NoAnswer,
    /// A standby, or set to be read-only.
    #[error("PostgreSQL is read-only: DATABASE_URL must lead to the primary")]
    ReadOnly,
    /// No migration was applied.
    #[error("the database has no schema: run `apptlock migrate`")]
    NoSchema,
    /// A migration of this release is missing.
    #[error("the schema is older than this release: run `apptlock migrate`")]
    OldSchema,
}

impl Unready {
    /// True if PostgreSQL is at fault, and not its schema.
    #[must_use]
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Unavailable | Self::NoAnswer | Self::ReadOnly)
    }
}

impl StoreError {
    /// True for errors that may pass without intervention: the server is not running yet, is starting or busy, or has
    /// no such database yet.
    fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(sqlx::Error::Database(fault)) => fault.code().is_some_and(|code| {
                ["57P", "53", "3D"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }),
            Self::Unavailable(error) => matches!(error, sqlx::Error::Io(_)),
            _ => matches!(self, Self::NoAnswer),
        }
    }

    /// True for errors that PostgreSQL itself returned for the statement: it is available.
    fn was_an_answer(&self) -> bool {
        if matches!(self, Self::RowHeld | Self::BadStatement(_)) {
            return true;
        }
        // Classes 57P and 25: it shuts down, starts, or is a standby now.
        matches!(self, Self::Unavailable(sqlx::Error::Database(fault))
            if !fault.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("25")))
    }

    /// The error that a statement ended with.
    fn of_statement(error: sqlx::Error) -> Self {
        // Either the lock timeout (55P03), or the statement timeout (57014) while it waited for a row, which the
        // context says.
        let waited_for_row = error.as_database_error().is_some_and(|fault| {
            let postgres = fault.try_downcast_ref::<sqlx::postgres::PgDatabaseError>();
            let code = fault.code();
            if code.as_deref() == Some("55P03") {
                return true;
            }
            code.as_deref() == Some("57014")
                && postgres
                    .and_then(|fault| fault.r#where())
                    .is_some_and(|context| context.contains("appointment_lock"))
        });
        if waited_for_row {
            metrics::counter!(telemetry::ROWS_HELD, "where" => "postgres").increment(1);
            return Self::RowHeld;
        }
        // Data exceptions, constraints, syntax: the statement would fail again.
        let ours = error.as_database_error().and_then(|fault| fault.code());
        if ours.is_some_and(|code| {
            ["22", "23", "42601", "42804", "42883"]
                .iter()
                .any(|class| code.starts_with(class))
        }) {
            return Self::BadStatement(error);
        }
        Self::Unavailable(error)
    }

    /// True if the table does not exist.
    fn no_schema(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(fault)) if fault.code().as_deref() == Some("42P01"))
    }
}

/// Timeout of one attempt to connect, at startup.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Embedded migrations.
static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    options: PgConnectOptions,
    /// Connections for requests.
    requests: Connections,
    /// Connections for the replica's own duties, which are on time however many requests wait.
    duties: Connections,
    /// PostgreSQL's clock, for measurements.
    clock: Clock,
}

impl Store {
    /// Creates the pools. Connections are opened on demand, so an unavailable database does not delay startup.
    ///
    /// # Errors
    /// [`BadSetting`] if `DATABASE_URL` is invalid. Its text, which may hold a password, is not in it.
    pub fn new(database: &Database) -> Result<Self, BadSetting> {
        let options = url::options(&database.url)?;
        let own = if database.max_connections < 4 { 1 } else { 2 };
        let pool = |max| Connections::new(options.clone(), database.pooler, max);
        Ok(Self {
            requests: pool(database.max_connections as usize - own),
            duties: pool(own),
            clock: Clock::default(),
            options,
        })
    }

    /// Waits until PostgreSQL accepts a connection, at most `limit`. `waiting` is called once, with the reason, if the
    /// first attempt fails.
    ///
    /// # Errors
    /// The error of the last attempt; immediately, if waiting would not change it.
    pub async fn wait(
        &self,
        limit: Duration,
        waiting: impl FnOnce(&StoreError),
    ) -> Result<(), StoreError> {
        let end = tokio::time::Instant::now() + limit;
        let mut waiting = Some(waiting);
        loop {
            let tried =
                tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.options));
            let error = match tried.await {
                Ok(Ok(connection)) => return Ok(connection.close().await?),
                Ok(Err(error)) => StoreError::from(error),
                Err(_) => StoreError::NoAnswer,
            };
            if !error.is_transient() || tokio::time::Instant::now() >= end {
                return Err(error);
            }
            if let Some(waiting) = waiting.take() {
                waiting(&error);
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Migrates the schema, and returns the number of migrations applied. Safe when several replicas do it at once:
    /// sqlx takes a lock, and waits for another replica's migration for as long as that takes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let before = self.migrations_done().await.unwrap_or(0);
        // Nothing to do, and nothing to check: a schema newer than this release is no error, after a rollback to the
        // release before for example, and then the right to create tables is not needed either.
        if before >= MIGRATOR.iter().count() {
            return Ok(0);
        }
        let mut connection = PgConnection::connect_with(&self.options).await?;
        MIGRATOR.run(&mut connection).await?;
        connection.close().await?;
        Ok(self.migrations_done().await?.saturating_sub(before))
    }

    async fn migrations_done(&self) -> Result<usize, StoreError> {
        Ok(self.schema().await?.0)
    }

    /// Number of applied migrations, and whether the database is read-only.
    async fn schema(&self) -> Result<(usize, bool), StoreError> {
        let rows = self.duties.rows(statement(sql::MIGRATIONS_DONE)).await?;
        let row = only(&rows)?;
        let done: i64 = row.try_get("done")?;
        Ok((
            usize::try_from(done).unwrap_or(0),
            row.try_get("read_only")?,
        ))
    }

    /// Checks that the database answers, is writable, and has this release's schema.
    ///
    /// # Errors
    /// [`Unready`], with the error of PostgreSQL if there was one.
    pub async fn ready(&self) -> Result<(), (Unready, Option<StoreError>)> {
        let wanted = MIGRATOR.iter().count();
        let fault = match self.schema().await {
            Ok((_, true)) => return Err((Unready::ReadOnly, None)),
            Ok((done, false)) if done >= wanted => return Ok(()),
            Ok(_) => return Err((Unready::OldSchema, None)),
            Err(fault) => fault,
        };
        let why = match fault {
            _ if fault.no_schema() => Unready::NoSchema,
            StoreError::NoAnswer => Unready::NoAnswer,
            _ => Unready::Unavailable,
        };
        Err((why, Some(fault)))
    }

    /// The random name and key that all replicas on this database share.
    ///
    /// # Errors
    /// [`StoreError`]: PostgreSQL is unavailable, or has not been migrated yet.
    pub async fn installation(&self) -> Result<(String, Vec<u8>), StoreError> {
        let rows = self.duties.rows(statement(sql::INSTALLATION)).await?;
        let row = only(&rows)?;
        Ok((row.try_get("name")?, row.try_get("bus_key")?))
    }

    /// True if, since the last call, the outcome of a transition became unknown. PostgreSQL may still commit it until
    /// [`Store::SETTLED`] after it answers again.
    #[must_use]
    pub fn take_unknown_outcome(&self) -> bool {
        self.requests.take_unknown_outcome()
    }

    /// PostgreSQL's clock, as estimated here. For measurements, never for decisions.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Current use of the connections.
    #[must_use]
    pub fn pool(&self) -> Pool {
        let (requests, duties) = (self.requests.pool(), self.duties.pool());
        Pool {
            busy: requests.busy + duties.busy,
            idle: requests.idle + duties.idle,
            waiting: requests.waiting + duties.waiting,
            limit: requests.limit + duties.limit,
        }
    }

    /// Time after PostgreSQL answers again in which it may still commit earlier statements.
    pub const SETTLED: Duration =
        connections::STATEMENT_TIMEOUT.saturating_add(Duration::from_millis(500));

    /// Closes the pools. Statements in progress keep their connections to the end.
    pub fn close(&self) {
        self.requests.close();
        self.duties.close();
    }
}

/// The one row of a statement that always has one.
fn only(rows: &[PgRow]) -> Result<&PgRow, StoreError> {
    Ok(rows.first().ok_or(sqlx::Error::RowNotFound)?)
}
