//! Client connections: their limit, closing of idle ones, and files reserved for probes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Replica, Socket, Stack, auth, fresh, until_within};

/// A replica with these limits of open files: soft and hard.
async fn start_within(stack: &Stack, soft: u32, hard: u32, more: (&str, &str)) -> Replica {
    let settings = [
        ("DATABASE_URL", stack.database.as_str()),
        ("AUTH_MODE", "trusted"),
        ("RATE_LIMIT_PER_SECOND", "0"),
        more,
    ];
    let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let start = move || Replica::start_within(soft, hard, &settings);
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Many containers start with a soft limit of 1024 and a high hard limit.
#[tokio::test]
async fn a_replica_makes_room_for_its_sockets_and_says_where_it_cannot() {
    let stack = Stack::empty(&[]).await;
    for (hard, most, warned) in [(9000, 4260.0, 0), (2000, 2000.0, 1)] {
        let replica = start_within(&stack, 1024, hard, ("MAX_SOCKETS", "3000")).await;
        assert_eq!(replica.metric("process_max_fds").await, most);
        let log = replica.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("is too low for MAX_SOCKETS"));
        assert_eq!(lines.count(), warned, "{log}");
    }
}

/// Idle connections are closed for new ones, those of sockets are not; probes have their own limit.
#[tokio::test]
async fn when_every_connection_is_in_use_clients_are_refused_and_readiness_tells() {
    let stack = Stack::empty(&[]).await;
    let connections = ("DATABASE_MAX_CONNECTIONS", "10");
    let replica = start_within(&stack, 300, 300, connections).await;
    // 300, minus 10 to PostgreSQL and 250 for everything else.
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..15 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let mut sockets = Vec::new();
    for _ in 0..40 {
        sockets.push(Socket::connect(&replica, auth("ann")).await);
    }
    assert_eq!(replica.metric("apptlock_connections").await, 40.0);
    let evicted = "apptlock_connections_closed_total{reason=\"idle\"}";
    assert_eq!(replica.metric(evicted).await, 15.0);

    let probe = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", replica.management)).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(probe("/readyz").await, 200, "nobody was refused");
    let refused = reqwest::get(format!("{}/api/openapi.json", replica.url))
        .await
        .unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let envelope: Value = refused.json().await.unwrap();
    assert_eq!(
        (&envelope["code"], &envelope["success"]),
        (&json!("UNAVAILABLE"), &json!(false))
    );
    replica.await_line("connection refused");
    assert_eq!((probe("/readyz").await, probe("/livez").await), (503, 200));

    let id = fresh("full");
    sockets[0].subscribe(&id).await;
    drop(sockets.pop());
    replica
        .metric_becomes("apptlock_connections", |open| open <= 39.0)
        .await;
    assert_eq!(replica.acquire(&id, "ann").await.status, 201);
    until_within(Duration::from_secs(10), "it is ready again", async || {
        probe("/readyz").await == 200
    })
    .await;
}
