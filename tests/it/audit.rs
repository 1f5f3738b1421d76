//! Reads by admins: the history and the leases in force. Deletion of old history.

use serde_json::{Value, json};

use crate::support::tokens::{SECRET, admin_token, claims, token, token_of};
use crate::support::{Reply, Stack, fresh, person, until};

const BY_SECRET: [(&str, &str); 2] = [("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];

fn told(reply: &Reply) -> Vec<(i64, &str, &str)> {
    let entries = reply.body["history"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| {
            (
                entry["version"].as_i64().unwrap(),
                entry["reason"].as_str().unwrap(),
                entry["userId"].as_str().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn the_history_says_what_happened_and_which_admin_did_it_why() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    let (ann, root) = (
        replica.bearing(&token("ann")),
        replica.bearing(&admin_token("root")),
    );
    let id = fresh("told");
    ann.ask("POST", &id, "acquire-lock", &json!({})).await;
    ann.ask("POST", &id, "acquire-lock", &json!({})).await;
    root.ask(
        "POST",
        &id,
        "take-over",
        &json!({ "reason": "Ann is at lunch" }),
    )
    .await;
    root.ask("DELETE", &id, "force-release-lock", &json!({}))
        .await;
    ann.ask("POST", &id, "acquire-lock", &json!({})).await;
    ann.ask("DELETE", &id, "release-lock", &json!({})).await;
    let all = root.ask("GET", &id, "history", &Value::Null).await;
    assert_eq!(all.status, 200, "{all:?}");
    assert_eq!(
        told(&all),
        [
            (6, "released", "ann"),
            (5, "acquired", "ann"),
            (4, "forced", "root"),
            (3, "taken-over", "root"),
            (1, "acquired", "ann"),
        ]
    );
    let taken = &all.body["history"][3];
    assert_eq!(
        (&taken["adminId"], &taken["adminReason"]),
        (&json!("root"), &json!("Ann is at lunch"))
    );
    assert_eq!(taken["adminInfo"]["name"], "Name of root");
    assert_eq!(taken["fencingToken"], 2);
    assert!(taken["at"].as_str().unwrap().ends_with('Z'));
    assert!(all.body["history"][0].get("adminId").is_none());

    let page = root.ask("GET", &id, "history?limit=2", &Value::Null).await;
    assert_eq!(told(&page).len(), 2);
    let next = root
        .ask("GET", &id, "history?limit=2&before=5", &Value::Null)
        .await;
    assert_eq!(
        told(&next),
        [(4, "forced", "root"), (3, "taken-over", "root")]
    );
    for (query, message) in [
        ("limit=0", "limit: must be a whole number from 1 to 1000"),
        ("limit=1001", "limit: must be a whole number from 1 to 1000"),
        ("limit=x", "limit: must be a whole number from 1 to 1000"),
        (
            "before=-1",
            "before: must be a whole number from 1 to 9223372036854775807",
        ),
    ] {
        let reply = root
            .ask("GET", &id, &format!("history?{query}"), &Value::Null)
            .await;
        assert_eq!(
            (reply.status, reply.code(), reply.message()),
            (422, "INVALID", message)
        );
    }
    assert_eq!(
        ann.ask("GET", &id, "history", &Value::Null).await.code(),
        "NOT_ADMIN"
    );
    let none = replica.ask("GET", &id, "history", &Value::Null).await;
    assert_eq!((none.status, none.code()), (401, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn the_leases_in_force_are_listed_by_appointment_for_the_own_tenant() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    let of = |tenant: &str| {
        let mut claims = claims("root");
        claims["tenant"] = json!(tenant);
        claims["roles"] = json!(["admin"]);
        replica.bearing(&token_of(&claims))
    };
    let (red, blue) = (of("red"), of("blue"));
    for id in ["c", "a", "b", "d"] {
        red.ask("POST", id, "acquire-lock", &json!({})).await;
    }
    blue.ask("POST", "a", "acquire-lock", &json!({})).await;
    red.ask("DELETE", "d", "release-lock", &json!({})).await;
    let ids = |reply: &Reply| -> Vec<String> {
        let locks = reply.body["locks"].as_array().unwrap();
        let id = |lock: &Value| lock["appointmentId"].as_str().unwrap().to_owned();
        locks.iter().map(id).collect()
    };
    let all = red.send("GET", "/api/locks", &Value::Null).await;
    assert_eq!(ids(&all), ["a", "b", "c"]);
    let lock = &all.body["locks"][0];
    assert_eq!(
        (&lock["userId"], &lock["version"], &lock["fencingToken"]),
        (&json!("root"), &json!(1), &json!(1))
    );
    let page = red
        .send("GET", "/api/locks?limit=1&after=a", &Value::Null)
        .await;
    assert_eq!(ids(&page), ["b"]);
    let history = blue.ask("GET", "a", "history", &Value::Null).await;
    assert_eq!(told(&history), [(1, "acquired", "root")]);
    assert_eq!(
        told(&blue.ask("GET", "b", "history", &Value::Null).await),
        []
    );
    let bad = red.send("GET", "/api/locks?after=", &Value::Null).await;
    assert_eq!(
        (bad.status, bad.message()),
        (422, "after: must not be empty")
    );
    let twice = red
        .send("GET", "/api/locks?limit=2&limit=3", &Value::Null)
        .await;
    assert_eq!(
        (twice.status, twice.message()),
        (422, "limit: is given twice")
    );
    for query in ["after=%FF", "after=%ZZ", "after=a%2", "%C3=1"] {
        let bad = red
            .send("GET", &format!("/api/locks?{query}"), &Value::Null)
            .await;
        assert_eq!((bad.status, bad.code()), (400, "MALFORMED"), "{query}");
    }
    let user = replica
        .bearing(&token("ann"))
        .send("GET", "/api/locks", &Value::Null)
        .await;
    assert_eq!((user.status, user.code()), (403, "NOT_ADMIN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_forgets_old_history_and_keeps_the_counters() {
    let stack = Stack::start(2, &[("HISTORY_RETENTION", "2s")]).await;
    stack.leader().await;
    let replica = &stack.replicas[0];
    // More than one batch, long ago.
    sqlx::query(
        "insert into lock_history select '', 'old', n, 'released', 'ann', '{\"name\":\"Ann\",\"email\":\"\"}', n,
            null, null, null, clock_timestamp() - interval '1 day' from generate_series(1, 1200) as n",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    let id = fresh("young");
    replica.acquire(&id, "ann").await;
    let count = async |what: &str| -> i64 {
        sqlx::query_scalar("select count(*) from lock_history where appointment_id = $1")
            .bind(what)
            .fetch_one(&stack.pool)
            .await
            .unwrap()
    };
    assert_eq!(count(&id).await, 1, "what is young is kept");
    until("both are forgotten", async || {
        count("old").await + count(&id).await == 0
    })
    .await;
    let again = replica
        .ask("POST", &id, "acquire-lock", &person("ann"))
        .await;
    assert_eq!((again.status, again.version(), again.token()), (200, 2, 1));
}

/// Runs the steps that the operators' docs prescribe after a restore, exactly as written there.
#[tokio::test]
async fn after_a_restore_no_token_is_given_out_again_and_rooms_go_on() {
    let mut stack = Stack::start(1, &[]).await;
    let id = fresh("restored");
    let replica = &stack.replicas[0];
    replica.acquire(&id, "ann").await;
    // The backup.
    sqlx::raw_sql("create table backup as table appointment_lock")
        .execute(&stack.pool)
        .await
        .unwrap();
    let mut last = replica.status_of(&id).await;
    for _ in 0..3 {
        replica.release(&id, "ann").await;
        last = replica.acquire(&id, "ann").await;
    }
    stack.replicas.clear();
    let restore = "truncate appointment_lock; insert into appointment_lock table backup";
    sqlx::raw_sql(restore).execute(&stack.pool).await.unwrap();

    let docs = include_str!("../../docs/RUNBOOK.md");
    let chapter = docs.split("## Back up and restore").nth(1).unwrap();
    let sql = chapter.split("```sql").nth(1).unwrap();
    let sql = sql.split("```").next().unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(&stack.pool)
        .await
        .unwrap();

    let replica = stack.add().await;
    let now = replica.status_of(&id).await;
    assert_eq!(now.body["locked"], false, "{now:?}");
    assert!(now.version() > last.version(), "{now:?} after {last:?}");
    let stale = json!({ "fencingToken": last.token() });
    let verified = replica.ask("POST", &id, "verify", &stale).await;
    assert_eq!(verified.status, 409);
    let anew = replica.acquire(&id, "ben").await;
    assert!(anew.token() > last.token(), "{anew:?} after {last:?}");
}
