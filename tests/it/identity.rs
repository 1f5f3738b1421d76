//! Identities by tokens: who may do what, on every route and event, and what a forged token is worth.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::tokens::{
    SECRET, admin_token, claims, in_seconds, key_pair, signed, token, token_of,
};
use crate::support::{Replica, Socket, Stack, fresh};

const BY_SECRET: [(&str, &str); 2] = [("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];

/// Every route of an appointment, with a body that is well-formed.
fn routes() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("GET", "lock-status", Value::Null),
        ("POST", "acquire-lock", json!({})),
        (
            "POST",
            "update-position",
            json!({ "position": { "x": 1, "y": 1 } }),
        ),
        ("POST", "verify", json!({ "fencingToken": 1 })),
        ("DELETE", "release-lock", json!({})),
        ("POST", "release-lock", json!({})),
        ("POST", "take-over", json!({})),
        ("DELETE", "force-release-lock", json!({})),
        ("GET", "history", Value::Null),
    ]
}

fn forged() -> Vec<(&'static str, String)> {
    let hs = |algorithm, secret: &str| {
        signed(
            &Header::new(algorithm),
            &claims("ann"),
            &EncodingKey::from_secret(secret.as_bytes()),
        )
    };
    let changed = |key: &str, value: Value| {
        let mut claims = claims("ann");
        claims[key] = value;
        token_of(&claims)
    };
    let without = |key: &str| {
        let mut claims = claims("ann");
        claims.as_object_mut().unwrap().remove(key);
        token_of(&claims)
    };
    let mut demands = Header::new(Algorithm::HS256);
    demands.crit = Some(vec!["exp".into()]);
    let crit = signed(
        &demands,
        &claims("ann"),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    );
    let good = token("ann");
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none"}, as the oldest attack of all has it.
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    vec![
        ("no token at all", "x".into()),
        ("empty parts", "..".into()),
        ("alg none", none),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        (
            "another secret",
            hs(Algorithm::HS256, "another secret of thirty-two bytes!!"),
        ),
        ("another algorithm", hs(Algorithm::HS512, SECRET)),
        ("run out", changed("exp", json!(in_seconds(-60)))),
        ("not yet valid", changed("nbf", json!(in_seconds(60)))),
        ("no end", without("exp")),
        ("no subject", without("sub")),
        ("a subject that is no text", changed("sub", json!(7))),
        (
            "a subject that is too long",
            changed("sub", json!("x".repeat(201))),
        ),
        ("a tenant that is no text", changed("tenant", json!(["a"]))),
        (
            "an end that no clock can show",
            changed("exp", json!(u64::MAX)),
        ),
        ("extensions that must be understood", crit),
        ("huge", "x".repeat(9000)),
    ]
}

#[tokio::test]
async fn every_route_refuses_who_has_no_good_token() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    let id = fresh("closed");
    for (method, action, body) in routes() {
        let reply = replica.ask(method, &id, action, &body).await;
        assert_eq!(
            (reply.status, reply.code()),
            (401, "UNAUTHENTICATED"),
            "{action}: {reply:?}"
        );
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        for (what, token) in forged() {
            let reply = replica
                .bearing(&token)
                .ask(method, &id, action, &body)
                .await;
            assert_eq!(
                (reply.status, reply.code()),
                (401, "UNAUTHENTICATED"),
                "{action} with {what}: {reply:?}"
            );
        }
    }
    let left = replica.bearing(&token("ann")).status_of(&id).await;
    assert_eq!(left.version(), 0, "something was done");
    let basic = replica
        .client
        .get(format!("{}/api/appointments/a/lock-status", replica.url));
    let reply = basic
        .header("authorization", "Basic YTpi")
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), 401);
}

#[tokio::test]
async fn the_token_says_who_acts_and_a_body_that_names_another_is_refused() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    let id = fresh("mine");
    let ann = replica.bearing(&token("ann"));
    let taken = ann.ask("POST", &id, "acquire-lock", &json!({})).await;
    assert_eq!(taken.status, 201, "{taken:?}");
    assert_eq!(taken.body["lock"]["userId"], "ann");
    assert_eq!(taken.body["lock"]["userInfo"]["name"], "Name of ann");
    assert_eq!(taken.body["lock"]["userInfo"]["email"], "ann@example.com");
    let again = ann
        .ask(
            "POST",
            &id,
            "acquire-lock",
            &json!({ "userId": "ann", "userInfo": { "name": "Eve", "email": "" } }),
        )
        .await;
    assert_eq!(again.body["lock"]["userInfo"]["name"], "Name of ann");

    let ben = replica.bearing(&token("ben"));
    for (method, action, body) in routes().into_iter().skip(1) {
        if ["verify", "history"].contains(&action) {
            continue;
        }
        for field in ["userId", "adminId"] {
            let admins = ["take-over", "force-release-lock"].contains(&action);
            if admins != (field == "adminId") {
                continue;
            }
            let mut body = body.clone();
            body[field] = json!("ann");
            let reply = ben.ask(method, &id, action, &body).await;
            assert_eq!(
                (reply.status, reply.code()),
                (403, "IDENTITY_MISMATCH"),
                "{action}: {reply:?}"
            );
        }
    }
    let release = ben.ask("DELETE", &id, "release-lock", &json!({})).await;
    assert_eq!((release.status, release.code()), (403, "NOT_HOLDER"));
    let release = ann.ask("DELETE", &id, "release-lock", &json!({})).await;
    assert_eq!(release.status, 200);
}

