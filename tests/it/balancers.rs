//! Two replicas behind each balancer that we ship a configuration for: HAProxy, and nginx. Sticky sessions for
//! long-polling clients, WebSocket upgrades, and the effect on users when one replica stops.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::{Backend, Balancer, Kind, PATIENCE, Socket, Stack, auth, fresh, person};

/// Enough clients that they do not all reach one replica, or each always the same one, by chance.
const CLIENTS: usize = 16;

/// Two replicas and a balancer in front.
async fn pair(kind: Kind, settings: &[(&str, &str)]) -> (Stack, Balancer) {
    let mut stack = Stack::empty(settings).await;
    let backends = [Backend::new(), Backend::new()];
    for at in &backends {
        let public = format!("127.0.0.1:{}", at.public);
        let management = format!("127.0.0.1:{}", at.management);
        let ports = [
            ("LISTEN_ADDR", public.as_str()),
            ("MANAGEMENT_ADDR", management.as_str()),
        ];
        stack.add_with(&ports).await;
    }
    let balancer = tokio::task::spawn_blocking(move || Balancer::start(kind, &backends))
        .await
        .unwrap();
    (stack, balancer)
}

/// A client that polls, and keeps the balancer's cookie as a browser does, or does not.
struct Poller {
    client: reqwest::Client,
    url: String,
    keeps_cookies: bool,
    cookie: Option<String>,
    sid: String,
    /// Every replica that has answered.
    replicas: BTreeSet<String>,
}

impl Poller {
    /// Opens a session and joins the namespace; returns the status of a rejection.
    async fn connect(url: &str, keeps_cookies: bool, user: &str) -> Result<Self, u16> {
        let mut poller = Self {
            client: reqwest::Client::new(),
            url: url.to_owned(),
            keeps_cookies,
            cookie: None,
            sid: String::new(),
            replicas: BTreeSet::new(),
        };
        poller.join(user).await?;
        Ok(poller)
    }

    async fn join(&mut self, user: &str) -> Result<(), u16> {
        self.sid.clear();
        let hello = self.poll().await?;
        let hello: Value = serde_json::from_str(hello.strip_prefix('0').unwrap()).unwrap();
        self.sid = format!("&sid={}", hello["sid"].as_str().unwrap());
        self.post(format!("40{}", auth(user))).await?;
        self.poll_until("40{").await.map(|_| ())
    }

    async fn ask(&mut self, body: Option<String>) -> Result<String, u16> {
        let method = body.as_ref().map_or(Method::GET, |_| Method::POST);
        let url = format!(
            "{}/socket.io/?EIO=4&transport=polling{}",
            self.url, self.sid
        );
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.body(body);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        let answer = request.send().await.map_err(|_| 0_u16)?;
        let status = answer.status().as_u16();
        let header = |name: &str| {
            let value = answer.headers().get(name)?.to_str().unwrap();
            Some(value.to_owned())
        };
        if let Some(cookie) = header("set-cookie").filter(|_| self.keeps_cookies) {
            assert!(cookie.contains("HttpOnly"), "{cookie}");
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        if let Some(replica) = header("x-replica") {
            // nginx lists those that it tried before, too.
            self.replicas
                .extend(replica.rsplit(", ").next().map(str::to_owned));
        }
        let text = answer.text().await.map_err(|_| 0_u16)?;
        if status == 200 { Ok(text) } else { Err(status) }
    }

    async fn poll(&mut self) -> Result<String, u16> {
        self.ask(None).await
    }

    async fn post(&mut self, packet: String) -> Result<(), u16> {
        self.ask(Some(packet)).await.map(|_| ())
    }

    /// Polls, and answers pings, until this text arrives.
    async fn poll_until(&mut self, words: &str) -> Result<String, u16> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let packets = self.poll().await?;
            if packets.split('\u{1e}').any(|packet| packet == "2") {
                self.post("3".into()).await?;
            }
            if packets.contains(words) {
                return Ok(packets);
            }
        }
        panic!("heard nothing of {words}");
    }

    async fn subscribe(&mut self, id: &str) -> Result<Value, u16> {
        let packet = format!("421{}", json!(["subscribe", id]));
        self.post(packet).await?;
        let packets = self.poll_until("431[").await?;
        let ack = packets.split('\u{1e}').find_map(|p| p.strip_prefix("431"));
        let ack: Value = serde_json::from_str(ack.unwrap()).unwrap();
        Ok(ack[0].clone())
    }
}

