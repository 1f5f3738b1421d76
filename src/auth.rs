//! Who asks. Owns the step from what a request carries to a [`Principal`], and what a principal may say of
//! itself; knows no transport.
//!
//! Layer 1. Where tokens are asked for, the identity is the token's, and a body that names somebody else is
//! refused. In `trusted` mode the principal is whoever the body or the handshake names: the back end in front
//! has checked them, or it is a development machine. A principal always has a tenant; where tokens name none
//! it is the empty one.

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

/// Where identities come from.
#[derive(Debug, Clone)]
pub enum Auth {
    /// From a signed token.
    Tokens(Tokens),
    /// From bodies and handshakes.
    Trusted,
}

impl Auth {
    /// Who that token stands for; without tokens, anybody of the one tenant. `address` is whose budget a wrong
    /// token costs.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with the token's fault, `UNAVAILABLE` where the keys cannot be had now, or `RATE_LIMITED`
    /// where too many tokens from there were wrong.
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

    /// The key set that is fetched, where there is one.
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
