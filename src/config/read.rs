//! The command line and the environment, read by clap. Owns that an empty value counts as not set, that no
//! `--help` shows a variable's value, and that an invalid setting is one line, whichever parser refused it.

use std::env;
use std::error::Error;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};

use super::parse::BadSetting;

/// Reasons to stop before a command runs.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// An invalid setting.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// An unknown option, or a call for help: clap's own text and exit code.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

/// Reads the arguments, and for the options that they lack, the environment.
///
/// # Errors
/// [`Unreadable`].
pub fn read(
    command: Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<ArgMatches, Unreadable> {
    let mut variables = Vec::new();
    let mut bad = None;
    let command = each_argument(command, &mut |arg| arg.hide_env_values(true));
    let nonempty = each_argument(command.clone(), &mut |arg| {
        let Some(variable) = arg.get_env().and_then(|name| name.to_str()) else {
            return arg;
        };
        variables.push(variable.to_owned());
        let value = env::var_os(variable);
        let empty = match value.as_ref().map(|value| value.to_str()) {
            Some(Some(text)) => text.trim().is_empty(),
            Some(None) => {
                bad = Some(BadSetting::new(
                    variable,
                    "is not UTF-8",
                    "write it in plain text",
                ));
                false
            }
            None => false,
        };
        if empty { arg.env(None::<&str>) } else { arg }
    });
    if let Some(bad) = bad {
        return Err(bad.into());
    }
    let args = without_empty(args);
    let error = match nonempty.try_get_matches_from(&args) {
        Ok(matches) => return Ok(matches),
        Err(error) => error,
    };
    match error.kind() {
        // Help names every variable, also those that are empty.
        ErrorKind::DisplayHelp => Ok(command.try_get_matches_from(&args)?),
        ErrorKind::ValueValidation => Err(match setting(&error, &variables) {
            Some(bad) => bad.into(),
            None => error.into(),
        }),
        _ => Err(error.into()),
    }
}

fn each_argument(command: Command, change: &mut dyn FnMut(Arg) -> Arg) -> Command {
    let command = command.mut_args(&mut *change);
    command.mut_subcommands(|subcommand| each_argument(subcommand, change))
}

/// The arguments without the options that have an empty value, as `--redis-url ""`.
fn without_empty(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut kept: Vec<OsString> = Vec::new();
    let bare = |arg: &OsString| {
        let text = arg.to_str().unwrap_or_default();
        text.starts_with("--") && !text.contains('=')
    };
    for arg in args {
        // A value may end with "=" itself, as base64 does.
        let assigned = arg.to_str().and_then(|text| text.split_once('='));
        if arg.is_empty() && kept.last().is_some_and(bare) {
            kept.pop();
        } else if !assigned.is_some_and(|(name, value)| name.starts_with("--") && value.is_empty())
        {
            kept.push(arg);
        }
    }
    kept
}

/// The setting that a parser refused. Clap's own line would repeat the value, which may be a secret.
fn setting(error: &clap::Error, variables: &[String]) -> Option<BadSetting> {
    let ContextValue::String(option) = error.get(ContextKind::InvalidArg)? else {
        return None;
    };
    // "--lock-ttl <DURATION>" is LOCK_TTL.
    let name = option.split(' ').next()?.trim_start_matches('-');
    let variable = name.replace('-', "_").to_uppercase();
    let known = variables.contains(&variable);
    known.then(|| {
        let problem = error.source().map(ToString::to_string);
        BadSetting::of_parser(&variable, problem.unwrap_or_default())
    })
}
