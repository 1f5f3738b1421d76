//! What tests stand on: servers, replicas, clients.

mod http;
mod proxy;
mod socket;
mod stack;

pub use http::Reply;
// Its own test alone does not import it from here.
#[allow(unused_imports)]
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
