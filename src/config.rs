//! Settings: from options and environment to checked values. Owns every variable's name, default and bounds.
//!
//! A bad setting ends the start with one line: the variable, the fault, the mend. Values of secrets are never
//! in that line, in `--help`, or in a log.

mod auth;
mod database;
mod limits;
mod otel;
mod parse;
mod telemetry;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, CommandFactory};

use crate::auth::Auth;
use crate::limits::{Hosts, LimitConfig};
use crate::telemetry::Traces;
use parse::{address, duration, either, or_default};

pub use crate::secret::Secret;
pub use auth::AuthArgs;
pub use database::{Database, DatabaseArgs, LogArgs, Pooler};
pub use limits::{LimitArgs, Origins};
pub use parse::BadSetting;
pub use telemetry::TelemetryArgs;

/// What `serve` can be told. Each option is an environment variable too; an empty value is the default.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where PostgreSQL 13 or newer is [required].
    #[command(flatten)]
    pub database: DatabaseArgs,

    /// REST, Socket.IO and the pages.
    #[arg(
        long,
        env = "LISTEN_ADDR",
        default_value = "0.0.0.0:3000",
        hide_env_values = true,
        value_name = "ADDR:PORT"
    )]
    pub listen_addr: String,

    /// Metrics and probes; never behind the public load balancer.
    #[arg(
        long,
        env = "MANAGEMENT_ADDR",
        default_value = "0.0.0.0:9090",
        hide_env_values = true,
        value_name = "ADDR:PORT"
    )]
    pub management_addr: String,

    /// Redis, which carries events between replicas: redis://, rediss:// (TLS), redis-sentinel:// or
    /// redis-cluster:// [default: none: one replica works alone, and warns about it].
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<Secret>,

    /// A file with the certificate, in PEM, of the authority that signed Redis's [default: the system's
    /// authorities].
    #[arg(
        long,
        env = "REDIS_CA_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub redis_ca_file: Option<String>,

    /// A lease ends this long after its holder's last activity.
    #[arg(
        long,
        env = "LOCK_TTL",
        default_value = "5m",
        hide_env_values = true,
        value_name = "DURATION"
    )]
    pub lock_ttl: String,

    /// The tick in which a room's cursors are gathered.
    #[arg(
        long,
        env = "CURSOR_INTERVAL",
        default_value = "50ms",
        hide_env_values = true,
        value_name = "DURATION"
    )]
    pub cursor_interval: String,

    /// How long the history is kept.
    #[arg(
        long,
        env = "HISTORY_RETENTION",
        default_value = "90d",
        hide_env_values = true,
        value_name = "DURATION"
    )]
    pub history_retention: String,

    /// After SIGTERM, how long a replica that is no longer ready still takes requests, until balancers have
    /// noticed.
    #[arg(
        long,
        env = "DRAIN_DELAY",
        default_value = "3s",
        hide_env_values = true,
        value_name = "DURATION"
    )]
    pub drain_delay: String,

    /// After that, over how long the closing of sockets is spread, so that they do not all come back at once.
    #[arg(
        long,
        env = "DRAIN_TIME",
        default_value = "7s",
        hide_env_values = true,
        value_name = "DURATION"
    )]
    pub drain_time: String,

    /// Pages: the API's documentation at /api/docs, and in dev the demo: on or off.
    #[arg(
        long,
        env = "PAGES",
        default_value = "on",
        hide_env_values = true,
        value_name = "ON_OR_OFF"
    )]
    pub pages: String,

    /// Where identities come from.
    #[command(flatten)]
    pub auth: AuthArgs,

    /// Who may ask how often.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// How log lines look: json or pretty.
    #[command(flatten)]
    pub logs: LogArgs,

    /// Metrics and traces.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Redis, and whom to trust there.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Where it is.
    pub url: Secret,
    /// The authorities, in PEM; `None`: the system's.
    pub ca: Option<Vec<u8>>,
}

