//! Answers of the routes for admins.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::domain::history::HistoryRecord;
use crate::domain::ids::UserId;
use crate::domain::lease::{LockState, Reason, UserInfo};

use super::lock::{Lock, rfc3339_millis};

/// Entry of an appointment's history: a lease that began or ended.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Version of the lock after the event.
    pub version: i64,
    /// Kind of event.
    pub reason: Reason,
    /// Holder of the lease.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// Holder's name and e-mail address at that time.
    pub user_info: UserInfo,
    /// Fencing token of the lease.
    pub fencing_token: i64,
    /// Time of the event; for an expiry, the time at which the lease expired.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// Admin who caused the event, if any.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_id: Option<UserId>,
    /// Admin's name and e-mail address at that time, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_info: Option<UserInfo>,
    /// Reason given by the admin, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_reason: Option<String>,
}

/// Answer of `history`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HistoryAnswer {
    /// Always true.
    pub success: bool,
    /// Human-readable summary.
    pub message: String,
    /// Entries, newest first.
    pub history: Vec<HistoryEntry>,
}

impl HistoryAnswer {
    /// Answer with these entries.
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

/// Answer of `/api/locks`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LocksAnswer {
    /// Always true.
    pub success: bool,
    /// Human-readable summary.
    pub message: String,
    /// Leases in force, ordered by appointment.
    pub locks: Vec<Lock>,
}

impl LocksAnswer {
    /// Answer with these leases.
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
