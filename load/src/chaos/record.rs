//! What was seen, by whom, and when: the evidence that the checker reads. Owns no rule; those who see write
//! down what they were told and nothing that they conclude. All times are of one monotonic clock, from the
//! start of the run.

use std::time::{Duration, Instant};

/// A moment of the run.
pub(crate) type At = Duration;

/// The one clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> At {
        self.0.elapsed()
    }
}

/// A lease that a worker was told it has.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) appointment: usize,
    pub(crate) token: i64,
    pub(crate) version: i64,
    pub(crate) worker: usize,
    /// 201. Otherwise 200: the worker had it already, for an answer was lost.
    pub(crate) new: bool,
    /// When the answer came.
    pub(crate) told: At,
    /// When the request was sent that renewed it last, the acquire itself included: one `LOCK_TTL` from
    /// here it is in force for certain.
    pub(crate) renewed: At,
    /// When it was first asked to be released.
    pub(crate) given_up: Option<At>,
}

/// A release that was answered with 200.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    pub(crate) appointment: usize,
    pub(crate) token: i64,
    pub(crate) version: i64,
    pub(crate) worker: usize,
    pub(crate) told: At,
}

/// A version that some answer of success named.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) appointment: usize,
    pub(crate) version: i64,
    pub(crate) at: At,
}

/// Somebody was refused because of that lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) appointment: usize,
    pub(crate) token: i64,
    /// When the last such request was sent.
    pub(crate) sent: At,
}

/// Whether a lease was said to be in force, by verify or by what only its holder may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) appointment: usize,
    pub(crate) token: i64,
    pub(crate) sent: At,
    pub(crate) told: At,
    pub(crate) live: bool,
    /// Until when the lease lasts for certain.
    pub(crate) sure_until: At,
}

/// What one worker writes down, or all of them together.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) grants: Vec<Grant>,
    pub(crate) releases: Vec<Release>,
    pub(crate) told: Vec<Told>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) refusals: usize,
    pub(crate) renewals: usize,
    /// 503.
    pub(crate) unavailable: usize,
    /// A broken connection, or no answer in time.
    pub(crate) unanswered: usize,
    /// Answers that nobody may get.
    pub(crate) unexpected: Vec<String>,
}

impl Ledger {
    pub(crate) fn add(&mut self, other: Self) {
        self.grants.extend(other.grants);
        self.releases.extend(other.releases);
        self.told.extend(other.told);
        self.refused.extend(other.refused);
        self.verdicts.extend(other.verdicts);
        self.refusals += other.refusals;
        self.renewals += other.renewals;
        self.unavailable += other.unavailable;
        self.unanswered += other.unanswered;
        self.unexpected.extend(other.unexpected);
    }
}

/// What a watcher heard of one appointment in one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    /// Version and time; the first is the snapshot with which the subscription began. Empty: not subscribed.
    pub(crate) heard: Vec<(i64, At)>,
}

/// One connection of a watcher.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Whose replica it is.
    pub(crate) replica: usize,
    pub(crate) rooms: Vec<Room>,
    /// When it ended.
    pub(crate) ended: At,
}

/// An entry of `lock_history`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) appointment: usize,
    pub(crate) version: i64,
    pub(crate) reason: String,
    pub(crate) user: String,
    pub(crate) token: i64,
    /// PostgreSQL's clock, in microseconds.
    pub(crate) at: i64,
}

/// A row of `appointment_lock`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Row {
    pub(crate) version: i64,
    pub(crate) token: i64,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) lock_ttl: Duration,
    pub(crate) ledger: Ledger,
    pub(crate) sessions: Vec<Session>,
    /// In order of appointment and version.
    pub(crate) history: Vec<Entry>,
    /// By appointment.
    pub(crate) rows: Vec<Row>,
    /// By replica: when it stood still, was gone, or could not reach PostgreSQL.
    pub(crate) excused: Vec<Vec<(At, At)>>,
}

/// The name of a worker's user.
pub(crate) fn user(worker: usize) -> String {
    format!("w{worker}")
}

/// The id of an appointment.
pub(crate) fn id(appointment: usize) -> String {
    format!("chaos-{appointment}")
}

/// The appointment of an id.
pub(crate) fn appointment(id: &str) -> Option<usize> {
    id.strip_prefix("chaos-")?.parse().ok()
}
