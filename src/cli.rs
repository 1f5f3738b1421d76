//! The command line: commands, `dev`'s own defaults, help with every setting, and errors for a terminal.

pub mod develop;
pub mod process;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use apptlock::app::StartError;
use apptlock::config::{BadSetting, MigrateArgs, ServeArgs, Unreadable, settings};
use apptlock::dev::DevError;
use apptlock::store::StoreError;

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

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Run a replica.
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date, then exit.
    Migrate(Box<MigrateArgs>),
    /// Run everything on this machine, with nothing to configure: own PostgreSQL, own Redis if one is installed,
    /// schema, trusted identities, demo page.
    Dev(Box<DevArgs>),
    /// Print the OpenAPI document.
    Openapi,
}

/// Defaults of `dev`: it stays on this machine, is read by people, and slows nobody down.
const DEV_DEFAULTS: [(&str, &str); 7] = [
    ("listen_addr", "127.0.0.1:3000"),
    ("management_addr", "127.0.0.1:9090"),
    ("auth_mode", "trusted"),
    ("rate_limit_per_second", "0"),
    ("drain_delay", "0s"),
    ("drain_time", "0s"),
    ("log_format", "pretty"),
];

/// Options of `dev`.
#[derive(clap::Args)]
pub struct DevArgs {
    /// Number of replicas, 1 to 16; each listens one port further than the one before.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub replicas: u16,

    /// Directory of the temporary data while it runs.
    #[arg(long, default_value = ".run", value_name = "DIR")]
    pub data: PathBuf,

    /// The settings of serve; the addresses are those of the first replica.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Reasons for a command to end early.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// An invalid setting.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// PostgreSQL.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A server of `dev`.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// The operating system.
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

/// Reads the command line. An error is printed, and its exit code returned.
pub fn read() -> Result<Command, ExitCode> {
    let mut command = Cli::command().after_help(help());
    command = command.mut_subcommand("dev", |dev| {
        DEV_DEFAULTS
            .into_iter()
            .fold(dev, |dev, (option, default)| {
                dev.mut_arg(option, |arg| arg.default_value(default))
            })
    });
    let matches = apptlock::config::read(command, std::env::args_os());
    let cli = matches.and_then(|matches| Ok(Cli::from_arg_matches(&matches)?));
    cli.map(|cli| cli.command).map_err(|error| match error {
        Unreadable::Setting(bad) => {
            complain(&bad.to_string());
            ExitCode::from(2)
        }
        Unreadable::Usage(error) => {
            let _ = error.print();
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    })
}

/// Every setting in one line: its variable, the first sentence of its help, and its default.
fn help() -> String {
    let mut help =
        String::from("Settings (environment variables; options of serve and dev, too):\n");
    for (variable, default, text) in settings() {
        let text = text.split(" [").next().unwrap_or_default();
        let text = text.split(". ").next().unwrap_or_default();
        let text = text.trim_end_matches('.');
        let default = default.map(|value| format!(" [default: {value}]"));
        let default = default.unwrap_or_default();
        let _ = writeln!(help, "  {variable:<25} {text}{default}");
    }
    help.push_str("\n`apptlock serve --help` explains each of them.");
    help
}

/// Prints an error in one line.
pub fn complain(line: &str) {
    let label = if std::io::stderr().is_terminal() {
        "\x1b[1;31merror:\x1b[0m"
    } else {
        "error:"
    };
    eprintln!("{label} {}", line.replace('\n', " "));
}
