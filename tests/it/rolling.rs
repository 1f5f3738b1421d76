//! A rolling restart behind a load balancer, as seen by users who work meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::task::block_in_place;

use crate::support::{Backend, Haproxy, Socket, Stack, auth, fresh, migrate, person};

const SOCKETS: usize = 500;
const APPOINTMENTS: usize = 50;
const WORKERS: usize = 10;
const DELAY: Duration = Duration::from_secs(2);
const DRAIN: Duration = Duration::from_secs(3);
/// Maximum time until a socket has reconnected, and until a replica has stopped.
const LIMIT: Duration = Duration::from_secs(30);

/// The end of a socket's connection.
#[derive(Debug)]
struct Closing {
    replica: String,
    at: Instant,
    told: bool,
    dismissed: bool,
    /// Time for which the socket was disconnected, once it is back.
    away: Option<Duration>,
}

/// Results of the clients.
#[derive(Default)]
struct Seen {
    closings: Mutex<Vec<Closing>>,
    subscribed: AtomicUsize,
    in_vain: AtomicUsize,
    requests: AtomicUsize,
    failures: Mutex<Vec<String>>,
    done: AtomicBool,
}

/// Sends a request through the balancer; returns status and body, or the error.
async fn ask(
    client: &reqwest::Client,
    url: &str,
    (method, id, action): (&str, &str, &str),
    body: &Value,
) -> Result<(u16, Value), String> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = client
        .request(method, format!("{url}/api/appointments/{id}/{action}"))
        .json(body);
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
    let body = serde_json::from_str(&text).map_err(|_| format!("{status}: {text:?}"))?;
    Ok((status, body))
}

/// One user who works on an appointment nobody else wants, five requests a second.
async fn work(url: String, id: String, seen: Arc<Seen>) {
    let client = reqwest::Client::new();
    let user = json!({ "userId": "worker" });
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut token = Value::Null;
    for step in (0..5).cycle() {
        if seen.done.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        let (method, action, body, wanted) = match step {
            0 => ("POST", "acquire-lock", person("worker"), 201),
            1 => ("POST", "verify", json!({ "fencingToken": token }), 200),
            2 => ("GET", "lock-status", Value::Null, 200),
            3 => {
                let position = json!({ "userId": "worker", "position": { "x": 1, "y": 1 } });
                ("POST", "update-position", position, 200)
            }
            _ => ("DELETE", "release-lock", user.clone(), 200),
        };
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        let outcome = match ask(&client, &url, (method, &id, action), &body).await {
            Ok((status, body)) if status == wanted => {
                if step == 0 {
                    token = body["lock"]["fencingToken"].clone();
                }
                continue;
            }
            Ok((status, body)) => format!("{status} {body}"),
            Err(error) => error,
        };
        let failure = format!("{method} {action} after {:?}: {outcome}", since.elapsed());
        seen.failures.lock().unwrap().push(failure);
    }
}

/// Connects and subscribes; `None` if the connection ends meanwhile.
async fn arrive(url: &str, n: usize, id: &str) -> Option<(Socket, String, Value)> {
    let (mut socket, headers) = Socket::reach(url).await.ok()?;
    let replica = headers["x-replica"].to_str().unwrap().to_owned();
    if !socket.join(&auth(&format!("viewer{n}"))).await {
        return None;
    }
    let snapshot = socket.try_ask("subscribe", &json!(id)).await?;
    assert_eq!(snapshot["success"], true, "{snapshot}");
    Some((socket, replica, snapshot))
}

