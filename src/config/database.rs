//! The settings of the database and of the log, which `migrate` takes too.

use clap::Args;

use super::parse::{BadSetting, or_default};
use crate::secret::Secret;
use crate::telemetry::LogFormat;

/// Where the database is.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL 13 or newer: postgres://user:password@host:5432/database [required].
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<Secret>,

    /// The most connections that this replica keeps open.
    #[arg(
        long,
        env = "DATABASE_MAX_CONNECTIONS",
        default_value = "10",
        hide_env_values = true,
        value_name = "N"
    )]
    pub database_max_connections: String,

    /// What is between here and PostgreSQL: none, or transaction (a pooler such as PgBouncer that gives every
    /// transaction another session).
    #[arg(
        long,
        env = "DATABASE_POOLER",
        default_value = "none",
        hide_env_values = true,
        value_name = "KIND"
    )]
    pub database_pooler: String,
}

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How log lines look: json or pretty [default: json; pretty in dev].
    #[arg(
        long,
        env = "LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT"
    )]
    pub log_format: Option<String>,

    /// What is logged: a level, or a filter such as info,apptlock=debug.
    #[arg(
        long,
        env = "RUST_LOG",
        default_value = "info",
        hide_env_values = true,
        value_name = "FILTER"
    )]
    pub rust_log: String,
}

/// The database's settings, checked.
#[derive(Debug, Clone)]
pub struct Database {
    /// Where it is.
    pub url: Secret,
    /// The most connections to keep open; at least 2.
    pub max_connections: u32,
    /// What is in front of it.
    pub pooler: Pooler,
}

/// What is between a replica and PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    /// Nothing, or a pooler that keeps a session for each connection.
    None,
    /// A pooler that gives every transaction another session.
    Transaction,
}

impl DatabaseArgs {
    /// Checks the database's settings.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self) -> Result<Database, BadSetting> {
        let url = self
            .database_url
            .clone()
            .filter(|url| !url.expose().is_empty())
            .ok_or_else(|| {
                BadSetting::new(
                    "DATABASE_URL",
                    "is not set",
                    "write postgres://user:password@host:5432/database",
                )
            })?;
        let text = or_default(&self.database_max_connections, "10");
        let max_connections = text
            .parse()
            .ok()
            .filter(|n| (2..=1000).contains(n))
            .ok_or_else(|| {
                BadSetting::new(
                    "DATABASE_MAX_CONNECTIONS",
                    format!("\"{text}\" will not do"),
                    "write a number from 2 to 1000",
                )
            })?;
        let pooler = match or_default(&self.database_pooler, "none") {
            "none" => Pooler::None,
            "transaction" => Pooler::Transaction,
            other => {
                return Err(BadSetting::new(
                    "DATABASE_POOLER",
                    format!("\"{other}\" is not a kind of pooler"),
                    "write none or transaction",
                ));
            }
        };
        Ok(Database {
            url,
            max_connections,
            pooler,
        })
    }
}

impl LogArgs {
    /// Checks the log's settings; `usual` is the format where none was chosen.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self, usual: &str) -> Result<(LogFormat, &str), BadSetting> {
        let format = match self
            .log_format
            .as_deref()
            .filter(|chosen| !chosen.is_empty())
            .unwrap_or(usual)
        {
            "json" => LogFormat::Json,
            "pretty" => LogFormat::Pretty,
            other => {
                return Err(BadSetting::new(
                    "LOG_FORMAT",
                    format!("\"{other}\" is not a format"),
                    "write json or pretty",
                ));
            }
        };
        Ok((format, or_default(&self.rust_log, "info")))
    }
}
