//! `apptlock dev`: servers of its own, replicas in one process, and the lines that tell what runs where.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use apptlock::app::App;
use apptlock::bus::memory::Hub as MemoryHub;
use apptlock::config::{AuthMode, BadSetting, Config, ReplicaArgs, ServeArgs, new_name};
use apptlock::dev::{self, DevError, Server};
use apptlock::limits::{Hosts, Origins};
use apptlock::secret::Secret;
use apptlock::store::Store;

use super::process::{start_log, stopped};
use super::{CliError, DevArgs};

/// Servers that were started here; `None`: the user's own, or not installed.
struct Servers {
    postgres: Option<Server>,
    redis: Option<Server>,
}

impl Servers {
    /// Starts the servers whose URL is not set, and sets it.
    fn start(data: &Path, args: &mut ServeArgs) -> Result<Self, DevError> {
        let url = |server: &Server| Secret::new(server.url.as_str());
        let mut servers = Self {
            postgres: None,
            redis: None,
        };
        if args.database.database_url.is_none() {
            let server = dev::postgres(data)?;
            args.database.database_url = Some(url(&server));
            servers.postgres = Some(server);
        }
        if args.redis_url.is_none() {
            servers.redis = dev::redis(data)?;
            args.redis_url = servers.redis.as_ref().map(url);
        }
        Ok(servers)
    }
}

/// Runs replicas, and the servers that they need, until a signal.
pub async fn run(mut args: DevArgs) -> Result<(), CliError> {
    let traces = args.serve.telemetry.traces(&new_name())?;
    let telemetry = start_log(&args.serve.logs, traces.as_ref())?;
    // Servers are started before the first replica and dropped after the last.
    let servers = Servers::start(&args.data, &mut args.serve)?;
    let config = config(args.serve)?;
    let store = Store::new(&config.database)?;
    store.migrate().await?;
    store.create_demo().await?;
    let stop = stopped()?;

    let neighbours = MemoryHub::default();
    let mut apps = Vec::new();
    for n in 0..args.replicas {
        let settings = &config.settings;
        let replica = Config {
            replica: new_name(),
            settings: ReplicaArgs {
                listen_addr: further(settings.listen_addr, n, "LISTEN_ADDR")?,
                management_addr: further(settings.management_addr, n, "MANAGEMENT_ADDR")?,
                ..settings.clone()
            },
            ..config.clone()
        };
        apps.push(App::start(replica, Some(&neighbours)).await?);
    }
    welcome(&apps, &servers, config.redis.is_some());
    stop.await;
    for app in apps {
        app.stop().await;
    }
    telemetry.stop().await;
    Ok(())
}

/// The settings that all replicas share.
fn config(mut args: ServeArgs) -> Result<Config, BadSetting> {
    args.auth.auth_mode = AuthMode::Trusted;
    // No balancer has to notice a stop, and nobody waits for one after Ctrl-C.
    args.settings.drain_delay = Duration::ZERO;
    args.settings.drain_time = Duration::ZERO;
    let limits = &mut args.limits;
    // An app under development runs on another port of this machine.
    let origins = limits.cors_allowed_origins.take();
    limits.cors_allowed_origins = origins.or(Some(Origins::ThisMachine));
    limits.allowed_hosts = limits.allowed_hosts.take().or_else(|| Some(this_machine()));
    Ok(Config {
        demo: true,
        ..args.check()?
    })
}

fn this_machine() -> Hosts {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.ok().or_else(|| std::env::var("HOSTNAME").ok());
    Hosts::of_this_machine(name.as_deref().map(str::trim))
}

/// The address of replica `n`, counted from 0: as many ports further.
fn further(address: SocketAddr, n: u16, variable: &'static str) -> Result<SocketAddr, BadSetting> {
    let port = if address.port() == 0 {
        Some(0)
    } else {
        address.port().checked_add(n)
    };
    let port = port.ok_or_else(|| {
        BadSetting::new(
            variable,
            "there are too few ports after this one",
            "write a lower port",
        )
    })?;
    Ok(SocketAddr::new(address.ip(), port))
}

/// Prints the addresses, and what to try first.
fn welcome(apps: &[App], servers: &Servers, own_redis: bool) {
    let colour = std::io::stdout().is_terminal();
    let bold = |text: &str| {
        if colour {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let kept = match servers.postgres {
        Some(_) => "apptlock is up. Everything here is thrown away when it stops (Ctrl-C).",
        None => "apptlock is up, on your own database, which keeps its data. Ctrl-C stops it.",
    };
    println!("\n{}", bold(kept));
    for (n, app) in apps.iter().enumerate() {
        println!(
            "  replica {}   http://{}   metrics and probes http://{}",
            n + 1,
            app.address,
            app.management
        );
    }
    if let Some(server) = &servers.postgres {
        println!("  PostgreSQL  {}", server.url);
    }
    match &servers.redis {
        Some(server) => println!("  Redis       {}", server.url),
        None if own_redis => println!("  Redis       your own (REDIS_URL)"),
        None => println!("  Redis       not installed; events stay within this process"),
    }
    let Some(first) = apps.first() else { return };
    let last = apps.last().unwrap_or(first);
    println!(
        "\n  demo page   http://{}/        API  http://{}/api/docs",
        first.address, first.address
    );
    println!("\n{}", bold("Try it:"));
    println!(
        "  curl -X POST http://{}/api/appointments/42/acquire-lock -H 'content-type: application/json' \\\n    -d '{{\"userId\":\"ann\",\"userInfo\":{{\"name\":\"Ann\",\"email\":\"ann@example.com\"}}}}'",
        first.address
    );
    println!(
        "  curl http://{}/api/appointments/42/lock-status\n",
        last.address
    );
}
