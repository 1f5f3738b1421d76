//! From a token to a principal (RFC 7519). Owns the meaning of claims.
//!
//! `sub` is the user's id, `name` and `email` are displayed to others, the role claim marks admins, `tenant` is the
//! tenant. `exp` is required; `exp` and `nbf` have a small leeway, `iss` and `aud` are checked if configured.

use std::net::IpAddr;
use std::sync::Arc;

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime};

use super::cache::Cache;
use super::crypto;
use super::jwks::NoKey;
use super::keys::Key;
use super::principal::{Identity, Principal};
use super::source::KeySource;
use crate::domain::ids::{Email, Name, TenantId, UserId};
use crate::domain::lease::{Person, UserInfo};
use crate::limits::Limits;
use crate::protocol::{Code, Refusal};

/// Tolerated clock difference.
const LEEWAY: Duration = Duration::from_secs(5);
/// Upper bound of `exp`: the year 10000, in seconds since 1970.
const FARTHEST: Duration = Duration::from_secs(253_402_300_800);
/// Maximum length of a token, in bytes.
const LONGEST: usize = 8 * 1024;

/// Requirements on a token beyond its signature.
#[derive(Debug, Clone, Default)]
pub struct TokenRules {
    /// Required issuer, if any.
    pub issuer: Option<String>,
    /// Required audience, if any.
    pub audience: Option<String>,
    /// Claim that holds the roles, or a path of claims separated by dots.
    pub roles_claim: String,
    /// The role of admins.
    pub admin_role: String,
}

/// Verifies tokens and reads their claims.
#[derive(Debug, Clone)]
pub struct Tokens {
    keys: KeySource,
    rules: TokenRules,
    cache: Arc<Cache>,
}

fn refused(reason: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, format!("The token {reason}"))
}

impl Tokens {
    /// Creates a verifier with those keys and rules.
    #[must_use]
    pub fn new(keys: KeySource, rules: TokenRules) -> Self {
        crypto::install();
        Self {
            keys,
            rules,
            cache: Arc::default(),
        }
    }

    /// Source of the keys.
    #[must_use]
    pub fn keys(&self) -> &KeySource {
        &self.keys
    }

    /// The principal of a token. Cheap checks come first; the signature of an unknown token is verified only if its
    /// address has not sent too many invalid ones.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with the reason, `UNAVAILABLE` if no keys are available, `RATE_LIMITED`.
    pub(super) async fn read(
        &self,
        token: &str,
        limits: &Limits,
        address: IpAddr,
    ) -> Result<Principal, Refusal> {
        if token.len() > LONGEST {
            return Err(refused("is too long"));
        }
        let fingerprint = Cache::fingerprint(token);
        if let Some(generation) = self.keys.generation()
            && let Some(principal) = self.cache.get(&fingerprint, generation)
        {
            return Ok(principal);
        }
        let header = decode_header(token).map_err(|_| refused("is not a JWT"))?;
        // An unknown critical extension makes a token invalid (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(refused("requires extensions that are not supported"));
        }
        limits.may_fail(address)?;
        // Read before the key, so that a token verified by an older set is never cached for a newer one.
        let generation = self.keys.generation();
        let key = match &self.keys {
            KeySource::Fixed(key) => key.clone(),
            KeySource::Set(set) => {
                set.key(header.kid.as_deref())
                    .await
                    .map_err(|error| match error {
                        NoKey::Unknown => {
                            limits.failed(address);
                            refused("is signed with a key that is not known")
                        }
                        NoKey::Unavailable => Refusal::new(
                            Code::Unavailable,
                            "The keys that tokens are checked with are not available; try again shortly",
                        ),
                    })?
            }
        };
        let read = self.check(token, &key);
        let read = read.and_then(|claims| self.principal(&claims));
        match (&read, generation) {
            (Err(_), _) => limits.failed(address),
            (Ok(principal), Some(generation)) => {
                self.cache.put(fingerprint, generation, principal.clone());
            }
            (Ok(_), None) => {}
        }
        read
    }

    fn check(&self, token: &str, key: &Key) -> Result<Map<String, Value>, Refusal> {
        let mut validation = Validation::new(key.algorithms[0]);
        validation.algorithms = key.algorithms.to_vec();
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        match &self.rules.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &self.rules.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let read = decode::<Map<String, Value>>(token, &key.key, &validation);
        read.map(|token| token.claims)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => refused("has expired"),
                ErrorKind::ImmatureSignature => refused("is not valid yet"),
                ErrorKind::InvalidIssuer => refused("is from another issuer"),
                ErrorKind::InvalidAudience => refused("is for another audience"),
                ErrorKind::MissingRequiredClaim(claim) => {
                    refused(&format!("has no claim \"{claim}\""))
                }
                ErrorKind::InvalidSignature
                | ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidAlgorithmName => refused("is not signed with the right key"),
                _ => refused("is not a valid JWT"),
            })
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, Refusal> {
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let user_id = text("sub")
            .and_then(|sub| UserId::new(sub).ok())
            .ok_or_else(|| refused("has a \"sub\" that is not an id: 1 to 200 bytes of text"))?;
        let tenant = match claims.get("tenant") {
            None | Some(Value::Null) => TenantId::default(),
            Some(Value::String(tenant)) => TenantId::new(tenant.as_str()).map_err(|_| {
                refused("has a \"tenant\" that is not an id: at most 200 bytes of text")
            })?,
            Some(_) => return Err(refused("has a \"tenant\" that is not text")),
        };
        let shown = |name: &Name| name.shows_as_written().is_ok();
        // A name that cannot be displayed is no reason to reject a token.
        let name = text("name")
            .and_then(|name| Name::new(name).ok())
            .filter(shown)
            .or_else(|| Name::new(user_id.as_str()).ok().filter(shown))
            .unwrap_or_else(Name::nobody);
        let email = text("email")
            .and_then(|email| Email::new(email).ok())
            .unwrap_or_default();
        let seconds = claims
            .get("exp")
            .and_then(Value::as_f64)
            .ok_or_else(|| refused("has no claim \"exp\""))?;
        let expires_at = Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|lasts| *lasts < FARTHEST)
            .and_then(|lasts| SystemTime::UNIX_EPOCH.checked_add(lasts + LEEWAY))
            .ok_or_else(|| refused("has an \"exp\" that is not a valid time"))?;
        Ok(Principal {
            tenant,
            identity: Some(Identity {
                person: Person {
                    user_id,
                    user_info: UserInfo {
                        name,
                        email,
                        position: None,
                    },
                },
                admin: self.is_admin(claims),
                expires_at,
            }),
        })
    }

    /// True if the roles include the admin role. Roles are a list of strings, or one string; only a scope claim is a
    /// space-separated list.
    fn is_admin(&self, claims: &Map<String, Value>) -> bool {
        let mut path = self.rules.roles_claim.split('.');
        let first = path.next().and_then(|claim| claims.get(claim));
        let roles = path.fold(first, |roles, claim| {
            roles.and_then(|value| value.get(claim))
        });
        // The claim's own name may contain dots, as namespaced claims do.
        let roles = roles.or_else(|| claims.get(&self.rules.roles_claim));
        let admin = self.rules.admin_role.as_str();
        match roles {
            Some(Value::Array(roles)) => roles.iter().any(|role| role.as_str() == Some(admin)),
            Some(Value::String(roles)) if self.rules.roles_claim.ends_with("scope") => {
                roles.split_whitespace().any(|role| role == admin)
            }
            Some(Value::String(role)) => role == admin,
            _ => false,
        }
    }
}
