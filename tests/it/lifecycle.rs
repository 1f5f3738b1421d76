//! Start and stop: settings, warnings, probes, SIGTERM.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PATIENCE, Replica, Socket, Stack, auth, fresh};

/// Runs a command that must end by itself within a time limit.
fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new("timeout")
        .args(["--signal=KILL", "15", env!("CARGO_BIN_EXE_apptlock")])
        .args(args)
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn a_bad_setting_ends_the_start_with_one_line() {
    let good = [
        ("DATABASE_URL", "postgres://u:geheim@127.0.0.1:1/d"),
        ("AUTH_MODE", "trusted"),
        // Whatever else listens on this machine.
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("MANAGEMENT_ADDR", "127.0.0.1:0"),
    ];
    for (variable, value, line) in [
        (
            "DATABASE_URL",
            "",
            "DATABASE_URL: is not set; write postgres://user:password@host:5432/database",
        ),
        (
            "DATABASE_URL",
            "mysql://u:geheim@h/d",
            "DATABASE_URL: is not the URL of a PostgreSQL database; write ",
        ),
        (
            "REDIS_URL",
            "http://:geheim@h",
            "REDIS_URL: is not a Redis URL; write ",
        ),
        (
            "LOCK_TTL",
            "soon",
            "LOCK_TTL: \"soon\" is not a duration; write ",
        ),
        (
            "CURSOR_INTERVAL",
            "1h",
            "CURSOR_INTERVAL: 1h is out of bounds; write a duration from 10ms to 5s",
        ),
        (
            "LISTEN_ADDR",
            "nowhere",
            "LISTEN_ADDR: \"nowhere\" is not an address with a port; write ",
        ),
        (
            "LISTEN_ADDR",
            "192.0.2.1:1",
            "LISTEN_ADDR: cannot listen on 192.0.2.1:1: ",
        ),
        (
            "DATABASE_MAX_CONNECTIONS",
            "many",
            "DATABASE_MAX_CONNECTIONS: \"many\" is not valid; write ",
        ),
        (
            "AUTH_MODE",
            "none",
            "AUTH_MODE: \"none\" is not a mode; write jwt or trusted",
        ),
        (
            "AUTH_MODE",
            "",
            "JWT_SECRET: is not set, nor is JWT_PUBLIC_KEY or JWT_JWKS_URL; set one of them, or AUTH_MODE=trusted",
        ),
        (
            "LOG_FORMAT",
            "xml",
            "LOG_FORMAT: \"xml\" is not a format; write json or pretty",
        ),
        ("RUST_LOG", "a=b=c", "RUST_LOG: "),
        (
            "RUST_LOG",
            "warning",
            "RUST_LOG: \"warning\" is not a level; write a level such as info",
        ),
        (
            "RUST_LOG",
            "debug,verbose",
            "RUST_LOG: \"verbose\" is not a level; write ",
        ),
        (
            "DATABASE_URL",
            "postgres://u:geheim@127.0.0.1:1/d?sslmod=require",
            "DATABASE_URL: has the parameter \"sslmod\", which is not known; leave it out",
        ),
        (
            "HISTORY_RETENTION",
            "20y",
            "HISTORY_RETENTION: 20y is out of bounds; write a duration from 1s to 3650d",
        ),
    ] {
        let env: Vec<(&str, &str)> = good.into_iter().chain([(variable, value)]).collect();
        let out = run(&["serve"], &env);
        let said = String::from_utf8(out.stderr).unwrap();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(out.status.code(), Some(2), "{variable}={value}: {said}");
        assert!(
            last.starts_with(&format!("error: {line}")),
            "{variable}={value}: {said}"
        );
        assert!(!said.contains("geheim"), "a secret was shown: {said}");
        assert_eq!(
            said.lines()
                .filter(|line| line.starts_with("error"))
                .count(),
            1,
            "{said}"
        );
    }
}

