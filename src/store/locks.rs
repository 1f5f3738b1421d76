//! Transitions of a lock in PostgreSQL. Owns the meaning of each statement's result.

use std::time::Duration;

use sqlx::Row;
use sqlx::types::Json;

use crate::domain::ids::{Note, RoomId, SessionId, UserId};
use crate::domain::lease::{Admin, LockState, Person, Position, Reason, UserInfo};

use super::database::Store;
use super::error::StoreError;
use super::row::only;
use super::row::{room, state};
use super::sql;
use super::statement::{Statement, statement};

/// Maximum attempts when the row appears while the statement runs. Each time another transition succeeded, so a second
/// attempt is rare.
const ATTEMPTS: usize = 5;

/// The state that a transition was rejected for.
#[derive(Debug)]
pub struct Rejected(pub LockState);

/// A lock that was taken or kept.
#[derive(Debug)]
pub struct Acquired {
    /// The state now.
    pub state: LockState,
    /// The end of an expired lease that was still in the row.
    pub ended: Option<LockState>,
}

/// A lease that the sweep ended.
#[derive(Debug)]
pub struct Swept {
    /// The state now.
    pub state: LockState,
    /// Time since its deadline.
    pub late: Duration,
}

/// The end of a lease at one version.
fn ended(state: &LockState, version: i64, reason: Reason) -> LockState {
    LockState {
        room: state.room.clone(),
        version,
        reason: Some(reason),
        lease: None,
        now: state.now,
    }
}

