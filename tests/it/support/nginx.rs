//! A load balancer in front of replicas, as we ship it: nginx with `deploy/nginx.conf`, or HAProxy with
//! `compose/haproxy.cfg`, as a process of its own. Only the addresses in the shipped lines are changed; a line that is
//! not found fails the test, so that the two cannot diverge.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use super::stack::Lines;
use super::{Backend, PATIENCE};
use apptlock::dev;
use apptlock_support::process;

/// Kind of balancer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Haproxy,
    Nginx,
}

/// A balancer, stopped when dropped. The header `x-replica` of each answer names its replica.
pub struct Balancer {
    /// The one address of all replicas.
    pub url: String,
    /// Their names in `x-replica`, in the order in which they were given.
    pub names: Vec<String>,
    home: PathBuf,
    child: Child,
    lines: Arc<Lines>,
}

impl Balancer {
    /// Starts one in front of ready replicas.
    pub fn start(kind: Kind, backends: &[Backend]) -> Self {
        let port = dev::free_port().unwrap();
        let home = std::env::temp_dir().join(format!(
            "apptlock-tests/balancer-{}",
            uuid::Uuid::new_v4().simple()
        ));
        fs::create_dir_all(&home).unwrap();
        let (mut command, names) = match kind {
            Kind::Haproxy => haproxy(&home, port, backends),
            Kind::Nginx => nginx(&home, port, backends),
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        lines.follow(child.stdout.take().unwrap());
        lines.follow(child.stderr.take().unwrap());
        let mut balancer = Self {
            url: format!("http://127.0.0.1:{port}"),
            names,
            home,
            child,
            lines,
        };
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = balancer.child.try_wait().unwrap();
            assert!(
                ended.is_none() && since.elapsed() < PATIENCE,
                "{kind:?} did not start:\n{}",
                balancer.log()
            );
            std::thread::yield_now();
        }
        balancer
    }

    pub fn log(&self) -> String {
        self.lines.text()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // SIGTERM first: nginx's master takes its workers with it.
        let _ = process::signal(self.child.id(), "TERM");
        let since = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn program(name: &str) -> PathBuf {
    dev::find(name)
        .unwrap_or_else(|| panic!("the tests need {name}: run them with `make test-rust`"))
}

fn shipped(file: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Replaces the one line that begins like this.
fn replaced(config: &str, begins: &str, by: &str) -> String {
    let found = config
        .lines()
        .filter(|line| line.trim_start().starts_with(begins))
        .count();
    assert_eq!(found, 1, "{begins:?} should be one line of\n{config}");
    let line = |line: &str| {
        if line.trim_start().starts_with(begins) {
            format!("{by}\n")
        } else {
            format!("{line}\n")
        }
    };
    config.lines().map(line).collect()
}

/// Servers by address instead of by Compose's DNS, and everything on loopback.
fn haproxy(home: &Path, port: u16, backends: &[Backend]) -> (Command, Vec<String>) {
    let names: Vec<String> = (1..=backends.len())
        .map(|n| format!("replica-{n}"))
        .collect();
    let servers: String = names
        .iter()
        .zip(backends)
        .map(|(name, at)| {
            format!(
                "    server {name} 127.0.0.1:{} port {}\n",
                at.public, at.management
            )
        })
        .collect();
    let health = dev::free_port().unwrap();
    let config = shipped("compose/haproxy.cfg");
    let config = replaced(&config, "bind :3000", &format!("    bind 127.0.0.1:{port}"));
    let config = replaced(
        &config,
        "bind 127.0.0.1:8404",
        &format!("    bind 127.0.0.1:{health}"),
    );
    let config = replaced(&config, "fd-hard-limit", "    maxconn 1000");
    let config = replaced(
        &config,
        "server-template",
        &format!("    http-response set-header x-replica %[srv_name]\n{servers}"),
    );
    let file = home.join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(program("haproxy"));
    command.arg("-db").arg("-f").arg(file);
    (command, names)
}

/// The same, embedded in a minimal nginx.conf, which a distribution provides otherwise.
fn nginx(home: &Path, port: u16, backends: &[Backend]) -> (Command, Vec<String>) {
    let names: Vec<String> = backends
        .iter()
        .map(|at| format!("127.0.0.1:{}", at.public))
        .collect();
    let config = shipped("deploy/nginx.conf");
    let servers: String = names
        .iter()
        .map(|name| format!("    server {name} max_fails=1 fail_timeout=2s;\n"))
        .collect();
    let config = replaced(
        &config,
        "server replica-1:3000 max_fails=1 fail_timeout=2s;",
        &servers,
    );
    let config = replaced(
        &config,
        "server replica-2:3000 max_fails=1 fail_timeout=2s;",
        "",
    );
    let config = replaced(
        &config,
        "listen 80;",
        &format!("    listen 127.0.0.1:{port};"),
    );
    let config = replaced(
        &config,
        "add_header Set-Cookie",
        "        add_header Set-Cookie $apptlock_cookie always;\n        \
         add_header x-replica $upstream_addr always;",
    );
    let home_path = home.display();
    let frame = format!(
        "daemon off;
worker_processes 1;
pid {home_path}/pid;
error_log stderr warn;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    client_body_temp_path {home_path}/client;
    proxy_temp_path {home_path}/proxy;
    fastcgi_temp_path {home_path}/fastcgi;
    uwsgi_temp_path {home_path}/uwsgi;
    scgi_temp_path {home_path}/scgi;
{config}
}}
"
    );
    let file = home.join("nginx.conf");
    fs::write(&file, frame).unwrap();
    let mut command = Command::new(program("nginx"));
    command
        .arg("-e")
        .arg("stderr")
        .arg("-p")
        .arg(home)
        .arg("-c")
        .arg(file);
    (command, names)
}
