//! Replicas as processes, and how much CPU and memory they have used. A single one writes its log to a file, and
//! ends with this process, whatever its signal.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apptlock::dev;
use apptlock_support::process;

use crate::Failure;

/// CPU time of some replicas so far.
pub(crate) fn cpu(replicas: &[Replica]) -> Result<Duration, Failure> {
    replicas
        .iter()
        .try_fold(Duration::ZERO, |sum, replica| Ok(sum + replica.cpu()?))
}

/// Memory of some replicas.
pub(crate) fn memory(replicas: &[Replica]) -> Result<u64, Failure> {
    replicas
        .iter()
        .try_fold(0, |sum, replica| Ok(sum + replica.memory()?))
}

/// Memory that a process has now, in bytes (proc(5): VmRSS of status).
pub(crate) fn memory_of(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.ok_or("no VmRSS")? * 1024)
}

/// `apptlock serve` as a process.
pub(crate) struct Replica {
    /// Address of the public port.
    pub(crate) address: String,
    /// Address of the management port.
    pub(crate) management: String,
    child: Child,
    /// Ends the replica after the end of this process.
    guard: Option<Child>,
}

/// Migrates the schema of a database.
pub(crate) fn migrate(binary: &Path, database: &str) -> Result<(), Failure> {
    let migrated = process::migrate(binary, database).map_err(|error| {
        format!(
            "{}: {error}; build it with `make release`",
            binary.display()
        )
    })?;
    if !migrated.status.success() {
        let said = String::from_utf8_lossy(&migrated.stderr).into_owned();
        return Err(format!("apptlock migrate failed: {said}").into());
    }
    Ok(())
}

impl Replica {
    /// Two of them over one database, after its migration, with settings on top.
    pub(crate) fn start_two(
        binary: &Path,
        database: &str,
        redis: &str,
        settings: &[(&str, &str)],
    ) -> Result<Vec<Self>, Failure> {
        migrate(binary, database)?;
        (0..2)
            .map(|_| {
                let address = format!("127.0.0.1:{}", dev::free_port()?);
                let management = format!("127.0.0.1:{}", dev::free_port()?);
                let child = Command::new(binary)
                    .arg("serve")
                    .env("DATABASE_URL", database)
                    .env("REDIS_URL", redis)
                    .env("LISTEN_ADDR", &address)
                    .env("MANAGEMENT_ADDR", &management)
                    .env("AUTH_MODE", "trusted")
                    .env("RATE_LIMIT_PER_SECOND", "0")
                    .env("RUST_LOG", "error")
                    .env("DATABASE_MAX_CONNECTIONS", "16")
                    .envs(settings.iter().copied())
                    .stdin(Stdio::null())
                    .spawn()?;
                let replica = Self {
                    address,
                    management,
                    child,
                    guard: None,
                };
                replica.await_start()?;
                Ok(replica)
            })
            .collect()
    }

    /// One over a database that has its schema, with nothing but these settings on top of the defaults.
    pub(crate) fn start_one(
        binary: &Path,
        settings: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self, Failure> {
        let address = format!("127.0.0.1:{}", dev::free_port()?);
        let management = format!("127.0.0.1:{}", dev::free_port()?);
        File::create(log)?;
        // Written to its end, also after somebody has cut it.
        let log = File::options().append(true).open(log)?;
        let child = Command::new(binary)
            .arg("serve")
            .env_remove("RUST_LOG")
            .env("LISTEN_ADDR", &address)
            .env("MANAGEMENT_ADDR", &management)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C in a terminal is for us.
            .process_group(0)
            .spawn()?;
        let mut replica = Self {
            address,
            management,
            child,
            guard: None,
        };
        replica.guard = Some(process::guard(replica.child.id())?);
        replica.await_start()?;
        Ok(replica)
    }

    fn await_start(&self) -> Result<(), Failure> {
        let since = Instant::now();
        while std::net::TcpStream::connect(&self.address).is_err() {
            if since.elapsed() > Duration::from_secs(10) {
                return Err("a replica did not start".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that it has now, in bytes.
    pub(crate) fn memory(&self) -> Result<u64, Failure> {
        memory_of(self.child.id())
    }

    /// User and system time so far (proc(5): fields 14 and 15 of stat, in hundredths of a second).
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after = stat.rsplit_once(')').ok_or("no stat")?.1;
        let ticks: u64 = after
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum();
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // The guard first: it knows the replica by a process id that may soon be reused.
        if let Some(guard) = &mut self.guard {
            let _ = guard.kill();
            let _ = guard.wait();
        }
        // It is ours, and what it has committed is thrown away with its database.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