/// Status and body of a request through the balancer.
async fn ask(url: &str, what: (Method, &str, &str), body: &Value) -> Result<(u16, Value), String> {
    static CLIENT: std::sync::LazyLock<reqwest::Client> =
        std::sync::LazyLock::new(reqwest::Client::new);
    let (method, id, action) = what;
    let request = CLIENT.request(method, format!("{url}/api/appointments/{id}/{action}"));
    let answer = request.json(body).send().await;
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let status = answer.status().as_u16();
    let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
    let body = serde_json::from_str(&text).map_err(|_| format!("{status}: {text}"))?;
    Ok((status, body))
}

async fn acquire(url: &str, id: &str, user: &str) -> Value {
    let what = (Method::POST, id, "acquire-lock");
    let (status, body) = ask(url, what, &person(user)).await.unwrap();
    assert_eq!(status, 201, "{body}");
    body
}

/// With the cookie every request of a session reaches the replica that knows it, and both replicas have sessions;
/// without it sessions break, so the cookie is the cause.
async fn polling_sticks_by_a_cookie(kind: Kind) {
    let (_stack, balancer) = pair(kind, &[]).await;
    let url = &balancer.url;
    let id = fresh("polled");
    let mut sessions = Vec::new();
    for n in 0..CLIENTS {
        let mut poller = Poller::connect(url, true, &format!("viewer{n}"))
            .await
            .unwrap();
        let snapshot = poller.subscribe(&id).await.unwrap();
        assert_eq!(snapshot["success"], true, "{snapshot}");
        sessions.push(poller);
    }
    acquire(url, &id, "ann").await;
    for poller in &mut sessions {
        poller.poll_until("lock-acquired").await.unwrap();
        assert_eq!(poller.replicas.len(), 1, "{:?}", poller.replicas);
    }
    let used: BTreeSet<String> = sessions.iter().flat_map(|p| p.replicas.clone()).collect();
    assert_eq!(used, balancer.names.iter().cloned().collect());

    let mut broken = 0;
    for n in 0..CLIENTS {
        match Poller::connect(url, false, &format!("forgetful{n}")).await {
            Ok(_) => {}
            Err(400) => broken += 1,
            Err(status) => panic!("{status}: {}", balancer.log()),
        }
    }
    assert!(broken > 0, "no session broke without the cookie");
}

async fn websockets_need_no_cookie(kind: Kind) {
    let (_stack, balancer) = pair(kind, &[]).await;
    let id = fresh("socket");
    let mut sockets = Vec::new();
    let mut used = BTreeSet::new();
    for n in 0..CLIENTS {
        let (mut socket, headers) = Socket::reach(&balancer.url).await.unwrap();
        used.insert(headers["x-replica"].to_str().unwrap().to_owned());
        assert!(socket.join(&auth(&format!("viewer{n}"))).await);
        socket.subscribe(&id).await;
        sockets.push(socket);
    }
    assert_eq!(used, balancer.names.iter().cloned().collect());
    let grant = acquire(&balancer.url, &id, "ann").await;
    for socket in &mut sockets {
        let event = socket.expect("lock-acquired").await;
        assert_eq!(event["version"], grant["version"]);
    }
}

