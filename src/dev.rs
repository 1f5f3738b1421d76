//! Temporary PostgreSQL and Redis servers for development and tests: found, started on loopback with temporary
//! data, and stopped with the process that started them, however it ends.
//!
//! Tests can also let a server fail: [`Server::kill`] is a crash, after which [`Server::start_again`] finds the
//! same data at the same address, and [`Server::pause`] is a machine that hangs. Supervision is in `supervisor`,
//! programs and data directories in `paths`.

mod error;
mod paths;
mod supervisor;

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use error::DevError;
use error::START;
pub use paths::find;
use paths::{home, lower};
use supervisor::Recipe;

/// A server under a supervisor; dropping it stops the server and removes its data.
#[derive(Debug)]
pub struct Server {
    /// Its URL.
    pub url: String,
    /// Its port on 127.0.0.1.
    pub port: u16,
    home: PathBuf,
    recipe: Recipe,
    supervisor: Child,
    /// The shell that removes the data if this process ends while the server is killed.
    keeper: Option<Child>,
    /// The stopped processes.
    paused: Vec<u32>,
}

impl Server {
    fn start(url: String, port: u16, home: PathBuf, recipe: Recipe) -> Result<Self, DevError> {
        let supervisor = recipe.supervise(&home, port)?;
        let mut server = Self {
            url,
            port,
            home,
            recipe,
            supervisor,
            keeper: None,
            paused: Vec::new(),
        };
        server.await_ready()?;
        Ok(server)
    }

