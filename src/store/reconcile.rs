//! What rooms have missed, and what others may have missed from here.

use std::time::Instant;

use sqlx::Row;

use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;

use super::row::{room, state};
use super::statement::statement;
use super::{Store, StoreError, only, sql};

impl Store {
    /// The states whose versions are not those seen, of the rooms named. One statement for all.
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

    /// Says that `replica` may have committed changes of which the others were not told.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_unpublished(&self, replica: &str) -> Result<(), StoreError> {
        let query = statement(sql::NOTE_UNPUBLISHED).bind(replica);
        self.duties.rows(query).await?;
        Ok(())
    }

    /// What the others have said so: a text that differs whenever one of them says it again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unpublished(&self, replica: &str) -> Result<String, StoreError> {
        let query = statement(sql::UNPUBLISHED).bind(replica);
        let asked = Instant::now();
        let rows = self.duties.rows(query).await?;
        let row = only(&rows)?;
        // It is asked several times a second: a good time to set the clock by.
        self.clock.set(row.try_get("now")?, asked);
        Ok(row.try_get("notes")?)
    }
}
