//! Host names in requests. Owns that a request names at most one, since of two a proxy in front may have read the other
//! (RFC 9112, 3.2); [`Hosts`] decides which are allowed.
//!
//! The check stops DNS rebinding, in which a page points a name of its own at this service: the browser sends that name
//! as `Host`. A refused request is answered with `HOST_NOT_ALLOWED`, or `MALFORMED` if it names two hosts.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::Response;

use super::api_error::ApiError;
use crate::limits::Hosts;
use crate::protocol::{Code, Refusal};

/// Refuses requests to host names that are not allowed.
///
/// # Errors
/// `HOST_NOT_ALLOWED`, or `MALFORMED` if there are two host names.
pub async fn allowed_hosts(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let mut named = request.headers().get_all(HOST).iter();
    let (host, more) = (named.next(), named.next());
    if more.is_some() {
        let fault = "The request has more than one Host header";
        return Err(Refusal::new(Code::Malformed, fault).into());
    }
    // The request target may name the host too, and takes precedence (RFC 9112, 3.2.2).
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => host.map(|host| host.to_str().unwrap_or("\\")),
    };
    if !hosts.allow(host.unwrap_or_default()) {
        return Err(Refusal::new(
            Code::HostNotAllowed,
            "Requests to this host name are not allowed; ALLOWED_HOSTS lists the allowed names",
        )
        .into());
    }
    Ok(next.run(request).await)
}
