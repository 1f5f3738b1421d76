//! What tests stand on: servers, replicas, clients.

mod collector;
mod haproxy;
mod http;
mod nginx;
mod pgbouncer;
mod prometheus;
mod proxy;
pub mod rooms;
mod socket;
mod stack;
pub mod tokens;

pub use collector::{Collector, Span};
pub use haproxy::{Backend, Haproxy};
pub use http::Reply;
pub use nginx::{Balancer, Kind};
pub use pgbouncer::{POOL_SIZE, PgBouncer};
pub use prometheus::Prometheus;
pub use proxy::Proxy;
pub use socket::Socket;
pub use stack::{Replica, Stack, servers};

use serde_json::{Value, json};
use std::time::Duration;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An id that no other test uses: all share one Redis.
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
