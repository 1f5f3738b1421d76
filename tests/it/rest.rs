//! Every row of the REST table, with each of its answers.

mod waits;

use serde_json::{Value, json};

use crate::support::{Stack, fresh, person};

#[tokio::test]
async fn a_lock_is_acquired_renewed_refused_and_released() {
    let stack = Stack::start(2, &[]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("walk ü/%");

    let free = here.status_of(&id).await;
    assert_eq!(
        (free.status, &free.body["locked"], &free.body["lock"]),
        (200, &json!(false), &Value::Null)
    );
    assert_eq!(free.version(), 0);
    assert_time(&free.body["serverTime"]);

    let granted = here.acquire(&id, "ann").await;
    assert_eq!(granted.status, 201, "{granted:?}");
    let lock = &granted.body["lock"];
    assert_eq!(lock["appointmentId"], json!(id));
    assert_eq!(lock["userId"], "ann");
    assert_eq!(
        lock["userInfo"],
        json!({ "name": "Name of ann", "email": "ann@example.com" })
    );
    assert_eq!((granted.version(), granted.token()), (1, 1));
    assert_time(&lock["createdAt"]);
    assert_time(&lock["expiresAt"]);
    let left = lock["expiresInMs"].as_i64().unwrap();
    assert!((299_000..=300_000).contains(&left), "{left}");

    let seen = there.status_of(&id).await;
    assert_eq!(seen.body["locked"], true);
    assert_eq!(seen.body["lock"]["fencingToken"], 1);

    let refused = there.acquire(&id, "ben").await;
    assert_eq!((refused.status, refused.code()), (409, "LOCK_HELD"));
    assert_eq!(
        refused.message(),
        "Appointment is currently locked by Name of ann"
    );
    assert_eq!(refused.body["lock"]["userId"], "ann");

    let renewed = there.acquire(&id, "ann").await;
    assert_eq!(
        (renewed.status, renewed.version(), renewed.token()),
        (200, 2, 1)
    );
    assert_eq!(
        renewed.body["lock"]["createdAt"], lock["createdAt"],
        "createdAt is the grant"
    );
    assert!(renewed.body["lock"]["expiresAt"].as_str() > lock["expiresAt"].as_str());

    let not_holder = here.release(&id, "ben").await;
    assert_eq!((not_holder.status, not_holder.code()), (403, "NOT_HOLDER"));
    let stale = here
        .ask(
            "DELETE",
            &id,
            "release-lock",
            &json!({ "userId": "ann", "fencingToken": 9 }),
        )
        .await;
    assert_eq!((stale.status, stale.code()), (409, "STALE_TOKEN"));
    let released = here
        .ask(
            "DELETE",
            &id,
            "release-lock",
            &json!({ "userId": "ann", "fencingToken": 1 }),
        )
        .await;
    assert_eq!((released.status, released.version()), (200, 3));
    let again = here.release(&id, "ann").await;
    assert_eq!((again.status, again.code()), (404, "NOT_LOCKED"));

    let next = there.acquire(&id, "ben").await;
    assert_eq!(
        (next.status, next.version(), next.token()),
        (201, 4, 2),
        "counters never restart"
    );
}

#[tokio::test]
async fn a_beacon_releases_with_text() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    for kind in [
        "text/plain;charset=UTF-8",
        "application/json",
        "application/json; charset=utf-8",
    ] {
        let id = fresh("beacon");
        replica.acquire(&id, "ann").await;
        let path = format!("/api/appointments/{id}/release-lock");
        let reply = replica
            .raw(
                "POST",
                &path,
                Some(kind),
                json!({ "userId": "ann" }).to_string(),
            )
            .await;
        assert_eq!(reply.status, 200, "{kind}: {reply:?}");
    }
    let path = format!("/api/appointments/{}/acquire-lock", fresh("beacon"));
    let reply = replica
        .raw("POST", &path, Some("text/plain"), person("ann").to_string())
        .await;
    assert_eq!(
        (reply.status, reply.code()),
        (415, "UNSUPPORTED_MEDIA_TYPE"),
        "only a release may come as text"
    );
}

