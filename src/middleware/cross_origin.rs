//! Cross-origin guard: refuses what a page of another origin sends. CORS withholds only answers; the request itself
//! would still have its effect.
//!
//! Owns the check of `Origin`; [`Origins`] decides. Requests for Socket.IO are always checked, in `socket`. REST requests
//! are checked if identities are trusted, since any page that a user visits could otherwise act for them; a token, in
//! contrast, is something that a page of another origin does not have. A refused request is answered with
//! `ORIGIN_NOT_ALLOWED`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;

use super::api_error::ApiError;
use crate::limits::Origins;
use crate::protocol::{Code, Refusal};

/// Refuses requests that change something from pages of other origins.
///
/// # Errors
/// `ORIGIN_NOT_ALLOWED`.
pub async fn cross_origin(
    State(origins): State<Arc<Origins>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if !safe {
        check_origin(&origins, request.headers())?;
    }
    Ok(next.run(request).await)
}

/// Checks the origin of the page that sent a request. Browsers name it; other clients do not, and pass.
///
/// # Errors
/// `ORIGIN_NOT_ALLOWED`, also if two origins are named.
pub fn check_origin(origins: &Origins, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut named = headers.get_all(ORIGIN).iter();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let allowed = match (named.next(), named.next()) {
        (None, _) => true,
        (Some(origin), None) => origin
            .to_str()
            .is_ok_and(|origin| origins.allow(origin, host)),
        (Some(_), Some(_)) => false,
    };
    if allowed {
        return Ok(());
    }
    Err(Refusal::new(
        Code::OriginNotAllowed,
        "Pages of this origin are not allowed; CORS_ALLOWED_ORIGINS lists the allowed origins",
    ))
}
