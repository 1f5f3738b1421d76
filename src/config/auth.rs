//! The settings of identities: where they come from, and the one key that they are checked with.

use clap::Args;

use super::BadSetting;
use super::parse::or_default;
use crate::auth::{Auth, BadKey, KeySource, TokenRules, Tokens};
use crate::secret::Secret;

/// Where identities come from. Each option is an environment variable too.
#[derive(Debug, Clone, Args)]
pub struct AuthArgs {
    /// Where identities come from: jwt (a signed token), or trusted (bodies and handshakes: for development,
    /// or behind a back end that has checked them).
    #[arg(
        long,
        env = "AUTH_MODE",
        default_value = "jwt",
        hide_env_values = true,
        value_name = "MODE"
    )]
    pub auth_mode: String,

    /// The secret that tokens are signed with, HS256; at least 32 bytes [one of the three is required in jwt
    /// mode].
    #[arg(
        long,
        env = "JWT_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub jwt_secret: Option<Secret>,

    /// The public key of whoever signs tokens, in PEM: RSA, EC (P-256, P-384) or Ed25519.
    #[arg(
        long,
        env = "JWT_PUBLIC_KEY",
        hide_env_values = true,
        value_name = "PEM"
    )]
    pub jwt_public_key: Option<String>,

    /// Where the JWK set of whoever signs tokens is; it is fetched again when it changes.
    #[arg(long, env = "JWT_JWKS_URL", hide_env_values = true, value_name = "URL")]
    pub jwt_jwks_url: Option<String>,

    /// Tokens must be of this issuer (iss) [default: any].
    #[arg(
        long,
        env = "JWT_ISSUER",
        hide_env_values = true,
        value_name = "ISSUER"
    )]
    pub jwt_issuer: Option<String>,

    /// Tokens must be for this audience (aud) [default: any].
    #[arg(
        long,
        env = "JWT_AUDIENCE",
        hide_env_values = true,
        value_name = "AUDIENCE"
    )]
    pub jwt_audience: Option<String>,

    /// The claim that holds the roles; dots lead into objects, as in realm_access.roles.
    #[arg(
        long,
        env = "JWT_ROLES_CLAIM",
        default_value = "roles",
        hide_env_values = true,
        value_name = "CLAIM"
    )]
    pub jwt_roles_claim: String,

    /// The role of admins.
    #[arg(
        long,
        env = "JWT_ADMIN_ROLE",
        default_value = "admin",
        hide_env_values = true,
        value_name = "ROLE"
    )]
    pub jwt_admin_role: String,
}

fn set(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

fn bad(variable: &'static str, key: BadKey) -> BadSetting {
    let text = key.to_string();
    let (fault, mend) = text.split_once("; ").unwrap_or((&text, "write another"));
    BadSetting::new(variable, fault, mend)
}

impl AuthArgs {
    /// Checks the settings of identities.
    ///
    /// # Errors
    /// The first [`BadSetting`].
    pub fn check(&self) -> Result<Auth, BadSetting> {
        match or_default(&self.auth_mode, "jwt") {
            "trusted" => Ok(Auth::Trusted),
            "jwt" => Ok(Auth::Tokens(Tokens::new(self.key()?, self.rules()))),
            other => Err(BadSetting::new(
                "AUTH_MODE",
                format!("\"{other}\" is not a mode"),
                "write jwt or trusted",
            )),
        }
    }

    fn key(&self) -> Result<KeySource, BadSetting> {
        let more = |variable, other| {
            BadSetting::new(
                variable,
                format!("is set, and {other} too"),
                "set one of them, whichever tokens are signed with",
            )
        };
        match (
            self.jwt_secret
                .as_ref()
                .filter(|it| !it.expose().is_empty()),
            set(&self.jwt_public_key),
            set(&self.jwt_jwks_url),
        ) {
            (Some(secret), None, None) => {
                KeySource::secret(secret).map_err(|key| bad("JWT_SECRET", key))
            }
            (None, Some(pem), None) => {
                KeySource::public_key(pem).map_err(|key| bad("JWT_PUBLIC_KEY", key))
            }
            (None, None, Some(url)) => KeySource::set(url).map_err(|key| bad("JWT_JWKS_URL", key)),
            (None, None, None) => Err(BadSetting::new(
                "JWT_SECRET",
                "is not set, nor is JWT_PUBLIC_KEY or JWT_JWKS_URL",
                "set one of them, or AUTH_MODE=trusted behind a back end that has checked its users",
            )),
            (Some(_), Some(_), _) => Err(more("JWT_PUBLIC_KEY", "JWT_SECRET")),
            (Some(_), _, Some(_)) => Err(more("JWT_JWKS_URL", "JWT_SECRET")),
            (_, Some(_), Some(_)) => Err(more("JWT_JWKS_URL", "JWT_PUBLIC_KEY")),
        }
    }

    fn rules(&self) -> TokenRules {
        TokenRules {
            issuer: set(&self.jwt_issuer).map(str::to_owned),
            audience: set(&self.jwt_audience).map(str::to_owned),
            roles_claim: or_default(&self.jwt_roles_claim, "roles").to_owned(),
            admin_role: or_default(&self.jwt_admin_role, "admin").to_owned(),
        }
    }
}
