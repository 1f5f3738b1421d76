//! Keys: public ones, sets that change while replicas run, and unsafe ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::tokens::{claims, key_pair, signed, token};
use crate::support::{Replica, Stack, until_within};

/// A JWK set that changes, and the number of its fetches.
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

    /// Adds a new Ed25519 key with that id, or replaces the others by it.
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
        // Signed with a value that everybody knows: the public key, used as a shared secret.
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
    let limit = Duration::from_secs(15);
    until_within(limit, "a rotation without a restart", async || {
        status_with(replica, &rotated).await == 200
    })
    .await;
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
    let limit = Duration::from_secs(5);
    until_within(limit, "it tries again", async || readyz().await.0 == 200).await;
    assert_eq!(
        status_with(replica, &signed(&header, &claims("ann"), &key)).await,
        200
    );
    let age = replica.metric("apptlock_jwks_age_seconds").await;
    assert!((0.0..60.0).contains(&age) && age > 0.0, "{age}");
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