#[tokio::test]
async fn only_a_token_with_the_role_makes_an_admin() {
    let settings = [
        ("AUTH_MODE", "jwt"),
        ("JWT_SECRET", SECRET),
        ("JWT_ROLES_CLAIM", "realm_access.roles"),
        ("JWT_ADMIN_ROLE", "desk-lead"),
    ];
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    let id = fresh("role");
    let ann = replica.bearing(&token("ann"));
    ann.ask("POST", &id, "acquire-lock", &json!({})).await;
    let lead = |roles: Value| {
        let mut claims = claims("lea");
        claims["realm_access"] = json!({ "roles": roles });
        replica.bearing(&token_of(&claims))
    };
    for pretender in [
        replica.bearing(&token("lea")),
        replica.bearing(&admin_token("lea")),
        lead(json!(["desk"])),
        lead(json!("other desk-lead")),
        lead(json!({ "desk-lead": true })),
    ] {
        for (method, action) in [("POST", "take-over"), ("DELETE", "force-release-lock")] {
            let reply = pretender.ask(method, &id, action, &json!({})).await;
            assert_eq!(
                (reply.status, reply.code()),
                (403, "NOT_ADMIN"),
                "{reply:?}"
            );
        }
    }
    let taken = lead(json!(["desk", "desk-lead"]))
        .ask("POST", &id, "take-over", &json!({ "reason": "phone call" }))
        .await;
    assert_eq!(
        (taken.status, &taken.body["lock"]["userId"]),
        (200, &json!("lea"))
    );
    assert_eq!(taken.body["lock"]["userInfo"]["name"], "Name of lea");
    let forced = lead(json!("desk-lead"))
        .ask("DELETE", &id, "force-release-lock", &json!({}))
        .await;
    assert_eq!(forced.status, 200, "a role may be one text: {forced:?}");
}

#[tokio::test]
async fn issuer_and_audience_count_where_they_are_configured() {
    let settings = [
        ("AUTH_MODE", "jwt"),
        ("JWT_SECRET", SECRET),
        ("JWT_ISSUER", "https://id.example.com"),
        ("JWT_AUDIENCE", "apptlock"),
    ];
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    let with = |iss: Value, aud: Value| {
        let mut claims = claims("ann");
        claims["iss"] = iss;
        claims["aud"] = aud;
        token_of(&claims)
    };
    let right = json!("https://id.example.com");
    for (iss, aud, status) in [
        (right.clone(), json!("apptlock"), 200),
        (right.clone(), json!(["other", "apptlock"]), 200),
        (right.clone(), json!("other"), 401),
        (right.clone(), Value::Null, 401),
        (json!("https://evil.example.com"), json!("apptlock"), 401),
        (Value::Null, json!("apptlock"), 401),
    ] {
        let what = format!("{iss} {aud}");
        let reply = replica.bearing(&with(iss, aud)).status_of("a").await;
        assert_eq!(reply.status, status, "{what}: {reply:?}");
    }
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_never_the_tokens() {
    for (kind, algorithm, right) in [
        (
            &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..],
            Algorithm::RS256,
            EncodingKey::from_rsa_pem as fn(&[u8]) -> _,
        ),
        (
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..],
            Algorithm::ES256,
            EncodingKey::from_ec_pem,
        ),
        (&["ED25519"][..], Algorithm::EdDSA, EncodingKey::from_ed_pem),
    ] {
        let (private, public) = key_pair(kind);
        let settings = [("AUTH_MODE", "jwt"), ("JWT_PUBLIC_KEY", public.as_str())];
        let stack = Stack::start(1, &settings).await;
        let replica = &stack.replicas[0];
        let good = signed(
            &Header::new(algorithm),
            &claims("ann"),
            &right(private.as_bytes()).unwrap(),
        );
        assert_eq!(
            replica.bearing(&good).status_of("a").await.status,
            200,
            "{kind:?}"
        );
        // Signed with what everybody knows: the public key, as if it were a secret.
        for secret in [public.clone(), public.trim_end().to_owned()] {
            let confused = signed(
                &Header::new(Algorithm::HS256),
                &claims("ann"),
                &EncodingKey::from_secret(secret.as_bytes()),
            );
            assert_eq!(replica.bearing(&confused).status_of("a").await.status, 401);
        }
        let (other, _) = key_pair(kind);
        let forged = signed(
            &Header::new(algorithm),
            &claims("ann"),
            &right(other.as_bytes()).unwrap(),
        );
        assert_eq!(replica.bearing(&forged).status_of("a").await.status, 401);
    }
}

