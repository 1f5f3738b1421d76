//! Servers, replicas and clients for tests.

mod collector;
mod haproxy;
mod http;
mod nginx;
mod pgbouncer;
mod prometheus;
pub mod rooms;
mod socket;
mod stack;
pub mod tokens;

pub use apptlock_support::Proxy;
pub use collector::{Collector, Span};
pub use haproxy::{Backend, Haproxy};
pub use http::Reply;
pub use nginx::{Balancer, Kind};
pub use pgbouncer::{POOL_SIZE, PgBouncer};
pub use prometheus::Prometheus;
pub use socket::Socket;
pub use stack::{Replica, Stack, migrate, servers};

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Maximum time that a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Interval between two checks of something that must happen.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `done` holds. After [`PATIENCE`] the test fails with `what`.
pub async fn until(what: &str, done: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, done).await;
}

/// Waits until `done` holds. After `limit` the test fails with `what`.
pub async fn until_within(limit: Duration, what: &str, mut done: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !done().await {
        assert!(since.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A unique id: all tests share one Redis.
pub fn fresh(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4().simple())
}

/// The body of an acquire.
pub fn person(id: &str) -> Value {
    json!({ "userId": id, "userInfo": { "name": format!("Name of {id}"), "email": format!("{id}@example.com") } })
}

/// The handshake of a socket.
pub fn auth(id: &str) -> Value {
    person(id)
}
