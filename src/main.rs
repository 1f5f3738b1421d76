//! The commands: `serve`, `migrate`, `dev`, `openapi`. Owns what a person at a terminal sees, and exit codes:
//! 0 done or stopped in order, 1 failed, 2 a bad setting or option.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use apptlock::app::{App, StartError};
use apptlock::auth::Auth;
use apptlock::bus::memory::Hub as MemoryHub;
use apptlock::config::{
    BadSetting, Config, DatabaseArgs, LogArgs, Origins, ServeArgs, new_name, settings, wait_limit,
};
use apptlock::limits::Hosts;
use apptlock::secret::Secret;
use apptlock::store::Store;
use apptlock::telemetry::{self, BadTelemetry, Telemetry, Traces};
use apptlock::{dev, http};

/// Edit locks on records, with live cursors.
#[derive(Parser)]
#[command(
    version,
    about,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What is different in `dev`: it stays on this machine, and whoever tries things out is not slowed down.
const DEV_DEFAULTS: [(&str, &str); 6] = [
    ("listen_addr", "127.0.0.1:3000"),
    ("management_addr", "127.0.0.1:9090"),
    ("auth_mode", "trusted"),
    ("rate_limit_per_second", "0"),
    ("drain_delay", "0s"),
    ("drain_time", "0s"),
];

/// How long `migrate` waits for PostgreSQL: as an init container it is often there first.
const MIGRATE_TIMEOUT: &str = "5m";

#[derive(Subcommand)]
enum Command {
    /// Run a replica.
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date, then exit.
    Migrate {
        /// Which database.
        #[command(flatten)]
        database: DatabaseArgs,
        /// How long PostgreSQL is waited for where it is not available yet; 0s: not at all.
        #[arg(
            long,
            env = "MIGRATE_TIMEOUT",
            default_value = MIGRATE_TIMEOUT,
            hide_env_values = true,
            value_name = "DURATION"
        )]
        migrate_timeout: String,

        /// What is logged.
        #[command(flatten)]
        logs: LogArgs,
    },
    /// Run everything on this machine, with nothing to configure: own PostgreSQL, own Redis where one is
    /// installed, schema, trusted identities, demo page.
    Dev(Box<DevArgs>),
    /// Print the OpenAPI document.
    Openapi,
}

#[derive(clap::Args)]
struct DevArgs {
    /// How many replicas; the second listens one port further, and so on.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    replicas: u16,

    /// Where the throw-away data lies while it runs.
    #[arg(long, default_value = ".run", value_name = "DIR")]
    data: PathBuf,

    /// Which addresses nobody chose: those stay on this machine.
    #[arg(skip)]
    unchosen: Unchosen,

    /// The settings of serve; the addresses are those of the first replica.
    #[command(flatten)]
    serve: ServeArgs,
}

/// Whether the first replica's addresses are the usual ones because nobody said otherwise.
#[derive(Clone, Copy, Default)]
struct Unchosen {
    listen: bool,
    management: bool,
}

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Setting(#[from] BadSetting),
    #[error(transparent)]
    Store(#[from] apptlock::store::StoreError),
    #[error(transparent)]
    Dev(#[from] dev::DevError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Setting(bad) => bad.into(),
        }
    }
}

fn main() -> ExitCode {
    let cli = match cli() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::from)
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            if matches!(error, CliError::Setting(_)) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Reads the command line, with every setting in the help.
fn cli() -> Result<Cli, ExitCode> {
    for (variable, _, _) in settings() {
        if std::env::var_os(&variable).is_some_and(|value| value.to_str().is_none()) {
            complain(&format!("{variable}: is not UTF-8; write it in plain text"));
            return Err(ExitCode::from(2));
        }
    }
    let mut help =
        String::from("Settings (environment variables; options of serve and dev, too):\n");
    for (variable, default, text) in settings() {
        let text = text
            .split(" [")
            .next()
            .unwrap_or_default()
            .trim_end_matches('.');
        let default = default
            .map(|value| format!(" [default: {value}]"))
            .unwrap_or_default();
        let _ = writeln!(help, "  {variable:<25} {text}{default}");
    }
    help.push_str("\n`apptlock serve --help` explains each of them.");
    let command = Cli::command().after_help(help);
    // dev has defaults of its own, and its help says so.
    let command = command.mut_subcommand("dev", |dev| {
        DEV_DEFAULTS
            .into_iter()
            .fold(dev, |dev, (option, default)| {
                dev.mut_arg(option, |arg| arg.default_value(default))
            })
    });
    let matches = command.get_matches();
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| {
        let _ = error.print();
        ExitCode::from(2)
    })?;
    if let (Command::Dev(dev), Some(("dev", given))) = (&mut cli.command, matches.subcommand()) {
        // A variable that is set and empty counts as not set.
        let unchosen = |id: &str, value: &str| {
            value.is_empty() || given.value_source(id) == Some(ValueSource::DefaultValue)
        };
        dev.unchosen = Unchosen {
            listen: unchosen("listen_addr", &dev.serve.listen_addr),
            management: unchosen("management_addr", &dev.serve.management_addr),
        };
        // Who tries things out is not to be slowed down.
        if unchosen(
            "rate_limit_per_second",
            &dev.serve.limits.rate_limit_per_second,
        ) {
            dev.serve.limits.rate_limit_per_second = "0".into();
        }
    }
    Ok(cli)
}