#[tokio::test]
async fn sockets_need_a_token_and_speak_for_its_user_alone() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    let refused = Socket::refused(replica, json!({})).await;
    assert!(
        refused.starts_with("auth.token: A token is needed"),
        "{refused}"
    );
    for (what, token) in forged() {
        let refused = Socket::refused(replica, json!({ "token": token })).await;
        assert!(refused.starts_with("auth.token: "), "{what}: {refused}");
    }
    let somebody = json!({ "token": token("ann"), "userId": "ben", "userInfo": { "name": "Ben", "email": "" } });
    let refused = Socket::refused(replica, somebody).await;
    assert!(refused.contains("a different user"), "{refused}");

    let id = fresh("cursor");
    let mut ann = Socket::connect(replica, json!({ "token": token("ann") })).await;
    let mut ben = Socket::connect(replica, json!({ "token": token("ben") })).await;
    ann.subscribe(&id).await;
    ben.subscribe(&id).await;
    let mut cursor = json!({ "appointmentId": id, "position": { "x": 1, "y": 2 } });
    assert_eq!(ann.ask("cursor-position", &cursor).await["success"], true);
    let update = ben.expect("cursor-update").await;
    assert_eq!(
        (&update["userId"], &update["userInfo"]["name"]),
        (&json!("ann"), &json!("Name of ann"))
    );
    cursor["userId"] = json!("ben");
    cursor["userInfo"] = json!({ "name": "Ben", "email": "" });
    assert_eq!(
        ann.ask("cursor-position", &cursor).await["code"],
        "IDENTITY_MISMATCH"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_lives_as_long_as_its_token_unless_a_fresh_one_comes() {
    let stack = Stack::start(1, &BY_SECRET).await;
    let replica = &stack.replicas[0];
    // Five seconds of leeway come on top.
    let short = |user: &str| {
        let mut claims = claims(user);
        claims["exp"] = json!(in_seconds(-3));
        token_of(&claims)
    };
    let since = Instant::now();
    let mut ends = Socket::connect(replica, json!({ "token": short("ann") })).await;
    let mut stays = Socket::connect(replica, json!({ "token": short("ben") })).await;
    let id = fresh("lives");
    stays.subscribe(&id).await;
    let others = stays
        .ask("refresh-token", &json!({ "token": token("ann") }))
        .await;
    assert_eq!(others["code"], "IDENTITY_MISMATCH");
    let bad = stays.ask("refresh-token", &json!({ "token": "x" })).await;
    assert_eq!(bad["code"], "UNAUTHENTICATED");
    let good = stays
        .ask("refresh-token", &json!({ "token": token("ben") }))
        .await;
    assert_eq!(good["success"], true, "{good}");
    ends.expect("token-expired").await;
    assert!(ends.ends_within(Duration::from_secs(2)).await || ends.dismissed);
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
    replica
        .bearing(&token("eve"))
        .ask("POST", &id, "acquire-lock", &json!({}))
        .await;
    assert_eq!(stays.expect("lock-acquired").await["lock"]["userId"], "eve");
}

#[tokio::test]
async fn two_tenants_with_the_same_appointment_share_nothing() {
    let stack = Stack::start(2, &BY_SECRET).await;
    let of = |user: &str, tenant: &str| {
        let mut claims = claims(user);
        claims["tenant"] = json!(tenant);
        claims["roles"] = json!(["admin"]);
        token_of(&claims)
    };
    let id = fresh("shared");
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let mut red = Socket::connect(there, json!({ "token": of("ann", "red") })).await;
    let mut blue = Socket::connect(there, json!({ "token": of("ann", "blue") })).await;
    let mut none = Socket::connect(there, json!({ "token": token("ann") })).await;
    for socket in [&mut red, &mut blue, &mut none] {
        socket.subscribe(&id).await;
    }
    let red_ann = here.bearing(&of("ann", "red"));
    let blue_ben = here.bearing(&of("ben", "blue"));
    let first = red_ann.ask("POST", &id, "acquire-lock", &json!({})).await;
    assert_eq!((first.status, first.version()), (201, 1));
    red.expect("lock-acquired").await;
    let second = blue_ben.ask("POST", &id, "acquire-lock", &json!({})).await;
    assert_eq!((second.status, second.version()), (201, 1), "{second:?}");
    let acquired = blue.expect("lock-acquired").await;
    assert_eq!(acquired["lock"]["userId"], "ben");
    let token = json!({ "fencingToken": first.token() });
    let verified = here
        .bearing(&of("eve", "blue"))
        .ask("POST", &id, "verify", &token)
        .await;
    assert_eq!(
        verified.body["lock"]["userId"], "ben",
        "the token of one's own tenant: {verified:?}"
    );
    let cursor = json!({ "appointmentId": id, "position": { "x": 1, "y": 1 } });
    blue.ask("cursor-position", &cursor).await;
    let forced = blue_ben
        .ask("DELETE", &id, "force-release-lock", &json!({}))
        .await;
    assert_eq!(forced.status, 200);
    blue.expect("lock-released").await;
    assert!(
        red_ann.status_of(&id).await.body["locked"] == true,
        "the other tenant's lock fell"
    );
    assert!(red.so_far().await.is_empty(), "one tenant heard the other");
    assert!(
        none.so_far().await.is_empty(),
        "who has no tenant heard one"
    );
}

/// A JWK set that changes, and how often it was fetched.
struct Provider {
    url: String,
    set: Arc<std::sync::Mutex<Value>>,
    fetches: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let set = Arc::new(std::sync::Mutex::new(json!({ "keys": [] })));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (shown, counted) = (set.clone(), fetches.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let body = shown.lock().unwrap().to_string();
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, set, fetches }
    }

    /// A new Ed25519 key under that name, beside or in the place of the others.
    fn rotate(&self, name: &str) -> (EncodingKey, Header) {
        let (private, _) = key_pair(&["ED25519"]);
        let key = EncodingKey::from_ed_pem(private.as_bytes()).unwrap();
        let mut jwk = serde_json::to_value(
            jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap(),
        )
        .unwrap();
        jwk["kid"] = json!(name);
        *self.set.lock().unwrap() = json!({ "keys": [jwk] });
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(name.into());
        (key, header)
    }

    fn fetched(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

async fn status_with(replica: &Replica, token: &str) -> u16 {
    replica.bearing(token).status_of("a").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_set_are_fetched_when_they_are_needed_and_forged_names_cost_nothing() {
    let provider = Provider::start().await;
    let settings = [
        ("AUTH_MODE", "jwt"),
        ("JWT_JWKS_URL", provider.url.as_str()),
    ];
    let (first, header) = provider.rotate("first");
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    replica.await_line("the JWK set was fetched");
    let good = signed(&header, &claims("ann"), &first);
    assert_eq!(status_with(replica, &good).await, 200);
    assert_eq!(provider.fetched(), 1);
    let mut unknown = header.clone();
    for n in 0..20 {
        unknown.kid = Some(format!("forged-{n}"));
        assert_eq!(
            status_with(replica, &signed(&unknown, &claims("ann"), &first)).await,
            401
        );
        assert_eq!(
            status_with(replica, &good).await,
            200,
            "nobody else notices"
        );
    }
    assert_eq!(provider.fetched(), 1, "each forged name cost a fetch");
    assert_eq!(
        status_with(replica, &token("ann")).await,
        401,
        "a secret where keys are asked for"
    );

    let (second, header) = provider.rotate("second");
    let rotated = signed(&header, &claims("ann"), &second);
    let since = Instant::now();
    while status_with(replica, &rotated).await != 200 {
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "no rotation without a restart"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(provider.fetched(), 2);
    assert_eq!(
        status_with(replica, &good).await,
        401,
        "a key that was withdrawn still counts"
    );
}

#[tokio::test]
async fn without_any_keys_yet_the_answer_is_503() {
    let settings = [
        ("AUTH_MODE", "jwt"),
        ("JWT_JWKS_URL", "http://127.0.0.1:1/jwks.json"),
    ];
    let stack = Stack::start(1, &settings).await;
    let (private, _) = key_pair(&["ED25519"]);
    let key = EncodingKey::from_ed_pem(private.as_bytes()).unwrap();
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("a".into());
    let reply = stack.replicas[0]
        .bearing(&signed(&header, &claims("ann"), &key))
        .status_of("a")
        .await;
    assert_eq!((reply.status, reply.code()), (503, "UNAVAILABLE"));
    assert!(reply.headers.contains_key("retry-after"));
}

/// A rollout with a mistyped URL would replace every replica that works.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_ready_before_it_has_keys() {
    let provider = Provider::start().await;
    let settings = [
        ("AUTH_MODE", "jwt"),
        ("JWT_JWKS_URL", provider.url.as_str()),
    ];
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    let readyz = async || {
        let asked = replica.client.get(format!("{}/readyz", replica.management));
        let answer = asked.send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        )
    };
    replica.await_line("the JWK set could not be fetched");
    let (status, said) = readyz().await;
    assert_eq!(
        (status, &said["status"]),
        (503, &json!("starting")),
        "{said}"
    );
    let reason = said["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the JWK set of JWT_JWKS_URL was never fetched: "),
        "{reason}"
    );
    let failed = "apptlock_jwks_fetches_total{outcome=\"failed\"}";
    assert!(replica.metric(failed).await >= 1.0);
    let (key, header) = provider.rotate("a");
    let since = Instant::now();
    while readyz().await.0 != 200 {
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "it does not try again"
        );
    }
    assert_eq!(
        status_with(replica, &signed(&header, &claims("ann"), &key)).await,
        200
    );
    let age = replica.metric("apptlock_jwks_age_seconds").await;
    assert!((0.0..60.0).contains(&age) && age > 0.0, "{age}");
}

