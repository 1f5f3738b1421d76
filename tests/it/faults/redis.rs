//! Redis is unavailable, silent, or loses messages: locks stay correct, changes arrive, cursors come back.

use std::time::{Duration, Instant};

use super::{SEEN_WITHIN, at, becomes, before, change_is_seen, is_ready, own_redis};
use crate::support::{Socket, Stack, auth, fresh, servers};

/// Time until a cursor that `from` moves reaches `to`.
async fn cursor_crosses(from: &mut Socket, to: &mut Socket, id: &str) -> Duration {
    let since = Instant::now();
    let mut x = 0;
    let moving = async {
        loop {
            x += 1;
            from.emit("cursor-position", &at(id, x)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = moving => unreachable!("it moves until it is seen"),
        _ = to.expect("cursor-update") => since.elapsed(),
    }
}

async fn with_redis_away(mut away: impl FnMut(bool), redis: &str, length: Duration) {
    let stack = Stack::start(2, &[("REDIS_URL", redis)]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("away");
    let mut ann = Socket::connect(here, auth("ann")).await;
    let mut ben = Socket::connect(there, auth("ben")).await;
    ann.subscribe(&id).await;
    ben.subscribe(&id).await;
    cursor_crosses(&mut ann, &mut ben, &id).await;

    away(true);
    let (since, mut worst, mut worst_here) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    let mut n = 0;
    while since.elapsed() < length {
        let (changer, near, far) = if n % 2 == 0 {
            (here, &mut ann, &mut ben)
        } else {
            (there, &mut ben, &mut ann)
        };
        let (_, took) = change_is_seen(changer, &id, &mut [near]).await;
        worst_here = worst_here.max(took);
        let (_, took) = change_is_seen(changer, &id, &mut [far, near]).await;
        worst = worst.max(took);
        assert!(is_ready(changer).await, "a replica without Redis is ready");
        n += 1;
    }
    println!(
        "Redis away for {length:?}: {n} rounds, seen elsewhere within {worst:?}, here within {worst_here:?}"
    );
    assert!(worst < SEEN_WITHIN, "seen only after {worst:?}");
    assert!(
        worst_here < Duration::from_millis(500),
        "local sockets waited {worst_here:?}"
    );

    away(false);
    let took = cursor_crosses(&mut ann, &mut ben, &id).await;
    println!("cursors flow again {took:?} after Redis is back");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn with_redis_killed_for_fifteen_seconds_changes_are_seen_and_cursors_come_back() {
    let mut redis = own_redis();
    let url = redis.url.clone();
    let away = |gone: bool| {
        if gone {
            redis.kill().unwrap();
        } else {
            redis.start_again().unwrap();
        }
    };
    with_redis_away(away, &url, Duration::from_secs(15)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn with_redis_silent_changes_are_seen_and_cursors_come_back() {
    let mut redis = own_redis();
    let url = redis.url.clone();
    let away = |gone: bool| {
        if gone {
            redis.pause().unwrap();
        } else {
            redis.resume().unwrap();
        }
    };
    with_redis_away(away, &url, Duration::from_secs(8)).await;
}

/// The links of the others work: only the replica that is cut off can know that its changes are not received.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn what_a_replica_does_that_alone_is_cut_off_from_redis_is_seen_by_the_others() {
    let mut stack = Stack::empty(&[]).await;
    let proxy = before(servers().redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    stack.add_with(&[("REDIS_URL", &url)]).await;
    stack.add().await;
    let (cut_off, well) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("alone");
    let mut there = Socket::connect(well, auth("ben")).await;
    let mut here = Socket::connect(cut_off, auth("ann")).await;
    there.subscribe(&id).await;
    here.subscribe(&id).await;
    for fault in ["cut", "stall", "delay"] {
        match fault {
            "cut" => proxy.cut(),
            "stall" => proxy.stall(),
            _ => proxy.delay(Duration::from_secs(3)),
        }
        let (since, mut worst) = (Instant::now(), Duration::ZERO);
        while since.elapsed() < Duration::from_secs(6) {
            let (_, took) = change_is_seen(cut_off, &id, &mut [&mut there]).await;
            worst = worst.max(took);
            let (_, took) = change_is_seen(well, &id, &mut [&mut here]).await;
            worst = worst.max(took);
        }
        println!("{fault}: seen within {worst:?}");
        assert!(worst < SEEN_WITHIN, "{fault}: seen only after {worst:?}");
        proxy.pass();
        let took = cursor_crosses(&mut here, &mut there, &id).await;
        assert!(
            took < Duration::from_secs(5),
            "{fault}: back after {took:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn a_replica_that_starts_without_redis_is_ready_and_joins_it_later() {
    let mut stack = Stack::empty(&[]).await;
    let proxy = before(servers().redis.port).await;
    proxy.cut();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    stack.add().await;
    stack.add_alone(&[("REDIS_URL", &url)]).await;
    let (well, late) = (&stack.replicas[0], &stack.replicas[1]);
    late.await_line("could not connect to Redis for subscribing");
    becomes(late, "ok").await;
    let id = fresh("joins");
    let mut socket = Socket::connect(late, auth("ben")).await;
    socket.subscribe(&id).await;
    let (_, took) = change_is_seen(well, &id, &mut [&mut socket]).await;
    assert!(took < SEEN_WITHIN, "{took:?}");
    proxy.pass();
    late.await_line("Redis is connected");
    let (_, took) = change_is_seen(well, &id, &mut [&mut socket]).await;
    assert!(took < Duration::from_millis(500), "not at once: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn connections_to_redis_that_are_reset_again_and_again_hide_no_change() {
    let mut stack = Stack::empty(&[]).await;
    let proxy = before(servers().redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    stack.add_with(&[("REDIS_URL", &url)]).await;
    stack.add_with(&[("REDIS_URL", &url)]).await;
    let id = fresh("resets");
    let mut sockets = Vec::new();
    for replica in &stack.replicas {
        let mut socket = Socket::connect(replica, auth("ben")).await;
        socket.subscribe(&id).await;
        sockets.push(socket);
    }
    let mut worst = Duration::ZERO;
    for n in 0..20 {
        proxy.reset();
        let mut all: Vec<&mut Socket> = sockets.iter_mut().collect();
        let (_, took) = change_is_seen(&stack.replicas[n % 2], &id, &mut all).await;
        assert!(took < SEEN_WITHIN, "seen only after {took:?}");
        worst = worst.max(took);
    }
    println!("20 resets: seen within {worst:?}");
}

/// Connections that die silently, such as when a firewall drops their state.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn connections_to_redis_that_fell_silent_for_good_are_replaced() {
    let mut stack = Stack::empty(&[]).await;
    let proxy = before(servers().redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    stack.add_with(&[("REDIS_URL", &url)]).await;
    stack.add().await;
    let (deaf, well) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("deaf");
    let mut here = Socket::connect(deaf, auth("ann")).await;
    let mut there = Socket::connect(well, auth("ben")).await;
    here.subscribe(&id).await;
    there.subscribe(&id).await;
    proxy.strand();
    let since = Instant::now();
    for (changer, sees) in [(well, &mut here), (deaf, &mut there)] {
        let (_, took) = change_is_seen(changer, &id, &mut [sees]).await;
        assert!(took < SEEN_WITHIN, "{took:?}");
    }
    cursor_crosses(&mut there, &mut here, &id).await;
    cursor_crosses(&mut here, &mut there, &id).await;
    let took = since.elapsed();
    println!("cursors flow again {took:?} after the connections fell silent");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_leaves_the_screens_when_its_replica_is_killed() {
    let mut stack = Stack::start(2, &[]).await;
    let id = fresh("ghost");
    let mut ann = Socket::connect(&stack.replicas[0], auth("ann")).await;
    let mut ben = Socket::connect(&stack.replicas[1], auth("ben")).await;
    ann.subscribe(&id).await;
    ben.subscribe(&id).await;
    cursor_crosses(&mut ann, &mut ben, &id).await;
    drop(stack.replicas.remove(0));
    let since = Instant::now();
    assert_eq!(ben.expect("cursor-left").await["userId"], "ann");
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
}

/// It alone knows that it could not publish: a stop notes it, and without a note the others notice that the replica
/// is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_did_before_its_end_is_seen_though_it_could_not_tell() {
    for end in ["TERM", "KILL"] {
        let mut stack = Stack::empty(&[]).await;
        let proxy = before(servers().redis.port).await;
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        stack.add_with(&[("REDIS_URL", &url)]).await;
        stack.add().await;
        let id = fresh("end");
        let mut there = Socket::connect(&stack.replicas[1], auth("ben")).await;
        there.subscribe(&id).await;
        // The comparisons that follow a start are over, so that none finds the change by chance.
        stack.replicas[1].compares_no_more().await;
        // No error reports that nothing is published.
        proxy.stall();
        let leaving = &stack.replicas[0];
        let reply = leaving.acquire(&id, "ann").await;
        leaving.signal(end);
        assert_eq!(reply.status, 201);
        let since = Instant::now();
        there.expect("lock-acquired").await;
        println!("{end}: seen after {:?}", since.elapsed());
        assert!(
            since.elapsed() < Duration::from_secs(6),
            "{end}: {:?}",
            since.elapsed()
        );
    }
}
