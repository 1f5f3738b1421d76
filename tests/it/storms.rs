//! Many concurrent clients. The checker trusts only PostgreSQL's records and the answers to clients.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::json;
use time::OffsetDateTime;

use crate::support::{Reply, Socket, Stack, auth, fresh, person};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_users_over_two_replicas_one_wins() {
    let stack = Stack::start(2, &[]).await;
    for round in 0..3 {
        let id = fresh("race");
        let tries = (0..200).map(|n| {
            let (replica, id) = (&stack.replicas[n % 2], &id);
            async move { replica.acquire(id, &format!("user{n}")).await }
        });
        let replies: Vec<Reply> = join_all(tries).await;
        let winners: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
        assert_eq!(winners.len(), 1, "round {round}: {} winners", winners.len());
        let winner = winners[0].body["lock"]["userId"].clone();
        let refused = format!(
            "Appointment is currently locked by Name of {}",
            winner.as_str().unwrap()
        );
        for reply in replies.iter().filter(|reply| reply.status != 201) {
            assert_eq!(
                (reply.status, reply.code(), reply.message()),
                (409, "LOCK_HELD", refused.as_str())
            );
            assert_eq!(reply.body["lock"]["userId"], winner);
            assert_eq!(reply.body["lock"]["fencingToken"], 1);
        }
    }
}

/// Workers on every replica acquire, renew, release, take over and force at a few appointments, with a TTL
/// so short that leases also expire meanwhile. Then the history is read.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_no_two_leases_overlap_and_counters_only_rise() {
    let stack = Arc::new(Stack::start(2, &[("LOCK_TTL", "1s")]).await);
    let ids: Arc<Vec<String>> = Arc::new((0..3).map(|_| fresh("storm")).collect());
    let mut watchers = Vec::new();
    for id in ids.iter() {
        for replica in &stack.replicas {
            let mut socket = Socket::connect(replica, auth("watcher")).await;
            let from = socket.subscribe(id).await["version"].as_i64().unwrap();
            watchers.push((id.clone(), socket, from));
        }
    }
    let workers = (0..12_usize).map(|worker| {
        let (stack, ids) = (stack.clone(), ids.clone());
        tokio::spawn(async move {
            let mut told = Vec::new();
            let mut step = 0_usize;
            while told.len() < 12 {
                step += 1;
                let replica = &stack.replicas[(worker + step) % 2];
                let id = &ids[(worker * 7 + step) % ids.len()];
                let user = format!("w{worker}");
                let reply = match step % 25 {
                    6 if worker == 0 => {
                        replica
                            .ask("POST", id, "take-over", &json!({ "adminId": user }))
                            .await
                    }
                    8 if worker == 1 => {
                        let admin = json!({ "adminId": user });
                        replica
                            .ask("DELETE", id, "force-release-lock", &admin)
                            .await
                    }
                    _ => replica.acquire(id, &user).await,
                };
                assert!([200, 201, 404, 409].contains(&reply.status), "{reply:?}");
                // An acquire of a forgotten lease renews it: released, or three such workers would block all others.
                if reply.status == 200 {
                    replica.release(id, &user).await;
                }
                if reply.status == 201 {
                    told.push((id.clone(), reply.token(), user.clone()));
                    // Sometimes a holder does not release, and the lease expires.
                    if told.len() % 6 != 0 {
                        let done = replica.release(id, &user).await;
                        assert!([200, 403, 404].contains(&done.status), "{done:?}");
                    }
                }
            }
            told
        })
    });
    let told: Vec<(String, i64, String)> = join_all(workers)
        .await
        .into_iter()
        .flat_map(|done| done.unwrap())
        .collect();
    assert_eq!(told.len(), 12 * 12);

    for id in ids.iter() {
        let history: Vec<(i64, String, String, i64, OffsetDateTime)> = sqlx::query_as(
            "select version, reason, user_id, fencing_token, at from lock_history where appointment_id = $1 order by version",
        )
        .bind(id)
        .fetch_all(&stack.pool)
        .await
        .unwrap();
        let mut holder: Option<(String, i64)> = None;
        let (mut token, mut at) = (0, OffsetDateTime::UNIX_EPOCH);
        for (version, reason, user, entry, when) in &history {
            let place = format!("{id} at version {version}: {reason} by {user}, token {entry}");
            match reason.as_str() {
                "acquired" => {
                    assert_eq!(holder, None, "granted while held: {place}");
                    assert_eq!(*entry, token + 1, "{place}");
                    holder = Some((user.clone(), *entry));
                }
                "taken-over" => {
                    assert_eq!(*entry, token + 1, "{place}");
                    holder = Some((user.clone(), *entry));
                }
                "released" | "expired" | "forced" => {
                    assert_eq!(holder.take(), Some((user.clone(), *entry)), "{place}");
                }
                other => panic!("{other}: {place}"),
            }
            assert!(*when >= at, "time went back: {place}");
            (token, at) = (*entry, *when);
        }
        for (_, token, user) in told.iter().filter(|(at, _, _)| at == id) {
            let noted = history
                .iter()
                .any(|(_, reason, u, t, _)| reason == "acquired" && u == user && t == token);
            assert!(
                noted,
                "an acknowledged grant is not in the history: {id} {token} {user}"
            );
        }
    }
    // Every watcher ends at the newest version, and saw versions only rise.
    for (id, mut socket, mut version) in watchers {
        let newest: i64 =
            sqlx::query_scalar("select version from appointment_lock where appointment_id = $1")
                .bind(&id)
                .fetch_one(&stack.pool)
                .await
                .unwrap();
        while version < newest {
            let next = socket.expect("lock-update").await["version"]
                .as_i64()
                .unwrap();
            assert!(next > version, "{id}: {next} after {version}");
            version = next;
        }
    }
}

