//! PostgreSQL and Redis of one's own, for development and tests: found, started on loopback with throw-away
//! data, stopped with the process that asked for them, whatever becomes of it.
//!
//! Each server runs on a leash: a small shell that waits for its standard input to end, which happens when
//! the parent is gone, by whatever signal, and then stops the server and removes its data.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to answer after its start.
const START: Duration = Duration::from_secs(30);

/// Why a server of one's own could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A program that is not installed.
    #[error("{program} was not found: {mend}")]
    Missing {
        /// Which.
        program: &'static str,
        /// How to get it.
        mend: &'static str,
    },
    /// It was there, and did not start.
    #[error("{what} did not start: {why}")]
    Failed {
        /// Which step.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A server on a leash; dropping it stops the server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub url: String,
    /// Its port on 127.0.0.1.
    pub port: u16,
    home: PathBuf,
    leash: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        // The leash stops the server and removes its data; nothing is left to do when it fails.
        let _ = self.leash.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// PostgreSQL, found on the PATH or where distributions put it.
///
/// # Errors
/// [`DevError`], with the mend.
pub fn postgres(under: &Path) -> Result<Server, DevError> {
    let initdb = find("initdb").ok_or(DevError::Missing {
        program: "PostgreSQL",
        mend: "install it (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql), or set DATABASE_URL",
    })?;
    // Through links, so that the programs beside it are found beside it.
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

    let leash = leash(run, "INT", &program, &home, port, owner)?;
    let server = Server {
        url: format!("postgres://apptlock@127.0.0.1:{port}/postgres"),
        port,
        home: home.clone(),
        leash,
    };
    await_ready("PostgreSQL", server, |port| {
        Command::new(initdb.with_file_name("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// Redis, found on the PATH or where distributions put it; `None` where it is not installed.
///
/// # Errors
/// [`DevError`] where it is installed and does not start.
pub fn redis(under: &Path) -> Result<Option<Server>, DevError> {
    let Some(program) = find("redis-server").or_else(|| find("valkey-server")) else {
        return Ok(None);
    };
    let (home, owner) = home(under, "redis")?;
    let port = free_port()?;
    let run = r#"exec "$1" --bind 127.0.0.1 --port "$3" --dir "$2" --save "" --appendonly no \
        --daemonize no >>"$2/log" 2>&1"#;

    let leash = leash(run, "TERM", &program, &home, port, owner)?;
    let server = Server {
        url: format!("redis://127.0.0.1:{port}"),
        port,
        home: home.clone(),
        leash,
    };
    await_ready("Redis", server, |port| {
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    })
    .map(Some)
}

/// A program, on the PATH or where distributions put PostgreSQL; the newest where there are several.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for parent in [
        "/usr/lib/postgresql",
        "/opt/homebrew/opt",
        "/usr/local/opt",
        "/home/linuxbrew/.linuxbrew/opt",
    ] {
        let mut below: Vec<PathBuf> = fs::read_dir(parent)
            .map(|entries| {
                entries
                    .filter_map(Result::ok)
                    .map(|entry| entry.path().join("bin"))
                    .collect()
            })
            .unwrap_or_default();
        below.sort_by_key(|bin| std::cmp::Reverse(version(bin)));
        places.extend(below);
    }
    places.extend([
        "/usr/sbin".into(),
        "/opt/homebrew/bin".into(),
        "/usr/local/bin".into(),
    ]);
    places
        .into_iter()
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

/// The number in a path such as `/usr/lib/postgresql/15/bin`, so that 15 comes before 9.
fn version(bin: &Path) -> u32 {
    let name = bin
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.rsplit(['@', '/'])
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The user that a server runs as: PostgreSQL refuses to run as root.
type Owner = Option<(u32, u32)>;

fn owner() -> Result<Owner, DevError> {
    let id = |args: &[&str]| -> Option<u32> {
        let out = Command::new("id")
            .args(args)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)))
        .map(Some)
        .ok_or(DevError::Failed {
            what: "PostgreSQL",
            why: "it does not run as root, and there is no other user".into(),
        })
}

fn lower(command: &mut Command, owner: Owner) -> &mut Command {
    match owner {
        Some((uid, gid)) => command.gid(gid).uid(uid),
        None => command,
    }
}

/// An empty directory for one server, below `under` where its user can get there, else below the system's
/// temporary one. What others have left empty is removed first.
fn home(under: &Path, kind: &str) -> Result<(PathBuf, Owner), DevError> {
    let owner = owner()?;
    fs::create_dir_all(under)?;
    let under = fs::canonicalize(under)?;
    // A leash empties a directory whose process was killed, and may not remove it. A young one may be in use.
    for left in fs::read_dir(&under)?.filter_map(Result::ok) {
        let old = left
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > START));
        if old && left.file_name().to_string_lossy().starts_with("apptlock-") {
            let _ = fs::remove_dir(left.path());
        }
    }
    let name = format!(
        "{kind}-{}-{}",
        std::process::id(),
        uuid::Uuid::new_v4().simple()
    );
    for place in [under.clone(), std::env::temp_dir()] {
        let home = place.join(format!("apptlock-{name}"));
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        if let Some((uid, gid)) = owner {
            chown(&home, Some(uid), Some(gid))?;
        }
        let mut probe = Command::new("test");
        probe.arg("-w").arg(&home);
        if lower(&mut probe, owner)
            .current_dir("/")
            .status()?
            .success()
        {
            return Ok((home, owner));
        }
        fs::remove_dir(&home)?;
    }
    Err(DevError::Failed {
        what: "a server's data directory",
        why: format!("{} cannot be entered", under.display()),
    })
}

/// Runs the server until standard input ends, then stops it with that signal; or until it ends by itself.
fn leash(
    run: &str,
    signal: &str,
    program: &Path,
    home: &Path,
    port: u16,
    owner: Owner,
) -> Result<Child, DevError> {
    // A background list reads from /dev/null unless it is told otherwise: hence descriptor 3.
    let script = format!(
        r#"exec 3<&0
        ({run}) 3<&- & server=$!
        (read -r _ <&3; kill -{signal} $server) & hand=$!
        wait $server
        rm -rf "$2"/*
        kill $hand"#
    );
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(script)
        .arg("leash")
        .arg(program)
        .arg(home)
        .arg(port.to_string());
    // A group of its own: Ctrl-C in a terminal is for us, who then stop the replicas before the database.
    let spawned = lower(&mut shell, owner)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(spawned)
}

fn await_ready(
    what: &'static str,
    mut server: Server,
    ready: impl Fn(u16) -> bool,
) -> Result<Server, DevError> {
    let since = Instant::now();
    while !ready(server.port) {
        let ended = server.leash.try_wait()?.is_some();
        if ended || since.elapsed() > START {
            let log = fs::read_to_string(server.home.join("log")).unwrap_or_default();
            let last = log.lines().last().unwrap_or("it said nothing").to_owned();
            return Err(DevError::Failed { what, why: last });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// A port that is free now.
///
/// # Errors
/// Where the machine has none.
pub fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    match listener.local_addr()?.port() {
        0 => Err(ErrorKind::AddrNotAvailable.into()),
        port => Ok(port),
    }
}
