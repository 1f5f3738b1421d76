//! The history of a lock.

use time::OffsetDateTime;

use super::ids::UserId;
use super::lease::{Admin, Reason, UserInfo};

/// Entry of an appointment's history: a lease that began or ended.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRecord {
    /// Version of the lock after the event.
    pub version: i64,
    /// Kind of event.
    pub reason: Reason,
    /// Holder of the lease.
    pub user_id: UserId,
    /// Holder's name and e-mail address at that time.
    pub user_info: UserInfo,
    /// Fencing token of the lease.
    pub fencing_token: i64,
    /// Time of the event, by PostgreSQL's clock; for an expiry, the time at which the lease expired, swept or not.
    pub at: OffsetDateTime,
    /// Admin who caused the event, if any.
    pub admin: Option<Admin>,
    /// Reason given by the admin, if any.
    pub why: Option<String>,
}
