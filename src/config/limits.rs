//! The settings of limits, and of who is believed: rates, caps, proxies, origins.

use std::num::NonZeroU32;

use clap::Args;

use super::BadSetting;
use super::parse::or_default;
use crate::limits::{Hosts, LimitConfig, Proxies, Rate};

/// Limits. Each option is an environment variable too.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// Which origins' pages may use this from a browser: https://app.example.com, with commas between, or *
    /// for all [default: none but this service's own].
    #[arg(
        long,
        env = "CORS_ALLOWED_ORIGINS",
        hide_env_values = true,
        value_name = "ORIGINS"
    )]
    pub cors_allowed_origins: Option<String>,

    /// Host names by which this service may be called, without ports, with commas between; * for all. Keeps pages
    /// out that point a name of their own here (DNS rebinding), where identities are trusted [default: *; in dev
    /// localhost, 127.0.0.1, [::1] and this machine's name].
    #[arg(
        long,
        env = "ALLOWED_HOSTS",
        hide_env_values = true,
        value_name = "HOSTS"
    )]
    pub allowed_hosts: Option<String>,

    /// Requests, and socket events, of one identity, else of one address; 0 for as many as come.
    #[arg(
        long,
        env = "RATE_LIMIT_PER_SECOND",
        default_value = "20",
        hide_env_values = true,
        value_name = "N"
    )]
    pub rate_limit_per_second: String,

    /// How many of them at once, after a while of silence.
    #[arg(
        long,
        env = "RATE_LIMIT_BURST",
        default_value = "40",
        hide_env_values = true,
        value_name = "N"
    )]
    pub rate_limit_burst: String,

    /// Whose X-Forwarded-For is believed: networks such as 10.0.0.0/8, with commas between [default: nobody's].
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        hide_env_values = true,
        value_name = "CIDRS"
    )]
    pub trusted_proxies: Option<String>,

    /// The most sockets of this replica.
    #[arg(
        long,
        env = "MAX_SOCKETS",
        default_value = "20000",
        hide_env_values = true,
        value_name = "N"
    )]
    pub max_sockets: String,

    /// The most sockets of one identity on this replica.
    #[arg(
        long,
        env = "MAX_SOCKETS_PER_IDENTITY",
        default_value = "200",
        hide_env_values = true,
        value_name = "N"
    )]
    pub max_sockets_per_identity: String,

    /// Maximum connections of one client address on this replica, besides those of sockets that have joined; half of
    /// all connections where that is less. Proxies in TRUSTED_PROXIES have no such bound.
    #[arg(
        long,
        env = "MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "5000",
        hide_env_values = true,
        value_name = "N"
    )]
    pub max_connections_per_address: String,

    /// Maximum leases of one identity at a time, counted to within a tenth by each replica; 0 for no bound.
    #[arg(
        long,
        env = "MAX_LEASES_PER_IDENTITY",
        default_value = "1000",
        hide_env_values = true,
        value_name = "N"
    )]
    pub max_leases_per_identity: String,
}

/// Which origins' pages may use this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// These, besides this service's own.
    These(Vec<String>),
    /// Those of this machine, on whatever port: for development.
    ThisMachine,
    /// All.
    All,
}

impl Origins {
    /// Whether that origin is a page of this machine.
    #[must_use]
    pub fn is_this_machine(origin: &str) -> bool {
        let host = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        let name = host.map(|host| match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        });
        matches!(name, Some("localhost" | "127.0.0.1" | "[::1]"))
    }

    /// Whether a page of that origin may, which a browser names. `host` is whom the request was sent to.
    #[must_use]
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let own = || {
            let named = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            named.is_some() && named == host
        };
        match self {
            Self::All => true,
            Self::ThisMachine => Self::is_this_machine(origin) || own(),
            Self::These(origins) => origins.iter().any(|allowed| allowed == origin) || own(),
        }
    }

    fn parse(text: &str) -> Result<Self, BadSetting> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::All);
        }
        let origins: Vec<String> = text
            .split(',')
            .map(|part| part.trim().trim_end_matches('/').to_owned())
            .filter(|part| !part.is_empty())
            .collect();
        let is_origin = |origin: &&String| {
            let host = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            host.is_some_and(|host| {
                !host.is_empty() && !host.contains(['/', '*', '?', '#', '@', ' '])
            }) && **origin == origin.to_lowercase()
        };
        match origins.iter().find(|origin| !is_origin(origin)) {
            None => Ok(Self::These(origins)),
            Some(other) => Err(BadSetting::new(
                "CORS_ALLOWED_ORIGINS",
                format!("\"{other}\" is not an origin"),
                "write such as https://app.example.com, in lower case, with commas between; or * alone",
            )),
        }
    }
}

