//! The promises under faults: of Redis, PostgreSQL, a client, or the replica itself.
//!
//! Faults are real: servers are killed and paused, connections are cut, stalled and reset by
//! [`crate::support::Proxy`], processes get signals.

mod clients;
mod leader;
mod postgres;
mod redis;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use apptlock::dev;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Proxy, Replica, Socket};

/// Maximum time between a change and its arrival, whatever the bus does: promise 5.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

fn under() -> PathBuf {
    std::env::temp_dir().join("apptlock-tests")
}

/// A PostgreSQL that this test alone breaks.
fn own_postgres() -> dev::Server {
    dev::postgres(&under()).unwrap()
}

/// A Redis that this test alone breaks.
fn own_redis() -> dev::Server {
    dev::redis(&under()).unwrap().expect("redis-server")
}

/// Proxy between a replica and the server at that port.
async fn before(port: u16) -> Proxy {
    Proxy::start((Ipv4Addr::LOCALHOST, port)).await.unwrap()
}

/// Changes the lock once on `here`, whatever its state is. Returns the new version, and the time from the answer until
/// `there` has seen it.
async fn change_is_seen(here: &Replica, id: &str, there: &mut [&mut Socket]) -> (i64, Duration) {
    let held = here.status_of(id).await.body["locked"] == true;
    let reply = if held {
        here.release(id, "ann").await
    } else {
        here.acquire(id, "ann").await
    };
    assert!(reply.status < 300, "{reply:?}");
    let (version, since) = (reply.version(), Instant::now());
    for socket in there {
        loop {
            let seen = socket.expect("lock-update").await["version"].as_i64();
            if seen >= Some(version) {
                break;
            }
        }
    }
    (version, since.elapsed())
}

async fn is_ready(replica: &Replica) -> bool {
    readiness(replica).await["status"] == "ok"
}

/// Answer of a replica to a balancer's probe.
async fn readiness(replica: &Replica) -> Value {
    let probe = replica
        .client
        .get(format!("{}/readyz", replica.management))
        .send()
        .await
        .unwrap();
    let code = probe.status();
    let body: Value = probe.json().await.unwrap();
    assert_eq!(code == 200, body["status"] == "ok", "{body}");
    body
}

/// Waits until a replica's probe has that status.
async fn becomes(replica: &Replica, status: &str) {
    let since = Instant::now();
    loop {
        let now = readiness(replica).await;
        if now["status"] == status {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{now} in the place of {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn at(id: &str, x: i64) -> Value {
    json!({ "appointmentId": id, "position": { "x": x, "y": 0 } })
}
