//! The identity of a socket, and its expiry.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{BY_SECRET, forged};
use crate::support::tokens::{claims, in_seconds, token, token_of};
use crate::support::{Socket, Stack, fresh};

#[tokio::test]
async fn sockets_need_a_token_and_speak_for_its_user_alone() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    let refused = Socket::refused(replica, json!({})).await;
    assert!(
        refused.starts_with("auth.token: A token is needed"),
        "{refused}"
    );
    for (what, token) in forged() {
        let refused = Socket::refused(replica, json!({ "token": token })).await;
        assert!(refused.starts_with("auth.token: "), "{what}: {refused}");
    }
    let somebody = json!({ "token": token("ann"), "userId": "ben", "userInfo": { "name": "Ben", "email": "" } });
    let refused = Socket::refused(replica, somebody).await;
    assert!(refused.contains("a different user"), "{refused}");

    let id = fresh("cursor");
    let mut ann = Socket::connect(replica, json!({ "token": token("ann") })).await;
    let mut ben = Socket::connect(replica, json!({ "token": token("ben") })).await;
    ann.subscribe(&id).await;
    ben.subscribe(&id).await;
    let mut cursor = json!({ "appointmentId": id, "position": { "x": 1, "y": 2 } });
    assert_eq!(ann.ask("cursor-position", &cursor).await["success"], true);
    let update = ben.expect("cursor-update").await;
    assert_eq!(
        (&update["userId"], &update["userInfo"]["name"]),
        (&json!("ann"), &json!("Name of ann"))
    );
    cursor["userId"] = json!("ben");
    cursor["userInfo"] = json!({ "name": "Ben", "email": "" });
    assert_eq!(
        ann.ask("cursor-position", &cursor).await["code"],
        "IDENTITY_MISMATCH"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_lives_as_long_as_its_token_unless_a_fresh_one_comes() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    // Plus five seconds of leeway.
    let short = |user: &str| {
        let mut claims = claims(user);
        claims["exp"] = json!(in_seconds(-3));
        token_of(&claims)
    };
    let since = Instant::now();
    let mut ends = Socket::connect(replica, json!({ "token": short("ann") })).await;
    let mut stays = Socket::connect(replica, json!({ "token": short("ben") })).await;
    let id = fresh("lives");
    stays.subscribe(&id).await;
    let others = stays
        .ask("refresh-token", &json!({ "token": token("ann") }))
        .await;
    assert_eq!(others["code"], "IDENTITY_MISMATCH");
    let bad = stays.ask("refresh-token", &json!({ "token": "x" })).await;
    assert_eq!(bad["code"], "UNAUTHENTICATED");
    let good = stays
        .ask("refresh-token", &json!({ "token": token("ben") }))
        .await;
    assert_eq!(good["success"], true, "{good}");
    ends.expect("token-expired").await;
    assert!(ends.ends_within(Duration::from_secs(2)).await || ends.dismissed);
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
    replica
        .bearing(&token("eve"))
        .ask("POST", &id, "acquire-lock", &json!({}))
        .await;
    assert_eq!(stays.expect("lock-acquired").await["lock"]["userId"], "eve");
}
