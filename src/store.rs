//! PostgreSQL, which decides. Owns the pool, the schema and every SQL text; the only place with sqlx.
//!
//! Layer 2. One statement per transition, in its own transaction, so a success that was returned is on disk
//! and a failure left nothing behind. A connection that is lost after the commit and before the answer is
//! the one case in which the caller cannot know: it reads the state again, and reconcile shows it to all.
//!
//! Every statement reads `clock_timestamp()` after it holds the row, never `now()`: that is the start of
//! the transaction, before the wait for the row.

mod leadership;
mod locks;
mod reconcile;
mod row;
pub mod sql;

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor};

use crate::config::{BadSetting, Database};

pub use leadership::Candidate;
pub use locks::{Acquired, Refused, Swept};

/// How long an operation waits for a connection before it answers that the database is away. With the time
/// that its statement then may take this stays below a request's deadline: so a request that was put
/// off has left nothing behind that still waits.
const PATIENCE: Duration = Duration::from_millis(2500);

/// PostgreSQL did not do what was asked. Nothing was changed, or the change is on disk and reconcile shows it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away, refused, or took too long.
    #[error("PostgreSQL is not available: {0}")]
    Unavailable(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the schema could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// The migrations, in the binary.
static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The pool and what is asked through it.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Prepares the pool. Connections are made when they are needed, so a database that is away delays
    /// nobody's start.
    ///
    /// # Errors
    /// [`BadSetting`] where `DATABASE_URL` cannot be read. Its text, which may hold a password, is not in it.
    pub fn new(database: &Database) -> Result<Self, BadSetting> {
        let url = database.url.expose();
        let options = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            PgConnectOptions::from_str(url).ok()
        } else {
            None
        };
        let options = options.ok_or_else(|| {
            BadSetting::new(
                "DATABASE_URL",
                "is not the URL of a PostgreSQL database",
                "write postgres://user:password@host:5432/database",
            )
        })?;
        let pool = PgPoolOptions::new()
            .max_connections(database.max_connections)
            .acquire_timeout(PATIENCE)
            .idle_timeout(Duration::from_secs(600))
            // A back end's saving transaction may hold a row for as long as it likes; what waits for it must
            // not hold all connections.
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(sql::PATIENCE).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options.application_name("apptlock"));
        Ok(Self { pool })
    }

    /// Brings the schema up to date. Safe when several replicas do it at once: sqlx takes a lock.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let before = self.migrations_done().await.unwrap_or(0);
        // A migration waits for another replica's for as long as that takes.
        let mut connection = self.pool.acquire().await?.detach();
        connection.execute(sql::NO_HURRY).await?;
        MIGRATOR.run(&mut connection).await?;
        connection.close().await?;
        Ok(self.migrations_done().await?.saturating_sub(before))
    }

    async fn migrations_done(&self) -> Result<usize, StoreError> {
        let done: i64 = sqlx::query_scalar(sql::MIGRATIONS_DONE)
            .fetch_one(&self.pool)
            .await?;
        Ok(usize::try_from(done).unwrap_or(0))
    }

    /// Whether the database answers and has this release's schema; where not, why, for a probe to say.
    pub async fn ready(&self) -> Result<(), String> {
        let wanted = MIGRATOR.iter().count();
        match tokio::time::timeout(PATIENCE, self.migrations_done()).await {
            Err(_) => Err("PostgreSQL does not answer".into()),
            Ok(Ok(done)) if done >= wanted => Ok(()),
            Ok(Ok(_)) => {
                Err("the schema is older than this release: run `apptlock migrate`".into())
            }
            Ok(Err(StoreError::Unavailable(sqlx::Error::Database(fault))))
                if fault.code().as_deref() == Some("42P01") =>
            {
                Err("the database has no schema: run `apptlock migrate`".into())
            }
            Ok(Err(_)) => Err("PostgreSQL is not available".into()),
        }
    }

    /// Closes every connection; operations under way finish first.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
