//! The lease and the time format as clients see them, shared by answers of REST, events and refusals.

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::domain::ids::{SessionId, UserId};
use crate::domain::lease::{Lease, LockState, UserInfo};

/// Serializes a time for clients: RFC 3339, UTC, milliseconds.
pub fn rfc3339_millis<S: Serializer>(at: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    // A time in the year 9999 can be in the year 10000 in UTC, which this format cannot express.
    let text = at
        .checked_to_offset(time::UtcOffset::UTC)
        .ok_or_else(|| serde::ser::Error::custom("a time that cannot be written in UTC"))?
        .format(&format)
        .map_err(serde::ser::Error::custom)?;
    to.serialize_str(&text)
}

/// Lease in force.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// Appointment.
    #[schema(value_type = String)]
    pub appointment_id: String,
    /// Holder of the lease.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// Holder's name, e-mail address and position.
    pub user_info: UserInfo,
    /// Tab that the lease belongs to, if it was acquired for one.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// Time of the grant.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Time at which the lease expires unless it is renewed.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
    /// Milliseconds until `expiresAt`, by the server's clock at the time of the answer.
    pub expires_in_ms: i64,
    /// Version of the lock's state.
    pub version: i64,
    /// Fencing token: increases with every grant, so that a save can be checked with it.
    pub fencing_token: i64,
}

impl Lock {
    /// Lease in force, as clients see it; `None` if the lock is free.
    #[must_use]
    pub fn of(state: &LockState) -> Option<Self> {
        state.live().map(|lease| Self::with(state, lease))
    }

    fn with(state: &LockState, lease: &Lease) -> Self {
        let left = (lease.expires_at - state.now).whole_milliseconds();
        Self {
            appointment_id: state.room.appointment.to_string(),
            user_id: lease.user_id.clone(),
            user_info: lease.user_info.clone(),
            session_id: lease.session_id.clone(),
            created_at: lease.granted_at,
            expires_at: lease.expires_at,
            expires_in_ms: i64::try_from(left).unwrap_or(i64::MAX),
            version: state.version,
            fencing_token: lease.fencing_token,
        }
    }
}

/// Message of a conflict.
#[must_use]
pub(crate) fn held_by(holder: &UserInfo) -> String {
    format!("Appointment is currently locked by {}", holder.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct At(#[serde(serialize_with = "rfc3339_millis")] OffsetDateTime);

    #[test]
    fn a_time_out_of_range_is_an_error_and_no_panic() {
        let last = time::macros::datetime!(9999-12-31 23:59:59.9994 UTC);
        assert_eq!(
            serde_json::to_string(&At(last)).unwrap(),
            "\"9999-12-31T23:59:59.999Z\""
        );
        let beyond = time::macros::datetime!(9999-12-31 23:59:59 -1:00);
        assert!(serde_json::to_string(&At(beyond)).is_err());
    }
}
