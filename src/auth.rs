//! Authentication. Owns the step from a request's credentials to a [`Principal`], and which identities a principal
//! may claim in a body; independent of the transport.
//!
//! Layer 1. In `jwt` mode the identity is the token's, and a body that names another user is rejected. In `trusted`
//! mode the identity is the one in the body or the handshake: the back end in front has authenticated its users, or
//! this is a development machine. A principal always has a tenant: the empty one if its token names none.

mod cache;
mod crypto;
mod jwks;
mod keys;
mod principal;
mod source;
mod token;

use std::net::IpAddr;

use crate::limits::Limits;
use crate::protocol::{Code, Refusal};

pub use jwks::Jwks;
pub use keys::BadKey;
pub use principal::{Identity, Principal, display_info, shown_by_id};
pub use source::KeySource;
pub use token::{TokenRules, Tokens};

/// Source of identities.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Signed tokens.
    Tokens(Tokens),
    /// Bodies and handshakes.
    Trusted,
}

impl Auth {
    /// Authenticates a token; in `trusted` mode, returns the anonymous principal of the default tenant. Rejected
    /// tokens are charged to `address`.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with the reason, `UNAVAILABLE` if no keys are available, `RATE_LIMITED` after too many
    /// rejected tokens from that address.
    pub async fn principal(
        &self,
        token: Option<&str>,
        limits: &Limits,
        address: IpAddr,
    ) -> Result<Principal, Refusal> {
        match (self, token) {
            (Self::Trusted, _) => Ok(Principal::trusted()),
            (Self::Tokens(_), None) => Err(Refusal::new(
                Code::Unauthenticated,
                "A token is needed: send Authorization: Bearer TOKEN, or auth.token on a socket",
            )),
            (Self::Tokens(tokens), Some(token)) => tokens.read(token, limits, address).await,
        }
    }

    /// The JWK set, if one is configured.
    #[must_use]
    pub fn key_set(&self) -> Option<&std::sync::Arc<Jwks>> {
        match self {
            Self::Tokens(tokens) => match tokens.keys() {
                KeySource::Set(set) => Some(set),
                KeySource::Fixed(_) => None,
            },
            Self::Trusted => None,
        }
    }
}
