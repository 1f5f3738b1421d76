//! The demo's own routes: a record that is saved through the product's check, in `dev` only.

use serde_json::{Value, json};

use crate::support::{Replica, Reply, Stack, fresh, servers};

/// `apptlock dev` over the database of a stack, beside replicas that `serve` it.
async fn dev(stack: &Stack) -> Replica {
    let settings = [
        ("DATABASE_URL", stack.database.as_str()),
        ("REDIS_URL", servers().redis.url.as_str()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    tokio::task::spawn_blocking(move || Replica::start_dev(&settings))
        .await
        .unwrap()
}

async fn save(demo: &Replica, id: &str, body: &Value) -> Reply {
    let path = format!("/demo/records/{id}");
    demo.raw("PUT", &path, Some("application/json"), body.to_string())
        .await
}

async fn read(demo: &Replica, id: &str) -> Reply {
    demo.raw("GET", &format!("/demo/records/{id}"), None, "")
        .await
}

fn body(user: &str, token: i64, notes: &str) -> Value {
    json!({ "fencingToken": token, "userId": user, "record": { "notes": notes } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_saved_with_the_lease_in_force_and_refused_with_an_old_token() {
    let stack = Stack::empty(&[]).await;
    let demo = dev(&stack).await;
    let id = fresh("record");
    let none = read(&demo, &id).await;
    assert_eq!((none.status, &none.body["record"]), (200, &Value::Null));
    assert_eq!(none.body["revision"], 0);

    let early = save(&demo, &id, &body("ann", 1, "nobody holds it")).await;
    assert_eq!(
        (early.status, early.code()),
        (409, "STALE_TOKEN"),
        "{early:?}"
    );
    assert!(
        early.message().contains("Nobody holds the lock now"),
        "{early:?}"
    );

    let old = demo.acquire(&id, "ann").await.token();
    let first = save(&demo, &id, &body("ann", old, "first")).await;
    assert_eq!(
        (first.status, &first.body["revision"]),
        (200, &json!(1)),
        "{first:?}"
    );
    assert_eq!(first.body["savedByName"], "Name of ann");
    let second = save(&demo, &id, &body("ann", old, "second")).await;
    assert_eq!(second.body["revision"], 2, "{second:?}");

    // Another user with the right token is refused by the same check.
    let eve = save(&demo, &id, &body("eve", old, "stolen")).await;
    assert_eq!((eve.status, eve.code()), (409, "STALE_TOKEN"), "{eve:?}");
    assert!(eve.message().contains("is not held by eve"), "{eve:?}");

    let admin = json!({ "adminId": "ben", "adminInfo": { "name": "Ben", "email": "" } });
    let token = demo.ask("POST", &id, "take-over", &admin).await.token();
    let late = save(&demo, &id, &body("ann", old, "late")).await;
    assert_eq!((late.status, late.code()), (409, "STALE_TOKEN"), "{late:?}");
    assert_eq!(late.token(), token, "{late:?}");
    let said = format!(
        "with fencing token {old} is not in force. Ben holds the lock now, with fencing token {token}."
    );
    assert!(late.message().ends_with(&said), "{late:?}");

    let kept = read(&demo, &id).await;
    assert_eq!(kept.body["record"], json!({ "notes": "second" }));
    assert_eq!(kept.body["savedBy"], "ann");
    assert_eq!(
        save(&demo, &id, &body("ben", token, "Ben's")).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_revision_gets_no_bytes_and_a_bad_body_is_told_its_field() {
    let stack = Stack::empty(&[]).await;
    let demo = dev(&stack).await;
    let id = fresh("record");
    let token = demo.acquire(&id, "ann").await.token();
    let mut tags = Vec::new();
    for notes in ["one", "two"] {
        assert_eq!(
            save(&demo, &id, &body("ann", token, notes)).await.status,
            200
        );
        let tag = read(&demo, &id).await.headers["etag"].clone();
        let again = demo
            .client
            .get(format!("{}/demo/records/{id}", demo.url))
            .header("if-none-match", &tag)
            .send()
            .await
            .unwrap();
        assert_eq!(again.status(), 304);
        assert_eq!(again.headers()["etag"], tag);
        tags.push(tag);
    }
    assert_ne!(tags[0], tags[1]);

    for (bad, field) in [
        (json!({ "userId": "ann", "record": {} }), "fencingToken"),
        (json!({ "fencingToken": token, "record": {} }), "userId"),
        (json!({ "fencingToken": token, "userId": "ann" }), "record"),
        (
            json!({ "fencingToken": token, "userId": "ann", "record": { "a": 1 } }),
            "record",
        ),
        (
            json!({ "fencingToken": token, "userId": "ann", "record": { "a": "\u{0}" } }),
            "record",
        ),
    ] {
        let answer = save(&demo, &id, &bad).await;
        assert_eq!(
            (answer.status, answer.code()),
            (422, "INVALID"),
            "{bad}: {answer:?}"
        );
        assert!(answer.message().starts_with(field), "{bad}: {answer:?}");
    }
    let large = save(&demo, &id, &body("ann", token, &"x".repeat(17 * 1024))).await;
    assert_eq!(large.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_dev_serves_it_and_says_which_installation_it_is_of() {
    let stack = Stack::start(1, &[]).await;
    let demo = dev(&stack).await;
    let served = &stack.replicas[0];
    for path in ["/demo/info", "/demo/records/1"] {
        let answer = served.raw("GET", path, None, "").await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{path}");
    }
    let table: Option<String> = sqlx::query_scalar("select to_regclass('demo_record')::text")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert!(table.is_some());

    let other = dev(&Stack::empty(&[]).await).await;
    let beside = dev(&stack).await;
    let mut names = Vec::new();
    for replica in [&demo, &beside, &other] {
        let info = replica.raw("GET", "/demo/info", None, "").await;
        assert_eq!(info.body["product"], "apptlock");
        names.push(info.body["installation"].clone());
    }
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0], names[2]);
}
