//! Attacks that try to take a replica down or to get past a limit. Each test checks the counter that reports the
//! attack, and a bystander who must not notice it.
//!
//! Here: attacks that count against an identity or an address. The submodules have the rest, by target.

mod connections;
mod packets;
mod pages;
mod poller;
mod sessions;

use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::tokens::{SECRET, claims, key_pair, signed, token};
use crate::support::{Replica, Socket, Stack, fresh};

const JWT: [(&str, &str); 2] = [("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];

async fn counted(replica: &Replica, series: &str) -> f64 {
    replica.metric(&format!("apptlock_{series}")).await
}

/// Waits until that series is as wanted.
async fn until_counted(replica: &Replica, series: &str, wanted: impl Fn(f64) -> bool) {
    let name = format!("apptlock_{series}");
    replica.metric_becomes(&name, wanted).await;
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
    // During the attack an unknown token may have to wait; a verified one never does.
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
    // In a handshake too; another connection does not bypass it.
    let refused = Socket::refused(replica, json!({ "token": "a.b.c" })).await;
    assert!(refused.starts_with("auth.token: "), "{refused}");
}

/// Otherwise a user who shares an address with an attacker could not connect.
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
