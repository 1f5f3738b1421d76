//! Whom a request was sent to. Owns that a page which has pointed a name of its own at this service (DNS rebinding)
//! is refused where identities are trusted: a browser then sends the page's name as `Host`, which is not allowed.
//!
//! Also owns that there is one `Host` at most: of two, whoever stands in front may have read the other (RFC 9112,
//! 3.2).

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::Response;

use super::refuse;
use crate::limits::Hosts;
use crate::protocol::{Code, Refusal};

/// Refuses what was sent to somebody else.
pub async fn allowed_hosts(
    State(hosts): State<std::sync::Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    let mut named = request.headers().get_all(HOST).iter();
    let (host, more) = (named.next(), named.next());
    if more.is_some() {
        let fault = "The request has more than one Host header";
        return refuse(Refusal::new(Code::Malformed, fault));
    }
    // The target may name the host too, and then counts (RFC 9112, 3.2.2).
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => host.map(|host| host.to_str().unwrap_or("\\")),
    };
    if !hosts.allow(host.unwrap_or_default()) {
        return refuse(Refusal::new(
            Code::HostNotAllowed,
            "This service may not be called by that name; ALLOWED_HOSTS names those that it may",
        ));
    }
    next.run(request).await
}
