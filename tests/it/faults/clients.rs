//! Slow or dead clients delay nobody and are disconnected; a client that only paused ends at the newest state.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket as Raw, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Replica, Socket, Stack, auth, fresh};

/// A connection with small buffers, so that its queue fills up soon.
fn narrow(replica: &Replica) -> TcpStream {
    let address: SocketAddr = replica.url.trim_start_matches("http://").parse().unwrap();
    let socket = Raw::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

/// A person with a name of the maximum length, so that events are large.
fn large(user: &str) -> Value {
    json!({ "userId": user, "userInfo": { "name": "N".repeat(200), "email": "e".repeat(320) } })
}

async fn churn(replica: &Replica, id: &str, times: usize) -> i64 {
    let mut version = 0;
    for _ in 0..times {
        let taken = replica.ask("POST", id, "acquire-lock", &large("ann")).await;
        assert_eq!(taken.status, 201, "{taken:?}");
        version = replica.release(id, "ann").await.version();
    }
    version
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn a_client_that_paused_sees_versions_rise_and_ends_at_the_newest() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let ids: Vec<String> = (0..4)
        .map(|n| format!("{}{}", fresh(&format!("pause{n}")), "x".repeat(150)))
        .collect();
    let mut slow = Socket::over(replica, narrow(replica)).await;
    slow.join(&auth("slow")).await;
    let mut brisk = Socket::connect(replica, auth("brisk")).await;
    for id in &ids {
        slow.subscribe(id).await;
        brisk.subscribe(id).await;
    }
    // Nothing is read from `slow` while this goes on, until its queue is full.
    let (mut newest, mut worst) = (vec![0; ids.len()], Duration::ZERO);
    let full = async || replica.metric("apptlock_socket_queue_full_total").await;
    let filling = Instant::now();
    while full().await < 50.0 {
        assert!(filling.elapsed() < 3 * PATIENCE, "its queue takes all");
        let churns = ids.iter().map(|id| churn(replica, id, 20));
        newest = futures_util::future::join_all(churns).await;
        let since = Instant::now();
        let mut seen = 0;
        while seen < newest[0] {
            let update = brisk.expect("lock-update").await;
            if update["appointmentId"] == ids[0].as_str() {
                seen = update["version"].as_i64().unwrap();
            }
        }
        worst = worst.max(since.elapsed());
    }
    println!("newest {newest:?}; the other socket was at most {worst:?} behind");
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    // The queue to all sockets is never empty: in another room somebody goes on moving the pointer.
    let elsewhere = fresh("elsewhere");
    let mut mover = Socket::connect(replica, auth("mover")).await;
    let mut looker = Socket::connect(replica, auth("looker")).await;
    mover.subscribe(&elsewhere).await;
    looker.subscribe(&elsewhere).await;
    let moving = tokio::spawn(async move {
        loop {
            mover
                .emit("cursor-position", &super::at(&elsewhere, 1))
                .await;
            looker.expect("cursor-update").await;
        }
    });
    let mut seen = vec![0; ids.len()];
    while seen != newest {
        let update = slow.expect("lock-update").await;
        let room = ids
            .iter()
            .position(|id| update["appointmentId"] == id.as_str())
            .unwrap();
        let version = update["version"].as_i64().unwrap();
        assert!(version > seen[room], "{version} after {}", seen[room]);
        seen[room] = version;
    }
    moving.abort();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn a_client_that_stops_reading_is_dropped_within_a_minute_and_delays_nobody() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("stuck");
    let mut dead = Socket::over(replica, narrow(replica)).await;
    dead.join(&auth("dead")).await;
    dead.subscribe(&id).await;
    let since = Instant::now();
    let mut brisk = Socket::connect(replica, auth("brisk")).await;
    brisk.subscribe(&id).await;
    let mut worst = Duration::ZERO;
    while replica.metric("apptlock_sockets").await > 1.0 {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "still there after {:?}",
            since.elapsed()
        );
        let newest = churn(replica, &id, 20).await;
        let waited = Instant::now();
        while brisk.expect("lock-update").await["version"] != newest {}
        worst = worst.max(waited.elapsed());
    }
    println!(
        "dropped after {:?}; the other socket was at most {worst:?} behind",
        since.elapsed()
    );
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    drop(dead);
}

/// The client vanished silently: it answers nothing, not even a ping.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_dies_within_a_minute() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let mut gone = Socket::connect(replica, auth("gone")).await;
    gone.subscribe(&fresh("gone")).await;
    let since = Instant::now();
    let minute = Duration::from_secs(60);
    replica
        .metric_becomes_within(minute, "apptlock_sockets", |open| open == 0.0)
        .await;
    println!("dropped after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_head_never_ends_is_let_go() {
    let stack = Stack::start(1, &[]).await;
    let mut stream = narrow(&stack.replicas[0]);
    let since = Instant::now();
    let begun = b"GET /api/appointments/a/lock-status HTTP/1.1\r\nhost: a\r\n";
    stream.write_all(begun).await.unwrap();
    let mut heard = Vec::new();
    let end = stream.read_to_end(&mut heard);
    let ended = tokio::time::timeout(Duration::from_secs(90), end).await;
    assert!(ended.is_ok(), "kept open");
    assert!(since.elapsed() > Duration::from_secs(10), "cut at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polled_message_whose_body_never_ends_is_let_go() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let polling = format!("{}/socket.io/?EIO=4&transport=polling", replica.url);
    let hello = replica.client.get(&polling).send().await.unwrap();
    let hello = hello.text().await.unwrap();
    let hello: Value = serde_json::from_str(&hello[1..]).unwrap();
    let sid = hello["sid"].as_str().unwrap();
    let mut stream = narrow(replica);
    let head = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nhost: a\r\ncontent-length: 6000\r\n\r\n4x"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut heard = [0; 64];
    let answer = tokio::time::timeout(Duration::from_secs(8), stream.read(&mut heard)).await;
    let length = answer.expect("kept open").unwrap();
    let heard = String::from_utf8_lossy(&heard[..length]);
    assert!(
        heard.is_empty() || heard.starts_with("HTTP/1.1 408"),
        "{heard}"
    );
}
