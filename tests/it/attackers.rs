//! What somebody does who wants to take a replica out, or to get past a limit. Each test has the counter that tells
//! of it, and somebody else who does not notice.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::support::tokens::{SECRET, claims, key_pair, signed, token, token_of};
use crate::support::{Replica, Socket, Stack, auth, fresh};

const JWT: [(&str, &str); 2] = [("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];

async fn counted(replica: &Replica, series: &str) -> f64 {
    replica.metric(&format!("apptlock_{series}")).await
}

async fn get(replica: &Replica, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        let name: reqwest::header::HeaderName = name.parse().unwrap();
        all.append(name, HeaderValue::from_str(value).unwrap());
    }
    let url = format!("{}{path}", replica.url);
    replica.client.get(url).headers(all).send().await.unwrap()
}

/// A request as bytes, and its answer's status and text.
async fn raw(replica: &Replica, request: &str) -> (u16, String) {
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

/// A connection from another address of this machine.
async fn from(replica: &Replica, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let ours = format!("{address}:0").parse().unwrap();
    socket.bind(ours).unwrap();
    let theirs = replica.url.strip_prefix("http://").unwrap();
    socket.connect(theirs.parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_page_is_compressed_once_and_has_a_budget_by_address() {
    let rate = [("RATE_LIMIT_PER_SECOND", "2"), ("RATE_LIMIT_BURST", "4")];
    let stack = Stack::start(1, &rate).await;
    let replica = &stack.replicas[0];
    let script = "/assets/swagger-ui-bundle.js";
    let mut tags = Vec::new();
    for encoding in ["br", "gzip"] {
        let answer = get(replica, script, &[("accept-encoding", encoding)]).await;
        assert_eq!(answer.headers()["content-encoding"], encoding);
        assert_eq!(answer.headers()["vary"], "accept-encoding");
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        let again = [("accept-encoding", encoding), ("if-none-match", &tag)];
        assert_eq!(get(replica, script, &again).await.status(), 304);
        tags.push(tag);
    }
    assert_ne!(tags[0], tags[1]);
    let plain = get(replica, script, &[("accept-encoding", "identity")]).await;
    assert!(!plain.headers().contains_key("content-encoding"));
    assert!(plain.bytes().await.unwrap().len() > 1_000_000);
    // Ten times the rate; routes that do not exist cost the same budget.
    let mut refused = 0;
    for n in 0..60 {
        let path = if n % 2 == 0 { script } else { "/nothing" };
        refused += u32::from(get(replica, path, &[]).await.status() == 429);
    }
    assert!(refused >= 10, "{refused}");
    assert!(counted(replica, "rate_limited_total{kind=\"page\"}").await >= 10.0);
    assert_eq!(replica.acquire(&fresh("a"), "ann").await.status, 201);
}

#[tokio::test]
async fn pages_can_be_switched_off() {
    let stack = Stack::start(1, &[("PAGES", "off")]).await;
    let replica = &stack.replicas[0];
    for path in ["/", "/api/docs", "/assets/swagger-ui-bundle.js"] {
        assert_eq!(get(replica, path, &[]).await.status(), 404, "{path}");
    }
    assert_eq!(get(replica, "/api/openapi.json", &[]).await.status(), 200);
}

/// Clients that ask for much and read nothing would otherwise fill the system's memory.
#[tokio::test]
async fn what_waits_in_the_system_for_a_client_that_does_not_read_is_bounded() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut deaf = socket.connect(address.parse().unwrap()).await.unwrap();
    let ask = "GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nhost: a\r\n\r\n";
    deaf.write_all(ask.repeat(10).as_bytes()).await.unwrap();
    let port = deaf.local_addr().unwrap().port();
    // The kernel's own count of what the other end has not taken: it stays where it is.
    let mut before = 0;
    let mut same = 0;
    while same < 20 {
        let now = unread(port);
        same = if now == before && now > 0 {
            same + 1
        } else {
            0
        };
        before = now;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(before < 300 * 1024, "{before} bytes wait");
}

/// Bytes that the server's end of that client's connection has not got rid of (proc(5): net/tcp, tx_queue).
fn unread(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let theirs = format!(":{port:04X}");
    let line = table.lines().find(|line| {
        let mut words = line.split_whitespace();
        words.nth(2).is_some_and(|peer| peer.ends_with(&theirs))
    });
    let queue = line.and_then(|line| line.split_whitespace().nth(4)?.split(':').next());
    queue.map_or(0, |hex| u64::from_str_radix(hex, 16).unwrap())
}

#[tokio::test]
async fn a_binary_frame_ends_the_connection_before_any_login_and_after_it() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let mut other = Socket::connect(replica, auth("ben")).await;
    for joined in [false, true] {
        let mut socket = Socket::open(replica).await;
        if joined {
            assert!(socket.join(&auth("ann")).await);
        }
        socket.try_send(Message::binary(vec![0; 60_000])).await;
        assert!(socket.ends_within(Duration::from_secs(2)).await);
    }
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"binary\"}").await,
        2.0
    );
    // One that is announced ends it too: there are no attachments.
    let mut socket = Socket::connect(replica, auth("ann")).await;
    let header = format!("4510000-{}", json!(["x", "y".repeat(60_000)]));
    socket.send(header).await;
    assert!(socket.ends_within(Duration::from_secs(2)).await);
    other.subscribe(&fresh("a")).await;
}

/// A session that polls, and what it answers.
struct Poller<'a> {
    replica: &'a Replica,
    url: String,
}

