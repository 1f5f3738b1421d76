//! Replicas as processes, and how much CPU they have used.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apptlock::dev;

use crate::Failure;

/// What some replicas have used so far.
pub(crate) fn cpu(replicas: &[Replica]) -> Result<Duration, Failure> {
    replicas
        .iter()
        .try_fold(Duration::ZERO, |sum, replica| Ok(sum + replica.cpu()?))
}

/// What some replicas have in memory.
pub(crate) fn memory(replicas: &[Replica]) -> Result<u64, Failure> {
    replicas
        .iter()
        .try_fold(0, |sum, replica| Ok(sum + replica.memory()?))
}

/// `apptlock serve` as a process.
pub(crate) struct Replica {
    /// Where it listens.
    pub(crate) address: String,
    /// Where its metrics are.
    pub(crate) management: String,
    child: Child,
}

impl Replica {
    /// Two of them over one database, after its migration, with settings on top.
    pub(crate) fn start_two(
        binary: &Path,
        database: &str,
        redis: &str,
        settings: &[(&str, &str)],
    ) -> Result<Vec<Self>, Failure> {
        let migrated = Command::new(binary)
            .arg("migrate")
            .env("DATABASE_URL", database)
            .stdout(Stdio::null())
            .status()
            .map_err(|error| {
                format!(
                    "{}: {error}; build it with `make release`",
                    binary.display()
                )
            })?;
        if !migrated.success() {
            return Err("apptlock migrate failed".into());
        }
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
                };
                let since = Instant::now();
                while std::net::TcpStream::connect(&replica.address).is_err() {
                    if since.elapsed() > Duration::from_secs(10) {
                        return Err("a replica did not start".into());
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(replica)
            })
            .collect()
    }

    /// Memory that it has now, in bytes (proc(5): VmRSS of status).
    pub(crate) fn memory(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.ok_or("no VmRSS")? * 1024)
    }

    /// User and system time so far (proc(5): fields 14 and 15 of stat, in hundredths of a second).
    fn cpu(&self) -> Result<Duration, Failure> {
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
        // It is ours, and what it has committed is thrown away with its database.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