/// One user who watches an appointment and reconnects as the official client does, until the lock is released.
async fn watch(url: String, n: usize, id: String, token: i64, seen: Arc<Seen>) {
    let mut gone: Option<usize> = None;
    loop {
        if let Some((mut socket, replica, snapshot)) = arrive(&url, n, &id).await {
            match gone {
                None => {
                    seen.subscribed.fetch_add(1, Ordering::Relaxed);
                }
                Some(at) => {
                    let closing = &mut seen.closings.lock().unwrap()[at];
                    closing.away = Some(closing.at.elapsed());
                }
            }
            if snapshot["locked"] == false {
                return;
            }
            assert_eq!(snapshot["lock"]["fencingToken"], token, "{snapshot}");
            let mut told = false;
            while let Some(event) = socket.next_at_last().await {
                match event.name.as_str() {
                    "server-restarting" => {
                        assert!(event.data["reconnectInMs"].is_number(), "{event:?}");
                        told = true;
                    }
                    "lock-released" => return,
                    _ => {}
                }
            }
            let mut closings = seen.closings.lock().unwrap();
            gone = Some(closings.len());
            closings.push(Closing {
                replica,
                at: Instant::now(),
                told,
                dismissed: socket.dismissed,
                away: None,
            });
        } else {
            seen.in_vain.fetch_add(1, Ordering::Relaxed);
        }
        let spread = uuid::Uuid::new_v4().as_u128() % 1000;
        tokio::time::sleep(Duration::from_millis(500 + u64::try_from(spread).unwrap())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_a_balancer_loses_no_request_no_lock_and_no_socket() {
    let mut stack = Stack::empty(&[
        ("LOCK_TTL", "10m"),
        ("DRAIN_DELAY", &format!("{DELAY:?}")),
        ("DRAIN_TIME", &format!("{DRAIN:?}")),
    ])
    .await;
    let backends: Vec<Backend> = (0..3).map(|_| Backend::new()).collect();
    let start = async |stack: &mut Stack, at: &Backend| {
        let public = format!("127.0.0.1:{}", at.public);
        let management = format!("127.0.0.1:{}", at.management);
        let ports = [
            ("LISTEN_ADDR", public.as_str()),
            ("MANAGEMENT_ADDR", management.as_str()),
        ];
        stack.add_with(&ports).await;
    };
    for at in &backends {
        start(&mut stack, at).await;
    }
    let haproxy = Haproxy::start(&backends);
    let (url, client) = (&haproxy.url, reqwest::Client::new());

    let mut held: Vec<(String, i64)> = Vec::new();
    for _ in 0..APPOINTMENTS {
        let id = fresh("rolling");
        let what = ("POST", id.as_str(), "acquire-lock");
        let (status, body) = ask(&client, url, what, &person("ann")).await.unwrap();
        assert_eq!(status, 201, "{body}");
        let token = body["lock"]["fencingToken"].as_i64().unwrap();
        held.push((id, token));
    }
    let seen = Arc::new(Seen::default());
    let watchers: Vec<_> = (0..SOCKETS)
        .map(|n| {
            let (id, token) = held[n % APPOINTMENTS].clone();
            tokio::spawn(watch(url.clone(), n, id, token, seen.clone()))
        })
        .collect();
    let since = Instant::now();
    while seen.subscribed.load(Ordering::Relaxed) < SOCKETS {
        assert!(since.elapsed() < LIMIT, "not all sockets are subscribed");
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(work(url.clone(), fresh("worked"), seen.clone())))
        .collect();

    let mut asked_to_stop = BTreeMap::new();
    for (n, at) in backends.iter().enumerate() {
        let name = format!("r{n}");
        let mut old = stack.replicas.remove(0);
        asked_to_stop.insert(name.clone(), Instant::now());
        old.signal("TERM");
        let (status, log) = tokio::task::spawn_blocking(move || (old.await_end(LIMIT), old.log()))
            .await
            .unwrap();
        println!(
            "{name}: ended {:?} after SIGTERM",
            asked_to_stop[&name].elapsed()
        );
        assert_eq!(status.code(), Some(0), "{name}:\n{log}");
        assert!(!log.contains("took too long"), "{name}:\n{log}");
        block_in_place(|| haproxy.await_down(&name));
        start(&mut stack, at).await;
        block_in_place(|| haproxy.await_up(&name));
    }
    let elapsed = started.elapsed();
    seen.done.store(true, Ordering::Relaxed);
    join_all(workers).await.into_iter().for_each(Result::unwrap);

    for (id, token) in &held {
        let what = ("GET", id.as_str(), "lock-status");
        let (status, body) = ask(&client, url, what, &Value::Null).await.unwrap();
        assert_eq!(
            (status, &body["lock"]["fencingToken"], &body["version"]),
            (200, &json!(token), &json!(1)),
            "a lock was lost: {body}"
        );
    }
    // Connected clients get this and end; disconnected ones find it when they reconnect.
    for (id, _) in &held {
        let what = ("DELETE", id.as_str(), "release-lock");
        let (status, body) = ask(&client, url, what, &json!({ "userId": "ann" }))
            .await
            .unwrap();
        assert_eq!(status, 200, "{body}");
    }
    let all = tokio::time::timeout(LIMIT, join_all(watchers)).await;
    let all = all.expect("some sockets did not hear of the release");
    all.into_iter().for_each(Result::unwrap);

    let requests = seen.requests.load(Ordering::Relaxed);
    let failures = seen.failures.lock().unwrap();
    let closings = seen.closings.lock().unwrap();
    let in_vain = seen.in_vain.load(Ordering::Relaxed);
    let count = |what: fn(&Closing) -> bool| closings.iter().filter(|at| what(at)).count();
    let (untold, dismissed, lost) = (
        count(|at| !at.told),
        count(|at| at.dismissed),
        count(|at| at.away.is_none()),
    );
    let longest = closings.iter().filter_map(|at| at.away).max();
    println!(
        "{requests} requests in {elapsed:?}, {} failed; {} sockets closed, {untold} untold, {dismissed} dismissed, \
         {in_vain} connected in vain; the longest away was {longest:?}",
        failures.len(),
        closings.len(),
    );
    for failure in failures.iter().take(10) {
        println!("{failure}");
    }
    let mut spread = BTreeMap::new();
    for (name, asked) in &asked_to_stop {
        let mut times: Vec<Duration> = closings
            .iter()
            .filter(|at| &at.replica == name)
            .map(|at| at.at.saturating_duration_since(*asked))
            .collect();
        times.sort();
        let (first, last) = (times[0], times[times.len() - 1]);
        println!(
            "{name}: {} sockets closed from {first:?} to {last:?} after SIGTERM",
            times.len()
        );
        spread.insert(name, (first, last));
    }
    assert!(
        requests > 10 * usize::try_from(elapsed.as_secs()).unwrap(),
        "too few requests to prove anything"
    );
    assert_eq!(failures.len(), 0, "requests failed");
    assert_eq!(untold, 0, "sockets were closed without a word");
    assert_eq!(dismissed, 0, "sockets were told not to come back");
    assert_eq!(lost, 0, "sockets did not come back");
    assert!(longest.unwrap() < LIMIT, "{longest:?}");
    for (name, (first, last)) in spread {
        assert!(first >= DELAY, "{name} closed sockets before {DELAY:?}");
        assert!(
            last - first > DRAIN / 2,
            "{name} closed all its sockets at once"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_polls_is_told_and_does_not_hold_up_a_stop() {
    // Long enough that a poll is waiting when the stop begins.
    let mut stack = Stack::start(1, &[("DRAIN_DELAY", "1s")]).await;
    let mut replica = stack.replicas.remove(0);
    let (client, root) = (replica.client.clone(), replica.url.clone());
    let session = format!("{root}/socket.io/?EIO=4&transport=polling");
    let poll = async |url: &str| {
        let answer = client.get(url).send().await.unwrap();
        answer.text().await.unwrap()
    };
    // The first ping may arrive before it, with it, or not at all.
    let poll_until = async |url: &str, words: &str| {
        for _ in 0..3 {
            let packets = poll(url).await;
            if packets.contains(words) {
                return;
            }
            assert_eq!(packets, "2", "while waiting for {words}");
        }
        panic!("nothing but pings while waiting for {words}");
    };
    let hello = poll(&session).await;
    let hello: Value = serde_json::from_str(hello.strip_prefix('0').unwrap()).unwrap();
    let session = format!("{session}&sid={}", hello["sid"].as_str().unwrap());
    let join = format!("40{}", auth("ann"));
    let joined = client.post(&session).body(join).send().await.unwrap();
    assert_eq!(joined.status(), 200);
    poll_until(&session, "40{").await;

    let stopping = async {
        replica.signal("TERM");
        tokio::task::spawn_blocking(move || (replica.await_end(LIMIT), replica.log())).await
    };
    let (_, ended) = tokio::join!(poll_until(&session, "server-restarting"), stopping);
    let (status, log) = ended.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("took too long"), "{log}");
}

/// A replica of the previous release, which uses the old name of the table `unpublished`, with any account.
#[tokio::test]
async fn the_release_before_still_notes_what_it_could_not_publish() {
    let mut stack = Stack::empty(&[]).await;
    let role = format!("r{}", uuid::Uuid::new_v4().simple());
    // As the previous release left it, with an account for replicas that does not own the table.
    let before = format!(
        "drop view unannounced;
        alter table unpublished rename to unannounced;
        alter table unannounced rename constraint unpublished_pkey to unannounced_pkey;
        delete from _sqlx_migrations where version = 5;
        create role {role};
        grant select, insert, update, delete on unannounced to {role}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(before))
        .execute(&stack.pool)
        .await
        .unwrap();
    let mut older = sqlx::PgConnection::connect(&stack.database).await.unwrap();
    let own = format!("set role {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(own))
        .execute(&mut older)
        .await
        .unwrap();
    const NOTE: &str = "with forgotten as (
            delete from unannounced where replica <> $1 and at < clock_timestamp() - interval '1 hour'
        )
        insert into unannounced (replica, at) values ($1, clock_timestamp())
        on conflict (replica) do update set at = excluded.at";
    const NOTES: &str =
        "select coalesce(string_agg(replica || '@' || at, ' ' order by replica), '') as notes
        from unannounced where replica <> $1";
    // Prepared before the update, and used after it.
    sqlx::query(NOTE)
        .bind("older")
        .execute(&mut older)
        .await
        .unwrap();
    let notes = sqlx::query_scalar::<_, String>(NOTES).bind("newer");
    let known = notes.fetch_one(&mut older).await.unwrap();

    migrate(&stack.database);
    stack.add_with(&[]).await;
    let id = fresh("unpublished");
    stack.replicas[0].acquire(&id, "ann").await;
    let mut socket = Socket::connect(&stack.replicas[0], auth("ben")).await;
    assert_eq!(socket.subscribe(&id).await["version"], 1);
    // A commit of which the bus says nothing.
    sqlx::query(
        "update appointment_lock set version = 2, reason = 'renewed' where appointment_id = $1",
    )
    .bind(&id)
    .execute(&stack.pool)
    .await
    .unwrap();
    for _ in 0..2 {
        sqlx::query(NOTE)
            .bind("older")
            .execute(&mut older)
            .await
            .unwrap();
    }
    assert_eq!(socket.expect("lock-update").await["version"], 2);
    let notes = sqlx::query_scalar::<_, String>(NOTES).bind("newer");
    assert_ne!(notes.fetch_one(&mut older).await.unwrap(), known);
    // Deleted through the view too.
    sqlx::query("update unpublished set at = at - interval '2 hours'")
        .execute(&stack.pool)
        .await
        .unwrap();
    sqlx::query(NOTE)
        .bind("another")
        .execute(&mut older)
        .await
        .unwrap();
    let left: Vec<String> = sqlx::query_scalar("select replica from unpublished")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(left, ["another"]);
}
