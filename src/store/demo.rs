//! The records of the demo page: in `dev` the service also plays the application whose records it guards.
//!
//! Their table is no part of the schema: `dev` makes it at its start, and no migration knows it.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection, Row};
use time::OffsetDateTime;

use super::database::Store;
use super::error::StoreError;
use super::row::only;
use super::statement::statement;
use crate::domain::ids::{RoomId, UserId};

/// The table. The advisory lock lets several processes start over one database at once.
const CREATE: &str = "/* demo_create */
select pg_advisory_xact_lock(hashtext('apptlock demo_record'));
create table if not exists demo_record (
    tenant_id       text         not null,
    appointment_id  text         not null,
    record          jsonb        not null,
    revision        bigint       not null,
    saved_by        text         not null,
    saved_by_name   text         not null,
    fencing_token   bigint       not null,
    saved_at        timestamptz  not null,
    primary key (tenant_id, appointment_id)
);
comment on table demo_record is 'The records of the demo page of `apptlock dev`; may be dropped.'";

/// The record as it was saved last.
const READ: &str = "/* demo_read */
select record, revision, saved_by, saved_by_name, saved_at from demo_record
where tenant_id = $1 and appointment_id = $2";

/// Check and save in one statement, as a back end does it that shares the database: `$3` user, `$4` fencing token,
/// `$5` record. The check holds the lease until the statement's transaction ends, so no other holder comes between.
const SAVE: &str = "/* demo_save */
with checked as materialized (
    select apptlock_assert_lease($2, $4, $1, $3)
)
insert into demo_record as r
    (tenant_id, appointment_id, record, revision, saved_by, saved_by_name, fencing_token, saved_at)
select $1, $2, $5, 1, $3, coalesce(l.user_info ->> 'name', $3), $4, clock_timestamp()
from checked
left join appointment_lock l on l.tenant_id = $1 and l.appointment_id = $2 and l.user_id = $3
on conflict (tenant_id, appointment_id) do update set
    record = excluded.record, revision = r.revision + 1, saved_by = excluded.saved_by,
    saved_by_name = excluded.saved_by_name, fencing_token = excluded.fencing_token, saved_at = excluded.saved_at
returning record, revision, saved_by, saved_by_name, saved_at";

/// SQLSTATE that `apptlock_assert_lease` raises.
const NOT_IN_FORCE: &str = "55000";

/// A record's fields, each a text.
pub type Fields = BTreeMap<String, String>;

/// A record as it was saved.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Its fields.
    pub record: Fields,
    /// The number of saves so far.
    pub revision: i64,
    /// The user who saved it.
    pub by: String,
    /// Name of that user, as others saw it.
    pub by_name: String,
    /// The time of the save.
    pub at: OffsetDateTime,
}

/// The check failed, with PostgreSQL's message; nothing was saved.
#[derive(Debug)]
pub struct LeaseNotInForce(pub String);

fn saved(row: &PgRow) -> Result<Saved, StoreError> {
    Ok(Saved {
        record: row.try_get::<Json<Fields>, _>("record")?.0,
        revision: row.try_get("revision")?,
        by: row.try_get("saved_by")?,
        by_name: row.try_get("saved_by_name")?,
        at: row.try_get("saved_at")?,
    })
}

impl Store {
    /// Makes the table of the demo's records, unless it is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_demo(&self) -> Result<(), StoreError> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        sqlx::raw_sql(CREATE).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// The record of an appointment; `None` if none was saved yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn demo_record(&self, room: &RoomId) -> Result<Option<Saved>, StoreError> {
        let query = statement(READ)
            .bind(room.tenant.as_str())
            .bind(room.appointment.as_str());
        self.requests
            .rows(query)
            .await?
            .first()
            .map(saved)
            .transpose()
    }

    /// Saves a record if that user's lease with that token is in force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn save_demo_record(
        &self,
        room: &RoomId,
        user: &UserId,
        token: i64,
        record: &Fields,
    ) -> Result<Result<Saved, LeaseNotInForce>, StoreError> {
        let query = statement(SAVE)
            .bind(room.tenant.as_str())
            .bind(room.appointment.as_str())
            .bind(user.as_str())
            .bind(token)
            .bind(Json(record));
        match self.requests.rows(query).await {
            Ok(rows) => saved(only(&rows)?).map(Ok),
            Err(StoreError::Unavailable(sqlx::Error::Database(fault)))
                if fault.code().as_deref() == Some(NOT_IN_FORCE) =>
            {
                Ok(Err(LeaseNotInForce(fault.message().to_owned())))
            }
            Err(error) => Err(error),
        }
    }
}