fn number(variable: &'static str, text: &str, least: u32, most: u32) -> Result<u32, BadSetting> {
    text.parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| {
            BadSetting::new(
                variable,
                format!("\"{text}\" will not do"),
                format!("write a number from {least} to {most}"),
            )
        })
}

impl LimitArgs {
    /// Checks the limits.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self) -> Result<LimitConfig, BadSetting> {
        let per_second = number(
            "RATE_LIMIT_PER_SECOND",
            or_default(&self.rate_limit_per_second, "20"),
            0,
            1_000_000,
        )?;
        let burst = number(
            "RATE_LIMIT_BURST",
            or_default(&self.rate_limit_burst, "40"),
            1,
            1_000_000,
        )?;
        let rate = NonZeroU32::new(per_second)
            .zip(NonZeroU32::new(burst))
            .map(|(per_second, burst)| Rate { per_second, burst });
        let proxies = self.trusted_proxies.as_deref().unwrap_or_default();
        let proxies = Proxies::parse(proxies).map_err(|part| {
            BadSetting::new(
                "TRUSTED_PROXIES",
                format!("\"{part}\" is not a network"),
                "write networks such as 10.0.0.0/8 or addresses, with commas between",
            )
        })?;
        let cap = |variable, text, usual| {
            number(variable, or_default(text, usual), 1, 1_000_000).map(|n| n as usize)
        };
        Ok(LimitConfig {
            rate,
            sockets: cap("MAX_SOCKETS", &self.max_sockets, "20000")?,
            sockets_each: cap(
                "MAX_SOCKETS_PER_IDENTITY",
                &self.max_sockets_per_identity,
                "200",
            )?,
            connections_each: cap(
                "MAX_CONNECTIONS_PER_ADDRESS",
                &self.max_connections_per_address,
                "5000",
            )?,
            proxies,
        })
    }

    /// Checks the bound of leases.
    ///
    /// # Errors
    /// [`BadSetting`].
    pub fn leases(&self) -> Result<usize, BadSetting> {
        let text = or_default(&self.max_leases_per_identity, "1000");
        number("MAX_LEASES_PER_IDENTITY", text, 0, 1_000_000).map(|n| n as usize)
    }

    /// Checks the hosts; `None` where none are named.
    ///
    /// # Errors
    /// [`BadSetting`].
    pub fn hosts(&self) -> Result<Option<Hosts>, BadSetting> {
        let text = self.allowed_hosts.as_deref().unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(None);
        }
        if text == "*" {
            return Ok(Some(Hosts::All));
        }
        let names = text.split(',').map(|name| name.trim().to_ascii_lowercase());
        let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
        let is_name = |name: &&String| {
            let inside = name
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            match inside {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                None => name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
            }
        };
        match names.iter().find(|name| !is_name(name)) {
            None => Ok(Some(Hosts::These(names))),
            Some(other) => Err(BadSetting::new(
                "ALLOWED_HOSTS",
                format!("\"{other}\" is not a host name"),
                "write names such as locks.example.com or [::1], without scheme and port, with commas between; or * alone",
            )),
        }
    }

    /// Checks the origins.
    ///
    /// # Errors
    /// [`BadSetting`].
    pub fn origins(&self) -> Result<Origins, BadSetting> {
        Origins::parse(self.cors_allowed_origins.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_allowed_where_it_is_listed_or_ones_own() {
        let some = Origins::parse("https://app.example.com, http://localhost:8080/").unwrap();
        assert!(some.allow("https://app.example.com", Some("locks.example.com")));
        assert!(some.allow("http://localhost:8080", None));
        assert!(some.allow("https://locks.example.com", Some("locks.example.com")));
        assert!(!some.allow("https://locks.example.com", Some("locks.example.com:3000")));
        assert!(!some.allow("https://evil.example.com", Some("locks.example.com")));
        assert!(!some.allow("null", None));
        assert!(!some.allow("https://app.example.com.evil.example", None));
        assert!(Origins::parse("*").unwrap().allow("null", None));
        for (origin, ours) in [
            ("http://localhost:5173", true),
            ("http://127.0.0.1", true),
            ("https://[::1]:8443", true),
            ("http://localhost.evil.example", false),
            ("http://localhost:1@evil.example", false),
            ("null", false),
        ] {
            assert_eq!(Origins::ThisMachine.allow(origin, None), ours, "{origin}");
        }
        for bad in [
            "*,https://a",
            "app.example.com",
            "https://a/b",
            "https://*.a",
            "https://A",
        ] {
            assert!(Origins::parse(bad).is_err(), "{bad}");
        }
    }
}
