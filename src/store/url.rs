//! `DATABASE_URL`, read. Owns that what it says is taken: a parameter that nobody knows, such as a mistyped
//! `sslmode`, or a certificate that is not there, ends the start, and is not passed over.

use std::str::FromStr;

use percent_encoding::percent_decode_str;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::config::BadSetting;
use crate::secret::Secret;

const VARIABLE: &str = "DATABASE_URL";
/// What sqlx reads, but for files; it logs any other one, with its value, and goes on. `options[…]` besides.
const READ: [&str; 11] = [
    "sslmode",
    "ssl-mode",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// What other clients read and nobody misses here: this service has its own deadlines, and asks whether it can write.
const SPARED: [&str; 10] = [
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "target_session_attrs",
    "gssencmode",
    "client_encoding",
    "fallback_application_name",
];
/// What names a file, or holds what would be in it.
const FILES: [&str; 7] = [
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
];

/// How to connect.
///
/// # Errors
/// [`BadSetting`]. The URL, which may hold a password, is not in it.
pub(super) fn options(url: &Secret) -> Result<PgConnectOptions, BadSetting> {
    let url = url.expose();
    let not_a_url = || {
        BadSetting::new(
            VARIABLE,
            "is not the URL of a PostgreSQL database",
            "write postgres://user:password@host:5432/database",
        )
    };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(not_a_url());
    }
    // How long statements take is in a metric; a line with the whole text for each slow one is a flood.
    let options = PgConnectOptions::from_str(url)
        .map(PgConnectOptions::disable_statement_logging)
        .map_err(|_| not_a_url())?;
    let url = url.split('#').next().unwrap_or_default();
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        check(name, value)?;
    }
    Ok(options)
}

fn check(name: &str, value: &str) -> Result<(), BadSetting> {
    let name = percent_decode_str(name).decode_utf8_lossy();
    if FILES.contains(&name.as_ref()) {
        let path = percent_decode_str(&value.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned();
        if path.starts_with("-----BEGIN") {
            return Ok(());
        }
        return std::fs::read(&path).map(drop).map_err(|error| {
            let fault = format!("the file of {name} cannot be read: {error}");
            BadSetting::new(VARIABLE, fault, "write the path of a PEM file")
        });
    }
    let known = READ.contains(&name.as_ref()) || SPARED.contains(&name.as_ref());
    if known || name.starts_with("options[") {
        return Ok(());
    }
    let fault = format!("has the parameter \"{name}\", which is not known");
    let mend = "leave it out, or look for a slip: sslmode, sslrootcert, sslcert, sslkey, application_name, options";
    Err(BadSetting::new(VARIABLE, fault, mend))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(query: &str) -> Result<(), String> {
        let url = Secret::new(format!("postgres://u:geheim@h/d{query}"));
        options(&url).map(drop).map_err(|bad| bad.to_string())
    }

    #[test]
    fn what_is_read_passes_and_what_nobody_misses() {
        for query in [
            "",
            "?",
            "?sslmode=require&application_name=a%20b",
            "?options[statement_timeout]=5s&options=-c%20x%3D1",
            "?connect_timeout=10&target_session_attrs=read-write#x?y",
            "?sslrootcert=Cargo.toml",
            "?sslrootcert=-----BEGIN%20CERTIFICATE-----",
        ] {
            assert_eq!(said(query), Ok(()), "{query}");
        }
    }

    #[test]
    fn what_would_be_passed_over_ends_the_start_and_shows_no_value() {
        for (query, fault) in [
            (
                "?sslmod=geheim",
                "has the parameter \"sslmod\", which is not known; leave it out",
            ),
            (
                "?sslmode=require&passwrd=geheim",
                "has the parameter \"passwrd\"",
            ),
            (
                "?channel%5Fbinding=require",
                "has the parameter \"channel_binding\"",
            ),
            ("?sslmode=geheim", "is not the URL of a PostgreSQL database"),
            (
                "?sslrootcert=/nowhere/ca.pem",
                "the file of sslrootcert cannot be read: No such file",
            ),
            ("?sslkey=/", "the file of sslkey cannot be read: "),
        ] {
            let said = said(query).unwrap_err();
            assert!(
                said.starts_with(&format!("DATABASE_URL: {fault}")),
                "{said}"
            );
            assert!(!said.contains("geheim"), "{said}");
        }
    }
}
