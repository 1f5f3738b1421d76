//! The replica that sweeps is paused past its lease, or cut off: another one sweeps, and the old one does
//! nothing stale.

use std::time::{Duration, Instant};

use super::{becomes, before};
use crate::support::{Socket, Stack, auth, fresh, servers, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_past_its_lease_does_nothing_stale() {
    let stack = Stack::start(2, &[("LOCK_TTL", "1s")]).await;
    let old = stack.leader().await;
    let (paused, other) = (&stack.replicas[old], &stack.replicas[1 - old]);
    let term = term(&stack).await;
    paused.signal("STOP");
    let since = Instant::now();
    let id = fresh("paused");
    let mut socket = Socket::connect(other, auth("ben")).await;
    socket.subscribe(&id).await;
    other.acquire(&id, "ann").await;
    assert_eq!(socket.expect("lock-released").await["reason"], "expired");
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(term + 1, self::term(&stack).await, "another term began");

    // It resumes in the middle of its work, and for a moment still believes that it leads.
    let ids: Vec<String> = (0..20).map(|_| fresh("stale")).collect();
    for id in &ids {
        other.acquire(id, "ann").await;
    }
    paused.signal("CONT");
    paused.await_line("another replica sweeps");
    until("no lease is left", async || running(&stack).await == 0).await;
    assert_eq!(
        term + 1,
        self::term(&stack).await,
        "the old leader stood back"
    );
    assert_eq!(paused.metric("apptlock_leader").await, 0.0);
    assert_eq!(other.metric("apptlock_leader").await, 1.0);
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (select from lock_history where reason = 'expired'
            group by appointment_id, fencing_token having count(*) > 1) as twice",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(twice, 0, "a lease ended twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_from_postgresql_is_replaced_and_comes_back_as_a_follower() {
    let mut stack = Stack::empty(&[("LOCK_TTL", "1s")]).await;
    let proxy = before(servers().postgres.port).await;
    let url = stack.database.replace(
        &format!(":{}/", servers().postgres.port),
        &format!(":{}/", proxy.port()),
    );
    stack.add_with(&[("DATABASE_URL", &url)]).await;
    assert_eq!(stack.leader().await, 0);
    stack.add().await;
    proxy.stall();
    let since = Instant::now();
    let id = fresh("cut");
    let mut socket = Socket::connect(&stack.replicas[1], auth("ben")).await;
    socket.subscribe(&id).await;
    stack.replicas[1].acquire(&id, "ann").await;
    assert_eq!(socket.expect("lock-released").await["reason"], "expired");
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(stack.leader().await, 1);
    stack.replicas[0].await_line("no longer sweeps");
    proxy.pass();
    becomes(&stack.replicas[0], "ok").await;
    assert_eq!(stack.replicas[0].metric("apptlock_leader").await, 0.0);
    assert_eq!(stack.leader().await, 1);
}

async fn term(stack: &Stack) -> i64 {
    sqlx::query_scalar("select term from leader_lease")
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

/// Leases in the rows, expired or not.
async fn running(stack: &Stack) -> i64 {
    sqlx::query_scalar("select count(*) from appointment_lock where user_id is not null")
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}
