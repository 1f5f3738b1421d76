//! Leases and history for admins, and the deletion of old history.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;

use super::database::Store;
use super::error::StoreError;
use super::row::only;
use super::row::{room, state, unreadable};
use super::sql;
use super::statement::statement;
use crate::domain::history::HistoryRecord;
use crate::domain::ids::{AppointmentId, RoomId, TenantId, UserId};
use crate::domain::lease::{Admin, LockState, Reason, UserInfo};

fn entry(row: &PgRow) -> Result<HistoryRecord, StoreError> {
    let user = |column| -> Result<Option<UserId>, StoreError> {
        let id: Option<String> = row.try_get(column)?;
        id.map(UserId::new).transpose().map_err(unreadable)
    };
    let info = |column| -> Result<Option<UserInfo>, StoreError> {
        Ok(row
            .try_get::<Option<Json<UserInfo>>, _>(column)?
            .map(|json| json.0))
    };
    let admin_info = info("actor_info")?;
    Ok(HistoryRecord {
        version: row.try_get("version")?,
        // A newer release may have written a word that is unknown here: it ended or began a lease.
        reason: Reason::nearest(row.try_get("reason")?, false),
        user_id: user("user_id")?.ok_or(sqlx::Error::RowNotFound)?,
        user_info: info("user_info")?.ok_or(sqlx::Error::RowNotFound)?,
        fencing_token: row.try_get("fencing_token")?,
        at: row.try_get("at")?,
        admin: user("actor_id")?.map(|admin_id| Admin {
            admin_id,
            admin_info,
        }),
        why: row.try_get("actor_reason")?,
    })
}

impl Store {
    /// History of an appointment, newest first: at most `limit` records before version `before`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn history(
        &self,
        room: &RoomId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        let query = statement(sql::HISTORY)
            .bind(room.tenant.as_str())
            .bind(room.appointment.as_str())
            .bind(before)
            .bind(limit);
        self.requests.rows(query).await?.iter().map(entry).collect()
    }

    /// A tenant's leases in force, ordered by appointment: at most `limit` after `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases(
        &self,
        tenant: &TenantId,
        after: Option<&AppointmentId>,
        limit: i64,
    ) -> Result<Vec<LockState>, StoreError> {
        let query = statement(sql::LEASES)
            .bind(tenant.as_str())
            .bind(after.map(AppointmentId::as_str))
            .bind(limit);
        let rows = self.requests.rows(query).await?;
        rows.iter().map(|row| state(&room(row)?, row)).collect()
    }

    /// Number of a user's leases in force, counted up to `max`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases_of(
        &self,
        tenant: &TenantId,
        user: &UserId,
        max: usize,
    ) -> Result<usize, StoreError> {
        let query = statement(sql::LEASES_OF)
            .bind(tenant.as_str())
            .bind(user.as_str())
            .bind(i64::try_from(max).unwrap_or(i64::MAX));
        let count: i64 = only(&self.duties.rows(query).await?)?.try_get(0)?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// Deletes history older than `older`, at most `batch` records, if `holder` still leads in `term`. Returns the number
    /// deleted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget(
        &self,
        holder: &str,
        term: i64,
        older: Duration,
        batch: i64,
    ) -> Result<i64, StoreError> {
        let query = statement(sql::FORGET)
            .bind(holder)
            .bind(term)
            .bind(older.as_secs_f64())
            .bind(batch);
        Ok(only(&self.duties.rows(query).await?)?.try_get(0)?)
    }
}
