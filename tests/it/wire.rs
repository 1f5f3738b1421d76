//! Snapshots of every wire shape, which a change must update on purpose: `cargo insta review`, or run the tests with
//! INSTA_UPDATE=always and read the diff.

use serde_json::{Value, json};

use crate::support::{Replica, Socket, Stack, auth, fresh};

/// Replaces values that differ from run to run by their types.
fn still(value: &Value, id: &str) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| {
                let value = match key.as_str() {
                    "createdAt" | "expiresAt" | "serverTime" => json!("[time]"),
                    "expiresInMs" => json!("[ms]"),
                    _ => still(value, id),
                };
                (key.clone(), value)
            })
            .collect(),
        Value::Array(items) => items.iter().map(|item| still(item, id)).collect(),
        Value::String(text) => json!(text.replace(id, "[id]")),
        other => other.clone(),
    }
}

#[test]
fn the_openapi_document() {
    insta::assert_snapshot!(apptlock::http::openapi());
}

#[tokio::test]
async fn rest_answers() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("wire");
    let mut shown = Vec::new();
    let with = |replica: &'static str| replica;
    let admin = json!({ "adminId": "root", "adminInfo": { "name": "Root", "email": "root@example.com" }, "reason": "why" });
    for (method, action, body) in [
        ("GET", "lock-status", Value::Null),
        ("POST", "acquire-lock", crate::support::person("ann")),
        ("GET", "lock-status", Value::Null),
        ("POST", "acquire-lock", crate::support::person("ann")),
        ("POST", "acquire-lock", crate::support::person("ben")),
        (
            "POST",
            "update-position",
            json!({ "userId": "ann", "position": { "x": 1, "y": 2 } }),
        ),
        ("POST", "verify", json!({ "fencingToken": 1 })),
        ("POST", "verify", json!({ "fencingToken": 2 })),
        ("DELETE", "release-lock", json!({ "userId": "ben" })),
        ("POST", "take-over", admin.clone()),
        ("DELETE", "force-release-lock", admin),
        ("DELETE", "release-lock", json!({ "userId": "ann" })),
        ("POST", "acquire-lock", json!({})),
    ] {
        let reply = replica.ask(with(method), &id, action, &body).await;
        shown.push(json!({ "request": format!("{method} {action}"), "status": reply.status, "body": still(&reply.body, &id) }));
    }
    insta::assert_json_snapshot!(shown);
}

#[tokio::test]
async fn socket_events() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("wire");
    let mut socket = Socket::connect(replica, auth("ben")).await;
    let mut shown =
        vec![json!({ "ack of": "subscribe", "body": still(&socket.subscribe(&id).await, &id) })];
    let mut ann = Socket::connect(replica, auth("ann")).await;
    ann.subscribe(&id).await;
    provoke(replica, &id).await;
    while shown.len() < 12 {
        let event = socket.next().await;
        shown.push(json!({ "event": event.name, "payload": still(&event.data, &id) }));
    }
    let at = json!({ "appointmentId": id, "position": { "x": 1, "y": 2 } });
    shown.push(
        json!({ "ack of": "cursor-position", "body": ann.ask("cursor-position", &at).await }),
    );
    shown.push(json!({ "event": "cursor-update", "payload": still(&socket.expect("cursor-update").await, &id) }));
    shown
        .push(json!({ "ack of": "unsubscribe", "body": ann.ask("unsubscribe", &json!(id)).await }));
    shown.push(json!({ "event": "cursor-left", "payload": still(&socket.expect("cursor-left").await, &id) }));
    shown.push(
        json!({ "ack of": "a bad subscribe", "body": ann.ask("subscribe", &json!(1)).await }),
    );
    insta::assert_json_snapshot!(shown);
}

async fn provoke(replica: &Replica, id: &str) {
    replica.acquire(id, "ann").await;
    replica.acquire(id, "ann").await;
    let admin =
        json!({ "adminId": "root", "adminInfo": { "name": "Root", "email": "root@example.com" } });
    replica.ask("POST", id, "take-over", &admin).await;
    replica
        .ask("DELETE", id, "force-release-lock", &admin)
        .await;
    replica.acquire(id, "ann").await;
}

#[test]
fn what_replicas_tell_each_other() {
    use apptlock::protocol::{Envelope, Message};
    // As a replica of this release sends them: later releases must still read these.
    for bytes in [
        &br#"{"from":"r1","message":{"change":{"state":{"room":{"tenant":"","appointment":"a"},"version":3,"reason":"acquired","lease":{"user_id":"ann","user_info":{"name":"Ann","email":""},"session_id":null,"granted_at":"2026-01-02T03:04:05.123456Z","expires_at":"2026-01-02T03:09:05.123456Z","fencing_token":2},"now":"2026-01-02T03:04:05.123456Z"},"admin":null}}}"#[..],
        br#"{"from":"r1","message":{"cursors":{"room":{"tenant":"","appointment":"a"},"frames":[{"user_id":"ann","update":{"appointmentId":"a","userId":"ann"}}]}}}"#,
        br#"{"from":"r1","message":{"cursor-left":{"room":{"tenant":"","appointment":"a"},"user_id":"ann"}}}"#,
        br#"{"from":"r1","message":{"joined":{"room":{"tenant":"","appointment":"a"},"member":{"user_id":"ann","session_id":"tab"}}}}"#,
        br#"{"from":"r1","message":{"left":{"room":{"tenant":"","appointment":"a"},"member":{"user_id":"ann"}}}}"#,
        br#"{"from":"r1","message":{"roster":{"room":{"tenant":"","appointment":"a"},"members":[{"user_id":"ann"}]}}}"#,
        br#"{"from":"r1","message":{"roster-wanted":{"room":{"tenant":"","appointment":"a"}}}}"#,
    ] {
        let envelope = Envelope::decode(bytes).unwrap();
        assert_eq!(String::from_utf8(envelope.encode()).unwrap(), String::from_utf8(bytes.to_vec()).unwrap());
    }
    let later = Envelope::decode(br#"{"from":"r9","message":{"something-new":{}}}"#).unwrap();
    assert!(matches!(later.message, Message::Unknown { room: None }));
}
