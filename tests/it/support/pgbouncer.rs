//! A connection pooler in front of the tests' PostgreSQL: PgBouncer in transaction mode, as a process of its own.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Column, Connection, Executor, PgConnection, Row};

use super::servers;
use super::stack::Lines;
use apptlock::dev;

/// Number of connections to PostgreSQL that the clients of one database share.
pub const POOL_SIZE: usize = 4;

/// PgBouncer with its defaults, stopped when dropped.
pub struct PgBouncer {
    port: u16,
    home: PathBuf,
    child: Child,
    lines: Arc<Lines>,
}

impl PgBouncer {
    pub fn start() -> Self {
        let program =
            dev::find("pgbouncer").expect("the tests need pgbouncer: run them with `make test`");
        let port = dev::free_port().unwrap();
        let home = std::env::temp_dir().join(format!(
            "apptlock-tests/pgbouncer-{}",
            uuid::Uuid::new_v4().simple()
        ));
        fs::create_dir_all(&home).unwrap();
        let file = home.join("pgbouncer.ini");
        let config = format!(
            "[databases]
* = host=127.0.0.1 port={} user=apptlock
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {POOL_SIZE}
max_client_conn = 200
",
            servers().postgres.port
        );
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        // It refuses to run as root.
        let id = Command::new("id").arg("-u").output().unwrap();
        if id.stdout.trim_ascii() == b"0" {
            command.args(["-u", "postgres"]);
        }
        let mut child = command
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        lines.follow(child.stderr.take().unwrap());
        let pooler = Self {
            port,
            home,
            child,
            lines,
        };
        // Logged once it listens.
        pooler.lines.find("process up", |line| {
            line.contains("process up").then_some(())
        });
        pooler
    }

    /// The URL of a database of the tests' PostgreSQL, through this pooler.
    pub fn url(&self, direct: &str) -> String {
        let port = |port: u16| format!("127.0.0.1:{port}/");
        let url = direct.replace(&port(servers().postgres.port), &port(self.port));
        assert_ne!(url, direct);
        url
    }

    /// Connections as any other client of this pooler would use them, without options that it refuses.
    pub async fn client(&self, direct: &str, connections: usize) -> PgPool {
        PgPoolOptions::new()
            .max_connections(u32::try_from(connections).unwrap())
            .connect_with(self.options(direct))
            .await
            .unwrap()
    }

    fn options(&self, direct: &str) -> PgConnectOptions {
        let options = PgConnectOptions::from_str(&self.url(direct)).unwrap();
        options.extra_float_digits(None)
    }

    /// The pooler's statistics of a database: the sum of the columns of `SHOW POOLS` by their prefix, so `cl` for
    /// its clients and `sv` for its connections to PostgreSQL.
    pub async fn pool(&self, database: &str) -> HashMap<String, i64> {
        let console = servers().postgres.url.replace("/postgres", "/pgbouncer");
        let mut console = PgConnection::connect_with(&self.options(&console))
            .await
            .unwrap();
        let rows = console.fetch_all("show pools").await.unwrap();
        let mut sums = HashMap::new();
        for row in rows
            .iter()
            .filter(|row| row.get_unchecked::<&str, _>("database") == database)
        {
            for column in row.columns() {
                if let Some((prefix @ ("cl" | "sv"), _)) = column.name().split_once('_') {
                    let count: &str = row.get_unchecked(column.ordinal());
                    *sums.entry(prefix.to_owned()).or_insert(0) += count.parse::<i64>().unwrap();
                }
            }
        }
        console.close().await.unwrap();
        sums
    }

    pub fn log(&self) -> String {
        self.lines.text()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}
