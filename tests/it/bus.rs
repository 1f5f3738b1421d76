//! The bus between replicas, and recovery of lost messages.

use std::time::{Duration, Instant};

use apptlock::bus::redis::RedisBus;
use apptlock::bus::{Bus, BusEvent, Installation};
use apptlock::config::Redis;
use apptlock::domain::ids::{AppointmentId, RoomId, TenantId};
use bytes::Bytes;
use serde_json::json;

use crate::support::{PATIENCE, Proxy, Socket, Stack, auth, fresh, servers, until};

fn room(name: &str) -> RoomId {
    RoomId {
        tenant: TenantId::default(),
        appointment: AppointmentId::new(name).unwrap(),
    }
}

/// The installation of all ends here.
fn here_too() -> std::future::Ready<Installation> {
    std::future::ready(Installation {
        name: "0123456789ab".into(),
        key: vec![7; 32],
    })
}

/// A message.
fn said(what: impl Into<serde_json::Value>) -> Bytes {
    json!({ "said": what.into() }).to_string().into()
}

/// The next event, other than heartbeats, which continue whatever else is lost.
async fn next(events: &mut tokio::sync::mpsc::Receiver<BusEvent>) -> BusEvent {
    let next = async {
        loop {
            let event = events.recv().await.unwrap();
            if !matches!(event, BusEvent::Alive(_)) {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, next)
        .await
        .expect("heard nothing")
}

#[tokio::test]
async fn redis_carries_each_room_on_its_own_and_reports_every_connection_as_a_gap() {
    let url = Redis::at(&servers().redis.url);
    let (here, _echo) = RedisBus::start(&url, &fresh("end"), here_too()).unwrap();
    let (there, mut heard) = RedisBus::start(&url, &fresh("end"), here_too()).unwrap();
    assert_eq!(
        next(&mut heard).await,
        BusEvent::Gap,
        "connected: what came before is not known"
    );
    let (wanted, other) = (room(&fresh("wanted")), room(&fresh("other")));
    there.subscribe(&wanted).await;
    until("Redis is there", async || here.healthy()).await;
    here.publish(&other, said("no"));
    for n in 0..1000 {
        here.publish(&wanted, said(n));
    }
    for n in 0..1000 {
        let mut event = next(&mut heard).await;
        while event == BusEvent::Gap {
            event = next(&mut heard).await;
        }
        assert_eq!(
            event,
            BusEvent::Message(said(n)),
            "in order, none lost, none of another room"
        );
    }
    there.unsubscribe(&wanted);
    there.subscribe(&other).await;
    here.publish(&wanted, said("late"));
    here.publish(&other, said("yes"));
    assert_eq!(next(&mut heard).await, BusEvent::Message(said("yes")));
    here.close().await;
    there.close().await;
}

#[tokio::test]
async fn what_was_published_before_the_end_still_goes_out() {
    let url = Redis::at(&servers().redis.url);
    let (here, _echo) = RedisBus::start(&url, &fresh("end"), here_too()).unwrap();
    let (there, mut heard) = RedisBus::start(&url, &fresh("end"), here_too()).unwrap();
    assert_eq!(next(&mut heard).await, BusEvent::Gap);
    let wanted = room(&fresh("last"));
    there.subscribe(&wanted).await;
    until("Redis is there", async || here.healthy()).await;
    // Nothing is awaited in between: all messages are still in the queue at the stop.
    for n in 0..1000 {
        here.publish(&wanted, said(n));
    }
    here.close().await;
    for n in 0..1000 {
        assert_eq!(next(&mut heard).await, BusEvent::Message(said(n)));
    }
}

#[tokio::test]
async fn many_rooms_are_subscribed_in_batches() {
    let url = Redis::at(&servers().redis.url);
    let (here, _echo) = RedisBus::start(&url, &fresh("end"), here_too()).unwrap();
    let (there, mut heard) = RedisBus::start(&url, &fresh("end"), here_too()).unwrap();
    assert_eq!(next(&mut heard).await, BusEvent::Gap);
    let rooms: Vec<RoomId> = (0..2000)
        .map(|n| room(&fresh(&format!("many{n}"))))
        .collect();
    let wishes: Vec<_> = rooms.iter().map(|room| there.subscribe(room)).collect();
    for wish in wishes {
        wish.await;
    }
    until("Redis is there", async || here.healthy()).await;
    for room in &rooms {
        here.publish(room, said(room.name()));
    }
    let mut missing: std::collections::HashSet<Bytes> =
        rooms.iter().map(|room| said(room.name())).collect();
    while !missing.is_empty() {
        if let BusEvent::Message(message) = next(&mut heard).await {
            missing.remove(&message);
        }
    }
}

/// Redis is slow: an acknowledgement sent before the room's channel is subscribed would hide the messages right after
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_acknowledged_only_when_redis_has_it() {
    let mut stack = Stack::start(1, &[]).await;
    let server = (std::net::Ipv4Addr::LOCALHOST, servers().redis.port);
    let proxy = Proxy::start(server).await.unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    stack.add_with(&[("REDIS_URL", &url)]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let mut socket = Socket::connect(there, auth("ben")).await;
    proxy.delay(Duration::from_millis(100));
    for _ in 0..5 {
        let id = fresh("far");
        socket.subscribe(&id).await;
        let since = Instant::now();
        here.acquire(&id, "ann").await;
        socket.expect("lock-acquired").await;
        assert!(
            since.elapsed() < Duration::from_secs(2),
            "{:?}",
            since.elapsed()
        );
    }
}

/// A change without a message: written directly, bypassing every replica, as if its message was lost.
#[tokio::test]
async fn what_the_bus_lost_is_shown_after_the_next_gap() {
    // A separate one: the connections that are cut below would be other tests' too.
    let under = std::env::temp_dir().join("apptlock-tests");
    let redis = apptlock::dev::redis(&under).unwrap().expect("redis-server");
    let stack = Stack::start(2, &[("REDIS_URL", redis.url.as_str())]).await;
    let replica = &stack.replicas[0];
    let id = fresh("lost");
    replica.acquire(&id, "ann").await;
    let mut socket = Socket::connect(replica, auth("ben")).await;
    socket.subscribe(&id).await;
    sqlx::query(
        "update appointment_lock set version = version + 1, reason = 'released', user_id = null, user_info = null,
            session_id = null, granted_at = null, expires_at = null where appointment_id = $1",
    )
    .bind(&id)
    .execute(&stack.pool)
    .await
    .unwrap();
    // Every connection to Redis is cut; each replica reconnects automatically, and treats it as a gap.
    let cut = Instant::now();
    kill_redis_clients(redis.port).await;
    let update = socket.expect("lock-update").await;
    assert_eq!(
        (&update["version"], &update["lock"]),
        (&2.into(), &serde_json::Value::Null)
    );
    assert!(
        cut.elapsed() < Duration::from_secs(5),
        "{:?}",
        cut.elapsed()
    );
    assert_eq!(socket.expect("lock-released").await["reason"], "released");
    // And messages flow again.
    stack.replicas[1].acquire(&id, "eve").await;
    assert_eq!(
        socket.expect("lock-acquired").await["lock"]["userId"],
        "eve"
    );
}

async fn kill_redis_clients(port: u16) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut redis = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    redis
        .write_all(b"CLIENT KILL TYPE pubsub\r\n")
        .await
        .unwrap();
    let mut answer = [0; 64];
    let n = redis.read(&mut answer).await.unwrap();
    assert!(
        answer[..n].starts_with(b":"),
        "{:?}",
        String::from_utf8_lossy(&answer[..n])
    );
}

#[tokio::test]
async fn with_redis_gone_a_change_made_elsewhere_is_shown_within_two_seconds() {
    let under = std::env::temp_dir().join("apptlock-tests");
    let redis = apptlock::dev::redis(&under).unwrap().expect("redis-server");
    let stack = Stack::start(2, &[("REDIS_URL", redis.url.as_str())]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("gone");
    let mut socket = Socket::connect(there, auth("ben")).await;
    socket.subscribe(&id).await;
    drop(redis);
    for replica in [here, there] {
        replica.await_line("Redis is unavailable");
    }
    for round in 0..3 {
        let since = Instant::now();
        assert_eq!(
            here.acquire(&id, "ann").await.status,
            201,
            "locks need no Redis"
        );
        socket.expect("lock-acquired").await;
        here.release(&id, "ann").await;
        socket.expect("lock-released").await;
        // Two changes, each within its two seconds.
        assert!(
            since.elapsed() < Duration::from_secs(4),
            "round {round}: {:?}",
            since.elapsed()
        );
    }
    let ready = there
        .client
        .get(format!("{}/readyz", there.management))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 200, "a replica without Redis stays ready");
}

/// Pub/sub ignores databases: without distinct names, each would show the other's locks, and not its own, whose
/// versions are lower.
#[tokio::test]
async fn two_installations_on_one_redis_hear_nothing_of_each_other() {
    let (ours, theirs) = (Stack::start(1, &[]).await, Stack::start(1, &[]).await);
    let (here, there) = (&ours.replicas[0], &theirs.replicas[0]);
    let id = fresh("shared");
    let mut socket = Socket::connect(here, auth("ann")).await;
    socket.subscribe(&id).await;
    let mut foreign = Socket::connect(there, auth("ben")).await;
    foreign.subscribe(&id).await;
    for version in 1..=3 {
        assert_eq!(
            there.acquire(&id, "ben").await.status,
            if version == 1 { 201 } else { 200 }
        );
        assert_eq!(foreign.expect("lock-update").await["version"], version);
    }
    assert_eq!(here.acquire(&id, "ann").await.status, 201);
    let update = socket.expect("lock-update").await;
    assert_eq!(
        (&update["version"], &update["lock"]["userId"]),
        (&json!(1), &json!("ann"))
    );
}

/// Publishes like an attacker who can reach Redis.
async fn publish(port: u16, channel: &str, message: &str) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut redis = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let command = format!(
        "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{message}\r\n",
        channel.len(),
        message.len()
    );
    redis.write_all(command.as_bytes()).await.unwrap();
    let mut answer = [0; 64];
    let n = redis.read(&mut answer).await.unwrap();
    let heard = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(heard.starts_with(":1"), "one replica hears it: {heard}");
}

/// A version that is far ahead would hide all later changes from the room.
#[tokio::test]
async fn a_message_that_no_replica_signed_is_not_believed() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("forged");
    replica.acquire(&id, "ann").await;
    let mut socket = Socket::connect(replica, auth("ben")).await;
    socket.subscribe(&id).await;
    let name: String = sqlx::query_scalar("select name from installation")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    let change = json!({ "from": "somebody", "message": { "change": { "admin": null, "state": {
        "room": { "tenant": "", "appointment": id }, "version": 1_000_000, "reason": "released", "lease": null,
        "now": "2026-01-01T00:00:00Z" } } } });
    let room = room(&id);
    let part = fred::util::redis_keyslot(room.name().as_bytes()) % 256;
    let channel = format!("apptlock:{{p{part}}}:{name}:{}", room.name());
    let signed = format!(
        "{},\"mac\":\"{}\"}}",
        change.to_string().strip_suffix('}').unwrap(),
        "0".repeat(64)
    );
    for forged in [change.to_string(), signed] {
        publish(servers().redis.port, &channel, &forged).await;
    }
    let unsigned = "apptlock_bus_received_total{outcome=\"unsigned\"}";
    replica.metric_becomes(unsigned, |now| now >= 2.0).await;
    replica.await_line("a message on Redis is not signed");
    // Nothing was shown, and later changes are.
    replica.release(&id, "ann").await;
    let update = socket.expect("lock-update").await;
    assert_eq!(update["version"], 2);
    // A heartbeat with another replica's name is not accepted either.
    let alive = format!("apptlock:{{alive}}:{name}");
    publish(servers().redis.port, &alive, "1 somebody").await;
    replica.metric_becomes(unsigned, |now| now >= 3.0).await;
}

