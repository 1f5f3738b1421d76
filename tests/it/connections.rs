//! Connections of clients have places: how many, and what is left for probes.

use serde_json::json;

use crate::support::{Replica, Socket, Stack, auth, fresh};

/// A replica that may open so many files: the soft limit, and the hard one.
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

/// Many containers begin with a soft limit of 1024 and a hard one that is high.
#[tokio::test]
async fn a_replica_makes_room_for_its_sockets_and_says_where_it_cannot() {
    let stack = Stack::empty(&[]).await;
    for (hard, most, warned) in [(9000, 4210.0, 0), (2000, 2000.0, 1)] {
        let replica = start_within(&stack, 1024, hard, ("MAX_SOCKETS", "3000")).await;
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
    let connections = ("DATABASE_MAX_CONNECTIONS", "10");
    let replica = start_within(&stack, 250, 250, connections).await;
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
    replica.await_line("a connection was refused");
    let id = fresh("full");
    let mut asking = std::pin::pin!(replica.acquire(&id, "ann"));
    let meanwhile = async {
        let probe = reqwest::get(format!("{}/readyz", replica.management)).await;
        assert_eq!(probe.unwrap().status(), 200);
        let subscribed = sockets[0].ask("subscribe", &json!(id)).await;
        assert_eq!(subscribed["success"], true);
    };
    tokio::select! {
        reply = &mut asking => panic!("{reply:?}"),
        () = meanwhile => {}
    }
    drop(sockets.pop());
    assert_eq!(asking.await.status, 201);
}
