//! Settings: from options and environment to checked values. Owns every setting's name, default and bounds: a new
//! one is a field with its default and parser, read by whoever needs it.
//!
//! An invalid setting stops startup with one line: the variable, what is wrong, how to fix it. Values of secrets
//! are never in that line, in `--help`, or in a log.

mod auth;
mod database;
mod limits;
mod otel;
mod parse;
mod read;
mod telemetry;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Args, Command};

use crate::auth::Auth;
use crate::telemetry::Traces;
use parse::{address, duration, switch};

pub use crate::secret::Secret;
pub use auth::{AuthArgs, AuthMode};
pub use database::{Database, DatabaseArgs, LogArgs, MigrateArgs, Pooler};
pub use limits::LimitArgs;
pub use parse::BadSetting;
pub use read::{Unreadable, read};
pub use telemetry::TelemetryArgs;

/// Settings of `serve`. Each option is an environment variable too; an empty value counts as not set.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,

    /// Addresses, times and pages.
    #[command(flatten)]
    pub settings: ReplicaArgs,

    /// Redis, which carries events between replicas: redis://, rediss:// (TLS), redis-sentinel:// or
    /// redis-cluster:// [default: none: a single replica works without it, with a warning].
    #[arg(long, env, value_name = "URL")]
    pub redis_url: Option<Secret>,

    /// PEM file of the certificate authorities for a REDIS_URL with TLS [default: the system's authorities].
    #[arg(long, env, value_name = "FILE")]
    pub redis_ca_file: Option<String>,

    /// Identities.
    #[command(flatten)]
    pub auth: AuthArgs,

    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// The log.
    #[command(flatten)]
    pub logs: LogArgs,

    /// Metrics and traces.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Settings that need no check beyond their own.
#[derive(Debug, Clone, Args)]
pub struct ReplicaArgs {
    /// Address of REST, Socket.IO and the pages.
    #[arg(long, env, value_name = "ADDR:PORT", default_value = "0.0.0.0:3000", value_parser = address)]
    pub listen_addr: SocketAddr,

    /// Address of metrics and probes; must not be behind the public load balancer.
    #[arg(long, env, value_name = "ADDR:PORT", default_value = "0.0.0.0:9090", value_parser = address)]
    pub management_addr: SocketAddr,

    /// Lifetime of a lease after its holder's last activity, 1s to 24h.
    #[arg(long, env, value_name = "DURATION", default_value = "5m", value_parser = duration("1s", "24h"))]
    pub lock_ttl: Duration,

    /// Interval of cursor updates in a room, 10ms to 5s.
    #[arg(long, env, value_name = "DURATION", default_value = "50ms", value_parser = duration("10ms", "5s"))]
    pub cursor_interval: Duration,

    /// Retention of the history, 1s to 3650d.
    #[arg(long, env, value_name = "DURATION", default_value = "90d", value_parser = duration("1s", "3650d"))]
    pub history_retention: Duration,

    /// Time after SIGTERM for which an unready replica still serves, until load balancers have noticed, 0s to
    /// 60s.
    #[arg(long, env, value_name = "DURATION", default_value = "3s", value_parser = duration("0s", "60s"))]
    pub drain_delay: Duration,

    /// Maximum time after DRAIN_DELAY over which sockets are closed, so that clients do not all reconnect at
    /// once, 0s to 120s.
    #[arg(long, env, value_name = "DURATION", default_value = "7s", value_parser = duration("0s", "120s"))]
    pub drain_time: Duration,

    /// API documentation at /api/docs, and the demo in dev: on or off.
    #[arg(long, env, value_name = "ON_OR_OFF", default_value = "on", action = ArgAction::Set, value_parser = switch(["on", "off"]))]
    pub pages: bool,
}

/// Redis, and the authorities trusted there.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Its URL.
    pub url: Secret,
    /// The authorities, in PEM; `None`: the system's.
    pub ca: Option<Vec<u8>>,
}

impl Redis {
    /// Redis at that URL, with the system's authorities.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            ca: None,
        }
    }
}

/// A replica's settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, unique among replicas and starts.
    pub replica: String,
    /// Addresses, times and pages.
    pub settings: ReplicaArgs,
    /// PostgreSQL.
    pub database: Database,
    /// Redis, if there is one.
    pub redis: Option<Redis>,
    /// The source of identities.
    pub auth: Auth,
    /// Limits, and allowed origins and hosts.
    pub limits: LimitArgs,
    /// Metrics.
    pub telemetry: TelemetryArgs,
    /// The collector of traces, if there is one.
    pub traces: Option<Traces>,
    /// True if the demo page is served at `/`.
    pub demo: bool,
}

/// A new name for a replica: the machine's, and a part that no other start has.
#[must_use]
pub fn new_name() -> String {
    let host = std::env::var("HOSTNAME").ok();
    let host = host.filter(|name| !name.is_empty());
    let host = host.unwrap_or_else(|| "replica".into());
    format!("{host}-{}", uuid::Uuid::new_v4().simple())
}

