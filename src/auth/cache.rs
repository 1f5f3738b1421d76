//! Cache of verified tokens. Owns two guarantees: the signature of a token is verified once, however often the token
//! is used; and no entry outlives its `exp` or the key set that verified it.
//!
//! Bounded: the least recently used entry is evicted, and verified again at its next use. Entries are keyed by the
//! token's hash, so that the cache holds no token that could be read from this process's memory.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use ring::digest::{SHA256, digest};

use super::principal::Principal;

/// Maximum number of entries.
const MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("is not zero");

/// Key of a token: its SHA-256 hash.
pub(super) type Fingerprint = [u8; 32];

struct Verified {
    principal: Principal,
    /// Generation of the key set that verified it.
    generation: u64,
}

/// Cache of verified tokens.
pub(super) struct Cache {
    /// A std mutex: held for a look-up, never across an await.
    tokens: Mutex<LruCache<Fingerprint, Verified>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[verified tokens]")
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            tokens: Mutex::new(LruCache::new(MAX)),
        }
    }
}

impl Cache {
    pub(super) fn fingerprint(token: &str) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        fingerprint
    }

    /// The principal of a token that keys of this generation verified and that has not expired.
    pub(super) fn get(&self, token: &Fingerprint, generation: u64) -> Option<Principal> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tokens.get(token)?;
        let lasts = known
            .principal
            .identity
            .as_ref()
            .is_some_and(|identity| SystemTime::now() < identity.expires_at);
        if lasts && known.generation == generation {
            return Some(known.principal.clone());
        }
        tokens.pop(token);
        None
    }

    /// Adds a token that keys of that generation verified.
    pub(super) fn put(&self, token: Fingerprint, generation: u64, principal: Principal) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.put(
            token,
            Verified {
                principal,
                generation,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Identity;
    use crate::domain::ids::{Email, Name, TenantId, UserId};
    use crate::domain::lease::{Person, UserInfo};
    use std::time::Duration;

    fn until(expires_at: SystemTime) -> Principal {
        Principal {
            tenant: TenantId::default(),
            identity: Some(Identity {
                person: Person {
                    user_id: UserId::new("ann").unwrap(),
                    user_info: UserInfo {
                        name: Name::new("Ann").unwrap(),
                        email: Email::default(),
                        position: None,
                    },
                },
                admin: false,
                expires_at,
            }),
        }
    }

    #[test]
    fn a_token_is_known_until_it_expires_or_the_keys_change() {
        let cache = Cache::default();
        let (a, b) = (Cache::fingerprint("a"), Cache::fingerprint("b"));
        let now = SystemTime::now();
        cache.put(a, 1, until(now + Duration::from_secs(60)));
        cache.put(b, 1, until(now - Duration::from_secs(1)));
        assert!(cache.get(&a, 1).is_some());
        assert!(cache.get(&b, 1).is_none(), "expired");
        assert!(cache.get(&a, 2).is_none(), "other keys");
        assert!(cache.get(&a, 1).is_none(), "and evicted");
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = Cache::default();
        let lasts = until(SystemTime::now() + Duration::from_secs(60));
        for n in 0..MAX.get() + 100 {
            cache.put(Cache::fingerprint(&n.to_string()), 0, lasts.clone());
        }
        assert_eq!(cache.tokens.lock().unwrap().len(), MAX.get());
        assert!(cache.get(&Cache::fingerprint("0"), 0).is_none());
    }
}
