//! SQL texts. Each begins with the name of its constant, which pg_stat_statements and the log of slow statements show.
//!
//! Common form of all transitions:
//!
//! - `prev` is the row, locked until the statement's transaction ends;
//! - `at` is the time, read once, after that lock is held (the aggregate forces `prev` to be done first);
//! - the change is decided by what `prev` saw, which is the row as it is, and `noted` writes it into the
//!   history;
//! - the change finds its row by the primary key alone: the other columns of `l` are first compared as they
//!   were when the statement began, so a condition on them would miss a row that changed while it waited;
//! - a change sets every column that the row's CHECK compares, and takes their values from `prev`: PostgreSQL checks
//!   a tuple that it made of the statement's own snapshot first, and one column of an older row beside one of a newer
//!   breaks the CHECK;
//! - the result has the row before and the row after, so that a refusal can name the holder.
//!
//! `columns.rs` has the columns and the beginning that they share.

#[macro_use]
mod columns;
mod duties;
mod reads;
mod transitions;

pub use duties::{
    CAMPAIGN, FORGET, INSTALLATION, MIGRATIONS_DONE, NOTE_UNPUBLISHED, RESIGN, SWEEP, UNPUBLISHED,
};
pub use reads::{
    COUNT_LEASES, DIFFERING, HISTORY, LEASES, LEASES_OF, NEXT_EXPIRY, STATUS, STATUSES,
};
pub use transitions::{ACQUIRE, FORCE_RELEASE, RELEASE, RENEW, TAKE_OVER};

/// Settings of a new connection. No statement takes longer: a lock timeout alone would not do, since it counts
/// each of the two waits of a queue for one row separately; it distinguishes such a wait from a slow server.
/// Success means on disk, whatever the server's own setting is.
pub const SESSION: &str = "/* session */ set statement_timeout = '2200ms'; set lock_timeout = '2000ms';
select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// The same behind a pooler, for one transaction: only a transaction stays on one session there.
pub const BEGIN: &str = "/* begin */ begin; set local statement_timeout = '2200ms'; set local lock_timeout = '2000ms';
select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'";

/// The end of such a transaction.
pub const COMMIT: &str = "/* commit */ commit";
