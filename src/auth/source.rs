//! Source of the keys that verify signatures: one fixed key, or a JWK set that is fetched.

use std::sync::Arc;

use tracing::warn;

use super::jwks::Jwks;
use super::keys::{BadKey, Key};
use crate::secret::Secret;

/// Source of keys.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// One fixed key.
    Fixed(Key),
    /// A JWK set that is fetched periodically.
    Set(Arc<Jwks>),
}

impl KeySource {
    /// Generation of the keys: another number after each change. `None` if there are no usable ones.
    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Fixed(_) => Some(0),
            Self::Set(set) => set.generation(),
        }
    }

    /// A secret shared with the issuer: HS256.
    ///
    /// # Errors
    /// [`BadKey::ShortSecret`].
    pub fn secret(secret: &Secret) -> Result<Self, BadKey> {
        Key::secret(secret).map(Self::Fixed)
    }

    /// A public key, in PEM. A literal `\n` counts as a line break, for variables that hold a single line.
    ///
    /// # Errors
    /// [`BadKey::NotAPublicKey`], [`BadKey::ShortRsa`].
    pub fn public_key(pem: &str) -> Result<Self, BadKey> {
        Key::public_key(pem).map(Self::Fixed)
    }

    /// A JWK set at that URL (RFC 7517).
    ///
    /// # Errors
    /// [`BadKey::NotAUrl`].
    pub fn set(url: &str) -> Result<Self, BadKey> {
        let host = url
            .strip_prefix("https://")
            .or_else(|| url.strip_prefix("http://"));
        match host {
            Some(host) if !host.is_empty() => {
                let here = ["127.0.0.1", "localhost", "[::1]"];
                if url.starts_with("http://") && !here.iter().any(|name| host.starts_with(name)) {
                    warn!(
                        "JWT_JWKS_URL is not https: anyone on the network path can replace the keys"
                    );
                }
                Ok(Self::Set(Arc::new(Jwks::new(url))))
            }
            _ => Err(BadKey::NotAUrl),
        }
    }
}
