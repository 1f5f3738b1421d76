//! The settings of the database and of the log, which `migrate` takes too.

use std::time::Duration;

use clap::Args;

use super::parse::{BadSetting, duration, number, word};
use crate::secret::Secret;
use crate::telemetry::LogFormat;

/// Settings of PostgreSQL.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL 13 or newer: postgres://user:password@host:5432/database [required].
    #[arg(long, env, value_name = "URL")]
    pub database_url: Option<Secret>,

    /// Maximum connections per replica, 2 to 1000.
    #[arg(long, env, value_name = "N", default_value = "10", value_parser = number::<u32>(2..=1000))]
    pub database_max_connections: u32,

    /// Pooler in front of PostgreSQL: none, or transaction for one such as PgBouncer in transaction mode.
    #[arg(long, env, value_name = "KIND", default_value = "none", value_parser = word("a kind of pooler", [("none", Pooler::None), ("transaction", Pooler::Transaction)]))]
    pub database_pooler: Pooler,
}

/// Settings of the log.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Format of log lines: json or pretty.
    #[arg(long, env, value_name = "FORMAT", default_value = "json", value_parser = word("a format", [("json", LogFormat::Json), ("pretty", LogFormat::Pretty)]))]
    pub log_format: LogFormat,

    /// Log filter: a level, or a list such as info,apptlock=debug.
    #[arg(long, env, value_name = "FILTER", default_value = "info")]
    pub rust_log: String,
}

/// Settings of `migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// The database to migrate.
    #[command(flatten)]
    pub database: DatabaseArgs,

    /// Maximum wait for a PostgreSQL that is not available yet, 0s to 24h; 0s for no wait.
    #[arg(long, env, value_name = "DURATION", default_value = "5m", value_parser = duration("0s", "24h"))]
    pub migrate_timeout: Duration,

    /// The log.
    #[command(flatten)]
    pub logs: LogArgs,
}

/// The database's settings, checked.
#[derive(Debug, Clone)]
pub struct Database {
    /// Its URL.
    pub url: Secret,
    /// Maximum connections; at least 2.
    pub max_connections: u32,
    /// The pooler in front of it.
    pub pooler: Pooler,
}

/// Kinds of pooler between a replica and PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    /// None, or one that keeps a session for each connection.
    None,
    /// One that gives every transaction another session.
    Transaction,
}

impl DatabaseArgs {
    /// Checks that there is a database.
    ///
    /// # Errors
    /// [`BadSetting`].
    pub fn check(&self) -> Result<Database, BadSetting> {
        let missing = || {
            let fix = "write postgres://user:password@host:5432/database";
            BadSetting::new("DATABASE_URL", "is not set", fix)
        };
        Ok(Database {
            url: self.database_url.clone().ok_or_else(missing)?,
            max_connections: self.database_max_connections,
            pooler: self.database_pooler,
        })
    }
}