#[tokio::test]
async fn an_admin_forces_a_release() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("force");
    let force = async |body: Value| {
        replica
            .ask("DELETE", &id, "force-release-lock", &body)
            .await
    };

    let free = force(json!({ "adminId": "root" })).await;
    assert_eq!((free.status, free.code()), (404, "NOT_LOCKED"));
    replica.acquire(&id, "ann").await;
    let user = force(json!({ "userId": "ben" })).await;
    assert_eq!((user.status, user.code()), (403, "NOT_ADMIN"));
    let nobody = force(json!({})).await;
    assert_eq!(
        (nobody.status, nobody.message()),
        (422, "adminId: is missing")
    );
    let stale = force(json!({ "adminId": "root", "fencingToken": 7 })).await;
    assert_eq!((stale.status, stale.code()), (409, "STALE_TOKEN"));
    let done = force(json!({ "adminId": "root", "fencingToken": 1, "reason": "she is ill" })).await;
    assert_eq!((done.status, done.version()), (200, 2));
    assert_eq!(replica.status_of(&id).await.body["locked"], false);

    let noted: (String, String, String, Option<String>) = sqlx::query_as(
        "select reason, user_id, actor_id, actor_reason from lock_history where appointment_id = $1 order by version desc limit 1",
    )
    .bind(&id)
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(
        noted,
        (
            "forced".into(),
            "ann".into(),
            "root".into(),
            Some("she is ill".into())
        )
    );
}

#[tokio::test]
async fn an_admin_takes_over_with_never_a_free_moment() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("take");
    let take = async |body: Value| replica.ask("POST", &id, "take-over", &body).await;
    let first = replica.acquire(&id, "ann").await;

    let user = take(json!({ "userId": "ben" })).await;
    assert_eq!((user.status, user.code()), (403, "NOT_ADMIN"));
    let stale = take(json!({ "adminId": "root", "fencingToken": 7 })).await;
    assert_eq!((stale.status, stale.code()), (409, "STALE_TOKEN"));
    let info = json!({ "name": "Root", "email": "root@example.com" });
    let taken = take(json!({ "adminId": "root", "adminInfo": info, "reason": "urgent" })).await;
    assert_eq!(taken.status, 200, "{taken:?}");
    assert_eq!(taken.body["lock"]["userId"], "root");
    assert_eq!(taken.body["lock"]["userInfo"], info);
    assert_eq!(
        (taken.version(), taken.token()),
        (first.version() + 1, first.token() + 1)
    );

    let late = replica.release(&id, "ann").await;
    assert_eq!((late.status, late.code()), (403, "NOT_HOLDER"));
    let check = replica
        .ask(
            "POST",
            &id,
            "verify",
            &json!({ "fencingToken": first.token() }),
        )
        .await;
    assert_eq!((check.status, check.code()), (409, "STALE_TOKEN"));

    let free = fresh("take-free");
    let taken = replica
        .ask("POST", &free, "take-over", &json!({ "adminId": "root" }))
        .await;
    assert_eq!(
        (taken.status, taken.token()),
        (200, 1),
        "a free lock is taken too"
    );
    let none = replica
        .ask(
            "POST",
            &fresh("none"),
            "take-over",
            &json!({ "adminId": "root", "fencingToken": 1 }),
        )
        .await;
    assert_eq!(
        (none.status, none.code()),
        (409, "STALE_TOKEN"),
        "but not where a token was named"
    );
}

#[tokio::test]
async fn the_holder_moves_and_that_renews() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("move");
    let to = async |user: &str| {
        replica
            .ask(
                "POST",
                &id,
                "update-position",
                &json!({ "userId": user, "position": { "x": 1.5, "y": -2 } }),
            )
            .await
    };
    let free = to("ann").await;
    assert_eq!((free.status, free.code()), (404, "NOT_LOCKED"));
    let granted = replica.acquire(&id, "ann").await;
    let other = to("ben").await;
    assert_eq!((other.status, other.code()), (403, "NOT_HOLDER"));
    let moved = to("ann").await;
    assert_eq!((moved.status, moved.version(), moved.token()), (200, 2, 1));
    assert_eq!(
        moved.body["lock"]["userInfo"]["position"],
        json!({ "x": 1.5, "y": -2.0 })
    );
    assert!(moved.body["lock"]["expiresAt"].as_str() > granted.body["lock"]["expiresAt"].as_str());
    let renewed = replica.acquire(&id, "ann").await;
    assert_eq!(
        renewed.body["lock"]["userInfo"]["position"]["x"], 1.5,
        "a renewal keeps the position"
    );
}

