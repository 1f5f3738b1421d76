//! What happened to a lock, for those who ask afterwards.

use time::OffsetDateTime;

use super::ids::UserId;
use super::lease::{Admin, Reason, UserInfo};

/// One entry of an appointment's history: a lease that began or ended.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRecord {
    /// The version that it brought the lock to.
    pub version: i64,
    /// What happened.
    pub reason: Reason,
    /// Whose lease it was.
    pub user_id: UserId,
    /// That holder as others saw them then.
    pub user_info: UserInfo,
    /// That lease's token.
    pub fencing_token: i64,
    /// When, by PostgreSQL's clock; of an expiry when the lease ran out, swept or not.
    pub at: OffsetDateTime,
    /// The admin who did it, where one did.
    pub admin: Option<Admin>,
    /// Why, in the admin's words.
    pub why: Option<String>,
}
