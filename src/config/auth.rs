//! The settings of identities: their source, and the one key that tokens are checked with.

use clap::Args;

use super::parse::{BadSetting, word};
use crate::auth::{Auth, BadKey, KeySource, TokenRules, Tokens};
use crate::secret::Secret;

/// Settings of identities.
#[derive(Debug, Clone, Args)]
pub struct AuthArgs {
    /// Source of identities: jwt (a signed token), or trusted (the request body or handshake: for development,
    /// or behind a back end that authenticates its users).
    #[arg(long, env, value_name = "MODE", default_value = "jwt", value_parser = word("a mode", [("jwt", AuthMode::Jwt), ("trusted", AuthMode::Trusted)]))]
    pub auth_mode: AuthMode,

    /// Shared secret of tokens, HS256, at least 32 bytes [exactly one of JWT_SECRET, JWT_PUBLIC_KEY and
    /// JWT_JWKS_URL is required in jwt mode].
    #[arg(long, env, value_name = "SECRET")]
    pub jwt_secret: Option<Secret>,

    /// Public key of the identity provider, in PEM: RSA, EC (P-256, P-384) or Ed25519.
    #[arg(long, env, value_name = "PEM")]
    pub jwt_public_key: Option<String>,

    /// URL of the identity provider's JWK set, refetched every 5 min.
    #[arg(long, env, value_name = "URL")]
    pub jwt_jwks_url: Option<String>,

    /// Required issuer of tokens (iss) [default: any].
    #[arg(long, env, value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,

    /// Required audience of tokens (aud) [default: any].
    #[arg(long, env, value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,

    /// Claim with the roles; dots for nested objects, as in realm_access.roles.
    #[arg(long, env, value_name = "CLAIM", default_value = "roles")]
    pub jwt_roles_claim: String,

    /// Role of admins.
    #[arg(long, env, value_name = "ROLE", default_value = "admin")]
    pub jwt_admin_role: String,
}

/// Sources of identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Signed tokens.
    Jwt,
    /// Bodies and handshakes.
    Trusted,
}

impl AuthArgs {
    /// Checks the settings of identities.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self) -> Result<Auth, BadSetting> {
        if self.auth_mode == AuthMode::Trusted {
            return Ok(Auth::Trusted);
        }
        let rules = TokenRules {
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
            roles_claim: self.jwt_roles_claim.clone(),
            admin_role: self.jwt_admin_role.clone(),
        };
        Ok(Auth::Tokens(Tokens::new(self.key()?, rules)))
    }

    fn key(&self) -> Result<KeySource, BadSetting> {
        let (secret, pem, url) = (&self.jwt_secret, &self.jwt_public_key, &self.jwt_jwks_url);
        let two = |variable, other| {
            let fix = "set one of them, whichever tokens are signed with";
            Err(BadSetting::new(
                variable,
                format!("is set, and {other} too"),
                fix,
            ))
        };
        match (secret, pem, url) {
            (Some(secret), None, None) => usable("JWT_SECRET", KeySource::secret(secret)),
            (None, Some(pem), None) => usable("JWT_PUBLIC_KEY", KeySource::public_key(pem)),
            (None, None, Some(url)) => usable("JWT_JWKS_URL", KeySource::set(url)),
            (None, None, None) => Err(BadSetting::new(
                "JWT_SECRET",
                "is not set, nor is JWT_PUBLIC_KEY or JWT_JWKS_URL",
                "set one of them, or AUTH_MODE=trusted behind a back end that has checked its users",
            )),
            (Some(_), Some(_), _) => two("JWT_PUBLIC_KEY", "JWT_SECRET"),
            (Some(_), _, Some(_)) => two("JWT_JWKS_URL", "JWT_SECRET"),
            (_, Some(_), Some(_)) => two("JWT_JWKS_URL", "JWT_PUBLIC_KEY"),
        }
    }
}

/// The key, or its error, which already holds the fault and the fix, as the variable's.
fn usable(variable: &str, key: Result<KeySource, BadKey>) -> Result<KeySource, BadSetting> {
    key.map_err(|bad| BadSetting::of_parser(variable, bad.to_string()))
}
