//! What one socket may ask. Owns that a limit is answered, and that only who goes on and on in spite of it is
//! hung up.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{Limits, RateLimitKey, SocketPermit, count_rejection};
use crate::protocol::Refusal;

/// Refusals, less what was granted between, after which it is no accident any more.
const ABUSE: u32 = 1000;

/// What became of a price.
pub(super) struct Spent {
    /// `RATE_LIMITED` beyond the budget.
    pub(super) outcome: Result<(), Refusal>,
    /// Whether the socket has earned its end.
    pub(super) abuse: bool,
}

/// The budget of one socket, which it shares with all of the same key.
pub(super) struct Budget {
    key: RateLimitKey,
    limits: Arc<Limits>,
    strikes: AtomicU32,
    /// Held as long as the socket is there. A std mutex: held to take it out, never across an await.
    permit: Mutex<Option<SocketPermit>>,
}

impl Budget {
    pub(super) fn new(key: RateLimitKey, permit: SocketPermit, limits: Arc<Limits>) -> Self {
        Self {
            key,
            limits,
            strikes: AtomicU32::new(0),
            permit: Mutex::new(Some(permit)),
        }
    }

    /// The socket is gone: its permit is another's.
    pub(super) fn free(&self) {
        let permit = self
            .permit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(permit);
    }

    /// What costs little: leaving a room, or what is no event of ours.
    pub(super) fn cheap(&self) -> Spent {
        self.judge(self.limits.cheap(&self.key))
    }

    /// An event.
    pub(super) fn event(&self) -> Spent {
        self.judge(self.limits.event(&self.key))
    }

    /// A cursor that moved.
    pub(super) fn cursor(&self) -> Spent {
        self.judge(self.limits.cursor(&self.key))
    }

    fn judge(&self, outcome: Result<(), Refusal>) -> Spent {
        let strikes = &self.strikes;
        if outcome.is_ok() {
            // Forgiven one by one. That two at once may forgive only one does not matter.
            strikes.store(
                strikes.load(Ordering::Relaxed).saturating_sub(1),
                Ordering::Relaxed,
            );
        }
        let abuse = outcome.is_err() && strikes.fetch_add(1, Ordering::Relaxed) == ABUSE;
        if abuse {
            count_rejection("abuse");
        }
        Spent { outcome, abuse }
    }
}