impl Store {
    /// Current state, without a lock on the row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn status(&self, room: &RoomId) -> Result<LockState, StoreError> {
        let query = statement(sql::STATUS)
            .bind(room.tenant.as_str())
            .bind(room.appointment.as_str());
        state(room, only(&self.requests.rows(query).await?)?)
    }

    /// Current states of these appointments, in their order, by one statement. It runs on the connections for duties: it
    /// does not wait behind requests, nor do they for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn statuses(&self, rooms: &[&RoomId]) -> Result<Vec<LockState>, StoreError> {
        let tenants: Vec<&str> = rooms.iter().map(|room| room.tenant.as_str()).collect();
        let appointments: Vec<&str> = rooms.iter().map(|room| room.appointment.as_str()).collect();
        let query = statement(sql::STATUSES).bind(tenants).bind(appointments);
        let rows = self.duties.rows(query).await?;
        if rows.len() != rooms.len() {
            return Err(sqlx::Error::RowNotFound.into());
        }
        rooms
            .iter()
            .zip(&rows)
            .map(|(room, row)| state(room, row))
            .collect()
    }

    /// Takes a free lock, or renews the same holder's lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acquire(
        &self,
        room: &RoomId,
        person: &Person,
        session: Option<&SessionId>,
        ttl: Duration,
        transfer: bool,
    ) -> Result<Result<Acquired, Rejected>, StoreError> {
        self.take(room, || {
            statement(sql::ACQUIRE)
                .bind(room.tenant.as_str())
                .bind(room.appointment.as_str())
                .bind(person.user_id.as_str())
                .bind(Json(&person.user_info))
                .bind(session.map(SessionId::as_str))
                .bind(ttl.as_secs_f64())
                .bind(transfer)
        })
        .await
    }

    /// Gives the lease to an admin, without the lock becoming free in between.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_over(
        &self,
        room: &RoomId,
        admin: &Admin,
        display_info: &UserInfo,
        why: Option<&Note>,
        token: Option<i64>,
        ttl: Duration,
    ) -> Result<Result<Acquired, Rejected>, StoreError> {
        self.take(room, || {
            statement(sql::TAKE_OVER)
                .bind(room.tenant.as_str())
                .bind(room.appointment.as_str())
                .bind(token)
                .bind(admin.admin_id.as_str())
                .bind(admin.admin_info.as_ref().map(Json))
                .bind(why.map(Note::as_str))
                .bind(Json(display_info))
                .bind(ttl.as_secs_f64())
        })
        .await
    }

    async fn take<'q>(
        &self,
        room: &RoomId,
        query: impl Fn() -> Statement<'q>,
    ) -> Result<Result<Acquired, Rejected>, StoreError> {
        for _ in 0..ATTEMPTS {
            let rows = self.requests.rows(query()).await?;
            let Some(row) = rows.first() else {
                continue;
            };
            let now = state(room, row)?;
            if !row.try_get::<bool, _>("changed")? {
                return Ok(Err(Rejected(now)));
            }
            let ran_out: bool = row.try_get("ran_out")?;
            let ended = ran_out.then(|| ended(&now, now.version - 1, Reason::Expired));
            return Ok(Ok(Acquired { state: now, ended }));
        }
        Ok(Err(Rejected(self.status(room).await?)))
    }

    /// Renews the user's lease, as of an activity `ago`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew(
        &self,
        room: &RoomId,
        user: &UserId,
        position: Option<Position>,
        ttl: Duration,
        ago: Duration,
    ) -> Result<Result<LockState, Rejected>, StoreError> {
        let query = statement(sql::RENEW)
            .bind(room.tenant.as_str())
            .bind(room.appointment.as_str())
            .bind(user.as_str())
            .bind(position.map(Json))
            .bind(ttl.as_secs_f64())
            .bind(ago.as_secs_f64());
        self.change(room, query).await
    }

    /// Ends the user's lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release(
        &self,
        room: &RoomId,
        user: &UserId,
        session: Option<&SessionId>,
        token: Option<i64>,
    ) -> Result<Result<LockState, Rejected>, StoreError> {
        let query = statement(sql::RELEASE)
            .bind(room.tenant.as_str())
            .bind(room.appointment.as_str())
            .bind(user.as_str())
            .bind(session.map(SessionId::as_str))
            .bind(token);
        let done = self.change(room, query).await?;
        Ok(done.map(|was| ended(&was, was.version, Reason::Released)))
    }

    /// Ends the lease, whoever holds it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn force_release(
        &self,
        room: &RoomId,
        admin: &Admin,
        why: Option<&Note>,
        token: Option<i64>,
    ) -> Result<Result<LockState, Rejected>, StoreError> {
        let query = statement(sql::FORCE_RELEASE)
            .bind(room.tenant.as_str())
            .bind(room.appointment.as_str())
            .bind(token)
            .bind(admin.admin_id.as_str())
            .bind(admin.admin_info.as_ref().map(Json))
            .bind(why.map(Note::as_str));
        let done = self.change(room, query).await?;
        Ok(done.map(|was| ended(&was, was.version, Reason::Forced)))
    }

    async fn change(
        &self,
        room: &RoomId,
        query: Statement<'_>,
    ) -> Result<Result<LockState, Rejected>, StoreError> {
        let rows = self.requests.rows(query).await?;
        let row = only(&rows)?;
        let found = state(room, row)?;
        Ok(if row.try_get("changed")? {
            Ok(found)
        } else {
            Err(Rejected(found))
        })
    }

    /// Ends expired leases, at most `batch`, if `holder` still leads in `term`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(
        &self,
        holder: &str,
        term: i64,
        batch: i64,
    ) -> Result<Vec<Swept>, StoreError> {
        let query = statement(sql::SWEEP).bind(holder).bind(term).bind(batch);
        let rows = self.duties.rows(query).await?;
        rows.iter()
            .map(|row| {
                let late: f64 = row.try_get("late")?;
                Ok(Swept {
                    state: LockState {
                        room: room(row)?,
                        version: row.try_get("version")?,
                        reason: Some(Reason::Expired),
                        lease: None,
                        now: row.try_get("now")?,
                    },
                    late: Duration::try_from_secs_f64(late).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Time until the next lease expires; zero if one is due, `None` if none is held.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_expiry(&self) -> Result<Option<Duration>, StoreError> {
        let rows = self.duties.rows(statement(sql::NEXT_EXPIRY)).await?;
        let seconds: Option<f64> = only(&rows)?.try_get(0)?;
        Ok(seconds.map(|s| Duration::try_from_secs_f64(s).unwrap_or_default()))
    }
}
