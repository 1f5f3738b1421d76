//! The connections to PostgreSQL as one value, the schema, and readiness. What is asked through it is in the other files
//! of this folder.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};

use super::clock::Clock;
use super::connections::{self, Connections, Pool};
use super::error::{StoreError, Unready};
use super::row::only;
use super::statement::statement;
use super::{sql, url};
use crate::config::{BadSetting, Database};

/// Timeout of one attempt to connect, at startup.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Embedded migrations.
static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) options: PgConnectOptions,
    /// Connections for requests.
    pub(super) requests: Connections,
    /// Connections for the replica's own duties, which are on time however many requests wait.
    pub(super) duties: Connections,
    /// PostgreSQL's clock, for measurements.
    pub(super) clock: Clock,
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
