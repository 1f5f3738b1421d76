//! `DATABASE_URL`. Owns that everything in it takes effect: an unknown parameter, such as a mistyped `sslmode`, or a
//! missing certificate stops startup instead of being ignored.

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::config::BadSetting;
use crate::secret::Secret;

const VARIABLE: &str = "DATABASE_URL";
/// Parameters that sqlx reads; it logs any other one, with its value, and goes on.
const READ: &str = "sslmode ssl-mode statement-cache-capacity host hostaddr port dbname user password \
    application_name options";
/// Parameters that sqlx reads, too: paths of files, or their contents.
const FILES: &str = "sslrootcert ssl-root-cert ssl-ca sslcert ssl-cert sslkey ssl-key";
/// Parameters of other clients that are not missed: this service has its own deadlines, and checks for itself that it
/// can write.
const IGNORED: &str = "connect_timeout keepalives keepalives_idle keepalives_interval keepalives_count \
    tcp_user_timeout target_session_attrs gssencmode client_encoding fallback_application_name";

/// Connection options.
///
/// # Errors
/// [`BadSetting`]. The URL, which may hold a password, is not in it.
pub(super) fn options(url: &Secret) -> Result<PgConnectOptions, BadSetting> {
    let parsed = Url::parse(url.expose()).ok();
    let url = parsed
        .filter(|url| matches!(url.scheme(), "postgres" | "postgresql") && url.has_authority());
    // Statements are timed by a metric; a line with the whole text of each slow one would flood the log.
    let options = url.as_ref().and_then(|url| {
        let options = PgConnectOptions::from_url(url).ok()?;
        Some(options.disable_statement_logging())
    });
    let (Some(url), Some(options)) = (url, options) else {
        return Err(BadSetting::new(
            VARIABLE,
            "is not the URL of a PostgreSQL database",
            "write postgres://user:password@host:5432/database",
        ));
    };
    for (name, value) in url.query_pairs() {
        check(&name, &value)?;
    }
    Ok(options)
}

fn check(name: &str, value: &str) -> Result<(), BadSetting> {
    let is_in = |names: &str| names.split(' ').any(|known| known == name);
    if is_in(FILES) {
        if value.starts_with("-----BEGIN") {
            return Ok(());
        }
        return std::fs::read(value).map(drop).map_err(|error| {
            let fault = format!("the file of {name} cannot be read: {error}");
            BadSetting::new(VARIABLE, fault, "write the path of a PEM file")
        });
    }
    if is_in(READ) || is_in(IGNORED) || name.starts_with("options[") {
        return Ok(());
    }
    let fault = format!("has the parameter \"{name}\", which is not known");
    let fix = "leave it out, or look for a typo: sslmode, sslrootcert, sslcert, sslkey, application_name, options";
    Err(BadSetting::new(VARIABLE, fault, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(query: &str) -> Result<(), String> {
        let url = Secret::new(format!("postgres://u:geheim@h/d{query}"));
        options(&url).map(drop).map_err(|bad| bad.to_string())
    }

    #[test]
    fn known_parameters_pass() {
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
    fn what_would_be_ignored_is_refused_without_its_value() {
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
