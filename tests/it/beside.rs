//! Two releases side by side, as during a rolling update: changes on one reach the sockets of the other within two
//! seconds, in both directions. `APPTLOCK_BESIDE` is the path of the other release's binary (`make beside REF=…` builds
//! it); without it both are this one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Replica, Socket, Stack, auth, fresh, person};

const SEEN_WITHIN: Duration = Duration::from_secs(2);

async fn messages_flow(replica: &Replica) {
    let since = Instant::now();
    while replica.metric("apptlock_bus_up").await < 1.0 {
        assert!(since.elapsed() < PATIENCE, "no connection to Redis");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Time until the next `lock-update`, which must have that reason.
async fn seen(socket: &mut Socket, reason: &str, since: Instant) -> Value {
    let update = socket.expect("lock-update").await;
    let took = since.elapsed();
    assert_eq!(update["reason"], reason, "{update}");
    assert!(took < SEEN_WITHIN, "{reason} was seen after {took:?}");
    update
}

/// Every transition of a lock, made on `here` and watched on `there`.
async fn all_is_seen(here: &Replica, there: &Replica) {
    let id = fresh("beside");
    let mut near = Socket::connect(here, auth("near")).await;
    let mut far = Socket::connect(there, auth("far")).await;
    near.subscribe(&id).await;
    far.subscribe(&id).await;
    let admin = json!({ "adminId": "root", "adminInfo": person("root")["userInfo"] });

    for (reason, status) in [
        ("acquired", 201),
        ("renewed", 200),
        ("taken-over", 200),
        ("forced", 200),
        ("acquired", 201),
        ("released", 200),
    ] {
        let since = Instant::now();
        let reply = match reason {
            "acquired" | "renewed" => here.acquire(&id, "ann").await,
            "taken-over" => here.ask("POST", &id, "take-over", &admin).await,
            "forced" => here.ask("DELETE", &id, "force-release-lock", &admin).await,
            _ => here.release(&id, "ann").await,
        };
        assert_eq!(reply.status, status, "{reason}: {reply:?}");
        seen(&mut near, reason, since).await;
        let update = seen(&mut far, reason, since).await;
        assert_eq!(update["version"], reply.version(), "{reason}");
    }

    let since = Instant::now();
    let at = json!({ "appointmentId": id, "position": { "x": 3, "y": 4 } });
    near.emit("cursor-position", &at).await;
    assert_eq!(far.expect("cursor-update").await["userId"], "near");
    near.ask("unsubscribe", &json!(id)).await;
    assert_eq!(far.expect("cursor-left").await["userId"], "near");
    let took = since.elapsed();
    assert!(took < SEEN_WITHIN, "cursors were seen after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_release_sees_what_the_other_does() {
    let other = std::env::var("APPTLOCK_BESIDE");
    let other = other.unwrap_or_else(|_| env!("CARGO_BIN_EXE_apptlock").to_owned());
    let mut stack = Stack::empty(&[]).await;
    stack.add_of(&other, &[]).await;
    stack.add_alone(&[]).await;
    let (before, now) = (&stack.replicas[0], &stack.replicas[1]);
    messages_flow(before).await;
    messages_flow(now).await;
    all_is_seen(before, now).await;
    all_is_seen(now, before).await;
    // This release reads every message; the other may count messages that it does not know yet.
    let unread = r#"apptlock_bus_received_total{outcome="unreadable"}"#;
    assert_eq!(now.metric(unread).await, 0.0);
}
