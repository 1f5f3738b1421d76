//! Leases and the state of a lock. Owns who holds what, until when, and what a change of it is called.
//!
//! ```text
//!             acquired                      released | forced | expired
//!   free ───────────────────▶ held ───────────────────────────────────▶ free
//!                             │  ▲
//!                             └──┘ renewed                 same token
//!                                  taken-over, transferred new token, never free between
//! ```
//!
//! PostgreSQL decides every arrow; these types only say what a row means. A held row whose time has run out
//! is free already: [`LockState::live`] is the one place that says so.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ids::{Email, Name, RoomId, SessionId, UserId};

/// Where on the page somebody points. The unit is the client's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Position {
    /// To the right.
    pub x: f64,
    /// Downwards.
    pub y: f64,
}

/// A person as others see them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UserInfo {
    /// What the person is called.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    pub name: Name,
    /// How to reach them; may be empty.
    #[schema(value_type = String, max_length = 320)]
    pub email: Email,
    /// Where the holder pointed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// Somebody who acts: an id and how others see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Who.
    pub user_id: UserId,
    /// As others see them.
    pub user_info: UserInfo,
}

/// One holder's time-limited right to edit.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Who holds it.
    pub user_id: UserId,
    /// The holder as others see them.
    pub user_info: UserInfo,
    /// The tab that it belongs to, where it was taken for one.
    pub session_id: Option<SessionId>,
    /// When it began, by PostgreSQL's clock.
    pub granted_at: OffsetDateTime,
    /// When it runs out, by PostgreSQL's clock.
    pub expires_at: OffsetDateTime,
    /// Rises with every grant; a save that carries it can be checked.
    pub fencing_token: i64,
}

/// What brought a lock to its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A free lock was taken.
    Acquired,
    /// The holder was active, or asked again.
    Renewed,
    /// The holder gave it up.
    Released,
    /// Its time ran out.
    Expired,
    /// An admin ended it.
    Forced,
    /// An admin has it now.
    TakenOver,
    /// Another tab of the same user has it now.
    Transferred,
}

impl Reason {
    /// The word on the wire and in the database.
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

    /// The reason that a word stands for. A word of a newer release is the nearest known one: while replicas are being
    /// updated, its effect is in the rest of the state, which says whether the lock is `held`.
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

/// A lock at one version, as PostgreSQL showed it at `now`.
#[derive(Debug, Clone, PartialEq)]
pub struct LockState {
    /// Which appointment.
    pub room: RoomId,
    /// Rises with every change; 0 where the appointment was never locked.
    pub version: i64,
    /// What brought it here; `None` where it was never locked.
    pub reason: Option<Reason>,
    /// The lease in the row, which may have run out: ask [`LockState::live`].
    pub lease: Option<Lease>,
    /// PostgreSQL's clock when this was read.
    pub now: OffsetDateTime,
}

impl LockState {
    /// The lease in force. One that has run out is none, swept or not.
    #[must_use]
    pub fn live(&self) -> Option<&Lease> {
        self.lease
            .as_ref()
            .filter(|lease| lease.expires_at > self.now)
    }
}

/// The admin behind a forced release or a take-over.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Who.
    pub admin_id: UserId,
    /// As others see them, where that was told.
    pub admin_info: Option<UserInfo>,
}

/// A committed change of a lock, as it travels from the replica that made it to every audience.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The whole new state, so that a receiver needs nothing else.
    pub state: LockState,
    /// The admin who caused it, where one did.
    pub admin: Option<Admin>,
}

impl From<LockState> for Change {
    fn from(state: LockState) -> Self {
        Self { state, admin: None }
    }
}
