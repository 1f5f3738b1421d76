//! PostgreSQL, which decides. Owns the pool, the schema and every SQL text; the only place with sqlx.
//!
//! Layer 2. One statement per transition, in its own transaction, so a success that was returned is on disk
//! and a failure left nothing behind. A connection that is lost after the commit and before the answer is
//! the one case in which the caller cannot know: it reads the state again, and reconcile shows it to all.
//!
//! Every statement reads `clock_timestamp()` after it holds the row, never `now()`: that is the start of
//! the transaction, before the wait for the row.

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

/// PostgreSQL did not do what was asked. Nothing was changed, or the change is on disk and reconcile shows it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away, or refused.
    #[error("PostgreSQL is not available: {0}")]
    Unavailable(#[from] sqlx::Error),
    /// All connections are busy, or it lets nobody in.
    #[error("PostgreSQL is not available: no connection could be had in time")]
    NoConnection,
    /// It took too long.
    #[error("PostgreSQL is not available: it did not answer in time")]
    NoAnswer,
    /// Another transaction holds the appointment's row, and did not let go of it in time. PostgreSQL is well.
    #[error("another transaction holds the appointment's row in PostgreSQL")]
    RowHeld,
    /// It refused the statement itself, by a constraint for example: a bug of ours, and no outage.
    #[error("PostgreSQL refused a statement: {0}")]
    BadStatement(sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the schema could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// Why a database is of no use now, in words for a probe to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// It lets nobody in, or is not there.
    #[error("PostgreSQL is not available")]
    Away,
    /// It takes too long.
    #[error("PostgreSQL does not answer")]
    Silent,
    /// It is a standby, or was told to be read-only.
    #[error("PostgreSQL is read-only: DATABASE_URL must lead to the primary")]
    ReadOnly,
    /// Nobody has migrated.
    #[error("the database has no schema: run `apptlock migrate`")]
    NoSchema,
    /// A migration is missing.
    #[error("the schema is older than this release: run `apptlock migrate`")]
    OldSchema,
}

impl Unready {
    /// Whether it is PostgreSQL that is missing, and not its schema.
    #[must_use]
    pub fn is_away(self) -> bool {
        matches!(self, Self::Away | Self::Silent | Self::ReadOnly)
    }
}

impl StoreError {
    /// Whether it may pass by itself: nobody is there yet, or it says that it is starting, busy, or without that
    /// database yet.
    fn may_pass(&self) -> bool {
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

    /// Whether PostgreSQL said this itself, about the statement: then it is there.
    fn was_an_answer(&self) -> bool {
        if matches!(self, Self::RowHeld | Self::BadStatement(_)) {
            return true;
        }
        // Classes 57P and 25: it shuts down, starts, or is a standby now.
        matches!(self, Self::Unavailable(sqlx::Error::Database(fault))
            if !fault.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("25")))
    }

    /// What PostgreSQL's word about a statement means.
    fn of_statement(error: sqlx::Error) -> Self {
        // Either it waited too long for a lock (55P03), or its time was up (57014) while it waited for a row, which it
        // says then.
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
        // Data exceptions, constraints, syntax: the statement is wrong whenever it is sent.
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

    /// Whether PostgreSQL says that there is no such table.
    fn no_schema(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(fault)) if fault.code().as_deref() == Some("42P01"))
    }
}

/// How long one attempt to connect may take, while PostgreSQL is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The migrations, in the binary.
static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The connections, and what is asked through them.
#[derive(Debug, Clone)]
pub struct Store {
    options: PgConnectOptions,
    /// For those who ask.
    requests: Connections,
    /// For the replica's own duties: they come on time however many requests wait.
    duties: Connections,
    /// PostgreSQL's clock, for those who measure.
    clock: Clock,
}

impl Store {
    /// Prepares. Connections are made when they are needed, so a database that is away delays nobody's start.
    ///
    /// # Errors
    /// [`BadSetting`] where `DATABASE_URL` cannot be read. Its text, which may hold a password, is not in it.
    pub fn new(database: &Database) -> Result<Self, BadSetting> {
        let options = url::options(&database.url)?;
        let own = if database.max_connections < 4 { 1 } else { 2 };
        let some = |most| Connections::new(options.clone(), database.pooler, most);
        Ok(Self {
            requests: some(database.max_connections as usize - own),
            duties: some(own),
            clock: Clock::default(),
            options,
        })
    }

