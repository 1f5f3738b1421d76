//! Failures of PostgreSQL, and the reasons for which a replica is not ready.

use crate::telemetry;

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
    pub(super) fn is_transient(&self) -> bool {
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
    pub(super) fn was_an_answer(&self) -> bool {
        if matches!(self, Self::RowHeld | Self::BadStatement(_)) {
            return true;
        }
        // Classes 57P and 25: it shuts down, starts, or is a standby now.
        matches!(self, Self::Unavailable(sqlx::Error::Database(fault))
            if !fault.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("25")))
    }

    /// The error that a statement ended with.
    pub(super) fn of_statement(error: sqlx::Error) -> Self {
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
    pub(super) fn no_schema(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(fault)) if fault.code().as_deref() == Some("42P01"))
    }
}
