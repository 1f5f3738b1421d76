//! The leader's row: who sweeps, and in which term.

use std::time::Duration;

use sqlx::Row;

use super::statement::statement;
use super::{Store, StoreError, only, sql};

/// A replica that stands for the sweeper's duty.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Its name, unique among replicas and starts.
    pub name: &'a str,
    /// How long the duty is its own before it must ask again.
    pub ttl: Duration,
}

impl Store {
    /// Takes the duty if it is free, or keeps it. `None`: another replica has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn campaign(&self, candidate: &Candidate<'_>) -> Result<Option<i64>, StoreError> {
        let query = statement(sql::CAMPAIGN)
            .bind(candidate.name)
            .bind(candidate.ttl.as_secs_f64());
        let rows = self.duties.rows(query).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// How many leases are in force, of all tenants.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_leases(&self) -> Result<i64, StoreError> {
        let rows = self.duties.rows(statement(sql::COUNT_LEASES)).await?;
        Ok(only(&rows)?.try_get(0)?)
    }

    /// Gives the duty of that term up, so that another replica need not wait.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resign(&self, name: &str, term: i64) -> Result<(), StoreError> {
        let query = statement(sql::RESIGN).bind(name).bind(term);
        self.duties.rows(query).await?;
        Ok(())
    }
}
