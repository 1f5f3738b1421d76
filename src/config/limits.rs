//! The settings of limits, and of trust: rates, maximums, proxies, origins, host names.

use std::num::NonZeroU32;

use clap::Args;

use super::parse::{list, number};
use crate::limits::{Hosts, LimitConfig, Origins, Proxies, Rate};

/// Upper bound of every number here.
const MOST: u32 = 1_000_000;

const ORIGINS: &str =
    "write such as https://app.example.com, in lower case, comma-separated; or * alone";
const HOSTS: &str = "write names such as locks.example.com or [::1], without scheme and port, comma-separated; or * alone";
const PROXIES: &str = "write networks such as 10.0.0.0/8 or addresses, comma-separated";

/// Settings of limits.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// Origins of pages that may call this service, comma-separated, such as https://app.example.com; or * for
    /// all [default: same origin only].
    #[arg(long, env, value_name = "ORIGINS", value_parser = list(Origins::parse, "an origin", ORIGINS))]
    pub cors_allowed_origins: Option<Origins>,

    /// Allowed host names of requests, without ports, comma-separated; or * for all. Protects trusted
    /// identities from pages that point a name of their own here (DNS rebinding) [default: *; in dev localhost,
    /// 127.0.0.1, [::1] and this machine's name].
    #[arg(long, env, value_name = "HOSTS", value_parser = list(Hosts::parse, "a host name", HOSTS))]
    pub allowed_hosts: Option<Hosts>,

    /// Rate limit of requests and socket events per identity, or per address without one; 0 to 1000000 per
    /// second, 0 for unlimited.
    #[arg(long, env, value_name = "N", default_value = "20", value_parser = number::<u32>(0..=MOST))]
    pub rate_limit_per_second: u32,

    /// Maximum burst of requests and socket events after a pause, 1 to 1000000.
    #[arg(long, env, value_name = "N", default_value = "40", value_parser = number::<u32>(1..=MOST))]
    pub rate_limit_burst: u32,

    /// Proxies whose X-Forwarded-For is trusted: networks such as 10.0.0.0/8, or addresses, comma-separated
    /// [default: none].
    #[arg(long, env, value_name = "CIDRS", value_parser = list(Proxies::parse, "a network", PROXIES))]
    pub trusted_proxies: Option<Proxies>,

    /// Maximum sockets per replica, 1 to 1000000.
    #[arg(long, env, value_name = "N", default_value = "20000", value_parser = number::<usize>(1..=MOST))]
    pub max_sockets: usize,

    /// Maximum sockets per identity and replica, 1 to 1000000.
    #[arg(long, env, value_name = "N", default_value = "200", value_parser = number::<usize>(1..=MOST))]
    pub max_sockets_per_identity: usize,

    /// Maximum connections per client address and replica, 1 to 1000000, at most half of all connections.
    /// Joined sockets and proxies in TRUSTED_PROXIES are not counted.
    #[arg(long, env, value_name = "N", default_value = "5000", value_parser = number::<usize>(1..=MOST))]
    pub max_connections_per_address: usize,

    /// Maximum active leases per identity, 0 to 1000000, counted to within a tenth by each replica; 0 for
    /// unlimited.
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
