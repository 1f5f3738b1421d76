//! A JWK set fetched over HTTP. Owns the schedule of fetches: at startup, every few minutes after that, and immediately
//! if a token names an unknown key, but at most every ten seconds, so that forged key ids cost nothing. One fetch runs
//! at a time; meanwhile, and if it fails, the previous keys stay in use for up to a day. A replica is not ready before
//! its first successful fetch: a rollout with a mistyped URL stops there.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::keys::Key;
use crate::telemetry;

/// Age at which the set is fetched again, so that a withdrawn key is dropped.
const STALE: Duration = Duration::from_secs(300);
/// Maximum age of keys: after failing to refresh for this long they are rejected, since one may have been withdrawn.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// Minimum time between two attempts.
const PAUSE: Duration = Duration::from_secs(10);
/// Minimum time between two attempts before the first success, while the replica is not ready.
const PAUSE_AT_START: Duration = Duration::from_secs(1);
/// Timeout of a fetch.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum size of a set, in bytes.
const LARGEST: u64 = 256 * 1024;

/// Keys by their key ids; a key without an id is under the empty one.
type Keys = Arc<HashMap<String, Key>>;

#[derive(Clone)]
struct Fetched {
    keys: Keys,
    at: Instant,
    /// Number of successful fetches so far.
    generation: u64,
}

impl Fetched {
    fn is_usable(&self) -> bool {
        self.at.elapsed() < OLDEST
    }
}

/// A JWK set at a URL.
pub struct Jwks {
    url: String,
    /// A std lock: held to copy a pointer, never across an await.
    keys: RwLock<Option<Fetched>>,
    /// Start of the last fetch. Locked during a fetch, across its await: others wait for its outcome.
    fetching: Mutex<Option<Instant>>,
    /// Error of the last failed fetch. A std lock: held to copy a string, never across an await.
    fault: RwLock<Option<String>>,
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[a JWK set]")
    }
}

/// Reason why a key could not be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The set has no such key.
    Unknown,
    /// There is no usable set.
    Unavailable,
}

impl Jwks {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            keys: RwLock::new(None),
            fetching: Mutex::new(None),
            fault: RwLock::new(None),
        }
    }

    fn known(&self) -> Option<Fetched> {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Time since the last successful fetch; `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.known().map(|known| known.at.elapsed())
    }

    /// Error of the last failed fetch.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Generation of the keys: another number after each fetch. `None` if they are too old.
    pub(super) fn generation(&self) -> Option<u64> {
        let known = self.known()?;
        known.is_usable().then_some(known.generation)
    }

    /// Fetches the set now and every few minutes, until stopped.
    pub async fn keep_fresh(&self, stop: CancellationToken) {
        let work = async {
            loop {
                let known = self.known();
                self.fetch(known.as_ref().map(|known| known.generation))
                    .await;
                let pause = match self.age() {
                    None => PAUSE_AT_START,
                    Some(age) if age < STALE => STALE - age,
                    Some(_) => PAUSE,
                };
                tokio::time::sleep(pause).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// The key with that key id; without an id, the only key of the set.
    pub(super) async fn key(&self, name: Option<&str>) -> Result<Key, NoKey> {
        let find = |keys: &Keys| match name {
            Some(name) => keys.get(name).cloned(),
            None if keys.len() == 1 => keys.values().next().cloned(),
            None => None,
        };
        let known = self.known();
        if let Some(known) = &known
            && known.is_usable()
            && let Some(key) = find(&known.keys)
        {
            return Ok(key);
        }
        self.fetch(known.map(|known| known.generation)).await;
        match self.known() {
            Some(known) if known.is_usable() => find(&known.keys).ok_or(NoKey::Unknown),
            _ => Err(NoKey::Unavailable),
        }
    }

    /// Fetches the set, unless an attempt was made a moment ago or the set has changed since the generation `seen`.
    async fn fetch(&self, seen: Option<u64>) {
        let mut begun = self.fetching.lock().await;
        let known = self.known().map(|known| known.generation);
        let pause = if known.is_some() {
            PAUSE
        } else {
            PAUSE_AT_START
        };
        if known != seen || begun.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        *begun = Some(Instant::now());
        let url = self.url.clone();
        let fetched = tokio::task::spawn_blocking(move || get(&url)).await;
        let outcome = match fetched.unwrap_or_else(|_| Err("the fetch panicked".into())) {
            Ok(keys) => {
                info!(keys = keys.len(), "the JWK set was fetched");
                let fetched = Fetched {
                    keys: Arc::new(keys),
                    at: Instant::now(),
                    generation: known.unwrap_or(0) + 1,
                };
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
                "ok"
            }
            Err(error) => {
                let mut fault = self.fault.write().unwrap_or_else(PoisonError::into_inner);
                // Before the first success there is an attempt every second: the same error is logged once.
                if known.is_some() || fault.as_ref() != Some(&error) {
                    warn!(%error, "JWT_JWKS_URL: the JWK set could not be fetched: {error}");
                }
                *fault = Some(error);
                "failed"
            }
        };
        metrics::counter!(telemetry::JWKS_FETCHES, "outcome" => outcome).increment(1);
    }
}

fn get(url: &str) -> Result<HashMap<String, Key>, String> {
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::PlatformVerifier)
        .build();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .max_redirects(0)
        .tls_config(tls)
        .build()
        .into();
    let mut answer = agent.get(url).call().map_err(|error| error.to_string())?;
    if answer.status() != 200 {
        return Err(format!("it answered {}", answer.status()));
    }
    let text = answer
        .body_mut()
        .with_config()
        .limit(LARGEST)
        .read_to_string()
        .map_err(|error| error.to_string())?;
    read(&text)
}

/// A JWK set, whose keys may be of kinds that this release does not support.
#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The usable keys of a set. Others are ignored (RFC 7517, 5): a new kind of key must not make the known ones
/// unusable.
fn read(text: &str) -> Result<HashMap<String, Key>, String> {
    let set: Set = serde_json::from_str(text).map_err(|_| "it is not a JWK set".to_owned())?;
    let jwks = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys: HashMap<String, Key> = jwks
        .filter_map(|jwk| {
            Some((
                jwk.common.key_id.clone().unwrap_or_default(),
                Key::of(&jwk)?,
            ))
        })
        .collect();
    if keys.is_empty() {
        return Err("it has no usable key".into());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_signature_keys_of_a_set_are_used() {
        let symmetric = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a","alg":"HS256"}]}"#;
        assert!(read(symmetric).is_err());
        let ed =
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
        let set = format!(
            r#"{{"keys":[{ed},"kid":"sig","use":"sig"}},{ed},"kid":"enc","use":"enc"}},
                {{"kty":"AKP","kid":"new","alg":"ML-DSA-44","pub":"AA"}},{{"kid":7}},null]}}"#
        );
        let keys = read(&set).unwrap();
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["sig"]);
        assert!(read("{}").is_err());
        assert!(read("<html>").is_err());
    }
}
