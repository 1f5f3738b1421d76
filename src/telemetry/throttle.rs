//! Lines that would come too often: one a second says as much.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one line a second through, and counts the others.
#[derive(Debug, Default)]
pub struct LogThrottle {
    /// When a line was let through, and how many were not since. A std mutex: held for a look, never across an
    /// await.
    last: Mutex<Option<(Instant, u64)>>,
}

impl LogThrottle {
    /// One that has kept nothing back.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last: Mutex::new(None),
        }
    }

    /// How many lines were kept back since the last one, where this one may go out.
    pub fn allow(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((at, hidden)) if at.elapsed() < Duration::from_secs(1) => {
                *hidden += 1;
                None
            }
            spoken => {
                let hidden = spoken.map_or(0, |(_, hidden)| hidden);
                *spoken = Some((Instant::now(), 0));
                Some(hidden)
            }
        }
    }
}
