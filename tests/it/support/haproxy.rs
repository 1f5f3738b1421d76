//! A load balancer in front of replicas: HAProxy, as a process of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use super::PATIENCE;
use super::stack::Lines;
use apptlock::dev;

/// Ports of a replica: the public one, and the one with its probes.
#[derive(Debug, Clone, Copy)]
pub struct Backend {
    pub public: u16,
    pub management: u16,
}

impl Backend {
    /// On ports that stay free while nothing listens there: below the range from which the system assigns ports to
    /// outgoing connections.
    pub fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let offset = u16::try_from(std::process::id() % 5000).unwrap();
        let free = || {
            (0..1000)
                .map(|_| 20_000 + (offset * 2 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000)
                .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
                .unwrap()
        };
        Self {
            public: free(),
            management: free(),
        }
    }
}

/// HAProxy, stopped when dropped.
pub struct Haproxy {
    /// The one address of all replicas.
    pub url: String,
    home: PathBuf,
    child: Child,
    lines: Arc<Lines>,
}

impl Haproxy {
    /// Starts one in front of ready replicas, named `r0`, `r1`, … in this order. A request is retried only if no
    /// connection was established, so no operation is executed twice. The header `x-replica` of each answer names
    /// its replica.
    pub fn start(backends: &[Backend]) -> Self {
        let program =
            dev::find("haproxy").expect("the tests need haproxy: run them with `make test`");
        let port = dev::free_port().unwrap();
        let home = std::env::temp_dir().join(format!(
            "apptlock-tests/haproxy-{}",
            uuid::Uuid::new_v4().simple()
        ));
        fs::create_dir_all(&home).unwrap();
        let servers: String = backends
            .iter()
            .enumerate()
            .map(|(n, at)| {
                format!(
                    "    server r{n} 127.0.0.1:{} port {}\n",
                    at.public, at.management
                )
            })
            .collect();
        let config = format!(
            "global
    maxconn 1500
    log stdout format raw local0 notice
defaults
    mode http
    log global
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    timeout check 1s
    retries 3
    retry-on conn-failure
    option redispatch 1
    option httpchk GET /readyz
listen replicas
    bind 127.0.0.1:{port}
    balance leastconn
    http-response set-header x-replica %[srv_name]
    default-server check inter 200ms fall 1 rise 1
{servers}"
        );
        let file = home.join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        let mut child = Command::new(program)
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        lines.follow(child.stdout.take().unwrap());
        lines.follow(child.stderr.take().unwrap());
        let mut haproxy = Self {
            url: format!("http://127.0.0.1:{port}"),
            home,
            child,
            lines,
        };
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = haproxy.child.try_wait().unwrap();
            assert!(
                ended.is_none() && since.elapsed() < PATIENCE,
                "haproxy did not start:\n{}",
                haproxy.log()
            );
            std::thread::yield_now();
        }
        haproxy
    }

    /// Waits until it has marked this replica as down.
    pub fn await_down(&self, name: &str) {
        self.await_words(&format!("Server replicas/{name} is DOWN"));
    }

    /// Waits until it has marked this replica as up again.
    pub fn await_up(&self, name: &str) {
        self.await_words(&format!("Server replicas/{name} is UP"));
    }

    fn await_words(&self, words: &str) {
        self.lines
            .find(words, |line| line.contains(words).then_some(()));
    }

    pub fn log(&self) -> String {
        self.lines.text()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}
