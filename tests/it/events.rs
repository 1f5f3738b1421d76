//! Events that sockets receive: each one, on each replica, in order, and none of another room.

use serde_json::{Value, json};

use crate::support::{Replica, Socket, Stack, auth, fresh};

async fn watcher(replica: &Replica, user: &str, appointment: &str) -> Socket {
    let mut socket = Socket::connect(replica, auth(user)).await;
    socket.subscribe(appointment).await;
    socket
}

#[tokio::test]
async fn every_change_is_heard_on_every_replica_and_in_no_other_room() {
    let stack = Stack::start(2, &[]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let (id, elsewhere) = (fresh("events"), fresh("elsewhere"));
    let mut near = watcher(here, "near", &id).await;
    let mut far = watcher(there, "far", &id).await;
    let mut others = [
        watcher(here, "o1", &elsewhere).await,
        watcher(there, "o2", &elsewhere).await,
    ];

    here.acquire(&id, "ann").await;
    here.acquire(&id, "ann").await;
    let position = json!({ "userId": "ann", "position": { "x": 3, "y": 4 } });
    here.ask("POST", &id, "update-position", &position).await;
    let admin =
        json!({ "adminId": "root", "adminInfo": { "name": "Root", "email": "r@example.com" } });
    here.ask("POST", &id, "take-over", &admin).await;
    here.ask(
        "DELETE",
        &id,
        "force-release-lock",
        &json!({ "adminId": "boss" }),
    )
    .await;
    here.acquire(&id, "ben").await;
    here.release(&id, "ben").await;

    let expected = [
        ("lock-update", 1, "acquired"),
        ("lock-acquired", 1, ""),
        ("lock-update", 2, "renewed"),
        ("lock-update", 3, "renewed"),
        ("admin-takeover", 4, ""),
        ("lock-update", 4, "taken-over"),
        ("lock-acquired", 4, ""),
        ("admin-takeover", 5, ""),
        ("lock-update", 5, "forced"),
        ("lock-released", 5, "forced"),
        ("lock-update", 6, "acquired"),
        ("lock-acquired", 6, ""),
        ("lock-update", 7, "released"),
        ("lock-released", 7, "released"),
    ];
    for socket in [&mut near, &mut far] {
        for (name, version, reason) in expected {
            let event = socket.next().await;
            assert_eq!(
                (event.name.as_str(), &event.data["version"]),
                (name, &json!(version)),
                "{event:?}"
            );
            assert_eq!(event.data["appointmentId"], json!(id));
            assert_eq!(
                event.data["reason"].as_str().unwrap_or_default(),
                reason,
                "{event:?}"
            );
            match (name, version) {
                ("admin-takeover", 4) => {
                    assert_eq!(event.data["adminId"], "root");
                    assert_eq!(event.data["adminInfo"], admin["adminInfo"]);
                }
                ("admin-takeover", _) => assert_eq!(event.data["adminInfo"], Value::Null),
                ("lock-update", 3) => assert_eq!(
                    event.data["lock"]["userInfo"]["position"],
                    json!({ "x": 3.0, "y": 4.0 })
                ),
                ("lock-update", 5 | 7) => assert_eq!(event.data["lock"], Value::Null),
                ("lock-update" | "lock-acquired", _) => {
                    assert_eq!(event.data["lock"]["version"], json!(version))
                }
                _ => {}
            }
        }
    }
    for socket in &mut others {
        assert_eq!(
            socket.so_far().await,
            [],
            "another room's events were heard"
        );
    }
}

#[tokio::test]
async fn a_snapshot_lies_between_what_came_before_and_what_follows() {
    let stack = Stack::start(2, &[]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("snapshot");
    here.acquire(&id, "ann").await;

    // A storm of renewals, while sockets join on the other replica.
    let storm = async {
        for _ in 0..150 {
            assert_eq!(here.acquire(&id, "ann").await.status, 200);
        }
        here.release(&id, "ann").await.version()
    };
    let joins = async {
        let mut joined = Vec::new();
        for n in 0..25 {
            let mut socket = Socket::connect(there, auth(&format!("w{n}"))).await;
            let snapshot = socket.subscribe(&id).await;
            joined.push((socket, snapshot));
        }
        joined
    };
    let (last, joined) = tokio::join!(storm, joins);
    for (mut socket, snapshot) in joined {
        let mut version = snapshot["version"].as_i64().unwrap();
        assert_eq!(snapshot["locked"], snapshot["lock"].is_object());
        while version < last {
            let update = socket.expect("lock-update").await;
            let next = update["version"].as_i64().unwrap();
            assert!(next > version, "{next} after {version}");
            version = next;
        }
        assert_eq!(version, last);
    }
}

#[tokio::test]
async fn the_snapshot_in_the_acknowledgement_is_whole() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("ack");
    let mut socket = Socket::connect(replica, auth("ben")).await;
    let free = socket.subscribe(&id).await;
    assert_eq!(free["appointmentId"], json!(id));
    assert_eq!(
        (&free["locked"], &free["lock"], &free["version"]),
        (&json!(false), &Value::Null, &json!(0))
    );
    assert!(free["serverTime"].is_string());
    let granted = replica.acquire(&id, "ann").await;
    let held = socket
        .ask("subscribe", &json!({ "appointmentId": id }))
        .await;
    assert_eq!(
        (&held["locked"], &held["version"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(held["lock"]["fencingToken"], json!(granted.token()));
}

#[tokio::test]
async fn cursors_are_seen_by_the_others_and_go_when_their_owner_goes() {
    let stack = Stack::start(2, &[]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let (id, elsewhere) = (fresh("cursor"), fresh("elsewhere"));
    let mut ann = watcher(here, "ann", &id).await;
    let mut near = watcher(here, "near", &id).await;
    let mut far = watcher(there, "far", &id).await;
    let mut other = watcher(there, "other", &elsewhere).await;

    for x in 0..40 {
        ann.emit(
            "cursor-position",
            &json!({ "appointmentId": id, "position": { "x": x, "y": 0 } }),
        )
        .await;
    }
    let moved = ann
        .ask(
            "cursor-position",
            &json!({ "appointmentId": id, "position": { "x": 40, "y": 1 } }),
        )
        .await;
    assert_eq!(moved["success"], true, "{moved}");
    for socket in [&mut near, &mut far] {
        let mut last = -1.0;
        while last < 40.0 {
            let cursor = socket.expect("cursor-update").await;
            assert_eq!(
                (&cursor["appointmentId"], &cursor["userId"]),
                (&json!(id), &json!("ann"))
            );
            assert_eq!(cursor["userInfo"]["name"], "Name of ann");
            let x = cursor["position"]["x"].as_f64().unwrap();
            assert!(x > last, "{x} after {last}: an older position was shown");
            last = x;
        }
    }
    assert!(
        ann.so_far()
            .await
            .iter()
            .all(|event| event.name != "cursor-update"),
        "nobody hears oneself"
    );

    ann.ask("unsubscribe", &json!(id)).await;
    for socket in [&mut near, &mut far] {
        assert_eq!(
            socket.expect("cursor-left").await,
            json!({ "appointmentId": id, "userId": "ann" })
        );
    }
    near.ask(
        "cursor-position",
        &json!({ "appointmentId": id, "position": { "x": 1, "y": 1 } }),
    )
    .await;
    assert_eq!(far.expect("cursor-update").await["userId"], "near");
    near.close().await;
    assert_eq!(far.expect("cursor-left").await["userId"], "near");
    assert_eq!(
        other.so_far().await,
        [],
        "another room's cursors were heard"
    );
}

#[tokio::test]
async fn a_cursor_that_stands_still_stays_while_its_replica_is_there() {
    let stack = Stack::start(2, &[]).await;
    let id = fresh("still");
    let mut ann = watcher(&stack.replicas[0], "ann", &id).await;
    let mut far = watcher(&stack.replicas[1], "far", &id).await;
    let at = json!({ "appointmentId": id, "position": { "x": 1, "y": 1 } });
    ann.ask("cursor-position", &at).await;
    assert_eq!(far.expect("cursor-update").await["userId"], "ann");
    // Longer than a replica may be silent.
    sqlx::query("select pg_sleep(5)")
        .execute(&stack.pool)
        .await
        .unwrap();
    assert_eq!(far.so_far().await, []);
}

#[tokio::test]
async fn a_user_with_two_sockets_keeps_the_cursor_until_both_are_gone() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("two");
    let (mut one, mut two) = (
        watcher(replica, "ann", &id).await,
        watcher(replica, "ann", &id).await,
    );
    let mut ben = watcher(replica, "ben", &id).await;
    let at = |x: i32| json!({ "appointmentId": id, "position": { "x": x, "y": 0 } });
    one.ask("cursor-position", &at(1)).await;
    assert_eq!(
        two.expect("cursor-update").await["position"]["x"],
        1.0,
        "one's other tab is another socket"
    );
    two.ask("cursor-position", &at(2)).await;
    ben.expect("cursor-update").await;
    one.ask("unsubscribe", &json!(id)).await;
    two.ask("cursor-position", &at(3)).await;
    loop {
        let event = ben.next().await;
        assert_ne!(event.name, "cursor-left", "the other socket is still there");
        if event.data["position"]["x"] == 3.0 {
            break;
        }
    }
    two.close().await;
    assert_eq!(ben.expect("cursor-left").await["userId"], "ann");
}

#[tokio::test]
async fn an_unsubscribed_socket_hears_nothing_more() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("gone");
    let mut leaver = watcher(replica, "leaver", &id).await;
    let mut stays = watcher(replica, "stays", &id).await;
    // Not awaited in between: the server must keep the order of a socket's events.
    leaver.emit("unsubscribe", &json!(id)).await;
    leaver.emit("subscribe", &json!(id)).await;
    assert_eq!(leaver.ask("unsubscribe", &json!(id)).await["success"], true);
    replica.acquire(&id, "ann").await;
    stays.expect("lock-acquired").await;
    assert!(leaver.so_far().await.is_empty());
}

#[tokio::test]
async fn where_identities_are_trusted_a_socket_may_speak_for_whom_it_names() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("named");
    let mut anonymous = Socket::connect(replica, json!({})).await;
    anonymous.subscribe(&id).await;
    let mut ben = watcher(replica, "ben", &id).await;
    let mut cursor = auth("ann");
    cursor["appointmentId"] = json!(id);
    cursor["position"] = json!({ "x": 1, "y": 2 });
    assert_eq!(
        anonymous.ask("cursor-position", &cursor).await["success"],
        true
    );
    assert_eq!(ben.expect("cursor-update").await["userId"], "ann");
    for n in 1..64 {
        cursor["userId"] = json!(format!("ann{n}"));
        assert_eq!(
            anonymous.ask("cursor-position", &cursor).await["success"],
            true
        );
    }
    cursor["userId"] = json!("one more");
    let refused = anonymous.ask("cursor-position", &cursor).await;
    assert_eq!(refused["code"], "INVALID");
    assert_eq!(
        refused["message"],
        "userId: is one too many: a socket may send the cursors of 64 users in a room"
    );
    anonymous.close().await;
    while ben.expect("cursor-left").await["userId"] != "ann" {}
}