impl<'a> Poller<'a> {
    async fn open(replica: &'a Replica) -> Self {
        let url = format!("{}/socket.io/?EIO=4&transport=polling", replica.url);
        let hello = replica.client.get(&url).send().await.unwrap();
        let hello = hello.text().await.unwrap();
        let hello: Value = serde_json::from_str(hello.strip_prefix('0').unwrap()).unwrap();
        let url = format!("{url}&sid={}", hello["sid"].as_str().unwrap());
        Self { replica, url }
    }

    async fn joined(replica: &'a Replica, auth: &Value) -> Self {
        let poller = Self::open(replica).await;
        assert_eq!(poller.say(&format!("40{auth}")).await, 200);
        loop {
            let (status, heard) = poller.poll().await;
            assert_eq!(status, 200, "{heard}");
            if heard.split('\u{1e}').any(|packet| packet.starts_with("40")) {
                return poller;
            }
        }
    }

    async fn say(&self, packets: &str) -> u16 {
        let post = self.replica.client.post(&self.url).body(packets.to_owned());
        post.send().await.unwrap().status().as_u16()
    }

    async fn poll(&self) -> (u16, String) {
        let answer = self.replica.client.get(&self.url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

#[tokio::test]
async fn packets_that_are_no_events_have_a_price_by_polling_too() {
    let stack = Stack::start_limited(1, &JWT).await;
    let replica = &stack.replicas[0];
    let ann = json!({ "token": token("ann") });
    let many = |count| vec!["40/x,"; count].join("\u{1e}");
    for joined in [false, true] {
        let poller = if joined {
            Poller::joined(replica, &ann).await
        } else {
            Poller::open(replica).await
        };
        let packets = if joined { 10_900 } else { 2500 };
        assert_eq!(poller.say(&many(packets)).await, 429);
        assert_eq!(poller.poll().await.0, 400, "the session is gone");
    }
    // A binary packet ends it too, and one that is too large is refused.
    let poller = Poller::joined(replica, &ann).await;
    assert_eq!(poller.say("bAAAA").await, 400);
    assert_eq!(poller.poll().await.0, 400, "the session is gone");
    let poller = Poller::joined(replica, &ann).await;
    assert_eq!(poller.say(&"x".repeat(70_000)).await, 413);
    let poller = Poller::open(replica).await;
    assert_eq!(poller.say(&"x".repeat(20_000)).await, 413);
    let closed = counted(replica, "connections_closed_total{reason=\"flood\"}").await;
    assert_eq!(closed, 2.0);
}

#[tokio::test]
async fn frames_that_are_no_events_are_slowed_down_and_then_end_the_connection_without_a_line() {
    let settings = [
        JWT[0],
        JWT[1],
        ("RATE_LIMIT_PER_SECOND", "5"),
        ("RATE_LIMIT_BURST", "5"),
    ];
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    let lines = replica.log().lines().count();
    for frame in ["40/x,", "43123[]", "2", ""] {
        let mut eve = Socket::connect(replica, json!({ "token": token("eve") })).await;
        let since = Instant::now();
        let mut sent = 0;
        while eve.try_send(Message::text(frame)).await {
            sent += 1;
            assert!(sent < 1_000_000, "{frame:?} may go on for ever");
        }
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "{:?}",
            since.elapsed()
        );
    }
    assert!(counted(replica, "rate_limited_total{kind=\"frame\"}").await > 0.0);
    assert!(counted(replica, "connections_closed_total{reason=\"flood\"}").await >= 1.0);
    let log = replica.log();
    assert!(log.lines().count() <= lines + 5, "{log}");
    let mut ann = Socket::connect(replica, json!({ "token": token("ann") })).await;
    ann.subscribe(&fresh("a")).await;
}

/// The frames of a whole list's page at once are no attack.
#[tokio::test]
async fn a_burst_of_a_thousand_events_is_answered() {
    let stack = Stack::start_limited(1, &JWT).await;
    let mut ann = Socket::connect(&stack.replicas[0], json!({ "token": token("ann") })).await;
    for n in 0..1000 {
        ann.send(format!("42{n}[\"subscribe\",\"a-{n}\"]")).await;
    }
    let mut answered = 0;
    while answered < 1000 {
        let frame = ann.frame().await.expect("hung up");
        answered += u32::from(frame.starts_with("43"));
    }
}

#[tokio::test]
async fn leaving_the_namespace_ends_the_session_and_its_connection() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    let ann = json!({ "token": token("ann") });
    let mut socket = Socket::connect(replica, ann.clone()).await;
    socket.send("41").await;
    assert!(socket.ends_within(Duration::from_secs(5)).await);
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"left\"}").await,
        1.0
    );
    for leaving in ["41", "3\u{1e}41,"] {
        let poller = Poller::joined(replica, &ann).await;
        assert_eq!(poller.say(leaving).await, 200);
        assert_eq!(poller.poll().await.0, 400, "the session is gone");
    }
    // Whoever says goodbye as clients do is not counted.
    let mut polite = Socket::connect(replica, ann).await;
    polite.send("41").await;
    polite.close().await;
    while counted(replica, "sockets").await > 0.0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"left\"}").await,
        1.0
    );
}

