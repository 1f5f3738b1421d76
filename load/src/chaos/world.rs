//! The systems under test: PostgreSQL, Redis and three replicas as processes, each replica reaching both through
//! proxies of its own, so that one alone can be cut off. Owns the processes; dropping it ends them.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apptlock::dev::{self, Server};
use apptlock_support::{Proxy, process};

use crate::Failure;
use crate::replica::migrate;

/// Number of replicas.
pub(crate) const REPLICAS: usize = 3;
/// Maximum time until a replica serves.
const START: Duration = Duration::from_secs(20);

/// All servers and replicas.
pub(crate) struct World {
    // Dropped in this order: replicas before the servers that they need.
    pub(crate) replicas: Vec<Replica>,
    pub(crate) redis: Server,
    pub(crate) postgres: Server,
}

impl World {
    /// Starts everything and waits until every replica serves.
    pub(crate) async fn start(binary: &Path, lock_ttl: Duration) -> Result<Self, Failure> {
        let under = Path::new(".run");
        let postgres = dev::postgres(under)?;
        let redis = dev::redis(under)?.ok_or("redis-server was not found: install it")?;
        migrate(binary, &postgres.url)?;
        let mut replicas = Vec::new();
        for number in 0..REPLICAS {
            let to = |port: u16| ([127, 0, 0, 1], port);
            let to_postgres = Proxy::start(to(postgres.port)).await?;
            let to_redis = Proxy::start(to(redis.port)).await?;
            let log = under.join(format!("chaos-replica-{}.log", number + 1));
            File::create(&log)?;
            let settings = [
                (
                    "DATABASE_URL",
                    format!(
                        "postgres://apptlock@127.0.0.1:{}/postgres",
                        to_postgres.port()
                    ),
                ),
                (
                    "REDIS_URL",
                    format!("redis://127.0.0.1:{}", to_redis.port()),
                ),
                ("LISTEN_ADDR", format!("127.0.0.1:{}", dev::free_port()?)),
                (
                    "MANAGEMENT_ADDR",
                    format!("127.0.0.1:{}", dev::free_port()?),
                ),
                ("AUTH_MODE", "trusted".into()),
                ("LOCK_TTL", format!("{}ms", lock_ttl.as_millis())),
                ("DATABASE_MAX_CONNECTIONS", "16".into()),
                ("RATE_LIMIT_PER_SECOND", "0".into()),
                ("DRAIN_DELAY", "0s".into()),
                ("DRAIN_TIME", "0s".into()),
                ("RUST_LOG", "warn".into()),
            ];
            let mut replica = Replica {
                child: None,
                guard: None,
                binary: binary.to_owned(),
                address: settings[2].1.clone(),
                management: settings[3].1.clone(),
                settings: settings.to_vec(),
                log,
                to_postgres,
                to_redis,
            };
            replica.start()?;
            replicas.push(replica);
        }
        Ok(Self {
            replicas,
            redis,
            postgres,
        })
    }
}

/// `apptlock serve` as a process that is restarted at the same address.
pub(crate) struct Replica {
    pub(crate) address: String,
    pub(crate) management: String,
    pub(crate) to_postgres: Proxy,
    pub(crate) to_redis: Proxy,
    pub(crate) log: PathBuf,
    binary: PathBuf,
    settings: Vec<(&'static str, String)>,
    child: Option<Child>,
    /// Kills the replica after the end of this process, whatever its signal.
    guard: Option<Child>,
}

impl Replica {
    /// Starts it, and waits until it accepts connections. A leftover process is killed.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        self.kill()?;
        let log = OpenOptions::new().append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .arg("serve")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own: Ctrl-C in a terminal is for us, and a replica that ends by it looks like one
            // that died.
            .process_group(0)
            .spawn()?;
        let pid = child.id();
        self.child = Some(child);
        self.guard = Some(process::guard(pid)?);
        let since = Instant::now();
        while std::net::TcpStream::connect(&self.address).is_err() {
            if let Some(how) = self.ended()? {
                return Err(
                    format!("a replica did not start: {how}: {}", self.log.display()).into(),
                );
            }
            if since.elapsed() > START {
                return Err(format!("a replica did not start: {}", self.log.display()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Exit status, if it ended by itself.
    pub(crate) fn ended(&mut self) -> Result<Option<String>, Failure> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.map(|status| status.to_string())),
            None => Ok(None),
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        // The guard first: it knows the replica by a process id that may soon be reused.
        for mut child in [self.guard.take(), self.child.take()].into_iter().flatten() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) -> Result<(), Failure> {
        if let Some(child) = &self.child {
            process::signal(child.id(), name)?;
        }
        Ok(())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It is ours, and what it has committed is thrown away with its database.
        let _ = self.kill();
    }
}
