//! The commands: `serve`, `migrate`, `dev`, `openapi`. Owns exit codes: 0 done or stopped in order, 1 failed, 2 an
//! invalid setting or option. The command line is in `cli`.

mod cli;

use std::process::ExitCode;

use apptlock::app::App;
use apptlock::config::{MigrateArgs, ServeArgs};
use apptlock::http;
use apptlock::store::Store;
use cli::process::{start_log, stopped};
use cli::{CliError, Command, develop};

fn main() -> ExitCode {
    let command = match cli::read() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::from)
        .and_then(|runtime| runtime.block_on(run(command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&error.to_string());
            if matches!(error, CliError::Setting(_)) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Openapi => print!("{}", http::openapi()),
        Command::Migrate(args) => migrate(&args).await?,
        Command::Serve(args) => serve(&args).await?,
        Command::Dev(args) => develop::run(*args).await?,
    }
    Ok(())
}

async fn migrate(args: &MigrateArgs) -> Result<(), CliError> {
    let _ = start_log(&args.logs, None)?;
    let store = Store::new(&args.database.check()?)?;
    let waiting = |error: &_| {
        let limit = humantime::format_duration(args.migrate_timeout);
        eprintln!("{error}; waiting for it, at most {limit} (MIGRATE_TIMEOUT)");
    };
    store.wait(args.migrate_timeout, waiting).await?;
    match store.migrate().await? {
        0 => println!("The schema is up to date."),
        n => println!("The schema is up to date; {n} migration(s) were applied."),
    }
    Ok(())
}

async fn serve(args: &ServeArgs) -> Result<(), CliError> {
    let config = args.check()?;
    let telemetry = start_log(&args.logs, config.traces.as_ref())?;
    apptlock::server::raise_file_limit(config.limits.max_sockets, config.database.max_connections);
    let stop = stopped()?;
    let app = App::start(config, None).await?;
    stop.await;
    app.stop().await;
    telemetry.stop().await;
    Ok(())
}