#[test]
fn help_names_every_setting_with_its_default_and_no_secret() {
    let secret = [
        ("DATABASE_URL", "postgres://u:geheim@h/d"),
        ("REDIS_URL", "redis://:geheim@h"),
    ];
    for args in [&["--help"][..], &["serve", "--help"], &["dev", "--help"]] {
        let out = run(args, &secret);
        let help = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success());
        assert!(!help.contains("geheim"), "{help}");
        for (variable, default, _) in apptlock::config::settings() {
            assert!(
                help.contains(&variable),
                "{args:?} does not name {variable}:\n{help}"
            );
            let default = match (args[0], variable.as_str()) {
                ("dev", "LISTEN_ADDR") => "127.0.0.1:3000".to_owned(),
                ("dev", "MANAGEMENT_ADDR") => "127.0.0.1:9090".to_owned(),
                ("dev", "AUTH_MODE") => "trusted".to_owned(),
                ("dev", "RATE_LIMIT_PER_SECOND") => "0".to_owned(),
                ("dev", "DRAIN_DELAY" | "DRAIN_TIME") => "0s".to_owned(),
                _ => default.unwrap_or_default(),
            };
            assert!(
                help.contains(&default),
                "{args:?} does not give {variable}'s default {default}:\n{help}"
            );
        }
    }
}

#[test]
fn the_settings_page_has_every_setting_with_its_default() {
    let page = include_str!("../../docs/SETTINGS.md");
    for (variable, default, _) in apptlock::config::settings() {
        let name = format!("`{variable}`");
        let mut rows = page.lines().map(|line| line.split('|').skip(1));
        let defaults = rows
            .find_map(|mut cells| {
                cells
                    .next()
                    .is_some_and(|it| it.contains(&name))
                    .then(|| cells.next())
            })
            .flatten()
            .unwrap_or_else(|| panic!("{variable} is not in SETTINGS.md"));
        if let Some(default) = default {
            let default = format!("`{default}`");
            assert!(
                defaults.contains(&default),
                "{variable}: {defaults}, and not {default}"
            );
        }
    }
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let empty = [
        ("DATABASE_URL", ""),
        ("LOCK_TTL", ""),
        ("PAGES", " "),
        ("MAX_SOCKETS", ""),
    ];
    let out = run(&["serve"], &empty);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.starts_with("error: DATABASE_URL: is not set; write "),
        "{said}"
    );
    let help = String::from_utf8(run(&["serve", "--help"], &empty).stdout).unwrap();
    assert!(help.contains("[env: LOCK_TTL]"), "{help}");
}

#[tokio::test]
async fn without_redis_one_replica_serves_with_a_warning() {
    let stack = Stack::start(1, &[("REDIS_URL", "")]).await;
    let replica = &stack.replicas[0];
    replica.await_line("REDIS_URL is not set: this replica works alone");
    replica.await_line("AUTH_MODE is trusted");
    let id = fresh("alone");
    let mut socket = Socket::connect(replica, auth("ben")).await;
    socket.subscribe(&id).await;
    replica.acquire(&id, "ann").await;
    assert_eq!(
        socket.expect("lock-acquired").await["lock"]["userId"],
        "ann"
    );
}

