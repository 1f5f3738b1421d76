//! Supervision of a server: a small shell starts it and waits for its own standard input to end, which happens when
//! the parent has ended, by whatever signal; then it stops the server and removes its data.
//!
//! ```text
//!             kill                        start_again
//!   running ────────▶ killed, data kept ─────────────▶ running
//!     │  ▲
//!     └──┘ pause, resume: the server alone is stopped, never the shell
//! ```
//!
//! The parent decides; the shell cleans up when the parent cannot. Two files beside the data tell it what the parent
//! did: `paused` lists the processes that must be resumed before they can be stopped, and `killed` says that the
//! data is still needed. While a server is killed, a second shell, the keeper, waits in the same way to remove the
//! data.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::paths::{Owner, lower};

/// Instructions to run a server.
#[derive(Debug)]
pub(super) struct Recipe {
    /// Its name, for errors.
    pub(super) what: &'static str,
    /// The shell's command: `$1` is the program, `$2` its directory, `$3` its port.
    pub(super) run: &'static str,
    /// The signal that stops it gracefully.
    pub(super) signal: &'static str,
    /// The program.
    pub(super) program: std::path::PathBuf,
    /// Its user.
    pub(super) owner: Owner,
    /// Check that it answers, by program and port.
    pub(super) ready: fn(&Path, u16) -> bool,
}

impl Recipe {
    /// Runs the server until standard input ends, then stops it gracefully; or until it ends by itself.
    pub(super) fn supervise(&self, home: &Path, port: u16) -> io::Result<Child> {
        let (run, signal) = (self.run, self.signal);
        // A background list reads from /dev/null by default: hence descriptor 3. If the parent ends while the
        // server is paused, the kernel sends SIGHUP to the whole group.
        let script = format!(
            r#"trap '' HUP
            exec 3<&0
            ({run}) 3<&- & server=$!
            echo $server >"$2/server"
            (read -r _ <&3
                [ -e "$2/paused" ] && kill -CONT $(cat "$2/paused")
                kill -{signal} $server) & hand=$!
            wait $server
            [ -e "$2/killed" ] || rm -rf "$2"/*
            kill $hand"#
        );
        self.shell(&script, home, port)
    }

    /// Removes the data when standard input ends; a server that is just starting gets time to be stopped.
    pub(super) fn keeper(&self, home: &Path) -> io::Result<Child> {
        self.shell(r#"read -r _; sleep 1; rm -rf "$2"/*"#, home, 0)
    }

    fn shell(&self, script: &str, home: &Path, port: u16) -> io::Result<Child> {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(script)
            .arg("supervisor")
            .arg(&self.program)
            .arg(home)
            .arg(port.to_string());
        // A process group of its own: Ctrl-C in a terminal is for the parent, which stops the replicas first.
        lower(&mut shell, self.owner)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }
}

/// The server's process. The shell writes its number as soon as it has started it.
pub(super) fn server_of(home: &Path) -> io::Result<u32> {
    let since = Instant::now();
    loop {
        let written = fs::read_to_string(home.join("server")).unwrap_or_default();
        // With its line end, so that a partly written number is not accepted.
        if let Some(Ok(pid)) = written.strip_suffix('\n').map(str::parse) {
            return Ok(pid);
        }
        if since.elapsed() > Duration::from_secs(5) {
            return Err(io::Error::other("the server's supervisor did not start it"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process and its descendants. Not its process group: each of PostgreSQL's processes has its own.
pub(super) fn family(root: u32) -> Vec<u32> {
    let pairs = pairs();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = pairs.iter().filter(|(_, of)| *of == parent);
        found.extend(children.map(|(child, _)| *child));
        next += 1;
    }
    found
}

/// Every process with its parent: from /proc, else from `ps`.
fn pairs() -> Vec<(u32, u32)> {
    let from_proc: Vec<(u32, u32)> = fs::read_dir("/proc")
        .map(|entries| {
            entries
                .filter_map(Result::ok)
                .filter_map(|entry| {
                    let pid = entry.file_name().to_str()?.parse().ok()?;
                    let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                    // The second field is a name in brackets, which may hold anything.
                    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
                    Some((pid, parent.parse().ok()?))
                })
                .collect()
        })
        .unwrap_or_default();
    if !from_proc.is_empty() {
        return from_proc;
    }
    let listed = Command::new("ps")
        .args(["-A", "-o", "pid=", "-o", "ppid="])
        .output()
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
        .unwrap_or_default();
    listed
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .collect()
}

/// Sends a signal by name. A process that has just ended by itself is not an error.
pub(super) fn signal(name: &str, pids: &[u32]) -> io::Result<()> {
    // The shell's built-in: slim containers lack the program.
    Command::new("sh")
        .args(["-c", "kill \"$@\"", "sh"])
        .arg(format!("-{name}"))
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status()
        .map(drop)
}
