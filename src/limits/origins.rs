//! Origins of pages that may call this service from a browser.

/// Allowed origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// These, besides this service's own.
    These(Vec<String>),
    /// Those of this machine, on whatever port: for development.
    ThisMachine,
    /// All.
    All,
}

impl Default for Origins {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Origins {
    /// True if pages of that origin are served by this machine.
    #[must_use]
    pub fn is_this_machine(origin: &str) -> bool {
        let name = after_scheme(origin).map(|host| match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        });
        matches!(name, Some("localhost" | "127.0.0.1" | "[::1]"))
    }

    /// True if pages of that origin, as a browser names it, may call. `host` is the request's own `Host`.
    #[must_use]
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let own = || {
            let named = after_scheme(origin);
            named.is_some() && named == host
        };
        match self {
            Self::All => true,
            Self::ThisMachine => Self::is_this_machine(origin) || own(),
            Self::These(origins) => origins.iter().any(|allowed| allowed == origin) || own(),
        }
    }

    /// Reads a comma-separated list, or `*` for all.
    ///
    /// # Errors
    /// The part that is not an origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        text.split(',')
            .map(|part| part.trim().trim_end_matches('/').to_owned())
            .filter(|part| !part.is_empty())
            .map(|part| {
                if is_origin(&part) {
                    Ok(part)
                } else {
                    Err(part)
                }
            })
            .collect::<Result<_, _>>()
            .map(Self::These)
    }
}

/// Part of a web origin after its scheme.
fn after_scheme(origin: &str) -> Option<&str> {
    let secure = origin.strip_prefix("https://");
    secure.or_else(|| origin.strip_prefix("http://"))
}

fn is_origin(text: &str) -> bool {
    after_scheme(text)
        .is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', '?', '#', '@', ' ']))
        && text == text.to_lowercase()
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
