//! Changes and cursors that cross from one replica to the other, and their latency.

use std::time::{Duration, Instant};

use crate::support::{Socket, Stack, auth, fresh};

#[tokio::test]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn an_acquire_here_is_seen_there_in_under_fifty_milliseconds_at_the_median() {
    let stack = Stack::start(2, &[]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("crossing");
    let mut socket = Socket::connect(there, auth("ben")).await;
    socket.subscribe(&id).await;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..50 {
        let since = Instant::now();
        let asked = here.acquire(&id, "ann");
        let (reply, _) = tokio::join!(asked, socket.expect("lock-acquired"));
        times.push(since.elapsed());
        assert_eq!(reply.status, 201);
        here.release(&id, "ann").await;
        socket.expect("lock-released").await;
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "request sent here to event heard there: median {median:?}, worst {worst:?}, n = {}",
        times.len()
    );
    assert!(median < Duration::from_millis(50), "{median:?}");
}

#[tokio::test]
async fn sockets_that_subscribe_as_they_connect_are_all_acknowledged() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("rush");
    let join = |n: usize| {
        let id = id.clone();
        async move {
            // The event is sent in the same tick in which the connection is confirmed.
            let mut socket = Socket::connect(replica, auth(&format!("u{n}"))).await;
            socket.subscribe(&id).await;
            socket
        }
    };
    let sockets = futures_util::future::join_all((0..500).map(join)).await;
    assert_eq!(sockets.len(), 500);
}
