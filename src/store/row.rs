//! Conversion of a row to a [`LockState`]. Owns the reading of columns, which `sql/columns.rs` lists.

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::ids::{AppointmentId, RoomId, SessionId, TenantId, UserId};
use crate::domain::lease::{Lease, LockState, Reason, UserInfo};

use super::error::StoreError;

/// Reads the state columns of any statement. All are NULL if there is no row: version 0, never locked.
pub(super) fn state(room: &RoomId, row: &PgRow) -> Result<LockState, StoreError> {
    let now: OffsetDateTime = row.try_get("now")?;
    let version: Option<i64> = row.try_get("version")?;
    let reason: Option<&str> = row.try_get("reason")?;
    let user_id: Option<String> = row.try_get("user_id")?;
    let lease = match user_id {
        None => None,
        Some(user_id) => Some(Lease {
            user_id: UserId::new(user_id).map_err(unreadable)?,
            user_info: row.try_get::<Json<UserInfo>, _>("user_info")?.0,
            session_id: row
                .try_get::<Option<String>, _>("session_id")?
                .map(SessionId::new)
                .transpose()
                .map_err(unreadable)?,
            granted_at: row.try_get("granted_at")?,
            expires_at: row.try_get("expires_at")?,
            fencing_token: row.try_get("fencing_token")?,
        }),
    };
    let reason = reason.map(|word| Reason::nearest(word, lease.is_some()));
    Ok(LockState {
        room: room.clone(),
        version: version.unwrap_or(0),
        reason,
        lease,
        now,
    })
}

/// Reads the room of a row.
pub(super) fn room(row: &PgRow) -> Result<RoomId, StoreError> {
    Ok(RoomId {
        tenant: TenantId::new(row.try_get::<String, _>("tenant_id")?).map_err(unreadable)?,
        appointment: AppointmentId::new(row.try_get::<String, _>("appointment_id")?)
            .map_err(unreadable)?,
    })
}

/// Error for a value that no statement of ours writes.
pub(super) fn unreadable(fault: crate::domain::ids::BadName) -> StoreError {
    StoreError::Unavailable(sqlx::Error::Decode(Box::new(fault)))
}

/// The one row of a statement that always has one.
pub(super) fn only(rows: &[PgRow]) -> Result<&PgRow, StoreError> {
    Ok(rows.first().ok_or(sqlx::Error::RowNotFound)?)
}