/// The deciding statement, executed directly over many connections, with no client or scheduler in between.
#[tokio::test(flavor = "multi_thread")]
async fn the_acquire_statement_alone_grants_once() {
    use apptlock::domain::ids::{AppointmentId, RoomId, TenantId};
    let stack = Stack::empty(&[]).await;
    let store = stack.store(20);
    let someone = |n: usize| -> apptlock::domain::lease::Person {
        let body: apptlock::protocol::AcquireBody =
            apptlock::protocol::from_value(person(&format!("u{n}"))).unwrap();
        apptlock::domain::lease::Person {
            user_id: body.user_id.unwrap(),
            user_info: body.user_info.unwrap().into(),
        }
    };
    for round in 0..30 {
        let appointment = AppointmentId::new(format!("r{round}")).unwrap();
        let room = RoomId {
            tenant: TenantId::default(),
            appointment,
        };
        let tries = (0..20).map(|n| {
            let (store, room, person) = (store.clone(), room.clone(), someone(n));
            tokio::spawn(async move {
                let ttl = std::time::Duration::from_secs(60);
                store
                    .acquire(&room, &person, None, ttl, false)
                    .await
                    .unwrap()
                    .is_ok()
            })
        });
        let won = join_all(tries)
            .await
            .into_iter()
            .filter(|won| *won.as_ref().unwrap())
            .count();
        assert_eq!(won, 1, "round {round}");
    }
}

/// A new grant commits while a statement waits for the row: it must decide on the current row, not on the row as it
/// was when the statement began.
#[tokio::test]
async fn a_statement_that_waited_decides_on_the_row_as_it_is_then() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let position = json!({ "userId": "ann", "position": { "x": 1, "y": 1 } });
    for (method, action, body) in [
        ("DELETE", "release-lock", json!({ "userId": "ann" })),
        ("DELETE", "force-release-lock", json!({ "adminId": "root" })),
        ("POST", "update-position", position),
        ("POST", "take-over", json!({ "adminId": "root" })),
        ("POST", "acquire-lock", person("ann")),
    ] {
        let id = fresh("waited");
        assert_eq!(replica.acquire(&id, "ann").await.status, 201);
        let mut other = stack.pool.begin().await.unwrap();
        sqlx::query(
            "update appointment_lock set version = version + 1, fencing_token = fencing_token + 1
             where appointment_id = $1",
        )
        .bind(&id)
        .execute(&mut *other)
        .await
        .unwrap();
        let asked = replica.ask(method, &id, action, &body);
        let granted = async {
            stack.until_waiting(1, "").await;
            other.commit().await.unwrap();
        };
        let (reply, ()) = tokio::join!(asked, granted);
        assert_eq!((action, reply.status), (action, 200), "{reply:?}");
        assert_eq!(reply.version(), 3, "{action}: {reply:?}");
    }
}

/// The lease expires while statements wait for its row: they decide by the clock at the time they have locked the
/// row, not at the time of the request.
#[tokio::test]
async fn a_statement_that_waited_past_the_deadline_finds_the_lease_run_out() {
    let mut stack = Stack::empty(&[("LOCK_TTL", "1s")]).await;
    // No sweeper runs: one of the waiting statements ends the lease.
    sqlx::query(
        "insert into leader_lease values ('sweeper', 'asleep', 99, clock_timestamp() + interval '1 hour')",
    )
    .execute(&stack.pool)
    .await
    .unwrap();
    stack.add().await;
    let replica = &stack.replicas[0];
    let position = json!({ "userId": "ann", "position": { "x": 1, "y": 1 } });
    let asks = [
        ("DELETE", "release-lock", json!({ "userId": "ann" }), 404),
        (
            "DELETE",
            "force-release-lock",
            json!({ "adminId": "root" }),
            404,
        ),
        ("POST", "update-position", position, 404),
        ("POST", "take-over", json!({ "adminId": "root" }), 200),
        ("POST", "acquire-lock", person("ann"), 201),
    ];
    let ids: Vec<String> = asks.iter().map(|_| fresh("waited")).collect();
    for id in &ids {
        assert_eq!(replica.acquire(id, "ann").await.status, 201);
    }
    let mut other = stack.pool.begin().await.unwrap();
    sqlx::query("select from appointment_lock for update")
        .execute(&mut *other)
        .await
        .unwrap();
    let asked = asks
        .iter()
        .zip(&ids)
        .map(|((method, action, body, _), id)| replica.ask(method, id, action, body));
    let run_out = async {
        stack.until_waiting(5, "").await;
        sqlx::query(
            "select pg_sleep(extract(epoch from max(expires_at) - clock_timestamp()) + 0.01)
             from appointment_lock",
        )
        .execute(&mut *other)
        .await
        .unwrap();
        let at: OffsetDateTime = sqlx::query_scalar("select clock_timestamp()")
            .fetch_one(&mut *other)
            .await
            .unwrap();
        other.commit().await.unwrap();
        at
    };
    let (replies, given_back) = tokio::join!(join_all(asked), run_out);
    for (((_, action, _, status), id), reply) in asks.iter().zip(&ids).zip(&replies) {
        assert_eq!((action, reply.status), (action, *status), "{reply:?}");
        if *status == 404 {
            assert_eq!(reply.code(), "NOT_LOCKED", "{action}");
            continue;
        }
        assert_eq!(
            (reply.version(), reply.token()),
            (3, 2),
            "{action}: {reply:?}"
        );
        let granted: OffsetDateTime = sqlx::query_scalar(
            "select granted_at from appointment_lock
             where appointment_id = $1 and expires_at = granted_at + interval '1 second'",
        )
        .bind(id)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
        assert!(
            granted >= given_back,
            "{action}: the lease began before its row was had"
        );
    }
}