/// The database is restored from a backup while replicas run: later versions no longer exist.
#[tokio::test]
async fn a_room_that_is_ahead_of_postgresql_is_put_back_and_its_sockets_connect_anew() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let (kept, lost) = (fresh("kept"), fresh("lost"));
    for id in [&kept, &lost] {
        for _ in 0..3 {
            replica.acquire(id, "ann").await;
        }
    }
    let mut socket = Socket::connect(replica, auth("ben")).await;
    for id in [&kept, &lost] {
        assert_eq!(socket.subscribe(id).await["version"], 3);
    }
    // Both are found by one pass: after the first that finds one, the socket connects anew.
    replica.compares_no_more().await;
    for sql in [
        "update appointment_lock set version = 1, reason = 'acquired' where appointment_id = $1",
        "delete from appointment_lock where appointment_id = $1",
    ] {
        let id = if sql.starts_with("update") {
            &kept
        } else {
            &lost
        };
        sqlx::query(sql)
            .bind(id)
            .execute(&stack.pool)
            .await
            .unwrap();
    }
    // Replicas compare after a gap, here one that another replica notes.
    sqlx::query("insert into unpublished values ('somebody', clock_timestamp())")
        .execute(&stack.pool)
        .await
        .unwrap();
    let mut seen = std::collections::HashMap::new();
    while seen.len() < 2 {
        let update = socket.expect("lock-update").await;
        seen.insert(update["appointmentId"].as_str().unwrap().to_owned(), update);
    }
    assert_eq!(
        (&seen[&kept]["version"], &seen[&kept]["lock"]["userId"]),
        (&json!(1), &json!("ann"))
    );
    assert_eq!(
        (&seen[&lost]["version"], &seen[&lost]["lock"]),
        (&json!(0), &json!(null))
    );
    assert!(
        socket.ends_within(Duration::from_secs(5)).await,
        "it goes on with what is no more"
    );
    assert_eq!(replica.metric("apptlock_reconcile_resets_total").await, 2.0);
    replica.await_line("a room was ahead of PostgreSQL");
    // A new subscriber follows from there.
    let mut socket = Socket::connect(replica, auth("ben")).await;
    assert_eq!(socket.subscribe(&kept).await["version"], 1);
    replica.release(&kept, "ann").await;
    assert_eq!(socket.expect("lock-released").await["version"], 2);
}