/// The official client's default: it polls, and upgrades while the poll is still waiting.
async fn a_session_that_polled_is_upgraded(kind: Kind) {
    let (_stack, balancer) = pair(kind, &[]).await;
    for n in 0..CLIENTS {
        let id = fresh("upgraded");
        let mut poller = Poller::connect(&balancer.url, true, &format!("viewer{n}"))
            .await
            .unwrap();
        poller.subscribe(&id).await.unwrap();
        let url = format!(
            "{}/socket.io/?EIO=4&transport=websocket{}",
            balancer.url.replace("http", "ws"),
            poller.sid
        );
        let mut request = url.into_client_request().unwrap();
        let cookie = poller.cookie.clone().unwrap().parse().unwrap();
        request.headers_mut().insert("cookie", cookie);
        let probe = async {
            let (mut stream, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
            stream.send(Message::text("2probe")).await.unwrap();
            let probed = stream.next().await.unwrap().unwrap();
            assert_eq!(probed.to_text().unwrap(), "3probe");
            let replica = answer.headers()["x-replica"].to_str().unwrap().to_owned();
            (stream, replica)
        };
        // The waiting poll is ended by a no-op packet; only then does the client upgrade.
        let (last, (mut stream, replica)) = tokio::join!(poller.poll(), probe);
        assert_eq!(last.unwrap(), "6");
        assert!(poller.replicas.contains(&replica), "{replica}");
        stream.send(Message::text("5")).await.unwrap();
        acquire(&balancer.url, &id, "ann").await;
        let heard = async {
            loop {
                let message = stream.next().await.unwrap().unwrap();
                if message.to_text().unwrap().contains("lock-acquired") {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .expect("no event after the upgrade");
    }
}

/// Results of clients while a replica stopped.
#[derive(Default)]
struct Seen {
    subscribed: AtomicUsize,
    came_back: AtomicUsize,
    untold: AtomicUsize,
    requests: AtomicUsize,
    failures: Mutex<Vec<String>>,
    done: AtomicBool,
}

/// Pause before a client retries.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// Watches by WebSocket until the lock is released; reconnects as often as necessary.
async fn watch_by_socket(url: String, id: String, token: i64, seen: Arc<Seen>) {
    let mut visits = 0;
    loop {
        let arrived = async {
            let (mut socket, _) = Socket::reach(&url).await.ok()?;
            let joined = socket.join(&auth("viewer")).await;
            let snapshot = if joined {
                socket.try_ask("subscribe", &json!(id)).await
            } else {
                None
            };
            Some((socket, snapshot?))
        };
        if let Some((mut socket, snapshot)) = arrived.await {
            count(&seen, visits);
            visits += 1;
            if snapshot["locked"] == false {
                return;
            }
            assert_eq!(snapshot["lock"]["fencingToken"], token, "{snapshot}");
            let mut told = false;
            while let Some(event) = socket.next_at_last().await {
                match event.name.as_str() {
                    "server-restarting" => told = true,
                    "lock-released" => return,
                    _ => {}
                }
            }
            seen.untold.fetch_add(usize::from(!told), Ordering::Relaxed);
        }
        breathe().await;
    }
}

/// The same by polling, with the cookie of its first replica as long as the balancer accepts it.
async fn watch_by_polling(url: String, id: String, token: i64, seen: Arc<Seen>) {
    let mut poller = Poller::connect(&url, true, "viewer").await.unwrap();
    let mut visits = 0;
    loop {
        if let Ok(snapshot) = poller.subscribe(&id).await {
            count(&seen, visits);
            visits += 1;
            if snapshot["locked"] == false {
                return;
            }
            assert_eq!(snapshot["lock"]["fencingToken"], token, "{snapshot}");
            let mut told = false;
            while let Ok(packets) = poller.poll_until("42[").await {
                told |= packets.contains("server-restarting");
                if packets.contains("lock-released") {
                    return;
                }
            }
            seen.untold.fetch_add(usize::from(!told), Ordering::Relaxed);
        }
        breathe().await;
        while poller.join("viewer").await.is_err() {
            breathe().await;
        }
    }
}

fn count(seen: &Seen, visits: usize) {
    let counter = if visits == 0 {
        &seen.subscribed
    } else {
        &seen.came_back
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Works on an appointment that nobody else wants.
async fn work(url: String, seen: Arc<Seen>) {
    let id = fresh("worked");
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for step in (0..3).cycle() {
        if seen.done.load(Ordering::Relaxed) {
            return;
        }
        ticks.tick().await;
        let (method, action, body, wanted) = match step {
            0 => (Method::POST, "acquire-lock", person("worker"), 201),
            1 => (Method::GET, "lock-status", Value::Null, 200),
            _ => (
                Method::POST,
                "release-lock",
                json!({ "userId": "worker" }),
                200,
            ),
        };
        seen.requests.fetch_add(1, Ordering::Relaxed);
        match ask(&url, (method, &id, action), &body).await {
            Ok((status, _)) if status == wanted => {}
            other => seen
                .failures
                .lock()
                .unwrap()
                .push(format!("{action}: {other:?}")),
        }
    }
}

async fn one_replica_stops_and_nothing_is_lost(kind: Kind) {
    let (mut stack, balancer) = pair(
        kind,
        &[
            ("LOCK_TTL", "10m"),
            ("DRAIN_DELAY", "3s"),
            ("DRAIN_TIME", "2s"),
        ],
    )
    .await;
    let url = &balancer.url;
    let id = fresh("held");
    let token = acquire(url, &id, "ann").await["lock"]["fencingToken"]
        .as_i64()
        .unwrap();
    let seen = Arc::new(Seen::default());
    let mut watchers = Vec::new();
    for _ in 0..CLIENTS {
        let (url, id, seen) = (url.clone(), id.clone(), seen.clone());
        let polling = watch_by_polling(url.clone(), id.clone(), token, seen.clone());
        watchers.push(tokio::spawn(polling));
        watchers.push(tokio::spawn(watch_by_socket(url, id, token, seen)));
    }
    let since = Instant::now();
    while seen.subscribed.load(Ordering::Relaxed) < 2 * CLIENTS {
        assert!(since.elapsed() < PATIENCE, "not all are subscribed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let workers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(work(url.clone(), seen.clone())))
        .collect();

    let mut old = stack.replicas.remove(0);
    old.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(move || (old.await_end(PATIENCE), old.log()))
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    // Some more work while the replica is stopped.
    let before = seen.requests.load(Ordering::Relaxed);
    let since = Instant::now();
    while seen.requests.load(Ordering::Relaxed) < before + 100 {
        assert!(since.elapsed() < PATIENCE, "nobody works any more");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    seen.done.store(true, Ordering::Relaxed);
    join_all(workers).await.into_iter().for_each(Result::unwrap);

    // Connected clients get this; reconnecting ones find it.
    let what = (Method::POST, id.as_str(), "release-lock");
    let (status, body) = ask(url, what, &json!({ "userId": "ann" })).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let all = tokio::time::timeout(PATIENCE, join_all(watchers)).await;
    let all = all.expect("some clients did not come back");
    all.into_iter().for_each(Result::unwrap);

    let figure = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let failures = seen.failures.lock().unwrap();
    println!(
        "{kind:?}: {} requests, {} failed; {} of {} clients came back, {} untold",
        figure(&seen.requests),
        failures.len(),
        figure(&seen.came_back),
        2 * CLIENTS,
        figure(&seen.untold)
    );
    assert!(figure(&seen.came_back) > 0, "nobody was on that replica");
    assert_eq!(figure(&seen.untold), 0, "closed without a word");
    assert!(failures.is_empty(), "{failures:#?}\n{}", balancer.log());
}

macro_rules! behind_each {
    ($($name:ident: $what:ident;)*) => {
        mod haproxy {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$what(super::Kind::Haproxy).await; })*
        }
        mod nginx {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$what(super::Kind::Nginx).await; })*
        }
    };
}

behind_each! {
    a_cookie_keeps_a_polling_client_on_its_replica: polling_sticks_by_a_cookie;
    a_websocket_needs_no_cookie: websockets_need_no_cookie;
    a_polling_client_changes_over_to_websocket: a_session_that_polled_is_upgraded;
    one_replica_stops_and_no_request_no_lock_and_no_client_is_lost: one_replica_stops_and_nothing_is_lost;
}