impl Redis {
    /// At that URL, trusting whom the system trusts.
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
    /// REST, Socket.IO and the pages.
    pub listen: SocketAddr,
    /// Metrics and probes.
    pub management: SocketAddr,
    /// PostgreSQL.
    pub database: Database,
    /// Redis, where there is one.
    pub redis: Option<Redis>,
    /// How long a lease lasts without activity.
    pub lock_ttl: Duration,
    /// The cursor tick.
    pub cursor_interval: Duration,
    /// How long the history is kept.
    pub history_retention: Duration,
    /// How long requests are still taken at a stop.
    pub drain_delay: Duration,
    /// Over how long the closing of sockets is spread.
    pub drain_time: Duration,
    /// Where identities come from.
    pub auth: Auth,
    /// Who may ask how often.
    pub limits: LimitConfig,
    /// Which origins' pages may use this.
    pub origins: Origins,
    /// How many leases one identity may have at a time; 0: as many as it likes.
    pub max_leases: usize,
    /// By which names this may be called; `None`: nobody said.
    pub hosts: Option<Hosts>,
    /// Whether pages are served at all.
    pub pages: bool,
    /// Whether the demo page is served at `/`.
    pub demo: bool,
    /// Whether metrics are kept.
    pub metrics: bool,
    /// Where traces go, if they do.
    pub traces: Option<Traces>,
    /// Whether a caller's traceparent decides about sampling.
    pub trust_callers: bool,
}

/// How long `migrate` waits for PostgreSQL, by `MIGRATE_TIMEOUT`.
///
/// # Errors
/// [`BadSetting`].
pub fn wait_limit(text: &str) -> Result<Duration, BadSetting> {
    let text = or_default(text, "5m");
    duration(
        "MIGRATE_TIMEOUT",
        text,
        Duration::ZERO,
        Duration::from_secs(24 * 3600),
    )
}

/// A new name for a replica: the machine's, and what no other start has.
#[must_use]
pub fn new_name() -> String {
    let host = std::env::var("HOSTNAME").ok();
    let host = host.filter(|name| !name.is_empty());
    let host = host.unwrap_or_else(|| "replica".into());
    format!("{host}-{}", uuid::Uuid::new_v4().simple())
}

impl ServeArgs {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self) -> Result<Config, BadSetting> {
        let replica = new_name();
        Ok(Config {
            metrics: self.telemetry.metrics()?,
            traces: self.telemetry.traces(&replica)?,
            trust_callers: self.telemetry.trust_callers()?,
            replica,
            listen: address("LISTEN_ADDR", or_default(&self.listen_addr, "0.0.0.0:3000"))?,
            management: address(
                "MANAGEMENT_ADDR",
                or_default(&self.management_addr, "0.0.0.0:9090"),
            )?,
            database: self.database.check()?,
            redis: self.redis()?,
            lock_ttl: duration(
                "LOCK_TTL",
                or_default(&self.lock_ttl, "5m"),
                Duration::from_secs(1),
                Duration::from_secs(24 * 3600),
            )?,
            cursor_interval: duration(
                "CURSOR_INTERVAL",
                or_default(&self.cursor_interval, "50ms"),
                Duration::from_millis(10),
                Duration::from_secs(5),
            )?,
            history_retention: duration(
                "HISTORY_RETENTION",
                or_default(&self.history_retention, "90d"),
                Duration::from_secs(1),
                Duration::from_secs(3650 * 24 * 3600),
            )?,
            drain_delay: duration(
                "DRAIN_DELAY",
                or_default(&self.drain_delay, "3s"),
                Duration::ZERO,
                Duration::from_secs(60),
            )?,
            drain_time: duration(
                "DRAIN_TIME",
                or_default(&self.drain_time, "7s"),
                Duration::ZERO,
                Duration::from_secs(120),
            )?,
            auth: self.auth.check()?,
            limits: self.limits.check()?,
            origins: self.limits.origins()?,
            max_leases: self.limits.leases()?,
            hosts: self.limits.hosts()?,
            pages: either("PAGES", or_default(&self.pages, "on"), ["on", "off"])?,
            demo: false,
        })
    }
}

