//! The budget of frames: everything that a Socket.IO connection sends, charged before it is parsed. Owns the rule that
//! frames without an event (pings, acknowledgements, other namespaces, empty frames) are charged too.
//!
//! ```text
//!   not joined ── beyond a few frames ──▶ closed
//!        │ joined: charged to its identity, or its address
//!        ▼
//!   within the rate ◀──▶ waiting: reading pauses ── excess continues ──▶ closed
//! ```
//!
//! A connection that exceeds the budget waits, since frames in the client's own buffers cost nothing here. All
//! connections of one identity share its budget.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use governor::clock::{Clock, QuantaClock};

use super::budgets::Limits;
use super::key::{RateLimitKey, count_rejection};

/// Maximum frames before joining, and KiB of them: enough for a few attempts, each with a token.
const BEFORE_JOINING: u32 = 64;
/// Frames that had to wait, minus those that did not, beyond which a connection is abusive.
const ABUSE: u32 = 1000;

/// Maximum unanswered events per connection: half the capacity of its queue.
const PENDING: usize = 128;

/// Decision about frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the budget.
    Admit,
    /// Over the budget: spend again after this time.
    Wait(Duration),
    /// Abuse: close the connection.
    End,
}

/// Budget of one connection, or of one polling session.
pub struct FrameBudget {
    limits: Arc<Limits>,
    key: OnceLock<RateLimitKey>,
    before: AtomicU32,
    strikes: AtomicU32,
    /// Number of events that were read and not answered yet.
    pending: Arc<AtomicUsize>,
    /// True while a POST body is being read.
    posting: AtomicBool,
}

/// Guard of a POST body that is being read.
pub struct Posting<'a>(&'a AtomicBool);

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Guard of an event that is not answered yet.
pub struct Pending(Arc<AtomicUsize>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FrameBudget {
    /// Creates the budget of a connection that has not joined yet.
    #[must_use]
    pub fn new(limits: Arc<Limits>) -> Self {
        Self {
            limits,
            key: OnceLock::new(),
            before: AtomicU32::new(0),
            strikes: AtomicU32::new(0),
            pending: Arc::default(),
            posting: AtomicBool::new(false),
        }
    }

    /// Begins a POST body. `None` if one is being read already: clients send one at a time, and each takes memory.
    #[must_use]
    pub fn post(&self) -> Option<Posting<'_>> {
        let first = !self.posting.swap(true, Ordering::Relaxed);
        first.then(|| Posting(&self.posting))
    }

    /// Counts an event that was read as unanswered, until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> Pending {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Pending(self.pending.clone())
    }

    /// True if too many events are unanswered to read more.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.pending.load(Ordering::Relaxed) >= PENDING
    }

    /// Charges further frames to that key.
    pub fn join(&self, key: RateLimitKey) {
        // A connection joins once; a second call changes nothing.
        let _ = self.key.set(key);
    }

    /// True after [`FrameBudget::join`].
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.key.get().is_some()
    }

    /// Charges that many frames. `again`: they have waited already.
    pub fn spend(&self, frames: u32, again: bool) -> Verdict {
        let Some(budget) = self.limits.frames() else {
            return Verdict::Admit;
        };
        let Some(key) = self.key.get() else {
            let before = self.before.fetch_add(frames, Ordering::Relaxed);
            if before.saturating_add(frames) <= BEFORE_JOINING {
                return Verdict::Admit;
            }
            count_rejection("frame");
            return Verdict::End;
        };
        // Frames beyond a full burst are free: charging more than the burst would never succeed.
        let Some(some) = NonZeroU32::new(frames.min(self.limits.frame_burst())) else {
            return Verdict::Admit;
        };
        match budget.check_key_n(key, some) {
            Ok(Ok(())) | Err(_) => {
                if !again {
                    let less = |strikes: u32| Some(strikes.saturating_sub(frames));
                    let _ = self
                        .strikes
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                }
                Verdict::Admit
            }
            Ok(Err(not_yet)) => {
                if !again {
                    count_rejection("frame");
                    if self.strikes.fetch_add(frames, Ordering::Relaxed) >= ABUSE {
                        return Verdict::End;
                    }
                }
                Verdict::Wait(not_yet.wait_time_from(QuantaClock::default().now()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LimitConfig, Proxies, Rate};

    fn budget(per_second: u32, burst: u32) -> FrameBudget {
        let n = |n| NonZeroU32::new(n).unwrap();
        FrameBudget::new(Limits::new(LimitConfig {
            rate: Some(Rate {
                per_second: n(per_second),
                burst: n(burst),
            }),
            sockets: 9,
            sockets_each: 9,
            connections_each: 9,
            proxies: Proxies::default(),
        }))
    }

    fn somebody() -> RateLimitKey {
        RateLimitKey::address("192.0.2.1".parse().unwrap())
    }

    #[test]
    fn before_joining_a_few_frames_are_admitted_and_then_the_connection_ends() {
        let budget = budget(20, 40);
        assert_eq!(budget.spend(BEFORE_JOINING, false), Verdict::Admit);
        assert_eq!(budget.spend(1, false), Verdict::End);
    }

    #[test]
    fn over_the_budget_frames_wait_and_continued_excess_ends_the_connection() {
        let budget = budget(1, 1);
        budget.join(somebody());
        assert_eq!(budget.spend(100, false), Verdict::Admit);
        let Verdict::Wait(wait) = budget.spend(10, false) else {
            panic!("not over the budget")
        };
        assert!(wait > Duration::from_millis(100), "{wait:?}");
        for _ in 0..200 {
            assert!(matches!(budget.spend(10, true), Verdict::Wait(_)));
        }
        let mut verdict = Verdict::Admit;
        for _ in 0..=ABUSE / 10 {
            verdict = budget.spend(10, false);
        }
        assert_eq!(verdict, Verdict::End);
    }
}
