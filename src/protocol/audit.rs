//! What admins read.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::domain::history::HistoryRecord;
use crate::domain::ids::UserId;
use crate::domain::lease::{LockState, Reason, UserInfo};

use super::lock::{Lock, rfc3339_millis};

/// One entry of an appointment's history: a lease that began or ended.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The version that it brought the lock to.
    pub version: i64,
    /// What happened.
    pub reason: Reason,
    /// Whose lease it was.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// That holder as others saw them then.
    pub user_info: UserInfo,
    /// That lease's token.
    pub fencing_token: i64,
    /// When; of an expiry when the lease ran out.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// The admin who did it, where one did.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_id: Option<UserId>,
    /// That admin as others saw them then, where that was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_info: Option<UserInfo>,
    /// Why, in the admin's words, where they said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_reason: Option<String>,
}

/// The answer of `history`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HistoryAnswer {
    /// True.
    pub success: bool,
    /// For people.
    pub message: String,
    /// Newest first.
    pub history: Vec<HistoryEntry>,
}

impl HistoryAnswer {
    /// Those entries.
    #[must_use]
    pub fn of(entries: Vec<HistoryRecord>) -> Self {
        let history: Vec<HistoryEntry> = entries
            .into_iter()
            .map(|entry| {
                let (admin_id, admin_info) = match entry.admin {
                    Some(admin) => (Some(admin.admin_id), admin.admin_info),
                    None => (None, None),
                };
                HistoryEntry {
                    version: entry.version,
                    reason: entry.reason,
                    user_id: entry.user_id,
                    user_info: entry.user_info,
                    fencing_token: entry.fencing_token,
                    at: entry.at,
                    admin_id,
                    admin_info,
                    admin_reason: entry.why,
                }
            })
            .collect();
        Self {
            success: true,
            message: format!("{} entries", history.len()),
            history,
        }
    }
}

/// The answer of `/api/locks`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LocksAnswer {
    /// True.
    pub success: bool,
    /// For people.
    pub message: String,
    /// By appointment.
    pub locks: Vec<Lock>,
}

impl LocksAnswer {
    /// Those leases.
    #[must_use]
    pub fn of(leases: &[LockState]) -> Self {
        let locks: Vec<Lock> = leases.iter().filter_map(Lock::of).collect();
        Self {
            success: true,
            message: format!("{} leases in force", locks.len()),
            locks,
        }
    }
}