#[tokio::test]
async fn every_algorithm_that_a_key_allows_verifies() {
    let rsa = key_pair(&["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let p384 = key_pair(&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let rsa_key = EncodingKey::from_rsa_pem(rsa.0.as_bytes()).unwrap();
    let p384_key = EncodingKey::from_ec_pem(p384.0.as_bytes()).unwrap();
    let all = [
        (
            &rsa.1,
            &rsa_key,
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ][..],
        ),
        (&p384.1, &p384_key, &[Algorithm::ES384][..]),
    ];
    for (public, key, algorithms) in all {
        let settings = [("AUTH_MODE", "jwt"), ("JWT_PUBLIC_KEY", public.as_str())];
        let stack = Stack::start(1, &settings).await;
        let replica = &stack.replicas[0];
        for algorithm in algorithms {
            let good = signed(&Header::new(*algorithm), &claims("ann"), key);
            assert_eq!(status_with(replica, &good).await, 200, "{algorithm:?}");
            let (head, tail) = good.rsplit_once('.').unwrap();
            let turned = if tail.starts_with('A') { "B" } else { "A" };
            let forged = format!("{head}.{turned}{}", &tail[1..]);
            assert_eq!(status_with(replica, &forged).await, 401, "{algorithm:?}");
        }
    }
}

#[tokio::test]
async fn a_key_that_can_be_broken_or_never_works_ends_the_start() {
    for (kind, line) in [
        (
            &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"][..],
            "is an RSA key of fewer than 2048 bits",
        ),
        (
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"][..],
            "is not a public key",
        ),
    ] {
        let (_, public) = key_pair(kind);
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_apptlock"))
            .arg("serve")
            .env("DATABASE_URL", "postgres://u@127.0.0.1:1/d")
            .env("JWT_PUBLIC_KEY", public)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("JWT_PUBLIC_KEY: {line}")), "{said}");
    }
}

#[tokio::test]
async fn no_filter_lets_tokens_into_the_log() {
    let settings = [
        ("AUTH_MODE", "jwt"),
        ("JWT_SECRET", SECRET),
        ("RUST_LOG", "trace"),
    ];
    let stack = Stack::start(1, &settings).await;
    let replica = &stack.replicas[0];
    let (token, id) = (token("ann"), fresh("logged"));
    replica
        .bearing(&token)
        .ask("POST", &id, "acquire-lock", &json!({}))
        .await;
    let mut socket = Socket::connect(replica, json!({ "token": token })).await;
    socket.subscribe(&id).await;
    socket
        .ask("refresh-token", &json!({ "token": token }))
        .await;
    let refused = socket.ask("refresh-token", &json!(token)).await;
    assert_eq!(refused["message"], "token: is missing or is not a string");
    let refused = Socket::refused(replica, json!([token])).await;
    assert!(!refused.contains(&token), "{refused}");
    socket.so_far().await;
    let log = replica.log();
    assert!(log.contains("DEBUG"), "the filter had no effect");
    let shown: Vec<&str> = log.lines().filter(|line| line.contains(&token)).collect();
    assert!(shown.is_empty(), "{shown:?}");
}