    fn await_ready(&mut self) -> Result<(), DevError> {
        let since = Instant::now();
        loop {
            // Checked first: another server at this port could answer instead of one that has ended.
            let ended = self.supervisor.try_wait()?.is_some();
            if !ended && (self.recipe.ready)(&self.recipe.program, self.port) {
                return Ok(());
            }
            if ended || since.elapsed() > START {
                let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it logged nothing").to_owned();
                return Err(DevError::Failed {
                    what: self.recipe.what,
                    why: last,
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends every process of the server immediately, as a crash would. Its data stays until it is started again or
    /// dropped.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn kill(&mut self) -> Result<(), DevError> {
        if self.keeper.is_some() {
            return Ok(());
        }
        fs::write(self.home.join("killed"), "")?;
        self.keeper = Some(self.recipe.keeper(&self.home)?);
        let root = supervisor::server_of(&self.home)?;
        // The first is stopped while its children are counted, so that it starts none meanwhile.
        supervisor::signal("STOP", &[root])?;
        supervisor::signal("KILL", &supervisor::family(root))?;
        self.supervisor.wait()?;
        self.paused.clear();
        for note in ["paused", "server"] {
            let _ = fs::remove_file(self.home.join(note));
        }
        Ok(())
    }

    /// Starts the killed server at the same address, with the data as the crash left it, and waits until it answers.
    ///
    /// # Errors
    /// [`DevError`] if it does not start.
    pub fn start_again(&mut self) -> Result<(), DevError> {
        let Some(mut keeper) = self.keeper.take() else {
            return Ok(());
        };
        let since = Instant::now();
        let started = loop {
            self.supervisor = self.recipe.supervise(&self.home, self.port)?;
            match self.await_ready() {
                // Killed processes may still be ending, and hold the shared memory or the port.
                Err(_) if since.elapsed() < START / 3 => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                started => break started,
            }
        };
        if started.is_err() {
            self.keeper = Some(keeper);
            return started;
        }
        fs::remove_file(self.home.join("killed"))?;
        let _ = keeper.kill();
        let _ = keeper.wait();
        Ok(())
    }

    /// Stops every process of the server: connections stay open, and nothing is answered.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn pause(&mut self) -> Result<(), DevError> {
        if self.keeper.is_some() || !self.paused.is_empty() {
            return Ok(());
        }
        let root = supervisor::server_of(&self.home)?;
        // Written before each step, for the supervisor: a stopped process cannot shut down gracefully.
        let mut family = vec![root];
        for _ in 0..2 {
            let pids: Vec<String> = family.iter().map(u32::to_string).collect();
            fs::write(self.home.join("paused"), pids.join(" "))?;
            supervisor::signal("STOP", &family)?;
            self.paused = family;
            family = supervisor::family(root);
        }
        Ok(())
    }

    /// Ends a [`Server::pause`].
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn resume(&mut self) -> Result<(), DevError> {
        if !self.paused.is_empty() {
            supervisor::signal("CONT", &self.paused)?;
            self.paused.clear();
            fs::remove_file(self.home.join("paused"))?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.resume();
        drop(self.supervisor.stdin.take());
        // The supervisor stops the server and removes its data; a failure leaves nothing to do here.
        let _ = self.supervisor.wait();
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Starts PostgreSQL, from the PATH or a distribution's directory.
///
/// # Errors
/// [`DevError`], with its fix.
pub fn postgres(under: &Path) -> Result<Server, DevError> {
    let initdb = find("initdb").ok_or(DevError::Missing {
        program: "PostgreSQL",
        fix: "install it (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql), or set DATABASE_URL",
    })?;
    // Links are resolved, since the other programs are beside the real one.
    let initdb = fs::canonicalize(&initdb)?;
    let program = initdb.with_file_name("postgres");
    let (home, owner) = home(under, "postgres")?;
    let data = home.join("data");
    let mut init = Command::new(&initdb);
    init.args([
        "--auth=trust",
        "--username=apptlock",
        "--encoding=UTF8",
        "--locale=C",
        "-D",
    ])
    .arg(&data);
    let made = lower(&mut init, owner)
        .current_dir(&home)
        .stdin(Stdio::null())
        .output()?;
    if !made.status.success() {
        return Err(DevError::Failed {
            what: "initdb",
            why: String::from_utf8_lossy(&made.stderr).trim().to_owned(),
        });
    }
    let port = free_port()?;
    let run = r#"exec "$1" -D "$2/data" -h 127.0.0.1 -p "$3" -k "" -c max_connections=400 \
        -c log_min_messages=warning 2>>"$2/log""#;

    let recipe = Recipe {
        what: "PostgreSQL",
        run,
        signal: "INT",
        program,
        owner,
        ready: |program, port| {
            Command::new(program.with_file_name("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        },
    };
    let url = format!("postgres://apptlock@127.0.0.1:{port}/postgres");
    Server::start(url, port, home, recipe)
}

/// Starts Redis or Valkey, from the PATH or a distribution's directory; `None` if neither is installed.
///
/// # Errors
/// [`DevError`] if it is installed and does not start.
pub fn redis(under: &Path) -> Result<Option<Server>, DevError> {
    let Some(program) = find("redis-server").or_else(|| find("valkey-server")) else {
        return Ok(None);
    };
    let (home, owner) = home(under, "redis")?;
    let port = free_port()?;
    let run = r#"exec "$1" --bind 127.0.0.1 --port "$3" --dir "$2" --save "" --appendonly no \
        --daemonize no >>"$2/log" 2>&1"#;

    let recipe = Recipe {
        what: "Redis",
        run,
        signal: "TERM",
        program,
        owner,
        ready: |_, port| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
    };
    let url = format!("redis://127.0.0.1:{port}");
    Server::start(url, port, home, recipe).map(Some)
}

/// A free port, below the ones that the operating system gives to outgoing connections: so a killed server finds
/// it still free when it is started again.
///
/// # Errors
/// An error of the operating system, or no free port.
pub fn free_port() -> io::Result<u16> {
    for _ in 0..50 {
        let random = uuid::Uuid::new_v4().as_u128() % 12_000;
        let port = 20_000 + u16::try_from(random).unwrap_or(0);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    match listener.local_addr()?.port() {
        0 => Err(ErrorKind::AddrNotAvailable.into()),
        port => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    /// Redis's answer to a PING, within half a second.
    fn ping(server: &Server) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 16];
        let n = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..n]).trim().to_owned())
    }

    #[test]
    fn a_server_is_killed_started_again_paused_and_resumed_at_one_address() {
        let under = std::env::temp_dir().join("apptlock-tests");
        let mut redis = redis(&under).unwrap().expect("redis-server");
        let home = redis.home.clone();
        assert_eq!(ping(&redis).unwrap(), "+PONG");
        redis.pause().unwrap();
        assert!(ping(&redis).is_err(), "it answers though it is paused");
        redis.resume().unwrap();
        assert_eq!(ping(&redis).unwrap(), "+PONG");
        redis.kill().unwrap();
        assert!(ping(&redis).is_err(), "it answers though it is killed");
        redis.start_again().unwrap();
        assert_eq!(ping(&redis).unwrap(), "+PONG");
        redis.pause().unwrap();
        drop(redis);
        assert!(!home.exists(), "a paused server leaves its data behind");
    }

    #[test]
    fn a_killed_postgres_recovers_with_its_data_and_leaves_none_behind() {
        let under = std::env::temp_dir().join("apptlock-tests");
        let mut postgres = postgres(&under).unwrap();
        let home = postgres.home.clone();
        let born = fs::read_to_string(home.join("data/postmaster.pid")).unwrap();
        postgres.pause().unwrap();
        postgres.kill().unwrap();
        assert!(home.join("data/PG_VERSION").exists(), "its data is gone");
        postgres.start_again().unwrap();
        let again = fs::read_to_string(home.join("data/postmaster.pid")).unwrap();
        assert_ne!(born.lines().next(), again.lines().next());
        postgres.kill().unwrap();
        drop(postgres);
        assert!(!home.exists(), "a killed server leaves its data behind");
    }
}
