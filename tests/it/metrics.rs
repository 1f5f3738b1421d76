//! Metrics: each one reports what happened.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Replica, Socket, Stack, auth, fresh, until};

/// A replica's metrics page.
pub(crate) async fn text(replica: &Replica) -> String {
    let url = format!("{}/metrics", replica.management);
    let reply = replica.client.get(url).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    reply.text().await.unwrap()
}

/// The value of the one series with that prefix, 0 if there is none.
async fn series(replica: &Replica, begins: &str) -> f64 {
    let text = text(replica).await;
    let mut found = text.lines().filter(|line| line.starts_with(begins));
    let value = found.next().map_or(0.0, |line| {
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    });
    assert!(found.next().is_none(), "{begins} twice in\n{text}");
    value
}

/// Waits until a series has that value.
async fn becomes(replica: &Replica, begins: &str, wanted: f64) {
    let since = Instant::now();
    loop {
        let now = series(replica, begins).await;
        if now == wanted {
            return;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "{begins} is {now}, not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a series has at least that value.
async fn rises_to(replica: &Replica, begins: &str, wanted: f64) {
    let since = Instant::now();
    loop {
        let now = series(replica, begins).await;
        if now >= wanted {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{begins} is only {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn each_metric_says_what_happened() {
    let stack = Stack::start(2, &[("MAX_SOCKETS", "77")]).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let (id, route) = (fresh("counted"), "/api/appointments/{id}/acquire-lock");
    let mut near = Socket::connect(here, auth("near")).await;
    let mut far = Socket::connect(there, auth("far")).await;
    near.subscribe(&id).await;
    far.subscribe(&id).await;
    there.compares_no_more().await;
    let published = series(here, "apptlock_bus_published_total ").await;

    assert_eq!(here.acquire(&id, "ann").await.status, 201);
    assert_eq!(here.acquire(&id, "ben").await.status, 409);
    let taken = format!("apptlock_http_requests_total{{method=\"POST\",route=\"{route}\",status=");
    becomes(here, &format!("{taken}\"201\"}}"), 1.0).await;
    becomes(here, &format!("{taken}\"409\"}}"), 1.0).await;
    let timed = format!(
        "apptlock_http_request_duration_seconds_count{{method=\"POST\",route=\"{route}\"}}"
    );
    becomes(here, &timed, 2.0).await;
    for (outcome, count) in [
        ("ok", 1.0),
        ("conflict", 1.0),
        ("refused", 0.0),
        ("failed", 0.0),
    ] {
        let name = "apptlock_lock_operations_total{operation=\"acquire\"";
        becomes(here, &format!("{name},outcome=\"{outcome}\"}}"), count).await;
    }
    becomes(
        here,
        "apptlock_lock_operation_duration_seconds_count{operation=\"acquire\"}",
        2.0,
    )
    .await;
    becomes(
        here,
        "apptlock_database_statement_duration_seconds_count{statement=\"acquire\"}",
        2.0,
    )
    .await;
    becomes(here, "apptlock_http_requests_in_flight ", 0.0).await;

    // The event on the other replica: shown there once, with its lag.
    far.expect("lock-acquired").await;
    // Replicas also exchange their rosters on request.
    rises_to(here, "apptlock_bus_published_total ", published + 1.0).await;
    rises_to(
        there,
        "apptlock_bus_received_total{outcome=\"members\"}",
        1.0,
    )
    .await;
    becomes(there, "apptlock_bus_received_total{outcome=\"shown\"}", 1.0).await;
    becomes(there, "apptlock_fanout_lag_seconds_count ", 1.0).await;
    let lag = series(there, "apptlock_fanout_lag_seconds_sum ").await;
    assert!(lag > 0.0 && lag < 1.0, "{lag} s");
    becomes(here, "apptlock_fanout_lag_seconds_count ", 0.0).await;
    for event in ["lock-update", "lock-acquired"] {
        becomes(
            there,
            &format!("apptlock_events_total{{event=\"{event}\"}}"),
            1.0,
        )
        .await;
    }

    // Two sockets, of which one polls.
    becomes(here, "apptlock_sockets{transport=\"websocket\"}", 1.0).await;
    becomes(here, "apptlock_sockets{transport=\"polling\"}", 0.0).await;
    let polls = format!("{}/socket.io/?EIO=4&transport=polling", here.url);
    let open = here
        .client
        .get(&polls)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let open: Value = serde_json::from_str(&open[1..]).unwrap();
    let polls = format!("{polls}&sid={}", open["sid"].as_str().unwrap());
    let join = format!("40{}", auth("polls"));
    here.client.post(&polls).body(join).send().await.unwrap();
    becomes(here, "apptlock_sockets{transport=\"polling\"}", 1.0).await;
    becomes(here, "apptlock_sockets{transport=\"websocket\"}", 1.0).await;
    becomes(here, "apptlock_socket_connects_total ", 2.0).await;
    becomes(here, "apptlock_sockets_limit ", 77.0).await;
    becomes(here, "apptlock_rooms ", 1.0).await;
    becomes(here, "apptlock_bus_subscriptions ", 1.0).await;

    // Positions between two ticks are sent once.
    for x in 0..50 {
        let at = json!({ "appointmentId": id, "position": { "x": x, "y": 0 } });
        near.emit("cursor-position", &at).await;
    }
    becomes(here, "apptlock_cursors_received_total ", 50.0).await;
    becomes(
        here,
        "apptlock_socket_events_total{event=\"cursor-position\",outcome=\"ok\"}",
        50.0,
    )
    .await;
    while far.expect("cursor-update").await["position"]["x"].as_f64() != Some(49.0) {}
    let sent = series(here, "apptlock_cursors_sent_total ").await;
    let coalesced = series(here, "apptlock_cursors_coalesced_total ").await;
    assert_eq!(sent + coalesced, 50.0, "{sent} sent");
    assert!(sent < 50.0, "nothing was coalesced");
    let bad = near
        .ask("cursor-position", &json!({ "appointmentId": id }))
        .await;
    assert_eq!(bad["success"], false);
    becomes(
        here,
        "apptlock_socket_bad_payloads_total{event=\"cursor-position\"}",
        1.0,
    )
    .await;
    becomes(
        here,
        "apptlock_socket_events_total{event=\"cursor-position\",outcome=\"refused\"}",
        1.0,
    )
    .await;
}

#[tokio::test]
async fn leases_in_force_and_their_ends_are_counted_by_the_leader() {
    let stack = Stack::start(2, &[("LOCK_TTL", "2s")]).await;
    let leader = &stack.replicas[stack.leader().await];
    let here = &stack.replicas[0];
    becomes(leader, "apptlock_leader ", 1.0).await;
    assert!(series(leader, "apptlock_leader_term ").await >= 1.0);
    let kept = fresh("kept");
    until("the leader counts the lease", async || {
        here.acquire(&kept, "ann").await;
        series(leader, "apptlock_leases ").await == 1.0
    })
    .await;
    let swept = "apptlock_expiries_total{by=\"sweep\"}";
    let late = "apptlock_expiry_lateness_seconds_count ";
    until("a lease is swept", async || {
        series(leader, swept).await >= 1.0
    })
    .await;
    assert_eq!(series(leader, swept).await, series(leader, late).await);
    let batches = series(leader, "apptlock_sweep_batch_leases_sum ").await;
    assert_eq!(batches, series(leader, swept).await);
    becomes(leader, "apptlock_leases ", 0.0).await;

    let other = stack
        .replicas
        .iter()
        .find(|it| it.name != leader.name)
        .unwrap();
    for (name, value) in [
        ("apptlock_leader ", 0.0),
        ("apptlock_leader_term ", 0.0),
        ("apptlock_leases ", 0.0),
        ("apptlock_bus_up ", 1.0),
        ("apptlock_database_up ", 1.0),
        ("apptlock_ready ", 1.0),
        ("apptlock_database_connections_limit ", 8.0),
        ("apptlock_outlet_capacity ", 8192.0),
        ("apptlock_build_info{", 1.0),
    ] {
        becomes(other, name, value).await;
    }
    assert!(series(other, "process_open_fds ").await > 5.0);
    assert!(series(other, "process_resident_memory_bytes ").await > 1e6);
    assert!(series(other, "apptlock_database_connections{state=\"idle\"}").await >= 1.0);
}

/// A lease that expired just before another user's acquire is ended by it, and counted as such.
#[tokio::test]
async fn an_expiry_that_the_next_acquire_finds_is_counted_as_that() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("found");
    replica.acquire(&id, "ann").await;
    // No replica sweeps now: another holder leads, and does nothing.
    for statement in [
        "update leader_lease set holder = 'nobody', term = term + 1, expires_at = clock_timestamp() + interval '1 hour'",
        "update appointment_lock set expires_at = clock_timestamp()",
    ] {
        sqlx::query(statement).execute(&stack.pool).await.unwrap();
    }
    assert_eq!(replica.acquire(&id, "ben").await.status, 201);
    becomes(replica, "apptlock_expiries_total{by=\"acquire\"}", 1.0).await;
    becomes(replica, "apptlock_expiries_total{by=\"sweep\"}", 0.0).await;
}

#[tokio::test]
async fn metrics_can_be_left_out() {
    let stack = Stack::start(1, &[("METRICS", "off")]).await;
    let replica = &stack.replicas[0];
    let url = format!("{}/metrics", replica.management);
    let reply = replica.client.get(url).send().await.unwrap();
    assert_eq!(reply.status(), 404);
    assert_eq!(
        reply.text().await.unwrap(),
        "No metrics are kept: METRICS is off\n"
    );
    assert_eq!(
        replica.acquire(&fresh("uncounted"), "ann").await.status,
        201
    );
}

/// PostgreSQL that rejects connections or is read-only counts as unavailable.
#[tokio::test]
async fn a_database_that_refuses_or_only_reads_counts_as_away() {
    let mut stack = Stack::empty(&[]).await;
    let name = stack.database.rsplit('/').next().unwrap().to_owned();
    let role = format!("r{name}");
    let grants = format!(
        "create role {role} login; grant all on all tables in schema public to {role}; grant execute on all functions in schema public to {role}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(grants))
        .execute(&stack.pool)
        .await
        .unwrap();
    let url = stack
        .database
        .replace("://apptlock@", &format!("://{role}@"));
    stack.add_with(&[("DATABASE_URL", &url)]).await;
    let replica = &stack.replicas[0];
    becomes(replica, "apptlock_database_up ", 1.0).await;
    let end_all =
        format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'");
    for (breaks, mends, reason) in [
        ("nologin", "login", "PostgreSQL is not available"),
        (
            "set default_transaction_read_only = on",
            "reset default_transaction_read_only",
            "PostgreSQL is read-only: DATABASE_URL must lead to the primary",
        ),
    ] {
        let broken = format!("alter role {role} {breaks}; {end_all}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(broken))
            .execute(&stack.pool)
            .await
            .unwrap();
        becomes(replica, "apptlock_database_up ", 0.0).await;
        becomes(replica, "apptlock_ready ", 0.0).await;
        // Repeatedly: other requests meanwhile change nothing.
        for _ in 0..20 {
            assert_eq!(series(replica, "apptlock_database_up ").await, 0.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let url = format!("{}/readyz", replica.management);
        let ready = replica.client.get(url).send().await.unwrap();
        assert_eq!(ready.json::<Value>().await.unwrap()["reason"], reason);
        // A replica that is not ready gets no requests, so none can log the cause.
        let line = replica.await_record("the reason", |line| line["why"] == reason);
        let said = line["message"].as_str().unwrap();
        assert!(said.starts_with("PostgreSQL check failed: "), "{said}");
        if breaks == "nologin" {
            assert!(said.contains("is not permitted to log in"), "{said}");
        }
        let mended = format!("alter role {role} {mends}; {end_all}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(mended))
            .execute(&stack.pool)
            .await
            .unwrap();
        becomes(replica, "apptlock_database_up ", 1.0).await;
        becomes(replica, "apptlock_ready ", 1.0).await;
        replica.await_line("PostgreSQL is available again");
    }
    // A lasting failure is logged once, and again if its cause changes.
    let told = replica.log().matches("PostgreSQL check failed").count();
    assert!(told <= 4, "{}", replica.log());
}

#[tokio::test]
async fn what_a_client_that_hung_up_had_asked_for_is_counted() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("hung-up");
    replica.acquire(&id, "ann").await;
    let mut held = stack.pool.begin().await.unwrap();
    sqlx::query("select 1 from appointment_lock where appointment_id = $1 for update")
        .bind(&id)
        .execute(&mut *held)
        .await
        .unwrap();
    let url = format!("{}/api/appointments/{id}/release-lock", replica.url);
    let asked = replica.client.delete(url).json(&json!({ "userId": "ann" }));
    let hangs_up = asked.timeout(Duration::from_millis(300)).send().await;
    assert!(hangs_up.unwrap_err().is_timeout());
    let route = "route=\"/api/appointments/{id}/release-lock\",status=\"499\"}";
    becomes(
        replica,
        &format!("apptlock_http_requests_total{{method=\"DELETE\",{route}"),
        1.0,
    )
    .await;
    // Not before that: the answer could have been sent before the replica noticed the disconnect.
    held.commit().await.unwrap();
    let released = "apptlock_lock_operations_total{operation=\"release\",outcome=\"ok\"}";
    becomes(replica, released, 1.0).await;
    becomes(replica, "apptlock_http_requests_in_flight ", 0.0).await;
}

/// An outage is a few log lines, not one per request.
#[tokio::test]
async fn an_outage_does_not_flood_the_log() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    replica.acquire(&fresh("due"), "ann").await;
    let mut socket = Socket::connect(replica, auth("ben")).await;
    let since = Instant::now();
    let broken = "alter table lock_history rename to elsewhere; update appointment_lock set expires_at = clock_timestamp()";
    sqlx::raw_sql(broken).execute(&stack.pool).await.unwrap();
    replica.acquire(&fresh("wakes"), "ann").await;
    let gone = "alter table appointment_lock rename to elsewhere_too";
    sqlx::raw_sql(gone).execute(&stack.pool).await.unwrap();
    for _ in 0..50 {
        let refused = socket.ask("subscribe", &json!(fresh("refused"))).await;
        assert_eq!(refused["code"], "UNAVAILABLE", "{refused}");
    }
    let failed = "apptlock_socket_events_total{event=\"subscribe\",outcome=\"failed\"}";
    becomes(replica, failed, 50.0).await;
    replica.await_line("a subscription failed");
    replica.await_line("could not end expired leases");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (log, seconds) = (replica.log(), since.elapsed().as_secs() as usize);
    assert_eq!(
        log.matches("could not end expired leases").count(),
        1,
        "{log}"
    );
    let unanswered = log.matches("a subscription failed").count();
    assert!(unanswered <= seconds + 1, "{unanswered} in {seconds} s");
}
