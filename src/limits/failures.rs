//! The budget of failures: the number of failed attempts, such as rejected tokens, that an address may make. Owns the
//! rule that only failures are charged and checks are free, so that the budget never slows down correct clients.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::key::RateLimitKey;

/// Remaining failures of each address.
pub(super) struct Failures {
    per_second: f64,
    burst: f64,
    /// Remaining budget and the time of that value. A std mutex: held for a look-up, never across an await.
    left: Mutex<HashMap<RateLimitKey, (f64, Instant)>>,
}

impl Failures {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second: per_second.into(),
            burst: burst.into(),
            left: Mutex::default(),
        }
    }

    fn left(&self) -> MutexGuard<'_, HashMap<RateLimitKey, (f64, Instant)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, (left, at): (f64, Instant), now: Instant) -> f64 {
        let more = now.saturating_duration_since(at).as_secs_f64() * self.per_second;
        (left + more).min(self.burst)
    }

    /// Time until that address has budget again; `None` if it has some now.
    pub(super) fn wait(&self, key: &RateLimitKey, now: Instant) -> Option<Duration> {
        let left = self.now(*self.left().get(key)?, now);
        (left < 1.0).then(|| Duration::from_secs_f64((1.0 - left) / self.per_second))
    }

    /// Charges one failure to that address.
    pub(super) fn charge(&self, key: &RateLimitKey, now: Instant) {
        let mut left = self.left();
        let before = left.get(key).map_or(self.burst, |it| self.now(*it, now));
        left.insert(key.clone(), ((before - 1.0).max(0.0), now));
    }

    /// Drops addresses whose budget is full again.
    pub(super) fn sweep(&self, now: Instant) {
        self.left().retain(|_, it| self.now(*it, now) < self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_are_charged_and_the_budget_refills() {
        let failures = Failures::new(10, 2);
        let key = RateLimitKey::address("192.0.2.1".parse().unwrap());
        let now = Instant::now();
        for _ in 0..9 {
            assert_eq!(failures.wait(&key, now), None);
        }
        failures.charge(&key, now);
        assert_eq!(failures.wait(&key, now), None);
        failures.charge(&key, now);
        failures.charge(&key, now);
        let wait = failures.wait(&key, now).unwrap();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(failures.wait(&key, now + wait), None);
        failures.sweep(now + wait);
        assert_eq!(failures.left().len(), 1);
        failures.sweep(now + wait * 2);
        assert!(failures.left().is_empty());
    }
}
