//! The lease as clients see it, and how times look. What REST answers, events and refusals have in common.

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::domain::ids::{SessionId, UserId};
use crate::domain::lease::{Lease, LockState, UserInfo};

/// Time as clients read it: RFC 3339, UTC, milliseconds.
pub fn rfc3339_millis<S: Serializer>(at: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    // A time of the year 9999 can be one of the year 10000 in UTC, which nothing here can say.
    let text = at
        .checked_to_offset(time::UtcOffset::UTC)
        .ok_or_else(|| serde::ser::Error::custom("no time that can be written in UTC"))?
        .format(&format)
        .map_err(serde::ser::Error::custom)?;
    to.serialize_str(&text)
}

/// A lease in force.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// Which appointment.
    #[schema(value_type = String)]
    pub appointment_id: String,
    /// Who holds it.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// The holder as others see them.
    pub user_info: UserInfo,
    /// The tab that it belongs to, where it was taken for one.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// When the lease began.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it runs out unless it is renewed.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
    /// Milliseconds until then, by the server's clock when this was made.
    pub expires_in_ms: i64,
    /// The version of the lock's state that this shows.
    pub version: i64,
    /// Rises with every grant; a save that carries it can be checked.
    pub fencing_token: i64,
}

impl Lock {
    /// The lease in force, as clients see it; `None` where the lock is free.
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

/// The sentence that a conflict says.
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
    fn a_time_that_has_no_words_is_a_fault_and_no_panic() {
        let last = time::macros::datetime!(9999-12-31 23:59:59.9994 UTC);
        assert_eq!(
            serde_json::to_string(&At(last)).unwrap(),
            "\"9999-12-31T23:59:59.999Z\""
        );
        let beyond = time::macros::datetime!(9999-12-31 23:59:59 -1:00);
        assert!(serde_json::to_string(&At(beyond)).is_err());
    }
}
