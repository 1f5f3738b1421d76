//! From a token to a principal (RFC 7519). Owns which claims count and how.
//!
//! `sub` is the user's id, `name` and `email` how others see them, the role claim tells admins, `tenant` whose
//! data it is. `exp` is required; `exp` and `nbf` have a small leeway, `iss` and `aud` count where they are
//! configured.

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

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(5);
/// The year 10000, in seconds since 1970.
const FARTHEST: Duration = Duration::from_secs(253_402_300_800);
/// The longest token that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;

/// What is asked of a token beyond its signature.
#[derive(Debug, Clone, Default)]
pub struct TokenRules {
    /// Who must have issued it, where that is asked.
    pub issuer: Option<String>,
    /// For whom it must be, where that is asked.
    pub audience: Option<String>,
    /// Where its roles are: a claim, or a path of claims with dots.
    pub roles_claim: String,
    /// The role of admins.
    pub admin_role: String,
}

/// Reads tokens.
#[derive(Debug, Clone)]
pub struct Tokens {
    keys: KeySource,
    rules: TokenRules,
    cache: Arc<Cache>,
}

fn refused(fault: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, format!("The token {fault}"))
}

impl Tokens {
    /// With those keys and rules.
    #[must_use]
    pub fn new(keys: KeySource, rules: TokenRules) -> Self {
        crypto::install();
        Self {
            keys,
            rules,
            cache: Arc::default(),
        }
    }

    /// Where the keys come from.
    #[must_use]
    pub fn keys(&self) -> &KeySource {
        &self.keys
    }

    /// Who that token stands for. What costs little is looked at first; the signature of a token that was not seen
    /// before is verified only where that address has not sent too many wrong ones.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with its fault, `UNAVAILABLE` where the keys cannot be had now, `RATE_LIMITED`.
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
        // What must be understood and is not makes a token void (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(refused("demands extensions that are not known"));
        }
        limits.may_fail(address)?;
        // Taken before the key: a key of an older set is never kept as one of a newer.
        let generation = self.keys.generation();
        let key = match &self.keys {
            KeySource::Fixed(key) => key.clone(),
            KeySource::Set(set) => {
                set.key(header.kid.as_deref())
                    .await
                    .map_err(|fault| match fault {
                        NoKey::Unknown => {
                            limits.failed(address);
                            refused("is signed with a key that is not known")
                        }
                        NoKey::Away => Refusal::new(
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
                ErrorKind::ExpiredSignature => refused("has run out"),
                ErrorKind::ImmatureSignature => refused("is not valid yet"),
                ErrorKind::InvalidIssuer => refused("is from another issuer"),
                ErrorKind::InvalidAudience => refused("is for another audience"),
                ErrorKind::MissingRequiredClaim(claim) => {
                    refused(&format!("has no claim \"{claim}\""))
                }
                ErrorKind::InvalidSignature
                | ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidAlgorithmName => refused("is not signed with the right key"),
                _ => refused("is not a JWT that can be read"),
            })
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, Refusal> {
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let user_id = text("sub")
            .and_then(|sub| UserId::new(sub).ok())
            .ok_or_else(|| refused("has a \"sub\" that is no id: 1 to 200 bytes of text"))?;
        let tenant = match claims.get("tenant") {
            None | Some(Value::Null) => TenantId::default(),
            Some(Value::String(tenant)) => TenantId::new(tenant.as_str()).map_err(|_| {
                refused("has a \"tenant\" that is no id: at most 200 bytes of text")
            })?,
            Some(_) => return Err(refused("has a \"tenant\" that is not text")),
        };
        let shown = |name: &Name| name.shows_as_written().is_ok();
        // A name that cannot be shown is no reason to lock somebody out.
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
            .ok_or_else(|| refused("has an \"exp\" that is no time"))?;
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

    /// Roles are a list of texts, or one text. Only of a scope is one text several, with blanks between.
    fn is_admin(&self, claims: &Map<String, Value>) -> bool {
        let mut path = self.rules.roles_claim.split('.');
        let first = path.next().and_then(|claim| claims.get(claim));
        let roles = path.fold(first, |roles, claim| {
            roles.and_then(|value| value.get(claim))
        });
        // A claim whose name has dots in it, as namespaced claims do.
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
