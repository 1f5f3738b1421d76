//! Connections of clients have places: how many, and what is left for probes.

use std::time::Duration;

use serde_json::json;

use crate::support::{Replica, Socket, Stack, auth, fresh};

/// Many containers begin with a soft limit of 1024 and a hard one that is high.
#[tokio::test]
async fn a_replica_makes_room_for_its_sockets_and_says_where_it_cannot() {
    let stack = Stack::empty(&[]).await;
    let settings = [
        ("DATABASE_URL", stack.database.as_str()),
        ("AUTH_MODE", "trusted"),
        ("MAX_SOCKETS", "3000"),
    ];
    let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned()));
    for (hard, most, warned) in [(9000, 4210.0, 0), (2000, 2000.0, 1)] {
        let settings = settings.clone();
        let start = move || Replica::start_within(1024, hard, &settings);
        let replica = tokio::task::spawn_blocking(start).await.unwrap();
        assert_eq!(replica.metric("process_max_fds").await, most);
        let log = replica.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("as many files as MAX_SOCKETS"));
        assert_eq!(lines.count(), warned, "{log}");
    }
}

/// Sockets and connections that say nothing take the same places; probes have their own.
#[tokio::test]
async fn connections_that_take_every_place_keep_clients_waiting_but_no_probe() {
    let stack = Stack::empty(&[]).await;
    let settings = [
        ("DATABASE_URL", stack.database.as_str()),
        ("DATABASE_MAX_CONNECTIONS", "10"),
        ("AUTH_MODE", "trusted"),
        ("RATE_LIMIT_PER_SECOND", "0"),
    ];
    let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let start = move || Replica::start_within(250, 250, &settings);
    let replica = tokio::task::spawn_blocking(start).await.unwrap();
    // 250, less 10 to PostgreSQL and 200 for all else.
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(Socket::connect(&replica, auth("ann")).await);
    }
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let id = fresh("full");
    let mut asking = std::pin::pin!(replica.acquire(&id, "ann"));
    let full = async {
        while !replica
            .log()
            .contains("all connections that this replica may have open are")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        reply = &mut asking => panic!("{reply:?}"),
        () = full => {}
    }
    let probe = reqwest::get(format!("{}/readyz", replica.management))
        .await
        .unwrap();
    assert_eq!(probe.status(), 200);
    assert_eq!(
        sockets[0].ask("subscribe", &json!(id)).await["success"],
        true
    );
    drop(sockets.pop());
    assert_eq!(asking.await.status, 201);
}
