//! The settings of limits, and of trust: rates, maximums, proxies, origins, host names.

use std::num::NonZeroU32;

use clap::Args;

use super::parse::{list, number};
use crate::limits::{Hosts, LimitConfig, Origins, Proxies, Rate};

/// Upper bound of every number here.
const MOST: u32 = 1_000_000;

/// Settings of limits.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// Origins of pages that may call this service from a browser, such as https://app.example.com,
    /// comma-separated, or * for all [default: none but this service's own].
    #[arg(long, env, value_name = "ORIGINS", value_parser = list(Origins::parse, "an origin", "write such as https://app.example.com, in lower case, comma-separated; or * alone"))]
    pub cors_allowed_origins: Option<Origins>,

    /// Host names that requests may name, without ports, comma-separated; * for all. Keeps out pages that point
    /// a name of their own here (DNS rebinding) if identities are trusted [default: *; in dev localhost,
    /// 127.0.0.1, [::1] and this machine's name].
    #[arg(long, env, value_name = "HOSTS", value_parser = list(Hosts::parse, "a host name", "write names such as locks.example.com or [::1], without scheme and port, comma-separated; or * alone"))]
    pub allowed_hosts: Option<Hosts>,

    /// Maximum rate of requests and socket events of one identity, else of one client address, per second, 0 to
    /// 1000000; 0 for no limit.
    #[arg(long, env, value_name = "N", default_value = "20", value_parser = number::<u32>(0..=MOST))]
    pub rate_limit_per_second: u32,

    /// Maximum number of them at once, after a pause, 1 to 1000000.
    #[arg(long, env, value_name = "N", default_value = "40", value_parser = number::<u32>(1..=MOST))]
    pub rate_limit_burst: u32,

    /// Proxies whose X-Forwarded-For is believed: networks such as 10.0.0.0/8, or addresses, comma-separated
    /// [default: none].
    #[arg(long, env, value_name = "CIDRS", value_parser = list(Proxies::parse, "a network", "write networks such as 10.0.0.0/8 or addresses, comma-separated"))]
    pub trusted_proxies: Option<Proxies>,

    /// Maximum sockets of this replica, 1 to 1000000.
    #[arg(long, env, value_name = "N", default_value = "20000", value_parser = number::<usize>(1..=MOST))]
    pub max_sockets: usize,

    /// Maximum sockets of one identity on this replica, 1 to 1000000.
    #[arg(long, env, value_name = "N", default_value = "200", value_parser = number::<usize>(1..=MOST))]
    pub max_sockets_per_identity: usize,

    /// Maximum connections of one client address to this replica, besides those of sockets that have joined,
    /// 1 to 1000000; half of all connections if that is less. Proxies in TRUSTED_PROXIES have no such limit.
    #[arg(long, env, value_name = "N", default_value = "5000", value_parser = number::<usize>(1..=MOST))]
    pub max_connections_per_address: usize,

    /// Maximum leases of one identity at a time, 0 to 1000000, counted to within a tenth by each replica; 0 for no
    /// limit.
    #[arg(long, env, value_name = "N", default_value = "1000", value_parser = number::<usize>(0..=MOST))]
    pub max_leases_per_identity: usize,
}

impl LimitArgs {
    /// The limits of a replica.
    #[must_use]
    pub fn config(&self) -> LimitConfig {
        let rate =
            NonZeroU32::new(self.rate_limit_per_second).zip(NonZeroU32::new(self.rate_limit_burst));
        LimitConfig {
            rate: rate.map(|(per_second, burst)| Rate { per_second, burst }),
            sockets: self.max_sockets,
            sockets_each: self.max_sockets_per_identity,
            connections_each: self.max_connections_per_address,
            proxies: self.trusted_proxies.clone().unwrap_or_default(),
        }
    }
}
