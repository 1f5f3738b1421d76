//! Tokens, as an identity provider signs them.

use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The shared secret of stacks that verify tokens with one.
pub const SECRET: &str = "a secret of at least thirty-two bytes";

/// The current time plus this offset, in seconds since 1970.
pub fn in_seconds(more: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + more
}

/// The claims of a user's token that does not expire during a test.
pub fn claims(user: &str) -> Value {
    json!({ "sub": user, "name": format!("Name of {user}"), "email": format!("{user}@example.com"), "exp": in_seconds(300) })
}

/// A token with these claims, signed with the common secret.
pub fn token_of(claims: &Value) -> String {
    signed(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
}

/// Token of that user.
pub fn token(user: &str) -> String {
    token_of(&claims(user))
}

/// Token of that admin.
pub fn admin_token(user: &str) -> String {
    let mut claims = claims(user);
    claims["roles"] = json!(["admin"]);
    token_of(&claims)
}

pub fn signed(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    encode(header, claims, key).unwrap()
}

/// A pair of keys in PEM, private and public, made by OpenSSL.
pub fn key_pair(algorithm: &[&str]) -> (String, String) {
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm"])
        .args(algorithm)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(made.status.success(), "openssl genpkey {algorithm:?}");
    let private = String::from_utf8(made.stdout).unwrap();
    let mut derive = Command::new("openssl")
        .args(["pkey", "-pubout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut derive.stdin.take().unwrap(), private.as_bytes()).unwrap();
    let public = derive.wait_with_output().unwrap();
    assert!(public.status.success());
    (private, String::from_utf8(public.stdout).unwrap())
}