fn complain(line: &str) {
    let label = if std::io::stderr().is_terminal() {
        "\x1b[1;31merror:\x1b[0m"
    } else {
        "error:"
    };
    eprintln!("{label} {}", line.replace('\n', " "));
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Openapi => print!("{}", http::openapi()),
        Command::Migrate {
            database,
            migrate_timeout,
            logs,
        } => {
            let _ = start_log(&logs, "json", None)?;
            let limit = wait_limit(&migrate_timeout)?;
            let store = Store::new(&database.check()?)?;
            let waiting = |error: &_| {
                let limit = humantime::format_duration(limit);
                eprintln!("{error}; waiting for it, at most {limit} (MIGRATE_TIMEOUT)");
            };
            store.wait(limit, waiting).await?;
            let done = store.migrate().await?;
            match done {
                0 => println!("The schema is up to date."),
                n => println!("The schema is up to date; {n} migration(s) were applied."),
            }
        }
        Command::Serve(args) => {
            let config = args.check()?;
            let telemetry = start_log(&args.logs, "json", config.traces.as_ref())?;
            apptlock::server::raise_file_limit(
                config.limits.sockets,
                config.database.max_connections,
            );
            let stop = stopped()?;
            let app = App::start(config, None).await?;
            stop.await;
            app.stop().await;
            telemetry.stop().await;
        }
        Command::Dev(args) => develop(*args).await?,
    }
    Ok(())
}

fn start_log(
    logs: &LogArgs,
    usual: &str,
    traces: Option<&Traces>,
) -> Result<Telemetry, BadSetting> {
    let (format, filter) = logs.check(usual)?;
    telemetry::start(format, filter, traces).map_err(|bad| match bad {
        BadTelemetry::Filter(fault) => BadSetting::new(
            "RUST_LOG",
            fault,
            "write a level such as info, or a filter such as info,apptlock=debug",
        ),
        BadTelemetry::Traces(fault) => BadSetting::new(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            fault.to_string(),
            "write one such as http://collector:4318",
        ),
    })
}

/// Resolves at the first SIGTERM or Ctrl-C. A second one ends the process at once.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let (first, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            match first.take() {
                // Whoever waited for it is gone only when the process is.
                Some(first) => drop(first.send(())),
                None => std::process::exit(130),
            }
        }
    });
    Ok(async move {
        let _ = stopped.await;
    })
}

async fn develop(mut args: DevArgs) -> Result<(), CliError> {
    let traces = args.serve.telemetry.traces(&new_name())?;
    let telemetry = start_log(&args.serve.logs, "pretty", traces.as_ref())?;
    args.serve.auth.auth_mode = "trusted".into();
    let set = |value: &Option<Secret>| {
        let value = value.as_ref();
        value.is_some_and(|it| !it.expose().is_empty())
    };

    // Servers are started before the first replica and dropped after the last.
    let postgres = if set(&args.serve.database.database_url) {
        None
    } else {
        Some(dev::postgres(&args.data)?)
    };
    if let Some(server) = &postgres {
        args.serve.database.database_url = Some(Secret::new(server.url.as_str()));
    }
    let redis = if set(&args.serve.redis_url) {
        None
    } else {
        dev::redis(&args.data)?
    };
    if let Some(server) = &redis {
        args.serve.redis_url = Some(Secret::new(server.url.as_str()));
    }
    let config = args.serve.check()?;
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let own = own.ok().or_else(|| std::env::var("HOSTNAME").ok());
    let own = own.map(|name| name.trim().to_owned());
    let config = Config {
        demo: true,
        origins: match config.origins {
            // An app that is being written runs on another port of this machine.
            Origins::These(listed) if listed.is_empty() => Origins::ThisMachine,
            chosen => chosen,
        },
        hosts: config
            .hosts
            .or_else(|| Some(Hosts::of_this_machine(own.as_deref()))),
        ..config
    };
    let store = Store::new(&config.database)?;
    store.migrate().await?;
    store.create_demo().await?;
    let stop = stopped()?;

    let neighbours = MemoryHub::default();
    let mut apps = Vec::new();
    for n in 0..args.replicas {
        let here = Config {
            replica: new_name(),
            listen: further(local(config.listen, args.unchosen.listen), n, "LISTEN_ADDR")?,
            management: further(
                local(config.management, args.unchosen.management),
                n,
                "MANAGEMENT_ADDR",
            )?,
            auth: Auth::Trusted,
            // No balancer has to notice, and who pressed Ctrl-C does not want to wait.
            drain_delay: Duration::ZERO,
            drain_time: Duration::ZERO,
            ..config.clone()
        };
        apps.push(App::start(here, Some(&neighbours)).await?);
    }
    welcome(&apps, postgres.as_ref(), redis.as_ref());
    stop.await;
    for app in apps {
        app.stop().await;
    }
    telemetry.stop().await;
    Ok(())
}

/// Development stays on this machine, unless an address was chosen.
fn local(address: SocketAddr, unchosen: bool) -> SocketAddr {
    if unchosen {
        SocketAddr::from(([127, 0, 0, 1], address.port()))
    } else {
        address
    }
}

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

fn welcome(apps: &[App], postgres: Option<&dev::Server>, redis: Option<&dev::Server>) {
    let colour = std::io::stdout().is_terminal();
    let bold = |text: &str| {
        if colour {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let kept = match postgres {
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
    if let Some(server) = postgres {
        println!("  PostgreSQL  {}", server.url);
    }
    match redis {
        Some(server) => println!("  Redis       {}", server.url),
        None if apps.len() > 1 => println!(
            "  Redis       none of its own: REDIS_URL, or within this process where that is not set"
        ),
        None => {}
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
