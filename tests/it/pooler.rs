//! Behind a pooler in transaction mode, which gives each transaction any free connection.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{POOL_SIZE, PgBouncer, Socket, Stack, auth, fresh};

/// Two replicas that reach PostgreSQL only through the pooler.
async fn behind_a_pooler(settings: &[(&str, &str)]) -> (PgBouncer, Stack) {
    let pooler = PgBouncer::start();
    let mut stack = Stack::empty(settings).await;
    let url = pooler.url(&stack.database);
    for _ in 0..2 {
        let pooled = [
            ("DATABASE_URL", url.as_str()),
            ("DATABASE_POOLER", "transaction"),
        ];
        stack.add_with(&pooled).await;
    }
    (pooler, stack)
}

/// Asserts that no replica has logged a warning, and no client was refused.
fn nothing_went_wrong(pooler: &PgBouncer, stack: &Stack) {
    for replica in &stack.replicas {
        let log = replica.log();
        for line in log.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            assert_ne!(record["level"], "ERROR", "{line}");
            assert!(
                !line.contains("prepared statement") && !line.contains("PostgreSQL is not"),
                "{line}"
            );
        }
    }
    let log = pooler.log();
    assert!(
        !log.contains("ERROR") && !log.contains("unsupported startup parameter"),
        "{log}"
    );
}