impl ServeArgs {
    fn redis(&self) -> Result<Option<Redis>, BadSetting> {
        let url = self.redis_url.clone();
        let Some(url) = url.filter(|url| !url.expose().is_empty()) else {
            return Ok(None);
        };
        let file = self.redis_ca_file.as_ref();
        let Some(file) = file.filter(|file| !file.is_empty()) else {
            return Ok(Some(Redis { url, ca: None }));
        };
        let bad = |fault: String, mend: &str| BadSetting::new("REDIS_CA_FILE", fault, mend);
        if !url.expose().starts_with("rediss") {
            return Err(bad(
                "is set, and REDIS_URL is not one with TLS".into(),
                "write rediss:// there, or leave this out",
            ));
        }
        let ca = std::fs::read(file).map_err(|error| {
            bad(
                format!("{file} cannot be read: {error}"),
                "name a file with a certificate in PEM",
            )
        })?;
        Ok(Some(Redis { url, ca: Some(ca) }))
    }
}

#[derive(clap::Parser)]
struct Probe {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Every setting of `serve`: variable, default, help. For `--help`, and for tests that hold the docs to it.
#[must_use]
pub fn settings() -> Vec<(String, Option<String>, String)> {
    Probe::command()
        .get_arguments()
        .filter_map(|arg| {
            let variable = arg.get_env()?.to_str()?.to_owned();
            let default = arg
                .get_default_values()
                .first()
                .and_then(|value| value.to_str())
                .map(str::to_owned);
            Some((
                variable,
                default,
                arg.get_help().map(ToString::to_string).unwrap_or_default(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn check(args: &[&str]) -> Result<Config, String> {
        let args = [
            "apptlock",
            "--database-url",
            "postgres://x",
            "--auth-mode",
            "trusted",
        ]
        .iter()
        .chain(args);
        Probe::try_parse_from(args)
            .map_err(|e| e.to_string())?
            .serve
            .check()
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_bad_setting_is_one_line_with_variable_fault_and_mend() {
        for (args, line) in [
            (
                ["--lock-ttl", "5x"],
                "LOCK_TTL: \"5x\" is not a duration; write a number with its unit, such as 5m, 45s or 50ms",
            ),
            (
                ["--lock-ttl", "300"],
                "LOCK_TTL: \"300\" is not a duration; write a number with its unit, such as 5m, 45s or 50ms",
            ),
            (
                ["--lock-ttl", "10ms"],
                "LOCK_TTL: 10ms is out of bounds; write a duration from 1s to 1d",
            ),
            (
                ["--listen-addr", "localhost"],
                "LISTEN_ADDR: \"localhost\" is not an address with a port; write one such as 127.0.0.1:3000, 0.0.0.0:3000 or [::]:3000",
            ),
            (
                ["--database-max-connections", "0"],
                "DATABASE_MAX_CONNECTIONS: \"0\" will not do; write a number from 2 to 1000",
            ),
        ] {
            assert_eq!(check(&args).unwrap_err(), line);
        }
    }

    #[test]
    fn arguments_that_are_printed_show_no_secret() {
        let args = Probe::try_parse_from([
            "apptlock",
            "--database-url=postgres://u:geheim@h/d",
            "--redis-url=redis://:geheim@h",
            "--jwt-secret=geheim",
        ])
        .unwrap();
        assert!(!format!("{:?}", args.serve).contains("geheim"));
    }

    #[test]
    fn an_empty_value_is_the_default() {
        let config = check(&["--lock-ttl", "", "--redis-url", ""]).unwrap();
        assert_eq!(config.lock_ttl, Duration::from_secs(300));
        assert!(config.redis.is_none());
    }
}
