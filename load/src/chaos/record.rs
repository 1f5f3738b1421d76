//! The evidence that the checker reads: observations, each with its observer and its time. Owns no rule; observers
//! record the answers that they get and no conclusions. All times are of one monotonic clock, from the start of the
//! run.

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

/// A lease that a worker got.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) appointment: usize,
    pub(crate) token: i64,
    pub(crate) version: i64,
    pub(crate) worker: usize,
    /// True for an answer of 201. Otherwise it was 200: the worker had the lease already, because an answer was lost.
    pub(crate) new: bool,
    /// The moment of the answer.
    pub(crate) told: At,
    /// The moment at which the last renewal was sent, the acquire itself included: one `LOCK_TTL` from
    /// here it is in force for certain.
    pub(crate) renewed: At,
    /// The moment of the first request to release it.
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

/// A refusal because of that lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) appointment: usize,
    pub(crate) token: i64,
    /// The moment at which the last such request was sent.
    pub(crate) sent: At,
}

/// A statement that a lease is in force or not, by verify or by a request that only its holder may make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) appointment: usize,
    pub(crate) token: i64,
    pub(crate) sent: At,
    pub(crate) told: At,
    pub(crate) live: bool,
    /// The moment until which the lease lasts for certain.
    pub(crate) sure_until: At,
}

/// Records of one worker, or of all of them together.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) grants: Vec<Grant>,
    pub(crate) releases: Vec<Release>,
    pub(crate) told: Vec<Told>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) refusals: usize,
    pub(crate) renewals: usize,
    /// Answers of 503.
    pub(crate) unavailable: usize,
    /// Requests without an answer: the connection broke, or time was up.
    pub(crate) unanswered: usize,
    /// Answers that must not occur.
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

/// Versions of one appointment that a watcher received in one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    /// Version and time; the first is the snapshot with which the subscription began. Empty: not subscribed.
    pub(crate) heard: Vec<(i64, At)>,
}

/// One connection of a watcher.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The index of its replica.
    pub(crate) replica: usize,
    pub(crate) rooms: Vec<Room>,
    /// The moment of its end.
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

/// The evidence of a whole run.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) lock_ttl: Duration,
    pub(crate) ledger: Ledger,
    pub(crate) sessions: Vec<Session>,
    /// Entries, in order of appointment and version.
    pub(crate) history: Vec<Entry>,
    /// Rows, by appointment.
    pub(crate) rows: Vec<Row>,
    /// Times at which each replica was paused, was down, or could not reach PostgreSQL.
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