/// The leader's name and term.
async fn leads(stack: &Stack) -> (String, i64) {
    sqlx::query_as("select holder, term from leader_lease where expires_at > clock_timestamp()")
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

#[tokio::test]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn every_way_of_a_lock_works_behind_a_transaction_pooler() {
    let (pooler, stack) = behind_a_pooler(&[("LOCK_TTL", "2s")]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    stack.leader().await;
    let led = leads(&stack).await;
    let id = fresh("pooled");
    let mut socket = Socket::connect(there, auth("eve")).await;
    assert_eq!(socket.subscribe(&id).await["version"], 0);

    let granted = here.acquire(&id, "ann").await;
    assert_eq!(granted.status, 201);
    let heard = socket.expect("lock-acquired").await;
    assert_eq!(heard["lock"]["fencingToken"], json!(granted.token()));
    let refused = there.acquire(&id, "ben").await;
    assert_eq!((refused.status, refused.code()), (409, "LOCK_HELD"));
    let renewed = there.acquire(&id, "ann").await;
    assert_eq!(
        (renewed.status, renewed.token()),
        (200, granted.token()),
        "{renewed:?}"
    );
    let position = json!({ "userId": "ann", "position": { "x": 1, "y": 2 } });
    let moved = here.ask("POST", &id, "update-position", &position).await;
    assert_eq!(moved.status, 200, "{moved:?}");
    let verify = async |token: i64| {
        let body = json!({ "fencingToken": token });
        there.ask("POST", &id, "verify", &body).await.status
    };
    assert_eq!(verify(granted.token()).await, 200);
    assert_eq!(verify(granted.token() + 1).await, 409);

    let admin = json!({ "adminId": "root" });
    let taken = here.ask("POST", &id, "take-over", &admin).await;
    assert_eq!(
        (taken.status, taken.token()),
        (200, granted.token() + 1),
        "{taken:?}"
    );
    assert_eq!(socket.expect("admin-takeover").await["adminId"], "root");
    assert_eq!(
        socket.expect("lock-acquired").await["lock"]["userId"],
        "root"
    );
    assert_eq!(there.release(&id, "ann").await.status, 403);
    assert_eq!(there.release(&id, "root").await.status, 200);
    assert_eq!(socket.expect("lock-released").await["reason"], "released");
    assert_eq!(here.status_of(&id).await.body["locked"], false);

    let since = Instant::now();
    assert_eq!(here.acquire(&id, "ben").await.status, 201);
    assert_eq!(socket.expect("lock-released").await["reason"], "expired");
    let took = since.elapsed();
    assert!(
        (Duration::from_millis(1990)..Duration::from_secs(3)).contains(&took),
        "a lease of 2 s ended after {took:?}"
    );
    let history: String = sqlx::query_scalar(
        "select string_agg(reason, ',' order by version) from lock_history where appointment_id = $1",
    )
    .bind(&id)
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(history, "acquired,taken-over,released,acquired,expired");
    assert_eq!(leads(&stack).await, led, "the leader changed");
    nothing_went_wrong(&pooler, &stack);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_users_behind_a_transaction_pooler_one_wins_and_four_connections_do() {
    let (pooler, stack) = behind_a_pooler(&[]).await;
    stack.leader().await;
    let led = leads(&stack).await;
    let database = stack.database.rsplit('/').next().unwrap();
    let (mut clients, mut servers) = (0, 0);
    for round in 0..5 {
        let id = fresh("race");
        let tries = (0..100).map(|n| {
            let (replica, id) = (&stack.replicas[n % 2], &id);
            async move { replica.acquire(id, &format!("user{n}")).await.status }
        });
        let (statuses, account) = tokio::join!(join_all(tries), pooler.pool(database));
        let won = statuses.iter().filter(|status| **status == 201).count();
        let lost = statuses.iter().filter(|status| **status == 409).count();
        assert_eq!((won, lost), (1, 99), "round {round}: {statuses:?}");
        clients = clients.max(account["cl"]);
        servers = servers.max(account["sv"]);
    }
    println!("{clients} clients of the pooler shared {servers} connections to PostgreSQL");
    let size = i64::try_from(POOL_SIZE).unwrap();
    assert!(servers <= size, "{servers} connections to PostgreSQL");
    assert!(
        clients > size,
        "only {clients} clients: nothing had to be shared"
    );
    assert_eq!(leads(&stack).await, led, "the leader changed");
    nothing_went_wrong(&pooler, &stack);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_replica_is_left_to_the_poolers_next_client() {
    let (pooler, stack) = behind_a_pooler(&[]).await;
    let ids: Vec<String> = (0..40).map(|_| fresh("trace")).collect();
    let work = ids.iter().enumerate().map(|(n, id)| {
        let replica = &stack.replicas[n % 2];
        async move {
            assert_eq!(replica.acquire(id, "ann").await.status, 201);
            assert_eq!(replica.release(id, "ann").await.status, 200);
        }
    });
    join_all(work).await;
    // Other clients' transactions, as many as there are connections, so that all connections are covered.
    let other = pooler.client(&stack.database, POOL_SIZE).await;
    let mut seen = Vec::new();
    let mut open = Vec::new();
    for _ in 0..POOL_SIZE {
        let mut transaction = other.begin().await.unwrap();
        let found: (i32, String, String, i64) = sqlx::query_as(
            "select pg_backend_pid(), current_setting('statement_timeout'), current_setting('lock_timeout'),
                (select count(*) from pg_prepared_statements where name <> '')",
        )
        // Otherwise sqlx gives it a name, whatever the capacity of its cache.
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        seen.push(found);
        open.push(transaction);
    }
    let mut connections: Vec<i32> = seen.iter().map(|found| found.0).collect();
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), POOL_SIZE);
    for (_, statement_timeout, lock_timeout, prepared) in seen {
        assert_eq!(
            (statement_timeout.as_str(), lock_timeout.as_str(), prepared),
            ("0", "0", 0)
        );
    }
}

#[tokio::test]
async fn a_request_that_waits_in_vain_gives_the_poolers_connection_back() {
    let (pooler, stack) = behind_a_pooler(&[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("stuck");
    assert_eq!(replica.acquire(&id, "ann").await.status, 201);
    // A back end's save holds the row for longer than any timeout.
    let mut save = stack.pool.begin().await.unwrap();
    sqlx::query("select 1 from appointment_lock where appointment_id = $1 for update")
        .bind(&id)
        .execute(&mut *save)
        .await
        .unwrap();
    let since = Instant::now();
    let waiting = (0..2 * POOL_SIZE).map(|_| replica.release(&id, "ann"));
    for reply in join_all(waiting).await {
        assert_eq!(reply.status, 503, "{reply:?}");
    }
    let took = since.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(
        replica.acquire(&fresh("other"), "ben").await.status,
        201,
        "all connections are free again"
    );
    // A statement that PostgreSQL itself rejects: its transaction must not leak to another client.
    assert_eq!(replica.release(&id, "ann").await.status, 503);
    for _ in 0..8 {
        let reply = replica.acquire(&fresh("after"), "ben").await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    drop(save);
    assert_eq!(replica.release(&id, "ann").await.status, 200);
    let log = pooler.log();
    assert!(!log.contains("unsupported startup parameter"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_a_transaction_pooler_breaks_requests() {
    let pooler = PgBouncer::start();
    let mut stack = Stack::empty(&[]).await;
    let url = pooler.url(&stack.database);
    for _ in 0..2 {
        stack.add_alone(&[("DATABASE_URL", url.as_str())]).await;
    }
    let tries = (0..40).map(|n| {
        let replica = &stack.replicas[n % 2];
        async move { replica.acquire(&fresh("broken"), "ann").await.status }
    });
    let statuses = join_all(tries).await;
    assert!(
        statuses.contains(&503),
        "it works without: then what is DATABASE_POOLER for? {statuses:?}"
    );
}