#[tokio::test]
async fn a_back_end_verifies_before_it_saves() {
    let stack = Stack::start(1, &[("LOCK_TTL", "1s")]).await;
    let replica = &stack.replicas[0];
    let id = fresh("verify");
    let verify = async |token: i64| {
        replica
            .ask("POST", &id, "verify", &json!({ "fencingToken": token }))
            .await
    };
    assert_eq!(verify(1).await.code(), "STALE_TOKEN");
    let granted = replica.acquire(&id, "ann").await;
    assert_eq!(verify(granted.token()).await.status, 200);
    assert_eq!(verify(granted.token() + 1).await.code(), "STALE_TOKEN");

    // The same inside the back end's own transaction, with a different search path.
    let assert = "select public.apptlock_assert_lease($1, $2)";
    let mut save = stack.pool.begin().await.unwrap();
    sqlx::query("set local search_path = pg_catalog")
        .execute(&mut *save)
        .await
        .unwrap();
    sqlx::query(assert)
        .bind(&id)
        .bind(granted.token())
        .execute(&mut *save)
        .await
        .unwrap();
    sqlx::query("select pg_sleep(1.1)")
        .execute(&mut *save)
        .await
        .unwrap();
    assert_eq!(
        verify(granted.token()).await.code(),
        "STALE_TOKEN",
        "run out, and not swept: the row is held"
    );
    // A transaction that began before the expiry is too late nevertheless.
    let late = sqlx::query(assert)
        .bind(&id)
        .bind(granted.token())
        .execute(&mut *save)
        .await;
    assert!(late.unwrap_err().to_string().contains("is not in force"));
    save.rollback().await.unwrap();
    let late = sqlx::query(assert)
        .bind(&id)
        .bind(granted.token())
        .execute(&stack.pool)
        .await;
    assert!(late.unwrap_err().to_string().contains("is not in force"));
}

#[tokio::test]
async fn one_user_in_two_tabs_has_the_lease_in_one() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("tabs");
    let acquire = async |session: Option<&str>, transfer: bool| {
        let mut body = person("ann");
        body["sessionId"] = json!(session);
        body["transfer"] = json!(transfer);
        replica.ask("POST", &id, "acquire-lock", &body).await
    };
    let first = acquire(Some("one"), false).await;
    assert_eq!(
        (first.status, &first.body["lock"]["sessionId"]),
        (201, &json!("one"))
    );
    let other = acquire(Some("two"), false).await;
    assert_eq!((other.status, other.code()), (409, "HELD_BY_YOU"));
    assert_eq!(
        other.message(),
        "Appointment is currently locked by Name of ann, in another tab of yours; send transfer: true to move it here"
    );
    assert_eq!(
        acquire(None, false).await.status,
        200,
        "without a session the same user renews"
    );
    let moved = acquire(Some("two"), true).await;
    assert_eq!(
        (moved.status, moved.token()),
        (201, first.token() + 1),
        "{moved:?}"
    );
    assert_eq!(moved.body["lock"]["sessionId"], "two");
    let late = replica
        .ask(
            "DELETE",
            &id,
            "release-lock",
            &json!({ "userId": "ann", "sessionId": "one" }),
        )
        .await;
    assert_eq!(
        (late.status, late.code()),
        (403, "NOT_HOLDER"),
        "the old tab cannot release the new one's lease"
    );
    let done = replica
        .ask(
            "DELETE",
            &id,
            "release-lock",
            &json!({ "userId": "ann", "sessionId": "two" }),
        )
        .await;
    assert_eq!(done.status, 200);
}

#[tokio::test]
async fn the_save_check_says_whose_lease_it_is() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("whose");
    let token = replica.acquire(&id, "ann").await.token();
    let verify = async |body: Value| replica.ask("POST", &id, "verify", &body).await;
    assert_eq!(verify(json!({ "fencingToken": token })).await.status, 200);
    let ann = verify(json!({ "fencingToken": token, "userId": "ann" })).await;
    assert_eq!(ann.status, 200);
    let eve = verify(json!({ "fencingToken": token, "userId": "eve" })).await;
    assert_eq!((eve.status, eve.code()), (403, "NOT_HOLDER"));
    let stale = verify(json!({ "fencingToken": token + 1, "userId": "eve" })).await;
    assert_eq!((stale.status, stale.code()), (409, "STALE_TOKEN"));
}

#[tokio::test]
async fn a_body_that_is_encoded_or_no_utf_8_is_415() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let body = r#"{"userId":"ann","userInfo":{"name":"A","email":""}}"#;
    for (kind, status) in [
        ("application/json; charset=UTF-8", 201),
        ("application/json;charset=\"utf-8\"", 201),
        ("application/json; charset=iso-8859-1", 415),
        ("application/json; charset=utf-16", 415),
    ] {
        let path = format!("/api/appointments/{}/acquire-lock", fresh("charset"));
        let reply = replica.raw("POST", &path, Some(kind), body).await;
        assert_eq!(reply.status, status, "{kind}: {reply:?}");
    }
    let url = format!(
        "{}/api/appointments/{}/acquire-lock",
        replica.url,
        fresh("a")
    );
    let request = replica
        .client
        .post(url)
        .header("content-type", "application/json");
    let reply = request
        .header("content-encoding", "gzip")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 415);
}

fn assert_time(value: &Value) {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("not a time: {value}"));
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
}
