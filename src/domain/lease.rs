//! Leases and the state of a lock. Owns the holder, the expiry, and the names of the transitions.
//!
//! ```text
//!             acquired                      released | forced | expired
//!   free ───────────────────▶ held ───────────────────────────────────▶ free
//!                             │  ▲
//!                             └──┘ renewed                 same token
//!                                  taken-over, transferred new token, never free in between
//! ```
//!
//! PostgreSQL decides every transition; these types only interpret a row. A held row whose lease has expired is free
//! already: [`LockState::live`] is the one place that decides this.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ids::{Email, Name, RoomId, SessionId, UserId};

/// Position on the page, in the client's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Position {
    /// Distance from the left.
    pub x: f64,
    /// Distance from the top.
    pub y: f64,
}

/// Person as shown to others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UserInfo {
    /// Display name.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    pub name: Name,
    /// E-mail address; may be empty.
    #[schema(value_type = String, max_length = 320)]
    pub email: Email,
    /// Last reported position of the holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// User who makes a request: the id, and the name and e-mail address shown to others.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// User.
    pub user_id: UserId,
    /// Name and e-mail address shown to others.
    pub user_info: UserInfo,
}

/// Time-limited right of one holder to edit.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Holder.
    pub user_id: UserId,
    /// Holder's name, e-mail address and position.
    pub user_info: UserInfo,
    /// Tab that the lease belongs to, if it was acquired for one.
    pub session_id: Option<SessionId>,
    /// Time of the grant, by PostgreSQL's clock.
    pub granted_at: OffsetDateTime,
    /// Time of expiry, by PostgreSQL's clock.
    pub expires_at: OffsetDateTime,
    /// Fencing token: increases with every grant, so that a save can be checked with it.
    pub fencing_token: i64,
}

/// Cause of a change of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A free lock was acquired.
    Acquired,
    /// The holder was active, or acquired again.
    Renewed,
    /// The holder released the lease.
    Released,
    /// The lease expired.
    Expired,
    /// An admin ended the lease.
    Forced,
    /// An admin holds the lock now.
    TakenOver,
    /// Another tab of the same user holds the lock now.
    Transferred,
}

impl Reason {
    /// Name on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Renewed => "renewed",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Forced => "forced",
            Self::TakenOver => "taken-over",
            Self::Transferred => "transferred",
        }
    }

    /// Reason with this name. A name that only a newer release knows becomes the nearest known one: its effect is in the
    /// rest of the state, which says whether the lock is `held`.
    #[must_use]
    pub fn nearest(word: &str, held: bool) -> Self {
        let known = [
            Self::Acquired,
            Self::Renewed,
            Self::Released,
            Self::Expired,
            Self::Forced,
            Self::TakenOver,
            Self::Transferred,
        ];
        let nearest = if held { Self::Renewed } else { Self::Released };
        let found = known.into_iter().find(|reason| reason.as_str() == word);
        found.unwrap_or(nearest)
    }
}

/// State of a lock at one version, as PostgreSQL returned it at `now`.
#[derive(Debug, Clone, PartialEq)]
pub struct LockState {
    /// Appointment.
    pub room: RoomId,
    /// Version: increases with every change; 0 if the appointment was never locked.
    pub version: i64,
    /// Cause of the last change; `None` if the appointment was never locked.
    pub reason: Option<Reason>,
    /// Lease in the row, which may have expired: see [`LockState::live`].
    pub lease: Option<Lease>,
    /// PostgreSQL's clock at the time of reading.
    pub now: OffsetDateTime,
}

impl LockState {
    /// Lease in force. An expired lease is not in force, swept or not.
    #[must_use]
    pub fn live(&self) -> Option<&Lease> {
        self.lease
            .as_ref()
            .filter(|lease| lease.expires_at > self.now)
    }
}

/// Admin who forced a release or took over.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Admin's user id.
    pub admin_id: UserId,
    /// Admin's name and e-mail address shown to others, if known.
    pub admin_info: Option<UserInfo>,
}

/// Committed change of a lock, as it is sent from the replica that made it to every audience.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Complete new state, so that a receiver needs nothing else.
    pub state: LockState,
    /// Admin who caused the change, if any.
    pub admin: Option<Admin>,
}

impl From<LockState> for Change {
    fn from(state: LockState) -> Self {
        Self { state, admin: None }
    }
}
