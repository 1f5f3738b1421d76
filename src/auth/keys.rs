//! Keys that verify signatures. Owns the rule that the algorithm is the key's and never the token's: a token that
//! names another one, or none, is rejected.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use tracing::warn;

use crate::secret::Secret;

/// Minimum length of a secret, in bytes: that of an HS256 digest (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// Minimum length of an RSA modulus, in bytes.
const SHORTEST_RSA: usize = 256;

/// The algorithm of a curve, by the length of its points: 65 bytes for P-256, 97 for P-384.
fn by_point(length: usize) -> Option<&'static [Algorithm]> {
    match length {
        65 => Some(&[Algorithm::ES256]),
        97 => Some(&[Algorithm::ES384]),
        _ => None,
    }
}

/// Reason why a configured key is rejected, and what to set instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// The secret is short enough to be guessed.
    #[error(
        "is shorter than {SHORTEST_SECRET} bytes; write a longer one, such as the output of `openssl rand -base64 48`"
    )]
    ShortSecret,
    /// The RSA key is short enough to be broken.
    #[error("is an RSA key of fewer than 2048 bits; make a longer one")]
    ShortRsa,
    /// The text is not PEM, or the key of another kind.
    #[error(
        "is not a public key; write the PEM of an RSA, EC (P-256, P-384) or Ed25519 public key"
    )]
    NotAPublicKey,
    /// The text is not a URL.
    #[error("is not a URL; write the https://… URL of a JWK set")]
    NotAUrl,
}

/// A key and the algorithms that it may be used with.
#[derive(Clone)]
pub struct Key {
    pub(super) key: DecodingKey,
    pub(super) algorithms: &'static [Algorithm],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[a key for {:?}]", self.algorithms)
    }
}

impl Key {
    /// A secret shared with the issuer: HS256.
    ///
    /// # Errors
    /// [`BadKey::ShortSecret`].
    pub(super) fn secret(secret: &Secret) -> Result<Self, BadKey> {
        if secret.expose().len() < SHORTEST_SECRET {
            return Err(BadKey::ShortSecret);
        }
        Ok(Self {
            key: DecodingKey::from_secret(secret.expose().as_bytes()),
            algorithms: &[Algorithm::HS256],
        })
    }

    /// A public key, in PEM. A literal `\n` counts as a line break, for variables that hold a single line.
    ///
    /// # Errors
    /// [`BadKey::NotAPublicKey`], [`BadKey::ShortRsa`].
    pub(super) fn public_key(pem: &str) -> Result<Self, BadKey> {
        let pem = pem.replace("\\n", "\n");
        // A private key could verify too, but must not be on this machine.
        if !pem.contains("PUBLIC KEY") {
            return Err(BadKey::NotAPublicKey);
        }
        let pem = pem.as_bytes();
        let length = |key: &DecodingKey| key.try_get_as_bytes().map_or(0, <[u8]>::len);
        let (key, algorithms): (_, &'static [Algorithm]) =
            if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
                // These are the bytes of the modulus plus a few of its encoding.
                if length(&key) < SHORTEST_RSA {
                    return Err(BadKey::ShortRsa);
                }
                (key, RSA)
            } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
                let algorithms = by_point(length(&key)).ok_or(BadKey::NotAPublicKey)?;
                (key, algorithms)
            } else {
                let key = DecodingKey::from_ed_pem(pem).map_err(|_| BadKey::NotAPublicKey)?;
                (key, &[Algorithm::EdDSA])
            };
        Ok(Self { key, algorithms })
    }

    /// A key of a JWK set; `None` if it is not for signatures or of an unsupported kind: a symmetric key in a set that
    /// anyone can read would not be a secret.
    pub(super) fn of(jwk: &Jwk) -> Option<Self> {
        if !matches!(
            jwk.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        ) {
            return None;
        }
        let algorithms: &'static [Algorithm] = match (&jwk.algorithm, jwk.common.key_algorithm) {
            (AlgorithmParameters::RSA(_), None) => RSA,
            (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS256)) => &[Algorithm::RS256],
            (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS384)) => &[Algorithm::RS384],
            (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::RS512)) => &[Algorithm::RS512],
            (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS256)) => &[Algorithm::PS256],
            (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS384)) => &[Algorithm::PS384],
            (AlgorithmParameters::RSA(_), Some(KeyAlgorithm::PS512)) => &[Algorithm::PS512],
            (AlgorithmParameters::EllipticCurve(curve), _) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            (AlgorithmParameters::OctetKeyPair(_), _) => &[Algorithm::EdDSA],
            _ => return None,
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        if let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
            && n.iter().skip_while(|byte| **byte == 0).count() < SHORTEST_RSA
        {
            warn!("JWT_JWKS_URL: ignoring an RSA key of fewer than 2048 bits");
            return None;
        }
        Some(Self { key, algorithms })
    }
}
