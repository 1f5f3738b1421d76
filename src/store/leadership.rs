//! Election of the leader: one row, with a term and an expiry.

use std::time::Duration;

use sqlx::Row;

use super::database::Store;
use super::error::StoreError;
use super::row::only;
use super::sql;
use super::statement::statement;

/// A candidate for leadership.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Name of the replica, unique among replicas and starts.
    pub name: &'a str,
    /// Duration of the leadership, unless it is renewed.
    pub ttl: Duration,
}

impl Store {
    /// Takes the leadership if it is free, or renews it, and returns the term. `None`: another replica leads.
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

    /// Number of leases in force, of all tenants.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_leases(&self) -> Result<i64, StoreError> {
        let rows = self.duties.rows(statement(sql::COUNT_LEASES)).await?;
        Ok(only(&rows)?.try_get(0)?)
    }

    /// Gives up the leadership of that term, so that another replica need not wait for its expiry.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resign(&self, name: &str, term: i64) -> Result<(), StoreError> {
        let query = statement(sql::RESIGN).bind(name).bind(term);
        self.duties.rows(query).await?;
        Ok(())
    }
}
