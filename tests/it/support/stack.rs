//! Servers and replicas. PostgreSQL and Redis are started once for the whole binary; each stack has a
//! database of its own, and its replicas are processes of the real binary.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use apptlock_support::process;
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection, PgPool};

use super::{PATIENCE, until};
use apptlock::config::{Database, Pooler, Secret};
use apptlock::dev;
use apptlock::store::Store;

pub struct Servers {
    pub postgres: dev::Server,
    pub redis: dev::Server,
}

/// The servers that all tests share. Their supervisors stop them when this process ends.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let under = std::env::temp_dir().join("apptlock-tests");
        Servers {
            postgres: dev::postgres(&under).unwrap(),
            redis: dev::redis(&under)
                .unwrap()
                .expect("the tests need redis-server: run them with `make test`"),
        }
    })
}

/// Migrates the schema of a database.
pub fn migrate(database: &str) {
    let migrated = process::migrate(env!("CARGO_BIN_EXE_apptlock"), database).unwrap();
    assert!(
        migrated.status.success(),
        "{}",
        String::from_utf8_lossy(&migrated.stderr)
    );
}

/// Replicas over one database.
pub struct Stack {
    pub database: String,
    pub pool: PgPool,
    settings: Vec<(String, String)>,
    pub replicas: Vec<Replica>,
}

impl Stack {
    /// `count` replicas that are ready and connected to Redis, with these additional settings.
    pub async fn start(count: usize, settings: &[(&str, &str)]) -> Self {
        let mut stack = Self::empty(settings).await;
        for _ in 0..count {
            stack.add().await;
        }
        stack
    }

    /// The same with the default rate limits.
    pub async fn start_limited(count: usize, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("RATE_LIMIT_PER_SECOND", "")];
        all.extend_from_slice(settings);
        Self::start(count, &all).await
    }

    /// A migrated database, and no replica yet.
    pub async fn empty(settings: &[(&str, &str)]) -> Self {
        Self::empty_on(&servers().postgres.url, settings).await
    }

    /// The same on a separate PostgreSQL.
    pub async fn empty_on(root: &str, settings: &[(&str, &str)]) -> Self {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(root).await.unwrap();
        admin
            .execute(sqlx::AssertSqlSafe(format!("create database {name}")))
            .await
            .unwrap();
        let database = root.replace("/postgres", &format!("/{name}"));
        migrate(&database);
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(3)
            .connect(&database)
            .await
            .unwrap();
        let settings = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Self {
            database,
            pool,
            settings,
            replicas: Vec::new(),
        }
    }

    /// One more replica.
    pub async fn add(&mut self) -> &Replica {
        self.add_with(&[]).await
    }

    /// One more replica, with additional settings.
    pub async fn add_with(&mut self, extra: &[(&str, &str)]) -> &Replica {
        let redis = extra
            .iter()
            .map(|(k, v)| (*k, *v))
            .chain(self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .find(|(k, _)| *k == "REDIS_URL");
        let has_redis = redis.is_none_or(|(_, url)| !url.is_empty());
        let replica = self.add_alone(extra).await;
        if has_redis {
            replica.await_line("Redis is connected");
        }
        replica
    }

    /// The same, without waiting until it is connected to Redis.
    pub async fn add_alone(&mut self, extra: &[(&str, &str)]) -> &Replica {
        self.add_of(env!("CARGO_BIN_EXE_apptlock"), extra).await
    }

    /// The same with another binary, such as the previous release's.
    pub async fn add_of(&mut self, binary: &str, extra: &[(&str, &str)]) -> &Replica {
        let mut settings = vec![
            ("DATABASE_URL".to_owned(), self.database.clone()),
            ("REDIS_URL".to_owned(), servers().redis.url.clone()),
            ("AUTH_MODE".to_owned(), "trusted".to_owned()),
            ("DATABASE_MAX_CONNECTIONS".to_owned(), "8".to_owned()),
            ("DRAIN_DELAY".to_owned(), "0s".to_owned()),
            ("DRAIN_TIME".to_owned(), "0s".to_owned()),
            ("RATE_LIMIT_PER_SECOND".to_owned(), "0".to_owned()),
        ];
        settings.extend(self.settings.iter().cloned());
        let own = extra.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        settings.extend(own);
        let command = Command::new(binary);
        let start = move || Replica::start_as(command, "serve", &settings);
        let replica = tokio::task::spawn_blocking(start).await.unwrap();
        self.replicas.push(replica);
        self.replicas.last().unwrap()
    }

    /// A separate store over the database, for direct queries.
    pub fn store(&self, max_connections: u32) -> Store {
        let database = Database {
            url: Secret::new(&self.database),
            max_connections,
            pooler: Pooler::None,
        };
        Store::new(&database).unwrap()
    }

    /// Waits until so many statements with that prefix wait for a lock in PostgreSQL; "" means any statement.
    pub async fn until_waiting(&self, count: i64, begins: &str) {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
            and starts_with(query, $1) and datname = current_database()";
        let what = format!("{count} statements {begins:?} wait for a lock");
        until(&what, async || {
            let now: i64 = sqlx::query_scalar(waiting)
                .bind(begins)
                .fetch_one(&self.pool)
                .await
                .unwrap();
            now >= count
        })
        .await;
    }

    /// The index of the replica that sweeps, once one does.
    pub async fn leader(&self) -> usize {
        let since = Instant::now();
        loop {
            let holder: Option<String> = sqlx::query_scalar(
                "select holder from leader_lease where expires_at > clock_timestamp()",
            )
            .fetch_optional(&self.pool)
            .await
            .unwrap();
            if let Some(at) = self
                .replicas
                .iter()
                .position(|r| Some(&r.name) == holder.as_ref())
            {
                return at;
            }
            assert!(since.elapsed() < PATIENCE, "nobody sweeps");
            tokio::task::yield_now().await;
        }
    }
}

