//! The key that a budget belongs to, and the rate of a budget.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::Quota;

use crate::domain::ids::{TenantId, UserId};
use crate::telemetry;

/// The owner of a budget.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// A user of a tenant.
    Identity(Arc<str>),
    /// A client's address; for IPv6 the /64 network of one subscriber.
    Address(IpAddr),
}

impl RateLimitKey {
    /// The key of a user.
    #[must_use]
    pub fn user(tenant: &TenantId, user: &UserId) -> Self {
        Self::Identity(format!("{}\u{1f}{user}", tenant.as_str()).into())
    }

    /// The key of a client's address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() >> 64 << 64;
                Self::Address(IpAddr::V6(network.into()))
            }
            v4 @ IpAddr::V4(_) => Self::Address(v4),
        }
    }
}

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Sustained rate.
    pub per_second: NonZeroU32,
    /// Maximum at once, after a pause.
    pub burst: NonZeroU32,
}

impl Rate {
    pub(super) fn times(self, factor: u32) -> Quota {
        self.quota(factor, factor)
    }

    pub(super) fn quota(self, rate: u32, burst: u32) -> Quota {
        let times =
            |n: NonZeroU32, factor| n.saturating_mul(NonZeroU32::MIN.saturating_add(factor - 1));
        Quota::per_second(times(self.per_second, rate)).allow_burst(times(self.burst, burst))
    }
}

/// Counts a rejection by a limit.
pub fn count_rejection(kind: &'static str) {
    metrics::counter!(telemetry::RATE_LIMITED, "kind" => kind).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscriber_has_one_network() {
        let at = |text: &str| RateLimitKey::address(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2:3::4"), at("2001:db8:1:2:ffff::1"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }
}