/// By polling a session had no end that its token could bring.
#[tokio::test]
async fn a_session_that_polls_ends_with_its_token() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    let mut short = claims("ann");
    short["exp"] = json!(crate::support::tokens::in_seconds(-4));
    let poller = Poller::joined(replica, &json!({ "token": token_of(&short) })).await;
    let since = Instant::now();
    while poller.poll().await.0 == 200 {
        assert!(since.elapsed() < Duration::from_secs(10), "it polls on");
    }
}

#[tokio::test]
async fn forged_tokens_cost_their_address_and_not_those_who_are_known() {
    let (private, public) = key_pair(&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let settings = [
        ("AUTH_MODE", "jwt"),
        ("JWT_PUBLIC_KEY", public.as_str()),
        ("RATE_LIMIT_PER_SECOND", "2"),
        ("RATE_LIMIT_BURST", "4"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    let key = |pem: &str| jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES384);
    let ours = key(&private);
    let good = |user: &str| format!("Bearer {}", signed(&header, &claims(user), &ours));
    let ask = async |bearer: &str, at: &str| {
        let headers = [("authorization", bearer), ("x-forwarded-for", at)];
        let path = "/api/appointments/a/lock-status";
        get(replica, path, &headers).await.status().as_u16()
    };
    let known = good("known");
    assert_eq!(ask(&known, "203.0.113.1").await, 200);
    let other = key(&key_pair(&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]).0);
    let forge = async |n: u32| {
        let forged = signed(&header, &claims(&format!("eve-{n}")), &other);
        ask(&format!("Bearer {forged}"), "203.0.113.1").await
    };
    assert_eq!(forge(0).await, 401);
    // While it goes on a token that was never seen may have to wait, and one that was verified never does.
    let flood = futures_util::future::join_all((1..150).map(forge));
    let others = async {
        for _ in 0..10 {
            assert_eq!(ask(&known, "203.0.113.1").await, 200, "verified before");
            assert_eq!(
                ask(&good("new"), "203.0.113.2").await,
                200,
                "from elsewhere"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::join!(flood, others);
    assert!(counted(replica, "rate_limited_total{kind=\"token\"}").await >= 20.0);
    // In a handshake too, without a way around by another connection.
    let refused = Socket::refused(replica, json!({ "token": "a.b.c" })).await;
    assert!(refused.starts_with("auth.token: "), "{refused}");
}

/// Else whoever shares an address with an attacker could not connect.
#[tokio::test]
async fn tries_to_join_cost_nobody_else_at_the_same_address() {
    let stack = Stack::start(
        1,
        &[
            JWT[0],
            JWT[1],
            ("RATE_LIMIT_PER_SECOND", "2"),
            ("RATE_LIMIT_BURST", "4"),
        ],
    )
    .await;
    let replica = &stack.replicas[0];
    let known = token("ann");
    assert_eq!(replica.bearing(&known).status_of("a").await.status, 200);
    let mut eves = Vec::new();
    for _ in 0..5 {
        let mut eve = Socket::open(replica).await;
        for n in 0..20 {
            let forged = format!("{}{n}", token("eve"));
            if !eve
                .try_send(Message::text(format!("40{}", json!({ "token": forged }))))
                .await
            {
                break;
            }
        }
        eves.push(eve);
    }
    for eve in &mut eves {
        let frame = eve.frame().await.expect("hung up");
        assert!(frame.starts_with("44"), "{frame}");
    }
    let mut ann = Socket::connect(replica, json!({ "token": known })).await;
    ann.subscribe(&fresh("a")).await;
}

async fn silent(stream: &mut TcpStream) -> bool {
    let mut some = [0; 512];
    let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut some)).await;
    read.is_err()
}

/// Asks, and keeps the connection.
async fn ask(stream: &mut TcpStream) -> String {
    let asked = stream
        .write_all(b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let mut some = [0; 2048];
    let read = stream.read(&mut some).await.unwrap_or(0);
    let _ = asked;
    String::from_utf8_lossy(&some[..read]).into_owned()
}

#[tokio::test]
async fn idle_connections_of_one_address_make_room_for_its_own_and_cost_nobody_a_place() {
    let stack = Stack::start(1, &[("MAX_CONNECTIONS_PER_ADDRESS", "10")]).await;
    let replica = &stack.replicas[0];
    let mut idle = Vec::new();
    for _ in 0..30 {
        let mut stream = from(replica, "127.0.0.66").await;
        assert!(ask(&mut stream).await.contains(" 404 "));
        idle.push(stream);
    }
    assert!(counted(replica, "connections_closed_total{reason=\"idle\"}").await >= 19.0);
    assert!(!silent(&mut idle[0]).await, "the oldest is closed");
    assert!(silent(&mut idle[29]).await, "the newest is not");
    // Those in use do not make room: the next one is refused, and told why.
    let mut busy = Vec::new();
    for _ in 0..10 {
        let mut stream = from(replica, "127.0.0.67").await;
        let half = "POST /api/appointments/a/acquire-lock HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{";
        stream.write_all(half.as_bytes()).await.unwrap();
        busy.push(stream);
    }
    while counted(replica, "http_requests_in_flight").await < 10.0 {
        tokio::task::yield_now().await;
    }
    let refused = ask(&mut from(replica, "127.0.0.67").await).await;
    assert!(
        refused.starts_with("HTTP/1.1 429 ") && refused.contains("LIMIT_EXCEEDED"),
        "{refused}"
    );
    assert_eq!(
        counted(replica, "connections_closed_total{reason=\"address\"}").await,
        1.0
    );
    assert_eq!(replica.acquire(&fresh("a"), "ann").await.status, 201);
    assert_eq!(counted(replica, "ready").await, 1.0);
}

/// A socket that joined counts for its identity: an office behind one address is no attacker.
#[tokio::test]
async fn sockets_that_joined_do_not_count_for_their_address() {
    let stack = Stack::start(1, &[("MAX_CONNECTIONS_PER_ADDRESS", "5")]).await;
    let replica = &stack.replicas[0];
    let mut sockets = Vec::new();
    for n in 0..20 {
        let stream = from(replica, "127.0.0.66").await;
        let mut socket = Socket::over(replica, stream).await;
        assert!(socket.join(&auth(&format!("user-{n}"))).await);
        sockets.push(socket);
    }
    for socket in &mut sockets {
        socket.subscribe(&fresh("a")).await;
    }
}

#[tokio::test]
async fn a_name_that_this_service_is_not_called_by_is_refused() {
    let stack = Stack::start(1, &[("ALLOWED_HOSTS", "127.0.0.1, locks.example.com")]).await;
    let replica = &stack.replicas[0];
    let at = |host: &str| {
        format!(
            "GET /api/appointments/a/lock-status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )
    };
    for host in ["127.0.0.1", "127.0.0.1:3000", "LOCKS.example.com"] {
        assert_eq!(raw(replica, &at(host)).await.0, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:3000", "[::1]"] {
        let (status, answer) = raw(replica, &at(host)).await;
        assert_eq!(status, 403, "{host}");
        assert!(answer.contains("HOST_NOT_ALLOWED"), "{answer}");
    }
    let hello = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(raw(replica, hello).await.0, 403);
    // Whoever stands in front may have read the other.
    let (status, answer) = raw(replica, &at("127.0.0.1\r\nhost: 127.0.0.1")).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("MALFORMED"), "{answer}");
}

#[tokio::test]
async fn leases_of_one_identity_have_a_bound_and_those_it_has_are_kept() {
    let stack = Stack::start(1, &[("MAX_LEASES_PER_IDENTITY", "20")]).await;
    let replica = &stack.replicas[0];
    let id = fresh("hoard");
    let mut granted = Vec::new();
    for n in 0..40 {
        let reply = replica.acquire(&format!("{id}-{n}"), "eve").await;
        match reply.status {
            201 => granted.push(n),
            _ => assert_eq!(
                (reply.status, reply.code()),
                (429, "LIMIT_EXCEEDED"),
                "{reply:?}"
            ),
        }
    }
    assert!((20..=22).contains(&granted.len()), "{granted:?}");
    assert!(counted(replica, "rate_limited_total{kind=\"lease\"}").await >= 18.0);
    let first = format!("{id}-{}", granted[0]);
    assert_eq!(
        replica.acquire(&first, "eve").await.status,
        200,
        "its own is renewed"
    );
    assert_eq!(replica.acquire(&fresh("other"), "ann").await.status, 201);
    for n in &granted[..3] {
        assert_eq!(
            replica.release(&format!("{id}-{n}"), "eve").await.status,
            200
        );
    }
    let since = Instant::now();
    while replica.acquire(&fresh("again"), "eve").await.status != 201 {
        assert!(since.elapsed() < Duration::from_secs(5), "never again");
    }
}

#[tokio::test]
async fn a_name_that_reads_as_another_ones_is_refused() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    for name in ["Ann\u{202e}neB", "\u{2066}Ann", "a\u{202a}b"] {
        let body = json!({ "userId": "ann", "userInfo": { "name": name, "email": "" } });
        let reply = replica
            .ask("POST", &fresh("a"), "acquire-lock", &body)
            .await;
        assert_eq!(reply.status, 422, "{reply:?}");
        assert!(
            reply
                .message()
                .starts_with("userInfo.name: must not contain"),
            "{reply:?}"
        );
        let refused = Socket::refused(replica, body).await;
        assert!(refused.starts_with("auth.userInfo.name: "), "{refused}");
    }
    // Right-to-left names themselves are names.
    let body = json!({ "userId": "a", "userInfo": { "name": "שרה", "email": "" } });
    assert_eq!(
        replica
            .ask("POST", &fresh("a"), "acquire-lock", &body)
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn the_document_of_a_replica_that_trusts_identities_demands_no_token() {
    let mut stack = Stack::empty(&[]).await;
    stack.add().await;
    stack.add_with(&JWT).await;
    for (replica, demands) in stack.replicas.iter().zip([false, true]) {
        let document = get(
            replica,
            "/api/openapi.json",
            &[(ACCEPT_ENCODING.as_str(), "gzip")],
        )
        .await;
        assert_eq!(document.headers()["content-encoding"], "gzip");
        let document: Value = get(replica, "/api/openapi.json", &[])
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(document["security"].is_array(), demands);
        let schemes = &document["components"]["securitySchemes"];
        assert_eq!(schemes.is_object(), demands, "{schemes}");
    }
}

/// A WebSocket that a session which began by polling goes on with.
async fn upgraded(poller: &Poller<'_>) -> Option<Raw> {
    let url = poller.url.replace("http", "ws");
    let url = url.replace("transport=polling", "transport=websocket");
    let (stream, _) = tokio_tungstenite::connect_async(url).await.ok()?;
    Some(stream)
}

type Raw = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn heard(stream: &mut Raw) -> Option<String> {
    let next = tokio::time::timeout(Duration::from_secs(5), stream.next());
    let message = next.await.expect("heard nothing")?.ok()?;
    message.into_text().ok().map(|text| text.to_string())
}

/// Else the first one would be past all that ends connections: leaving, a token's end, abuse.
#[tokio::test]
async fn a_second_upgrade_hides_no_connection() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    let poller = Poller::joined(replica, &json!({ "token": token("ann") })).await;
    let mut first = upgraded(&poller).await.unwrap();
    first.send(Message::text("2probe")).await.unwrap();
    assert_eq!(heard(&mut first).await.as_deref(), Some("3probe"));
    first.send(Message::text("5")).await.unwrap();
    assert!(upgraded(&poller).await.is_none(), "a second connection");
    first.send(Message::text("41")).await.unwrap();
    while heard(&mut first).await.is_some() {}
    let left = "connections_closed_total{reason=\"left\"}";
    assert_eq!(counted(replica, left).await, 1.0);
    // What is no name of a session is not kept.
    let url = format!(
        "{}/socket.io/?EIO=4&transport=websocket&sid={}",
        replica.url.replace("http", "ws"),
        "x".repeat(3000)
    );
    assert!(tokio_tungstenite::connect_async(url).await.is_err());
}

/// socketioxide ignores what follows the packet's type.
#[tokio::test]
async fn however_a_session_that_polls_leaves_it_ends() {
    let stack = Stack::start(1, &JWT).await;
    let replica = &stack.replicas[0];
    for leaving in ["41x", "410", "41[]"] {
        let poller = Poller::joined(replica, &json!({ "token": token("ann") })).await;
        poller.say(leaving).await;
        let since = Instant::now();
        while poller.poll().await.0 == 200 {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{leaving}: it polls on"
            );
        }
    }
}

/// The refusal of a namespace repeats its name, and waits for a client that reads nothing.
#[tokio::test]
async fn a_long_name_of_a_namespace_ends_the_connection() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let long = format!("40/{},", "A".repeat(60_000));
    let mut socket = Socket::open(replica).await;
    socket.try_send(Message::text(long.clone())).await;
    assert!(socket.ends_within(Duration::from_secs(2)).await);
    let poller = Poller::open(replica).await;
    let long = format!("40/{},", "A".repeat(10_000));
    assert_eq!(poller.say(&long).await, 429);
    // A short one is refused as such servers do.
    let mut socket = Socket::open(replica).await;
    socket.send("40/admin,").await;
    let refused = socket.frame().await.unwrap();
    assert!(refused.starts_with("44/admin,"), "{refused}");
}

/// Half a message of somebody who has not joined would be kept until it is whole.
#[tokio::test]
async fn before_joining_a_message_is_short() {
    let stack = Stack::start(1, &[]).await;
    let replica = &stack.replicas[0];
    let mut socket = Socket::open(replica).await;
    let long = format!("40{}", json!({ "token": "x".repeat(20_000) }));
    socket.try_send(Message::text(long)).await;
    assert!(socket.ends_within(Duration::from_secs(2)).await);
    let mut socket = Socket::connect(replica, auth("ann")).await;
    let long = json!({ "appointmentId": fresh("a"), "more": "x".repeat(20_000) });
    assert_eq!(socket.ask("subscribe", &long).await["success"], true);
}

/// A refusal costs time too: whoever goes on in spite of them waits for each, and then loses the connection.
#[tokio::test]
async fn refusals_in_a_row_are_slowed_down_and_end_the_connection() {
    let stack = Stack::start_limited(1, &JWT).await;
    let replica = &stack.replicas[0];
    let address = replica.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask = "GET /api/appointments/a/lock-status HTTP/1.1\r\nhost: a\r\n\r\n";
    let since = Instant::now();
    stream.write_all(ask.repeat(200).as_bytes()).await.unwrap();
    let (mut answers, mut some) = (String::new(), [0; 4096]);
    while answers.matches("HTTP/1.1 429").count() < 20 {
        let read = stream.read(&mut some).await.unwrap();
        assert_ne!(read, 0, "{answers}");
        answers += std::str::from_utf8(&some[..read]).unwrap();
    }
    assert!(
        since.elapsed() > Duration::from_millis(400),
        "{:?}",
        since.elapsed()
    );
    let known = token("ann");
    assert_eq!(replica.bearing(&known).status_of("a").await.status, 200);
}
