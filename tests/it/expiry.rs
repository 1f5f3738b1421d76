//! Leases that expire, and the sweeper or acquire that ends them.

use std::time::{Duration, Instant};

use serde_json::json;

use apptlock::domain::lease::Reason;
use apptlock::store::Candidate;

use crate::support::{Socket, Stack, auth, fresh};

#[tokio::test]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn expiry_is_told_within_a_second_of_the_deadline() {
    let stack = Stack::start(2, &[("LOCK_TTL", "1s")]).await;
    let sweeps = stack.leader().await;
    // The last one not right after a sweep: sweeping every two seconds would be in time for the others.
    for (at, pause) in [(sweeps, 0.0), (1 - sweeps, 0.0), (sweeps, 1.1)] {
        let replica = &stack.replicas[at];
        sqlx::query("select pg_sleep($1)")
            .bind(pause)
            .execute(&stack.pool)
            .await
            .unwrap();
        let id = fresh("expiry");
        let mut socket = Socket::connect(replica, auth("ben")).await;
        socket.subscribe(&id).await;
        let since = Instant::now();
        replica.acquire(&id, "ann").await;
        let released = socket.expect("lock-released").await;
        let took = since.elapsed();
        assert_eq!(
            (&released["reason"], &released["version"]),
            (&json!("expired"), &json!(2))
        );
        assert!(took >= Duration::from_millis(990), "too early: {took:?}");
        assert!(took < Duration::from_secs(2), "too late: {took:?}");
        let noted: String =
            sqlx::query_scalar("select string_agg(reason, ',' order by version) from lock_history where appointment_id = $1")
                .bind(&id)
                .fetch_one(&stack.pool)
                .await
                .unwrap();
        assert_eq!(noted, "acquired,expired");
        assert_ended_at_its_deadline(&stack, &id).await;
    }
}

/// The history has the deadline of the first lease as its end, however late it was found.
async fn assert_ended_at_its_deadline(stack: &Stack, id: &str) {
    let lasted: f64 = sqlx::query_scalar(
        "select extract(epoch from ended.at - began.at)::float8
         from lock_history began join lock_history ended using (appointment_id, fencing_token)
         where appointment_id = $1 and began.reason = 'acquired' and ended.reason = 'expired'",
    )
    .bind(id)
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(lasted, 1.0, "with a TTL of 1 s");
}

