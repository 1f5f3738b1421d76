//! The budgets of one replica, and the permits of its sockets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use governor::DefaultKeyedRateLimiter;

use super::address::Proxies;
use super::failures::Failures;
use super::key::{Rate, RateLimitKey, count_rejection};
use crate::protocol::{Code, Refusal};
use crate::telemetry;

/// A pointer moves up to sixty times a second on a usual screen: cursors have three times the rate.
const CURSORS: u32 = 3;
/// Many users may share one address, and all of them reconnect at once after a restart.
const ADDRESS: u32 = 10;
/// Frames of any kind: more than all events and cursors together.
const FRAMES: u32 = 20;
/// Burst of frames: a page with a list subscribes to all its entries at once.
const FRAMES_AT_ONCE: u32 = 100;

/// Configured limits.
#[derive(Debug, Clone)]
pub struct LimitConfig {
    /// Rate of requests and events, from which the other rates derive; `None`: unlimited.
    pub rate: Option<Rate>,
    /// Maximum sockets per replica.
    pub sockets: usize,
    /// Maximum sockets per identity and replica.
    pub sockets_each: usize,
    /// Maximum connections per address and replica, not counting those that carry sockets.
    pub connections_each: usize,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub proxies: Proxies,
}

struct Budgets {
    events: DefaultKeyedRateLimiter<RateLimitKey>,
    cursors: DefaultKeyedRateLimiter<RateLimitKey>,
    /// Cheap events.
    cheap: DefaultKeyedRateLimiter<RateLimitKey>,
    /// New sessions, by address.
    connects: DefaultKeyedRateLimiter<RateLimitKey>,
    /// Joining sockets, by identity.
    joins: DefaultKeyedRateLimiter<RateLimitKey>,
    /// Requests that need no identity: pages, the OpenAPI document, unknown routes.
    open: DefaultKeyedRateLimiter<RateLimitKey>,
    frames: DefaultKeyedRateLimiter<RateLimitKey>,
    failures: Failures,
}

/// The budgets of one replica.
pub struct Limits {
    config: LimitConfig,
    budgets: Option<Budgets>,
    /// Number of sockets, by key. A std mutex: held for a count, never across an await.
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    all: usize,
    by_key: HashMap<RateLimitKey, usize>,
}

/// A permit for one socket, until it is dropped.
pub struct SocketPermit {
    limits: Arc<Limits>,
    key: RateLimitKey,
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        let mut sockets = self.limits.sockets();
        sockets.all -= 1;
        if let Some(count) = sockets.by_key.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                sockets.by_key.remove(&self.key);
            }
        }
    }
}

impl Limits {
    /// Creates the budgets of a configuration.
    #[must_use]
    pub fn new(config: LimitConfig) -> Arc<Self> {
        let budgets = config.rate.map(|rate| Budgets {
            events: DefaultKeyedRateLimiter::keyed(rate.times(1)),
            cursors: DefaultKeyedRateLimiter::keyed(rate.times(CURSORS)),
            cheap: DefaultKeyedRateLimiter::keyed(rate.times(ADDRESS)),
            connects: DefaultKeyedRateLimiter::keyed(rate.times(ADDRESS)),
            joins: DefaultKeyedRateLimiter::keyed(rate.times(ADDRESS)),
            open: DefaultKeyedRateLimiter::keyed(rate.times(ADDRESS)),
            frames: DefaultKeyedRateLimiter::keyed(rate.quota(FRAMES, FRAMES_AT_ONCE)),
            failures: Failures::new(
                rate.per_second.get().saturating_mul(ADDRESS),
                rate.burst.get().saturating_mul(ADDRESS),
            ),
        });
        Arc::new(Self {
            config,
            budgets,
            sockets: Mutex::default(),
        })
    }

    /// Configured limits.
    #[must_use]
    pub fn config(&self) -> &LimitConfig {
        &self.config
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges an event of a socket.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn event(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.events);
        spend(budget, key, "event")
    }