impl ServeArgs {
    /// Checks the settings that depend on each other, or on a file.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self) -> Result<Config, BadSetting> {
        let replica = new_name();
        Ok(Config {
            traces: self.telemetry.traces(&replica)?,
            replica,
            settings: self.settings.clone(),
            database: self.database.check()?,
            redis: self.redis()?,
            auth: self.auth.check()?,
            limits: self.limits.clone(),
            telemetry: self.telemetry.clone(),
            demo: false,
        })
    }

    fn redis(&self) -> Result<Option<Redis>, BadSetting> {
        let Some(url) = self.redis_url.clone() else {
            return Ok(None);
        };
        let Some(file) = &self.redis_ca_file else {
            return Ok(Some(Redis { url, ca: None }));
        };
        let bad = |fault: String, fix| BadSetting::new("REDIS_CA_FILE", fault, fix);
        if !url.expose().starts_with("rediss") {
            let fault = "is set, and REDIS_URL is not one with TLS".into();
            return Err(bad(fault, "write rediss:// there, or leave this out"));
        }
        let ca = std::fs::read(file).map_err(|error| {
            let fault = format!("{file} cannot be read: {error}");
            bad(fault, "name a file with a certificate in PEM")
        })?;
        Ok(Some(Redis { url, ca: Some(ca) }))
    }
}

/// Every setting of `serve`: variable, default, help. For `--help`, and for tests that hold the docs to it.
#[must_use]
pub fn settings() -> Vec<(String, Option<String>, String)> {
    let command = ServeArgs::augment_args(Command::new("serve"));
    let text = |value: &std::ffi::OsStr| value.to_str().map(str::to_owned);
    let described = command.get_arguments().filter_map(|arg| {
        let default = arg
            .get_default_values()
            .first()
            .and_then(|value| text(value));
        let help = arg.get_help().map(ToString::to_string);
        Some((text(arg.get_env()?)?, default, help.unwrap_or_default()))
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn parse(args: &[&str]) -> Result<ServeArgs, String> {
        let trusted = ["", "--database-url=postgres://x", "--auth-mode=trusted"];
        let args = trusted.iter().chain(args).map(Into::into);
        let command = ServeArgs::augment_args(Command::new("apptlock"));
        let matches = read(command, args).map_err(|error| error.to_string())?;
        ServeArgs::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bad_setting_is_one_line_with_variable_fault_and_fix() {
        for case in [
            r#"--lock-ttl=5x => LOCK_TTL: "5x" is not a duration; write a number with its unit"#,
            r#"--lock-ttl=300 => LOCK_TTL: "300" is not a duration; write a number with its unit"#,
            "--lock-ttl=10ms => LOCK_TTL: 10ms is out of bounds; write a duration from 1s to 24h",
            r#"--listen-addr=h => LISTEN_ADDR: "h" is not an address with a port; write one such as"#,
            r#"--max-sockets=0 => MAX_SOCKETS: "0" is not valid; write a number from 1 to 1000000"#,
            r#"--pages=yes => PAGES: "yes" is not valid; write on or off"#,
            r#"--log-format=xml => LOG_FORMAT: "xml" is not a format; write json or pretty"#,
            r#"--trusted-proxies=::1,x => TRUSTED_PROXIES: "x" is not a network; write networks"#,
            r#"--allowed-hosts=h:1 => ALLOWED_HOSTS: "h:1" is not a host name; write names such as"#,
            r#"--cors-allowed-origins=h => CORS_ALLOWED_ORIGINS: "h" is not an origin; write such as"#,
        ] {
            let (arg, line) = case.split_once(" => ").unwrap();
            let said = parse(&[arg]).unwrap_err();
            assert!(said.starts_with(line) && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn every_default_is_valid_and_every_variable_is_its_options_name() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.settings.lock_ttl, Duration::from_secs(300));
        assert!(args.settings.pages && args.telemetry.metrics);
        let command = ServeArgs::augment_args(Command::new("apptlock"));
        for arg in command.get_arguments() {
            let option = arg.get_long().unwrap().replace('-', "_").to_uppercase();
            assert_eq!(arg.get_env().unwrap(), option.as_str());
        }
    }

    #[test]
    fn arguments_that_are_printed_show_no_secret() {
        let args = parse(&["--redis-url=redis://:geheim@h", "--jwt-secret=geheim"]).unwrap();
        assert!(!format!("{args:?}").contains("geheim"));
    }

    #[test]
    fn an_empty_value_is_the_default() {
        for empty in [
            &["--lock-ttl", "", "--redis-url", ""][..],
            &["--lock-ttl=", "--redis-url="],
            &["--pages=on", "--lock-ttl", ""],
        ] {
            let config = parse(empty).unwrap().check().unwrap();
            assert_eq!(config.settings.lock_ttl, Duration::from_secs(300));
            assert!(config.redis.is_none());
        }
        let args = parse(&["--jwt-secret=c2VjcmV0IQ=="]).unwrap();
        assert_eq!(args.auth.jwt_secret.unwrap().expose(), "c2VjcmV0IQ==");
    }
}
