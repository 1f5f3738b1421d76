//! The tables of PostgreSQL, read directly and not through the product.

use sqlx::{Connection, PgConnection};

use super::record::{Entry, Row, appointment};
use crate::Failure;

/// Connects without a proxy in between.
pub(crate) async fn connect(url: &str) -> Result<PgConnection, Failure> {
    Ok(PgConnection::connect(url).await?)
}

/// The rows, by appointment; one that was never locked is all zeros.
pub(crate) async fn rows(
    postgres: &mut PgConnection,
    appointments: usize,
) -> Result<Vec<Row>, Failure> {
    let found: Vec<(String, i64, i64)> =
        sqlx::query_as("select appointment_id, version, fencing_token from appointment_lock")
            .fetch_all(postgres)
            .await?;
    let mut rows = vec![Row::default(); appointments];
    for (id, version, token) in found {
        let n = appointment(&id).ok_or("an appointment that nobody asked for")?;
        *rows.get_mut(n).ok_or("no such appointment")? = Row { version, token };
    }
    Ok(rows)
}

/// The history in order, and then the rows, which so are never older.
pub(crate) async fn read(
    postgres: &mut PgConnection,
    appointments: usize,
) -> Result<(Vec<Entry>, Vec<Row>), Failure> {
    let found: Vec<(String, i64, String, String, i64, i64)> = sqlx::query_as(
        "select appointment_id, version, reason, user_id, fencing_token,
             (extract(epoch from at) * 1000000)::bigint
         from lock_history order by appointment_id, version",
    )
    .fetch_all(&mut *postgres)
    .await?;
    let mut history = Vec::with_capacity(found.len());
    for (id, version, reason, user, token, at) in found {
        history.push(Entry {
            appointment: appointment(&id).ok_or("an appointment that nobody asked for")?,
            version,
            reason,
            user,
            token,
            at,
        });
    }
    Ok((history, rows(postgres, appointments).await?))
}
