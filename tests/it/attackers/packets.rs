//! Frames and packets that are no events: binary ones, garbage, floods, and texts that are too long.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::poller::Poller;
use super::{JWT, counted};
use crate::support::tokens::token;
use crate::support::{Socket, Stack, auth, fresh};

#[tokio::test]
async fn a_binary_frame_ends_the_connection_before_any_login_and_after_it() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let mut other = Socket::connect(replica, auth("ben")).await;
    for joined in [false, true] {
        let mut socket = Socket::open(replica).await;
        if joined {
            assert!(socket.join(&auth("ann")).await);
        }
        socket.try_send(Message::binary(vec![0; 60_000])).await;
        assert!(socket.ends_within(Duration::from_secs(2)).await);
    }
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"binary\"}").await,
        2.0
    );
    // An announced attachment ends the connection too: there are none here.
    let mut socket = Socket::connect(replica, auth("ann")).await;
    let header = format!("4510000-{}", json!(["x", "y".repeat(60_000)]));
    socket.send(header).await;
    assert!(socket.ends_within(Duration::from_secs(2)).await);
    other.subscribe(&fresh("a")).await;
}

#[tokio::test]
async fn packets_that_are_no_events_have_a_price_by_polling_too() {
    let stack = Stack::start_limited(1, &JWT).await;
    let replica = &stack.replicas[0];
    let ann = json!({ "token": token("ann") });
    let many = |count| vec!["40/x,"; count].join("\u{1e}");
    for joined in [false, true] {
        let poller = if joined {
            Poller::joined(replica, &ann).await
        } else {
            Poller::open(replica).await
        };
        let packets = if joined { 10_900 } else { 2500 };
        assert_eq!(poller.say(&many(packets)).await, 429);
        assert_eq!(poller.poll().await.0, 400, "the session is gone");
    }
    // A binary packet ends the connection too, and one that is too large is rejected.
    let poller = Poller::joined(replica, &ann).await;
    assert_eq!(poller.say("bAAAA").await, 400);
    assert_eq!(poller.poll().await.0, 400, "the session is gone");
    let poller = Poller::joined(replica, &ann).await;
    assert_eq!(poller.say(&"x".repeat(70_000)).await, 413);
    let poller = Poller::open(replica).await;
    assert_eq!(poller.say(&"x".repeat(20_000)).await, 413);
    let closed = counted(replica, "connections_closed_total{reason=\"flood\"}").await;
    assert_eq!(closed, 2.0);
}

#[tokio::test]
async fn frames_that_are_no_events_are_slowed_down_and_then_end_the_connection_without_a_line() {
    let settings = [
        JWT[0],
        JWT[1],
        ("RATE_LIMIT_PER_SECOND", "5"),
        ("RATE_LIMIT_BURST", "5"),
    ];
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    let lines = replica.log().lines().count();
    for frame in ["40/x,", "43123[]", "2", ""] {
        let mut eve = Socket::connect(replica, json!({ "token": token("eve") })).await;
        let since = Instant::now();
        let mut sent = 0;
        while eve.try_send(Message::text(frame)).await {
            sent += 1;
            assert!(sent < 1_000_000, "{frame:?} may go on for ever");
        }
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "{:?}",
            since.elapsed()
        );
    }
    assert!(counted(replica, "rate_limited_total{kind=\"frame\"}").await > 0.0);
    assert!(counted(replica, "connections_closed_total{reason=\"flood\"}").await >= 1.0);
    let log = replica.log();
    assert!(log.lines().count() <= lines + 5, "{log}");
    let mut ann = Socket::connect(replica, json!({ "token": token("ann") })).await;
    ann.subscribe(&fresh("a")).await;
}

/// A burst of frames from a page with a whole list is no attack.
#[tokio::test]
async fn a_burst_of_a_thousand_events_is_answered() {
    let stack = Stack::start_limited(1, &JWT).await;
    let mut ann = Socket::connect(&stack.replicas[0], json!({ "token": token("ann") })).await;
    for n in 0..1000 {
        ann.send(format!("42{n}[\"subscribe\",\"a-{n}\"]")).await;
    }
    let mut answered = 0;
    while answered < 1000 {
        let frame = ann.frame().await.expect("hung up");
        answered += u32::from(frame.starts_with("43"));
    }
}

/// The rejection of a namespace repeats its name, and waits for a client that does not read.
#[tokio::test]
async fn a_long_name_of_a_namespace_ends_the_connection() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let long = format!("40/{},", "A".repeat(60_000));
    let mut socket = Socket::open(replica).await;
    socket.try_send(Message::text(long.clone())).await;
    assert!(socket.ends_within(Duration::from_secs(2)).await);
    let poller = Poller::open(replica).await;
    let long = format!("40/{},", "A".repeat(10_000));
    assert_eq!(poller.say(&long).await, 429);
    // A short name is rejected as usual for such servers.
    let mut socket = Socket::open(replica).await;
    socket.send("40/admin,").await;
    let refused = socket.frame().await.unwrap();
    assert!(refused.starts_with("44/admin,"), "{refused}");
}

/// An incomplete message of a client that has not joined would be buffered until it is complete.
#[tokio::test]
async fn before_joining_a_message_is_short() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let mut socket = Socket::open(replica).await;
    let long = format!("40{}", json!({ "token": "x".repeat(20_000) }));
    socket.try_send(Message::text(long)).await;
    assert!(socket.ends_within(Duration::from_secs(2)).await);
    let mut socket = Socket::connect(replica, auth("ann")).await;
    let long = json!({ "appointmentId": fresh("a"), "more": "x".repeat(20_000) });
    assert_eq!(socket.ask("subscribe", &long).await["success"], true);
}
