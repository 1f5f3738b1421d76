//! Throttle for frequent log lines: at most one per second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Allows one line per second, and counts the suppressed ones.
#[derive(Debug, Default)]
pub struct LogThrottle {
    /// Time of the last allowed line, and the number of lines suppressed since. A std mutex: held for a look-up, never
    /// across an await.
    last: Mutex<Option<(Instant, u64)>>,
}

impl LogThrottle {
    /// Creates a throttle that has suppressed nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last: Mutex::new(None),
        }
    }

    /// Returns the number of lines suppressed since the last allowed one; `None` if this one is to be suppressed.
    pub fn allow(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((at, hidden)) if at.elapsed() < Duration::from_secs(1) => {
                *hidden += 1;
                None
            }
            due => {
                let hidden = due.map_or(0, |(_, hidden)| hidden);
                *due = Some((Instant::now(), 0));
                Some(hidden)
            }
        }
    }
}
