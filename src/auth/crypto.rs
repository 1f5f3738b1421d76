//! Signature verification by ring, which TLS uses too. Owns the mapping from JWT algorithms to ring's.
//!
//! Slow verification would make forged tokens a denial of service: pure-Rust ES384 took 1.9 ms per token, ring's takes
//! a fraction. Nothing here signs: this service issues no tokens.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature::{
    self as ring_signature, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use signature::{Error, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    // Never called: nothing here signs.
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(RingVerifier::new(*algorithm, key)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs ring as the provider of signature verification. Idempotent.
pub(super) fn install() {
    // An application that embeds this crate may have installed another provider, which is kept.
    let _ = PROVIDER.install_default();
}

/// The ring equivalent of a JWT algorithm.
#[derive(Clone, Copy)]
enum Scheme {
    Hmac(ring::hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Other(&'static dyn VerificationAlgorithm),
}

struct RingVerifier {
    algorithm: Algorithm,
    scheme: Scheme,
    key: DecodingKey,
}

impl RingVerifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self, JwtError> {
        let scheme = match algorithm {
            Algorithm::HS256 => Scheme::Hmac(ring::hmac::HMAC_SHA256),
            Algorithm::HS384 => Scheme::Hmac(ring::hmac::HMAC_SHA384),
            Algorithm::HS512 => Scheme::Hmac(ring::hmac::HMAC_SHA512),
            Algorithm::RS256 => Scheme::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Scheme::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Scheme::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Scheme::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Scheme::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Scheme::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Scheme::Other(&ring_signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Scheme::Other(&ring_signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Scheme::Other(&ring_signature::ED25519),
            _ => return Err(ErrorKind::InvalidAlgorithm.into()),
        };
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        Ok(Self {
            algorithm,
            scheme,
            key: key.clone(),
        })
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Error> {
        let wrong = |_| Error::new();
        match (self.scheme, self.key.kind()) {
            (Scheme::Hmac(algorithm), DecodingKeyKind::SecretOrDer(secret)) => {
                let key = ring::hmac::Key::new(algorithm, secret);
                ring::hmac::verify(&key, message, signature).map_err(wrong)
            }
            (Scheme::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                // The numbers of a JWK may have leading zeros, which ring rejects.
                let n = n
                    .iter()
                    .position(|byte| *byte != 0)
                    .map_or(&n[..0], |at| &n[at..]);
                let e = e
                    .iter()
                    .position(|byte| *byte != 0)
                    .map_or(&e[..0], |at| &e[at..]);
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .map_err(wrong)
            }
            (Scheme::Rsa(parameters), DecodingKeyKind::SecretOrDer(der)) => {
                let key = UnparsedPublicKey::new(parameters, der);
                key.verify(message, signature).map_err(wrong)
            }
            (Scheme::Other(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                let key = UnparsedPublicKey::new(algorithm, point);
                key.verify(message, signature).map_err(wrong)
            }
            (Scheme::Hmac(_) | Scheme::Other(_), DecodingKeyKind::RsaModulusExponent { .. }) => {
                Err(Error::new())
            }
        }
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