#[tokio::test]
async fn a_database_without_schema_is_not_ready_and_says_why() {
    let stack = Stack::empty(&[]).await;
    sqlx::raw_sql("drop schema public cascade; create schema public")
        .execute(&stack.pool)
        .await
        .unwrap();
    let settings = [
        ("DATABASE_URL", stack.database.as_str()),
        ("AUTH_MODE", "trusted"),
    ];
    let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let replica = tokio::task::spawn_blocking(move || Replica::start(&settings))
        .await
        .unwrap();
    let probe = async |path: &str| {
        let reply = replica
            .client
            .get(format!("{}{path}", replica.management))
            .send()
            .await
            .unwrap();
        (
            reply.status().as_u16(),
            reply.json::<serde_json::Value>().await.unwrap(),
        )
    };
    let comes = async |status: u16, body: serde_json::Value| {
        let since = Instant::now();
        loop {
            let now = probe("/readyz").await;
            if now == (status, body.clone()) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{now:?} in the place of {body}");
            tokio::task::yield_now().await;
        }
    };
    let reason = "the database has no schema: run `apptlock migrate`";
    comes(503, json!({ "status": "starting", "reason": reason })).await;
    assert_eq!(probe("/livez").await.0, 200);
    let reply = replica.acquire(&fresh("x"), "ann").await;
    assert_eq!((reply.status, reply.code()), (503, "UNAVAILABLE"));
    assert!(reply.headers.contains_key("retry-after"));

    let out = run(&["migrate"], &[("DATABASE_URL", &stack.database)]);
    assert!(out.status.success(), "{out:?}");
    comes(200, json!({ "status": "ok" })).await;
    assert_eq!(
        replica.acquire(&fresh("x"), "ann").await.status,
        201,
        "and everything works, without a restart"
    );
    // The schema of a newer release is accepted, so that a rollback works.
    let newer =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'of a newer release', true, '', 0)";
    sqlx::query(newer).execute(&stack.pool).await.unwrap();
    let again = run(&["migrate"], &[("DATABASE_URL", &stack.database)]);
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        "The schema is up to date.\n"
    );
}