#[tokio::test]
async fn a_lease_that_has_run_out_is_free_at_once_swept_or_not() {
    let stack = Stack::start(1, &[("LOCK_TTL", "1s")]).await;
    let replica = &stack.replicas[0];
    let id = fresh("unswept");
    // Another holder leads, and does nothing: so no replica sweeps.
    sqlx::query(
        "insert into leader_lease values ('sweeper', 'asleep', 99, clock_timestamp() + interval '1 hour')
         on conflict (name) do update set holder = 'asleep', term = 99, expires_at = excluded.expires_at",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    let mut socket = Socket::connect(replica, auth("eve")).await;
    socket.subscribe(&id).await;
    let first = replica.acquire(&id, "ann").await;
    sqlx::query("select pg_sleep(1.01)")
        .execute(&stack.pool)
        .await
        .unwrap();
    let status = replica.status_of(&id).await;
    assert_eq!(
        (&status.body["locked"], status.version()),
        (&json!(false), first.version()),
        "not swept"
    );
    let check = replica
        .ask(
            "POST",
            &id,
            "verify",
            &json!({ "fencingToken": first.token() }),
        )
        .await;
    assert_eq!(check.status, 409);
    let moved = replica
        .ask(
            "POST",
            &id,
            "update-position",
            &json!({ "userId": "ann", "position": { "x": 1, "y": 1 } }),
        )
        .await;
    assert_eq!(
        (moved.status, moved.code()),
        (404, "NOT_LOCKED"),
        "a late renewal does not bring it back"
    );
    let release = replica.release(&id, "ann").await;
    assert_eq!((release.status, release.code()), (404, "NOT_LOCKED"));

    let second = replica.acquire(&id, "ben").await;
    assert_eq!(
        (second.status, second.version(), second.token()),
        (201, 3, 2),
        "the end has a version of its own"
    );
    let heard: Vec<(String, i64)> = {
        let mut heard = Vec::new();
        while heard.len() < 6 {
            let event = socket.next().await;
            heard.push((event.name, event.data["version"].as_i64().unwrap()));
        }
        heard
    };
    let shown: Vec<(&str, i64)> = heard
        .iter()
        .map(|(name, version)| (name.as_str(), *version))
        .collect();
    assert_eq!(
        shown,
        [
            ("lock-update", 1),
            ("lock-acquired", 1),
            ("lock-update", 2),
            ("lock-released", 2),
            ("lock-update", 3),
            ("lock-acquired", 3)
        ]
    );
    let noted: Vec<(i64, String, String)> =
        sqlx::query_as("select version, reason, user_id from lock_history where appointment_id = $1 order by version")
            .bind(&id)
            .fetch_all(&stack.pool)
            .await
            .unwrap();
    let noted: Vec<(i64, &str, &str)> = noted
        .iter()
        .map(|(v, r, u)| (*v, r.as_str(), u.as_str()))
        .collect();
    assert_eq!(
        noted,
        [
            (1, "acquired", "ann"),
            (2, "expired", "ann"),
            (3, "acquired", "ben")
        ]
    );
    assert_ended_at_its_deadline(&stack, &id).await;
}

#[tokio::test]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn the_holders_cursor_keeps_the_lease_and_is_written_at_most_once_a_tenth() {
    let stack = Stack::start(2, &[("LOCK_TTL", "2s")]).await;
    let replica = &stack.replicas[0];
    let id = fresh("active");
    let mut ann = Socket::connect(replica, auth("ann")).await;
    let mut ben = Socket::connect(&stack.replicas[1], auth("ben")).await;
    ann.subscribe(&id).await;
    ben.subscribe(&id).await;
    replica.acquire(&id, "ann").await;
    let since = Instant::now();
    let (mut moves, mut last_sent) = (0, since);
    while since.elapsed() < Duration::from_millis(3500) {
        last_sent = Instant::now();
        let at = json!({ "appointmentId": id, "position": { "x": moves, "y": 0 } });
        assert_eq!(ann.ask("cursor-position", &at).await["success"], true);
        // A user who does not hold the lease renews nothing.
        assert_eq!(ben.ask("cursor-position", &at).await["success"], true);
        moves += 1;
        ann.expect("cursor-update").await;
    }
    let last_move = Instant::now();
    let status = replica.status_of(&id).await;
    assert_eq!(
        status.body["locked"], true,
        "the cursor did not keep the lease"
    );
    let writes = status.version() - 1;
    assert!(
        (10..=19).contains(&writes),
        "{writes} renewals in 3.5 s of a TTL of 2 s, with {moves} moves"
    );

    let released = ben.expect("lock-released").await;
    assert_eq!(released["reason"], "expired");
    // The server saw the last move between the two.
    let (longest, shortest) = (last_sent.elapsed(), last_move.elapsed());
    assert!(
        longest >= Duration::from_millis(1990) && shortest < Duration::from_millis(2900),
        "ended {shortest:?} to {longest:?} after the last activity, with a TTL of 2 s"
    );
}

