//! Rate limits of one socket. Owns the escalation: events over the limit are refused, and only a client that ignores
//! the refusals persistently is disconnected.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{Limits, RateLimitKey, SocketPermit, count_rejection};
use crate::protocol::Refusal;

/// Refusals, minus the events granted in between, at which a client is disconnected.
const MAX_STRIKES: u32 = 1000;

/// Result of charging an event.
pub(super) struct Spent {
    /// `RATE_LIMITED` if over the limit.
    pub(super) outcome: Result<(), Refusal>,
    /// True if the socket must be disconnected.
    pub(super) abuse: bool,
}

/// Budget of one socket, shared with all sockets of the same key.
pub(super) struct Budget {
    key: RateLimitKey,
    limits: Arc<Limits>,
    strikes: AtomicU32,
    /// Held while the socket is open. A std mutex: held to take the permit, never across an await.
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

    /// Returns the permit, because the socket is closed.
    pub(super) fn release(&self) {
        let permit = self
            .permit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(permit);
    }

    /// Charges a cheap event: leaving a room, or an unknown event.
    pub(super) fn cheap(&self) -> Spent {
        self.record(self.limits.cheap(&self.key))
    }

    /// Charges an event.
    pub(super) fn event(&self) -> Spent {
        self.record(self.limits.event(&self.key))
    }

    /// Charges a cursor move.
    pub(super) fn cursor(&self) -> Spent {
        self.record(self.limits.cursor(&self.key))
    }

    fn record(&self, outcome: Result<(), Refusal>) -> Spent {
        let strikes = &self.strikes;
        if outcome.is_ok() {
            // One strike is forgiven for each granted event. Losing one of two concurrent updates is harmless.
            strikes.store(
                strikes.load(Ordering::Relaxed).saturating_sub(1),
                Ordering::Relaxed,
            );
        }
        let abuse = outcome.is_err() && strikes.fetch_add(1, Ordering::Relaxed) == MAX_STRIKES;
        if abuse {
            count_rejection("abuse");
        }
        Spent { outcome, abuse }
    }
}