#[tokio::test]
async fn migrations_may_run_at_once() {
    let stack = Stack::empty(&[]).await;
    sqlx::raw_sql("drop schema public cascade; create schema public")
        .execute(&stack.pool)
        .await
        .unwrap();
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let database = stack.database.clone();
            std::thread::spawn(move || run(&["migrate"], &[("DATABASE_URL", &database)]))
        })
        .collect();
    for done in runs {
        let out = done.join().unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

#[tokio::test]
async fn sigterm_finishes_requests_tells_sockets_gives_up_leadership_and_exits_zero() {
    let mut stack = Stack::start(1, &[]).await;
    stack.leader().await;
    let id = fresh("stop");
    let mut socket = Socket::connect(&stack.replicas[0], auth("ben")).await;
    socket.subscribe(&id).await;

    // A request in progress: another client's transaction holds its row.
    stack.replicas[0].acquire(&id, "ann").await;
    let mut held = stack.pool.begin().await.unwrap();
    sqlx::query("select 1 from appointment_lock where appointment_id = $1 for update")
        .bind(&id)
        .execute(&mut *held)
        .await
        .unwrap();
    let replica = &stack.replicas[0];
    let slow = {
        let request = replica.client.delete(format!(
            "{}/api/appointments/{id}/release-lock",
            replica.url
        ));
        let request = request.json(&json!({ "userId": "ann" }));
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    };
    stack.until_waiting(1, "/* release").await;

    replica.signal("TERM");
    replica.await_line("stopping");
    let ready = replica
        .client
        .get(format!("{}/readyz", replica.management))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(
        ready.json::<serde_json::Value>().await.unwrap()["reason"],
        "this replica is stopping"
    );
    assert!(socket.expect("server-restarting").await["reconnectInMs"].is_number());
    assert!(
        socket.ends_within(Duration::from_secs(5)).await,
        "the socket was not closed"
    );
    held.commit().await.unwrap();
    assert_eq!(slow.await.unwrap(), 200, "a request under way was lost");

    let status = stack.replicas[0].await_end(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", stack.replicas[0].log());
    let free: bool = sqlx::query_scalar("select expires_at <= clock_timestamp() from leader_lease")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert!(free, "leadership was not given up");
}

/// A pointer's moves are written once in a tenth of the TTL: a stop does not lose those since.
#[tokio::test]
async fn a_stop_writes_the_last_activity() {
    let mut stack = Stack::start(1, &[("LOCK_TTL", "5m")]).await;
    let id = fresh("last");
    let replica = &stack.replicas[0];
    let mut ann = Socket::connect(replica, auth("ann")).await;
    ann.subscribe(&id).await;
    replica.acquire(&id, "ann").await;
    sqlx::query("select pg_sleep(1)")
        .execute(&stack.pool)
        .await
        .unwrap();
    let at = json!({ "appointmentId": id, "position": { "x": 1, "y": 2 } });
    assert_eq!(ann.ask("cursor-position", &at).await["success"], true);
    let version = "select version from appointment_lock where appointment_id = $1";
    let written: i64 = sqlx::query_scalar(version)
        .bind(&id)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(written, 1, "written at once, which costs a write a move");
    replica.signal("TERM");
    let status = stack.replicas[0].await_end(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0));
    let longer: bool = sqlx::query_scalar(
        "select expires_at >= granted_at + interval '5 minutes 950 ms'
            and (user_info -> 'position' ->> 'x')::float8 = 1
         from appointment_lock where appointment_id = $1",
    )
    .bind(&id)
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert!(longer, "the last activity was not written");
}

/// A disconnected client waits for nothing, but its request is executed: the change is published before the end.
#[tokio::test]
async fn a_stop_waits_for_what_a_client_that_hung_up_had_asked_for() {
    let mut stack = Stack::start(2, &[]).await;
    let id = fresh("hung-up");
    let mut socket = Socket::connect(&stack.replicas[1], auth("ben")).await;
    socket.subscribe(&id).await;
    let replica = &stack.replicas[0];
    replica.acquire(&id, "ann").await;
    socket.expect("lock-acquired").await;
    let mut held = stack.pool.begin().await.unwrap();
    sqlx::query("select 1 from appointment_lock where appointment_id = $1 for update")
        .bind(&id)
        .execute(&mut *held)
        .await
        .unwrap();
    let asked = async {
        stack.until_waiting(1, "/* release").await;
    };
    // Dropped, and its connection with it, as soon as PostgreSQL has the statement.
    tokio::select! {
        reply = replica.release(&id, "ann") => panic!("{reply:?}"),
        () = asked => {}
    }
    replica.signal("TERM");
    replica.await_line("stopping");
    // A stop that does not wait ends long before this.
    sqlx::query("select pg_sleep(1)")
        .execute(&mut *held)
        .await
        .unwrap();
    held.commit().await.unwrap();
    let committed = std::time::Instant::now();
    assert_eq!(socket.expect("lock-released").await["reason"], "released");
    let took = committed.elapsed();
    assert!(took < Duration::from_secs(2), "told only after {took:?}");
    let status = stack.replicas[0].await_end(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", stack.replicas[0].log());
}

/// A read is no transition that anything else waits for: only its own connection delays the stop.
#[tokio::test]
async fn a_stop_waits_for_a_request_that_only_looks() {
    let mut stack = Stack::start(1, &[]).await;
    stack.leader().await;
    let id = fresh("look");
    let replica = &stack.replicas[0];
    replica.acquire(&id, "ann").await;
    let mut held = stack.pool.begin().await.unwrap();
    sqlx::query("lock table appointment_lock in access exclusive mode")
        .execute(&mut *held)
        .await
        .unwrap();
    let stopping = async {
        stack.until_waiting(1, "/* status").await;
        replica.signal("TERM");
        replica.await_line("stopping");
        // A stop that does not wait ends long before this.
        sqlx::query("select pg_sleep(1)")
            .execute(&mut *held)
            .await
            .unwrap();
        held.commit().await.unwrap();
    };
    let (reply, ()) = tokio::join!(replica.status_of(&id), stopping);
    assert_eq!(
        (reply.status, &reply.body["locked"]),
        (200, &json!(true)),
        "{reply:?}"
    );
    let status = stack.replicas[0].await_end(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", stack.replicas[0].log());
}