/// Output lines of a process.
#[derive(Default)]
pub(super) struct Lines {
    seen: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    /// Reads until the process ends, in a thread of its own.
    pub(super) fn follow(self: &Arc<Self>, output: impl Read + Send + 'static) {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.seen.lock().unwrap().push(line);
                lines.more.notify_all();
            }
        });
    }

    /// Result of `wanted` for the first line that it accepts, once there is one.
    pub(super) fn find<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let since = Instant::now();
        let mut seen = self.seen.lock().unwrap();
        loop {
            if let Some(found) = seen.iter().find_map(|line| wanted(line)) {
                return found;
            }
            let left = PATIENCE.saturating_sub(since.elapsed());
            assert!(
                !left.is_zero(),
                "no log line with {what:?} in\n{}",
                seen.join("\n")
            );
            seen = self.more.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Every line so far.
    pub(super) fn text(&self) -> String {
        self.seen.lock().unwrap().join("\n")
    }
}

/// A client that closes idle connections before the replica does: otherwise a request could be in flight while its
/// connection is closed.
fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(2));
    builder.build().unwrap()
}

/// `apptlock serve`, as a process.
pub struct Replica {
    pub url: String,
    pub management: String,
    pub name: String,
    child: Child,
    lines: Arc<Lines>,
    pub client: reqwest::Client,
}

impl Replica {
    /// Starts one, and waits until it serves.
    pub fn start(settings: &[(String, String)]) -> Self {
        Self::start_as(
            Command::new(env!("CARGO_BIN_EXE_apptlock")),
            "serve",
            settings,
        )
    }

    /// The same for `apptlock dev`, which serves the demo too.
    pub fn start_dev(settings: &[(String, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apptlock"));
        command.env("LOG_FORMAT", "json");
        Self::start_as(command, "dev", settings)
    }

    /// The same with these limits of open files: soft and hard.
    pub fn start_within(soft: u32, hard: u32, settings: &[(String, String)]) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -S -n {soft}; ulimit -H -n {hard}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_apptlock")]);
        Self::start_as(command, "serve", settings)
    }

    fn start_as(mut command: Command, subcommand: &str, settings: &[(String, String)]) -> Self {
        let mut child = command
            .arg(subcommand)
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .env("MANAGEMENT_ADDR", "127.0.0.1:0")
            .envs(settings.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        lines.follow(child.stderr.take().unwrap());
        let mut replica = Self {
            url: String::new(),
            management: String::new(),
            name: String::new(),
            child,
            lines,
            client: client(),
        };
        let serves = replica.await_line("serves");
        let field = |name: &str| serves[name].as_str().unwrap().to_owned();
        replica.url = format!("http://{}", field("address"));
        replica.management = format!("http://{}", field("management"));
        replica.name = field("replica");
        replica
    }

    /// The first log line whose message contains this text, once there is one.
    pub fn await_line(&self, words: &str) -> Value {
        self.await_record(words, |record| {
            record["message"]
                .as_str()
                .is_some_and(|message| message.contains(words))
        })
    }

    /// The first log record that `wanted` accepts, once there is one.
    pub fn await_record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.lines.find(what, |line| {
            serde_json::from_str::<Value>(line).ok().filter(&wanted)
        })
    }

    /// Every log line so far.
    pub fn log(&self) -> String {
        self.lines.text()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        process::signal(self.pid(), name).unwrap();
    }

    /// Waits for the end, within `limit`.
    pub fn await_end(&mut self, limit: Duration) -> ExitStatus {
        let (done, ended) = std::sync::mpsc::channel();
        let pid = self.pid();
        std::thread::spawn(move || {
            if ended.recv_timeout(limit).is_err() {
                let _ = process::signal(pid, "KILL");
            }
        });
        let status = self.child.wait().unwrap();
        let _ = done.send(());
        status
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