#[tokio::test]
async fn a_holder_who_comes_back_late_keeps_the_lease_by_moving() {
    let stack = Stack::start(2, &[("LOCK_TTL", "10s")]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("late");
    let granted = here.acquire(&id, "ann").await;
    // A page reloaded near the end of its lease, on a replica that never saw it.
    sqlx::query("select pg_sleep(9.3)")
        .execute(&stack.pool)
        .await
        .unwrap();
    let mut ann = Socket::connect(there, auth("ann")).await;
    ann.subscribe(&id).await;
    let at = json!({ "appointmentId": id, "position": { "x": 1, "y": 1 } });
    assert_eq!(ann.ask("cursor-position", &at).await["success"], true);
    let renewed = ann.expect("lock-update").await;
    assert_eq!(renewed["reason"], "renewed");
    assert_eq!(renewed["lock"]["fencingToken"], json!(granted.token()));
}

#[tokio::test]
async fn when_the_leader_is_killed_another_sweeps_within_ten_seconds() {
    let mut stack = Stack::start(2, &[("LOCK_TTL", "1s")]).await;
    let leader = stack.leader().await;
    let dead = stack.replicas.remove(leader);
    let left = &stack.replicas[0];
    let id = fresh("orphan");
    let mut socket = Socket::connect(left, auth("ben")).await;
    socket.subscribe(&id).await;
    dead.signal("KILL");
    let killed = Instant::now();
    left.acquire(&id, "ann").await;
    assert_eq!(socket.expect("lock-released").await["reason"], "expired");
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(stack.leader().await, 0);
}

#[tokio::test]
async fn a_leader_of_a_past_term_sweeps_nothing() {
    let stack = Stack::empty(&[]).await;
    let store = stack.store(2);
    let lapsed = async |id: &str| {
        sqlx::query(
            "insert into appointment_lock values ('', $1, 1, 1, 'acquired', 'ann', '{\"name\":\"Ann\",\"email\":\"\"}', null,
                clock_timestamp() - interval '2 s', clock_timestamp() - interval '1 s')",
        )
        .bind(id)
        .execute(&stack.pool)
        .await
        .unwrap();
    };
    let minute = Duration::from_secs(60);
    let (old, new) = (
        Candidate {
            name: "old",
            ttl: minute,
        },
        Candidate {
            name: "new",
            ttl: minute,
        },
    );
    assert_eq!(store.campaign(&old).await.unwrap(), Some(1));
    assert_eq!(
        store.campaign(&old).await.unwrap(),
        Some(1),
        "kept: the same term"
    );
    assert_eq!(store.campaign(&new).await.unwrap(), None, "taken");
    lapsed("first").await;
    assert!(
        store.sweep("new", 1, 10).await.unwrap().is_empty(),
        "another's term"
    );
    assert!(
        store.sweep("old", 2, 10).await.unwrap().is_empty(),
        "a term that was never won"
    );
    assert_eq!(store.sweep("old", 1, 10).await.unwrap().len(), 1);

    store.resign("old", 1).await.unwrap();
    assert_eq!(store.campaign(&new).await.unwrap(), Some(2));
    lapsed("second").await;
    assert!(
        store.sweep("old", 1, 10).await.unwrap().is_empty(),
        "a past term"
    );
    let swept = store.sweep("new", 2, 10).await.unwrap();
    assert_eq!(swept.len(), 1);
    assert_eq!(
        (swept[0].state.version, swept[0].state.reason),
        (2, Some(Reason::Expired))
    );
    assert_eq!(store.campaign(&new).await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_lease_held_by_a_saving_transaction_is_swept_when_that_is_done() {
    let stack = Stack::empty(&[]).await;
    let store = stack.store(2);
    store
        .campaign(&Candidate {
            name: "me",
            ttl: Duration::from_secs(60),
        })
        .await
        .unwrap();
    sqlx::query(
        "insert into appointment_lock values ('', 'a', 1, 1, 'acquired', 'ann', '{\"name\":\"Ann\",\"email\":\"\"}', null,
            clock_timestamp(), clock_timestamp() + interval '300 ms')",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    let mut save = stack.pool.begin().await.unwrap();
    sqlx::query("select apptlock_assert_lease('a', 1)")
        .execute(&mut *save)
        .await
        .unwrap();
    sqlx::query("select pg_sleep(0.35)")
        .execute(&mut *save)
        .await
        .unwrap();
    assert!(
        store.sweep("me", 1, 10).await.unwrap().is_empty(),
        "the save holds the lease, and the sweep does not wait"
    );
    save.commit().await.unwrap();
    assert_eq!(store.sweep("me", 1, 10).await.unwrap().len(), 1);
}
