//! `apptlock` as a process: the migration, signals, and a guard that ends a replica together with its starter.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Migrates the schema of a database. A failure of the migration is in its output, not an error.
pub fn migrate(binary: impl AsRef<Path>, database: &str) -> io::Result<Output> {
    Command::new(binary.as_ref())
        .arg("migrate")
        .env("DATABASE_URL", database)
        .stdin(Stdio::null())
        .output()
}

/// Sends a signal by its name, such as `TERM`, with the shell's own `kill`: the program is missing in slim containers.
pub fn signal(pid: u32, name: &str) -> io::Result<()> {
    let sent = Command::new("sh")
        .args(["-c", "kill \"$@\"", "sh"])
        .args([format!("-{name}"), pid.to_string()])
        .status()?;
    if sent.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("kill -{name} {pid} failed")))
    }
}

/// Starts a process that kills `pid` after the end of this process, whatever its signal. It has a process group of its
/// own, so that Ctrl-C in a terminal does not reach it; end it before the process that it guards, whose id may soon be
/// reused.
pub fn guard(pid: u32) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", r#"read -r _; kill -KILL "$1""#, "guard"])
        .arg(pid.to_string())
        .process_group(0)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}
