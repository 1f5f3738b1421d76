//! The budget of frames: whatever a connection of Socket.IO sends, before anything is parsed. Owns that frames which
//! are no events (pings, acknowledgements, other namespaces, empty ones) have a price too.
//!
//! ```text
//!   not joined yet ── a handful, then it ends
//!        │ joined: an identity, else an address
//!        ▼
//!   within the rate ◀──▶ waiting: nothing is read for a moment ── went on and on ──▶ it ends
//! ```
//!
//! Who is over the budget waits, since what waits in the client's own buffers costs nothing here. Frames of all
//! connections of one identity share its budget.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use governor::clock::{Clock, QuantaClock};

use super::budgets::Limits;
use super::key::{RateLimitKey, count_rejection};

/// Frames of a connection that has not joined, and KiB of them: it needs one with a token, and some tries.
const BEFORE_JOINING: u32 = 64;
/// Frames that had to wait, less those that had not, after which it is no accident any more.
const ABUSE: u32 = 1000;

/// Events of one connection that may be unanswered: half of what its queue holds.
const PENDING: usize = 128;

/// What becomes of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are within the budget.
    Admit,
    /// They are not, before this time has passed; then ask again.
    Wait(Duration),
    /// The connection has earned its end.
    End,
}

/// The budget of one connection, or of one session that polls.
pub struct FrameBudget {
    limits: Arc<Limits>,
    key: OnceLock<RateLimitKey>,
    before: AtomicU32,
    strikes: AtomicU32,
    /// Events that were read and are not answered.
    pending: Arc<AtomicUsize>,
    /// Whether a body is being read.
    posting: AtomicBool,
}

/// A body that is being read, until it is dropped.
pub struct Posting<'a>(&'a AtomicBool);

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// An event that is not answered yet, until it is dropped.
pub struct Pending(Arc<AtomicUsize>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FrameBudget {
    /// Of a connection that has not joined yet.
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

    /// A body begins. `None` where one is being read already: clients send one at a time, and each takes memory.
    #[must_use]
    pub fn post(&self) -> Option<Posting<'_>> {
        let first = !self.posting.swap(true, Ordering::Relaxed);
        first.then(|| Posting(&self.posting))
    }

    /// An event was read.
    #[must_use]
    pub fn begin(&self) -> Pending {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Pending(self.pending.clone())
    }

    /// Whether so many events are not answered that nothing more is to be read.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.pending.load(Ordering::Relaxed) >= PENDING
    }

    /// From now on its frames are that one's.
    pub fn join(&self, key: RateLimitKey) {
        // A connection joins once; a second time changes nothing.
        let _ = self.key.set(key);
    }

    /// Whether it is somebody's.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.key.get().is_some()
    }

    /// Spends so many frames. `again`: they have waited already.
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
        // Where even a whole burst is not enough, the rest waits for the next one.
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
    fn before_joining_there_are_a_few_and_then_the_end() {
        let budget = budget(20, 40);
        assert_eq!(budget.spend(BEFORE_JOINING, false), Verdict::Admit);
        assert_eq!(budget.spend(1, false), Verdict::End);
    }

    #[test]
    fn over_the_budget_one_waits_and_who_goes_on_is_ended() {
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
