//! Allowed host names of this service.

use std::net::Ipv6Addr;

/// Allowed host names of this service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Hosts {
    /// Any host name.
    #[default]
    All,
    /// Only these, without ports and in lower case.
    These(Vec<String>),
}

impl Hosts {
    /// Reads a comma-separated list of names without ports, or `*` for any.
    ///
    /// # Errors
    /// The part that is not a host name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        text.split(',')
            .map(|part| part.trim().to_ascii_lowercase())
            .filter(|part| !part.is_empty())
            .map(|part| if is_name(&part) { Ok(part) } else { Err(part) })
            .collect::<Result<_, _>>()
            .map(Self::These)
    }

    /// True if a request with that `Host` header is accepted.
    #[must_use]
    pub fn allow(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => {
                let name = without_port(host).to_ascii_lowercase();
                names.contains(&name)
            }
        }
    }

    /// Host names for development: those of this machine, including its own host name.
    #[must_use]
    pub fn of_this_machine(own: Option<&str>) -> Self {
        let names = ["localhost", "127.0.0.1", "[::1]"].into_iter().chain(own);
        Self::These(names.map(str::to_ascii_lowercase).collect())
    }
}

fn is_name(text: &str) -> bool {
    let address = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    }
}

/// The name before the port; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_compared_without_its_port_and_case() {
        let hosts = Hosts::of_this_machine(Some("Workshop"));
        for host in [
            "localhost:3000",
            "127.0.0.1",
            "[::1]:3000",
            "[::1]",
            "LOCALHOST",
            "workshop:1",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:3000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
        assert!(Hosts::All.allow("anything"));
    }
}
