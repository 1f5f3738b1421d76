//! What rooms have missed.

use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;

use super::row::{room, state};
use super::{Store, StoreError, sql};

impl Store {
    /// The states that are newer than the versions seen, of the rooms named. One statement for all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newer(&self, seen: &[(RoomId, i64)]) -> Result<Vec<LockState>, StoreError> {
        let tenants: Vec<&str> = seen.iter().map(|(room, _)| room.tenant.as_str()).collect();
        let appointments: Vec<&str> = seen
            .iter()
            .map(|(room, _)| room.appointment.as_str())
            .collect();
        let versions: Vec<i64> = seen.iter().map(|(_, version)| *version).collect();
        let rows = sqlx::query(sql::NEWER)
            .bind(tenants)
            .bind(appointments)
            .bind(versions)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| state(&room(row)?, row)).collect()
    }
}
