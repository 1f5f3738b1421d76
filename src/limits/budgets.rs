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
/// Many people may be behind one address, and all of them come back at once after a restart.
const ADDRESS: u32 = 10;
/// Frames of whatever kind: more than all events and cursors together.
const FRAMES: u32 = 20;
/// Frames at once: a page of a list subscribes to all of it in one go.
const FRAMES_AT_ONCE: u32 = 100;

/// What is allowed.
#[derive(Debug, Clone)]
pub struct LimitConfig {
    /// Requests, events and cursors; `None`: as many as come.
    pub rate: Option<Rate>,
    /// Sockets of this replica.
    pub sockets: usize,
    /// Sockets of one identity on this replica.
    pub sockets_each: usize,
    /// Connections of one address on this replica that carry no socket.
    pub connections_each: usize,
    /// Whose `X-Forwarded-For` is believed.
    pub proxies: Proxies,
}

struct Budgets {
    events: DefaultKeyedRateLimiter<RateLimitKey>,
    cursors: DefaultKeyedRateLimiter<RateLimitKey>,
    /// Events that cost little.
    cheap: DefaultKeyedRateLimiter<RateLimitKey>,
    /// Sessions that begin at an address.
    connects: DefaultKeyedRateLimiter<RateLimitKey>,
    /// Sockets that join, by who they are.
    joins: DefaultKeyedRateLimiter<RateLimitKey>,
    /// What needs no identity: pages, the OpenAPI document, routes that do not exist.
    open: DefaultKeyedRateLimiter<RateLimitKey>,
    frames: DefaultKeyedRateLimiter<RateLimitKey>,
    failures: Failures,
}

/// The budgets of one replica.
pub struct Limits {
    config: LimitConfig,
    budgets: Option<Budgets>,
    /// How many sockets there are, by whom. A std mutex: held for a count, never across an await.
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    all: usize,
    of: HashMap<RateLimitKey, usize>,
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
        if let Some(count) = sockets.of.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                sockets.of.remove(&self.key);
            }
        }
    }
}

impl Limits {
    /// With this configuration.
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

    /// What is allowed.
    #[must_use]
    pub fn config(&self) -> &LimitConfig {
        &self.config
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event of a socket.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn event(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.events);
        spend(budget, key, "event")
    }

    /// A cursor that moved.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn cursor(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.cursors);
        spend(budget, key, "cursor")
    }

    /// A session that begins at an address: it has no identity yet.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn connect(&self, address: IpAddr) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.connects);
        spend(budget, &RateLimitKey::address(address), "connect")
    }

    /// A socket that joins: from here on its budget is its identity's, whoever else is at the same address.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn join(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.joins);
        spend(budget, key, "connect")
    }

    /// A request that needs no identity, from an address.
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

    /// Asked before a token's signature is verified, which costs far more than anything else that comes before a
    /// login: whether that address may fail again.
    ///
    /// # Errors
    /// `RATE_LIMITED`, where too many tokens from there were refused.
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

    /// A token from that address was refused after its signature was verified.
    pub fn failed(&self, address: IpAddr) {
        if let Some(budgets) = &self.budgets {
            let key = RateLimitKey::address(address);
            budgets.failures.charge(&key, Instant::now());
        }
    }

    /// What costs little and has its use, such as leaving a room.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub fn cheap(&self, key: &RateLimitKey) -> Result<(), Refusal> {
        let budget = self.budgets.as_ref().map(|budgets| &budgets.cheap);
        spend(budget, key, "event")
    }

    /// A permit for one more socket.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED` where this replica or that identity has enough.
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
                "This replica has as many sockets as it takes; try again later".into(),
            );
        }
        let known = matches!(key, RateLimitKey::Identity(_));
        let count = sockets.of.entry(key.clone()).or_default();
        // Behind one address there may be many people.
        if known && *count >= self.config.sockets_each {
            let most = self.config.sockets_each;
            return full(
                "identity",
                format!("You have {most} sockets here already; close one"),
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

    /// How many sockets have a permit.
    #[must_use]
    pub fn sockets_now(&self) -> usize {
        self.sockets().all
    }

    /// Forgets those who have not asked for a while.
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
    fn each_has_a_budget_of_its_own() {
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
        assert!(limits.socket(&user("ann")).is_err(), "enough for one");
        let _third = limits.socket(&user("ben")).unwrap();
        assert!(limits.socket(&user("eve")).is_err(), "enough for all");
        drop(first);
        assert!(limits.socket(&user("eve")).is_ok());
    }
}
