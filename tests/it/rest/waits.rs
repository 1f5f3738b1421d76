//! Requests that wait for the row of their appointment, which another transaction holds.

use serde_json::json;

use crate::support::{Reply, Stack, fresh};

#[tokio::test]
async fn a_saving_transaction_that_takes_its_time_holds_up_its_own_appointment_only() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("slow-save");
    let granted = replica.acquire(&id, "ann").await;
    let mut save = stack.pool.begin().await.unwrap();
    let assert = "select apptlock_assert_lease($1, $2)";
    sqlx::query(assert)
        .bind(&id)
        .bind(granted.token())
        .execute(&mut *save)
        .await
        .unwrap();
    // More than the replica has connections.
    let waiting =
        futures_util::future::join_all((0..12).map(|_| replica.release(&id, "ann"))).await;
    let queued = |reply: &&Reply| {
        reply
            .message()
            .starts_with("Another transaction holds this appointment's row")
    };
    assert_eq!(waiting.iter().filter(queued).count(), 12, "{waiting:?}");
    let held = async |place: &str| {
        let series = format!("apptlock_row_waits_timed_out_total{{where=\"{place}\"}}");
        replica.metric(&series).await
    };
    assert_eq!(held("postgres").await + held("queue").await, 12.0);
    assert!(held("postgres").await >= 3.0);
    let log = replica.log();
    // One log line a second reports it; further ones are suppressed.
    let causes = [
        "another transaction holds the appointment's row",
        "others wait for this appointment's row",
    ];
    assert!(causes.iter().any(|cause| log.contains(cause)), "{log}");
    assert!(!log.contains("PostgreSQL is not available"), "{log}");
    for reply in waiting {
        assert_eq!(
            (reply.status, reply.code()),
            (503, "UNAVAILABLE"),
            "{reply:?}"
        );
        assert!(reply.headers.contains_key("retry-after"));
    }
    assert_eq!(
        replica.acquire(&fresh("other"), "ben").await.status,
        201,
        "nobody else waits for it"
    );
    assert_eq!(
        replica.status_of(&id).await.body["locked"],
        true,
        "a look waits for nobody"
    );
    save.commit().await.unwrap();
    assert_eq!(replica.release(&id, "ann").await.status, 200);
}

/// PostgreSQL checks a tuple made from the statement's own snapshot before it reads the row again.
#[tokio::test]
async fn a_move_that_races_the_same_users_acquire_is_answered() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("races");
    replica.acquire(&id, "ann").await;
    replica.release(&id, "ann").await;
    let mut acquire = stack.pool.begin().await.unwrap();
    sqlx::query(
        "update appointment_lock set version = version + 1, fencing_token = fencing_token + 1, reason = 'acquired',
            user_id = 'ann', user_info = '{\"name\":\"Ann\",\"email\":\"\"}', granted_at = clock_timestamp(),
            expires_at = clock_timestamp() + interval '1 minute' where appointment_id = $1",
    )
    .bind(&id)
    .execute(&mut *acquire)
    .await
    .unwrap();
    let body = json!({ "userId": "ann", "position": { "x": 1, "y": 2 } });
    let moving = replica.ask("POST", &id, "update-position", &body);
    let commit = async {
        stack.until_waiting(1, "/* renew */").await;
        acquire.commit().await.unwrap();
    };
    let (moved, ()) = tokio::join!(moving, commit);
    assert_eq!(moved.status, 200, "{moved:?}");
    assert_eq!(moved.body["lock"]["userInfo"]["position"]["x"], 1.0);
}

/// One decision answers a crowd: no request waits in vain for a lock that another one got meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_row_while_another_gets_the_lock_is_told_at_once() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("crowd");
    replica.acquire(&id, "first").await;
    replica.release(&id, "first").await;
    let mut held = stack.pool.begin().await.unwrap();
    sqlx::query("select from appointment_lock where appointment_id = $1 for update")
        .bind(&id)
        .execute(&mut *held)
        .await
        .unwrap();
    let users: Vec<String> = (0..50).map(|n| format!("user-{n}")).collect();
    let crowd = futures_util::future::join_all(users.iter().map(|user| replica.acquire(&id, user)));
    let let_go = async {
        replica
            .metric_becomes("apptlock_row_waiting", |waiting| waiting >= 47.0)
            .await;
        held.commit().await.unwrap();
    };
    let (replies, ()) = tokio::join!(crowd, let_go);
    let with = |status| {
        replies
            .iter()
            .filter(|reply| reply.status == status)
            .count()
    };
    assert_eq!((with(201), with(409)), (1, 49), "{replies:?}");
    for reply in replies.iter().filter(|reply| reply.status == 409) {
        assert!(
            reply
                .message()
                .starts_with("Appointment is currently locked by "),
            "{reply:?}"
        );
    }
}
