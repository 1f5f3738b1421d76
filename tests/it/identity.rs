//! Identities by tokens: permissions on every route and event, and rejection of forged tokens.

mod keys;
mod sockets;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::support::tokens::{SECRET, admin_token, claims, in_seconds, signed, token, token_of};
use crate::support::{Socket, Stack, fresh};

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
    // {"alg":"none"}, the classic attack.
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
