//! Estimate of PostgreSQL's clock. Owns the measurement of time since a decision of PostgreSQL, independent of this
//! machine's own clock. Nothing is decided by it.
//!
//! The time in an answer was read between the request and the answer: the middle of the two is off by half of the
//! round trip at most. So the fastest recent answer counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

/// Age of a reading from which a slower answer is better: clocks drift.
const MAX_AGE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Reading {
    now: OffsetDateTime,
    at: Instant,
    took: Duration,
}

impl Reading {
    /// True if a new reading is better: it was faster, this one is old, or it is of another clock, since the two
    /// contradict each other.
    fn is_worse(&self, now: OffsetDateTime, at: Instant, took: Duration) -> bool {
        let should_be = self.now + at.saturating_duration_since(self.at);
        let apart = (now - should_be).unsigned_abs();
        took <= self.took || self.at.elapsed() > MAX_AGE || apart > self.took + took
    }
}

/// PostgreSQL's clock. Clones share the estimate.
#[derive(Debug, Clone, Default)]
pub struct Clock(
    /// A std mutex: held for a copy, never across an await.
    Arc<Mutex<Option<Reading>>>,
);

impl Clock {
    /// Takes the time `now` of an answer that was requested at `asked`, and arrived just now.
    pub(super) fn set(&self, now: OffsetDateTime, asked: Instant) {
        let took = asked.elapsed();
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = asked + took / 2;
        if reading.is_none_or(|old| old.is_worse(now, at, took)) {
            *reading = Some(Reading { now, at, took });
        }
    }

    /// Time since `then`, by PostgreSQL's clock; `None` before the first answer.
    #[must_use]
    pub fn since(&self, then: OffsetDateTime) -> Option<Duration> {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = reading?;
        let ago = reading.now + reading.at.elapsed() - then;
        // A time in the future is an error of the estimate.
        Some(Duration::try_from(ago).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn the_fastest_recent_answer_counts() {
        let clock = Clock::default();
        let then = datetime!(2001-01-01 0:00 UTC);
        assert_eq!(clock.since(then), None);
        clock.set(then, Instant::now());
        let known = clock.since(then).unwrap();
        assert!(known < Duration::from_millis(100), "{known:?}");
        // Slow, and off by less than it took.
        let second = Duration::from_secs(1);
        clock.set(then + second / 2, Instant::now() - second);
        assert!(clock.since(then).unwrap() < second / 4);
        // Slow, and off by more than that: another clock.
        clock.set(then + 60 * second, Instant::now() - second);
        assert!(clock.since(then).unwrap() > 59 * second);
        clock.set(then, Instant::now() - second / 2);
        assert!(clock.since(then).unwrap() < second);
        assert_eq!(
            clock.since(then + Duration::from_secs(60)),
            Some(Duration::ZERO)
        );
    }
}
