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
        if reading.is_none_or(|old| took <= old.took || old.at.elapsed() > WHILE) {
            *reading = Some(Reading {
                now,
                at: asked + took / 2,
                took,
            });
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
        // Slow, and an hour off.
        clock.set(
            then + Duration::from_secs(3600),
            Instant::now() - Duration::from_secs(1),
        );
        assert!(clock.since(then).unwrap() < Duration::from_secs(1));
        assert_eq!(
            clock.since(then + Duration::from_secs(60)),
            Some(Duration::ZERO)
        );
    }
}
