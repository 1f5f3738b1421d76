//! Reconciliation: changes that rooms here missed, and notes of those that other replicas may have missed.

use std::time::Instant;

use sqlx::Row;

use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;

use super::database::Store;
use super::error::StoreError;
use super::row::only;
use super::row::{room, state};
use super::sql;
use super::statement::statement;

impl Store {
    /// States of these rooms whose versions differ from those seen, by one statement.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn differing(&self, seen: &[(RoomId, i64)]) -> Result<Vec<LockState>, StoreError> {
        let tenants: Vec<&str> = seen.iter().map(|(room, _)| room.tenant.as_str()).collect();
        let appointments: Vec<&str> = seen
            .iter()
            .map(|(room, _)| room.appointment.as_str())
            .collect();
        let versions: Vec<i64> = seen.iter().map(|(_, version)| *version).collect();
        let query = statement(sql::DIFFERING)
            .bind(tenants)
            .bind(appointments)
            .bind(versions);
        let rows = self.duties.rows(query).await?;
        rows.iter().map(|row| state(&room(row)?, row)).collect()
    }

    /// Notes that `replica` may have committed changes that the others have not received.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_unpublished(&self, replica: &str) -> Result<(), StoreError> {
        let query = statement(sql::NOTE_UNPUBLISHED).bind(replica);
        self.duties.rows(query).await?;
        Ok(())
    }

    /// Notes of the other replicas: a text that differs whenever one of them notes it again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unpublished(&self, replica: &str) -> Result<String, StoreError> {
        let query = statement(sql::UNPUBLISHED).bind(replica);
        let asked = Instant::now();
        let rows = self.duties.rows(query).await?;
        let row = only(&rows)?;
        // It runs several times a second: a good source for the clock.
        self.clock.set(row.try_get("now")?, asked);
        Ok(row.try_get("notes")?)
    }
}
