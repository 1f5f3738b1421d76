//! Tokens: whatever stands in one, it is refused in words, and nobody guesses a signature.
#![no_main]

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use apptlock::auth::{Auth, KeySource, TokenRules, Tokens};
use apptlock::limits::{LimitConfig, Limits, Proxies};
use apptlock::protocol::Code;
use apptlock::secret::Secret;
use libfuzzer_sys::fuzz_target;

static AUTH: LazyLock<Auth> = LazyLock::new(|| {
    let secret = Secret::new("a secret of at least thirty-two bytes".to_owned());
    let keys = KeySource::secret(&secret).expect("it is long enough");
    let rules = TokenRules {
        issuer: None,
        audience: None,
        roles_claim: "roles".into(),
        admin_role: "admin".into(),
    };
    Auth::Tokens(Tokens::new(keys, rules))
});

/// Without rates: every token is looked at.
static LIMITS: LazyLock<Arc<Limits>> = LazyLock::new(|| {
    Limits::new(LimitConfig {
        rate: None,
        sockets: 1,
        sockets_each: 1,
        connections_each: 1,
        proxies: Proxies::default(),
    })
});

fuzz_target!(|token: &str| {
    let asked = pin!(AUTH.principal(Some(token), &LIMITS, Ipv4Addr::LOCALHOST.into()));
    // With a key that is at hand there is nothing to wait for.
    let Poll::Ready(answer) = asked.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits");
    };
    match answer {
        Err(refusal) => {
            assert_eq!(refusal.code, Code::Unauthenticated);
            assert!(refusal.message.starts_with("The token "), "{refusal}");
            assert!(!refusal.message.chars().any(char::is_control), "{refusal}");
        }
        // The seeds hold no good token, so a good one would be a forged one.
        Ok(principal) => panic!("forged: {principal:?}"),
    }
});
