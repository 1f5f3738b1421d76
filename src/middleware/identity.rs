//! Identification of the caller. Owns the token of `Authorization`, and whose rate limit a request counts against:
//! the caller's, or that of the client's address if the caller is unknown.
//!
//! [`Auth`] decides who the caller is. A failure does not end the request here: it counts against its rate limit first,
//! and the handler's extractor then refuses it. If identities are trusted, the body names the caller; it is parsed here,
//! and left in the request's extensions for the handler.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use super::api_error::ApiError;
use super::body::{ParsedBody, collect_rest_body};
use super::client_address::client_address;
use crate::auth::{Auth, Principal};
use crate::domain::ids::UserId;
use crate::limits::{Limits, RateLimitKey};
use crate::protocol::{NamesCaller, Refusal, named_caller};

/// State of [`identify`].
pub struct Identification {
    /// Source of identities.
    pub auth: Auth,
    /// Rate limits.
    pub limits: Arc<Limits>,
}

/// Caller of a request, in its extensions: the principal, or why there is none.
#[derive(Clone)]
pub struct Caller(pub Result<Principal, Refusal>);

/// Identifies the caller of a request whose body is a `B`. Leaves [`Caller`], the [`RateLimitKey`] and, if it had to be
/// parsed, the [`ParsedBody`] in the request's extensions.
///
/// # Errors
/// `TOO_LARGE` or `MALFORMED` if the body must be read and cannot be.
pub async fn identify<B: NamesCaller>(
    State(state): State<Arc<Identification>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, mut body) = request.into_parts();
    let limits = &state.limits;
    let address = client_address(&parts.headers, &parts.extensions, limits);
    let token = bearer(&parts.headers);
    let principal = state.auth.principal(token, limits, address).await;
    let key = match &principal {
        Ok(principal) => match &principal.identity {
            Some(identity) => Some(RateLimitKey::user(
                &principal.tenant,
                &identity.person.user_id,
            )),
            // Identities are trusted: the body names the caller.
            None if limits.config().rate.is_some() => {
                let bytes = collect_rest_body(body).await?;
                let parsed = ParsedBody::<B>::parse(&bytes);
                let user = caller(&parsed, &bytes);
                body = Body::from(bytes);
                parts.extensions.insert(parsed);
                user.map(|user| RateLimitKey::user(&principal.tenant, &user))
            }
            None => None,
        },
        Err(_) => None,
    };
    let key = key.unwrap_or_else(|| RateLimitKey::address(address));
    parts.extensions.insert(key);
    parts.extensions.insert(Caller(principal));
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// Caller that a body names. An invalid body also counts against the rate limit of the caller that it names: behind one
/// back end all callers have the same address, and one that sends such bodies must not use up the limit of the others.
fn caller<B: NamesCaller>(parsed: &ParsedBody<B>, bytes: &[u8]) -> Option<UserId> {
    match &parsed.outcome {
        Ok(body) => body.caller().cloned(),
        Err(_) => named_caller(bytes),
    }
}

/// Token of `Authorization: Bearer` (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    // Of two headers, a proxy in front may have checked the other one.
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}
