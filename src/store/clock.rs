//! PostgreSQL's clock as seen from here, for measuring how long ago it decided something, whatever this
//! machine's own clock says. Nothing is decided by it.
//!
//! An answer that says the time was given between asking and hearing: the middle of the two is off by half of
//! that at most. So the quickest answer of a while is the one that counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

/// After this long a slower answer is better than the old one: clocks drift.
const WHILE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Reading {
    now: OffsetDateTime,
    at: Instant,
    took: Duration,
}

impl Reading {
    /// Whether a new one is to be believed instead: it was quicker, this one is old, or it is of another clock,
    /// since the two cannot both be right.
    fn is_worse(&self, now: OffsetDateTime, at: Instant, took: Duration) -> bool {
        let should_be = self.now + at.saturating_duration_since(self.at);
        let apart = (now - should_be).unsigned_abs();
        took <= self.took || self.at.elapsed() > WHILE || apart > self.took + took
    }
}

/// PostgreSQL's clock. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Clock(
    /// A std mutex: held for a copy, never across an await.
    Arc<Mutex<Option<Reading>>>,
);

impl Clock {
    /// PostgreSQL said `now` in an answer to what was asked at `asked`, and which was heard just now.
    pub(super) fn set(&self, now: OffsetDateTime, asked: Instant) {
        let took = asked.elapsed();
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = asked + took / 2;
        if reading.is_none_or(|old| old.is_worse(now, at, took)) {
            *reading = Some(Reading { now, at, took });
        }
    }

    /// How long ago that was, by PostgreSQL's clock; `None` where that is not known yet.
    #[must_use]
    pub fn since(&self, then: OffsetDateTime) -> Option<Duration> {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = reading?;
        let ago = reading.now + reading.at.elapsed() - then;
        // What is said to be in the future is the reading's own error.
        Some(Duration::try_from(ago).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn the_quickest_answer_of_a_while_counts() {
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