    /// Waits until PostgreSQL lets this process in, at most that long. `waiting` is called once, with the reason, where
    /// it does not at first.
    ///
    /// # Errors
    /// What PostgreSQL said last; at once, where waiting will not change it.
    pub async fn wait(
        &self,
        limit: Duration,
        waiting: impl FnOnce(&StoreError),
    ) -> Result<(), StoreError> {
        let end = tokio::time::Instant::now() + limit;
        let mut waiting = Some(waiting);
        loop {
            let tried = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&self.options));
            let error = match tried.await {
                Ok(Ok(connection)) => return Ok(connection.close().await?),
                Ok(Err(error)) => StoreError::from(error),
                Err(_) => StoreError::NoAnswer,
            };
            if !error.may_pass() || tokio::time::Instant::now() >= end {
                return Err(error);
            }
            if let Some(waiting) = waiting.take() {
                waiting(&error);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// Brings the schema up to date. Safe when several replicas do it at once: sqlx takes a lock, and waits
    /// for another replica's migration for as long as that takes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let before = self.migrations_done().await.unwrap_or(0);
        // Nothing to do, and nothing to check: a schema that is newer than this release is no fault, as when one
        // goes back to the release before, and then it takes no right to create tables either.
        if before >= MIGRATOR.iter().count() {
            return Ok(0);
        }
        let mut connection = PgConnection::connect_with(&self.options).await?;
        MIGRATOR.run(&mut connection).await?;
        connection.close().await?;
        Ok(self.migrations_done().await?.saturating_sub(before))
    }

    async fn migrations_done(&self) -> Result<usize, StoreError> {
        Ok(self.look().await?.0)
    }

    /// How many migrations were applied, and whether nothing can be written.
    async fn look(&self) -> Result<(usize, bool), StoreError> {
        let rows = self.duties.rows(statement(sql::MIGRATIONS_DONE)).await?;
        let row = only(&rows)?;
        let done: i64 = row.try_get("done")?;
        Ok((
            usize::try_from(done).unwrap_or(0),
            row.try_get("read_only")?,
        ))
    }

    /// Whether the database answers, can be written to, and has this release's schema.
    ///
    /// # Errors
    /// [`Unready`], with what PostgreSQL said where it said something.
    pub async fn ready(&self) -> Result<(), (Unready, Option<StoreError>)> {
        let wanted = MIGRATOR.iter().count();
        let fault = match self.look().await {
            Ok((_, true)) => return Err((Unready::ReadOnly, None)),
            Ok((done, false)) if done >= wanted => return Ok(()),
            Ok(_) => return Err((Unready::OldSchema, None)),
            Err(fault) => fault,
        };
        let why = match fault {
            _ if fault.no_schema() => Unready::NoSchema,
            StoreError::NoAnswer => Unready::Silent,
            _ => Unready::Away,
        };
        Err((why, Some(fault)))
    }

    /// The name and the key by chance that all replicas over this database share.
    ///
    /// # Errors
    /// [`StoreError`]: it is away, or has not been migrated yet.
    pub async fn installation(&self) -> Result<(String, Vec<u8>), StoreError> {
        let rows = self.duties.rows(statement(sql::INSTALLATION)).await?;
        let row = only(&rows)?;
        Ok((row.try_get("name")?, row.try_get("bus_key")?))
    }

    /// Whether, since this was last asked, a transition was sent to PostgreSQL of which nobody knows what
    /// became. It may be carried out until [`Store::SETTLED`] after PostgreSQL answers again.
    #[must_use]
    pub fn take_unknown_outcome(&self) -> bool {
        self.requests.take_unknown_outcome()
    }

    /// PostgreSQL's clock, as far as it is known here. For measuring, never for deciding.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// How the connections are used now.
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

    /// How long after PostgreSQL answers again it may still carry out what it was asked before.
    pub const SETTLED: Duration = connections::STATEMENT.saturating_add(Duration::from_millis(500));

    /// Hands out no connection any more. What is under way keeps its own to the end.
    pub fn close(&self) {
        self.requests.close();
        self.duties.close();
    }
}

/// The one row of a statement that always has one.
fn only(rows: &[PgRow]) -> Result<&PgRow, StoreError> {
    Ok(rows.first().ok_or(sqlx::Error::RowNotFound)?)
}