    /// Charges a cursor move.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn cursor(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.cursors);
        spend(budget, key, "cursor")
    }

    /// Charges a new session to its address: it has no identity yet.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn connect(&self, address: IpAddr) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.connects);
        spend(budget, &RateLimitKey::address(address), "connect")
    }

    /// Charges a joining socket: from here on it uses its identity's budget, independent of its address.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn join(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.joins);
        spend(budget, key, "connect")
    }

    /// Charges a request that needs no identity to its address.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn open(&self, address: IpAddr) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.open);
        spend(budget, &RateLimitKey::address(address), "page")
    }

    pub(super) fn frames(&self) -> Option<&DefaultKeyedRateLimiter<RateLimitKey>> {
        self.budgets.as_ref().map(|budgets| &budgets.frames)
    }

    pub(super) fn frame_burst(&self) -> u32 {
        let burst = self.config.rate.map_or(1, |rate| rate.burst.get());
        burst.saturating_mul(FRAMES_AT_ONCE)
    }

    /// Checks the budget of failures of an address. Called before a token's signature is verified, by far the most
    /// expensive step before authentication.
    ///
    /// # Errors
    /// `RATE_LIMITED` after too many rejected tokens from that address.
    pub fn may_fail(&self, address: IpAddr) -> Result<(), Refusal> {
        let Some(budgets) = &self.budgets else {
            return Ok(());
        };
        let wait = budgets
            .failures
            .wait(&RateLimitKey::address(address), Instant::now());
        if wait.is_none() {
            return Ok(());
        }
        count_rejection("token");
        Err(Refusal::new(
            Code::RateLimited,
            "Too many tokens from this address were refused; try again shortly",
        ))
    }

    /// Charges a rejected token to its address.
    pub fn failed(&self, address: IpAddr) {
        if let Some(budgets) = &self.budgets {
            let key = RateLimitKey::address(address);
            budgets.failures.charge(&key, Instant::now());
        }
    }

    /// Charges a cheap event that should rarely be rejected, such as leaving a room.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn cheap(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.cheap);
        spend(budget, key, "event")
    }

    /// Returns a permit for one more socket.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED` if this replica or that identity has reached its maximum.
    pub fn socket(self: &Arc<Self>, key: &RateLimitKey) -> Result<SocketPermit, Refusal> {
        let mut sockets = self.sockets();
        let full = |kind, message: String| {
            count_rejection(kind);
            Err(Refusal::new(Code::LimitExceeded, message))
        };
        if sockets.all >= self.config.sockets {
            let kind = "connection";
            return full(
                kind,
                "This replica has reached its maximum of sockets; try again later".into(),
            );
        }
        let known = matches!(key, RateLimitKey::Identity(_));
        let count = sockets.by_key.entry(key.clone()).or_default();
        // An address has no maximum: many users may share it.
        if known && *count >= self.config.sockets_each {
            let max = self.config.sockets_each;
            return full(
                "identity",
                format!("You already have {max} sockets on this replica; close one"),
            );
        }
        *count += 1;
        sockets.all += 1;
        drop(sockets);
        metrics::counter!(telemetry::SOCKET_CONNECTS).increment(1);
        Ok(SocketPermit {
            limits: self.clone(),
            key: key.clone(),
        })
    }

    /// Number of sockets that hold a permit.
    #[must_use]
    pub fn sockets_now(&self) -> usize {
        self.sockets().all
    }

    /// Drops the state of keys whose budgets are full again.
    pub fn sweep(&self) {
        if let Some(budgets) = &self.budgets {
            budgets.events.retain_recent();
            budgets.cursors.retain_recent();
            budgets.cheap.retain_recent();
            budgets.connects.retain_recent();
            budgets.joins.retain_recent();
            budgets.open.retain_recent();
            budgets.frames.retain_recent();
            budgets.failures.sweep(Instant::now());
        }
    }
}

fn spend(
    budget: Option<&DefaultKeyedRateLimiter<RateLimitKey>>,
    key: &RateLimitKey,
    kind: &'static str,
) -> Result<(), Refusal> {
    match budget {
        Some(budget) if budget.check_key(key).is_err() => {
            count_rejection(kind);
            Err(Refusal::new(
                Code::RateLimited,
                "Too much at once; slow down and try again",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::domain::ids::{TenantId, UserId};

    fn limits(rate: Option<(u32, u32)>, sockets: usize, each: usize) -> Arc<Limits> {
        let n = |n| NonZeroU32::new(n).unwrap();
        Limits::new(LimitConfig {
            rate: rate.map(|(per_second, burst)| Rate {
                per_second: n(per_second),
                burst: n(burst),
            }),
            sockets,
            sockets_each: each,
            connections_each: 9,
            proxies: Proxies::default(),
        })
    }

    fn user(name: &str) -> RateLimitKey {
        RateLimitKey::user(&TenantId::default(), &UserId::new(name).unwrap())
    }

    #[test]
    fn each_key_has_its_own_budget() {
        let limits = limits(Some((1, 2)), 9, 9);
        for _ in 0..2 {
            limits.event(&user("ann")).unwrap();
        }
        assert_eq!(
            limits.event(&user("ann")).unwrap_err().code,
            Code::RateLimited
        );
        limits.event(&user("ben")).unwrap();
        limits.cursor(&user("ann")).unwrap();
    }

    #[test]
    fn without_a_rate_nobody_is_limited() {
        let limits = limits(None, 9, 9);
        for _ in 0..1000 {
            limits.event(&user("ann")).unwrap();
        }
    }

    #[test]
    fn a_permit_is_free_again_when_its_socket_is_gone() {
        let limits = limits(None, 3, 2);
        let first = limits.socket(&user("ann")).unwrap();
        let _second = limits.socket(&user("ann")).unwrap();
        assert!(limits.socket(&user("ann")).is_err(), "maximum per identity");
        let _third = limits.socket(&user("ben")).unwrap();
        assert!(limits.socket(&user("eve")).is_err(), "maximum per replica");
        drop(first);
        assert!(limits.socket(&user("eve")).is_ok());
    }
}
