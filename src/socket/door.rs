//! What comes for Socket.IO, before it does. Owns who is let in at all: pages of allowed origins, new sessions
//! within their budget and not during a stop, and message bodies that end in time. Also notes on which
//! connection an upgraded session goes on. Whoever is refused hears why, in the usual envelope.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::Hub;
use crate::auth::Auth;
use crate::http;
use crate::lines::Line;
use crate::protocol::{Code, Refusal};

/// Looks at what comes for Socket.IO before it does: pages of other origins are sent away, since no other
/// rule of browsers keeps them from WebSockets; and an upgraded session's connection is noted, so that it can
/// be hung up.
pub async fn at_the_door(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with("/socket.io") {
        // Where bodies say who it is, a page that somebody happens to visit could act for them.
        let acts = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        if acts
            && matches!(hub.auth, Auth::Trusted)
            && let Err(refusal) = of_a_page_that_may(&hub, &request)
        {
            return http::refuse(refusal);
        }
        return next.run(request).await;
    }
    if let Err(refusal) = look_at(&hub, &request) {
        return http::refuse(refusal);
    }
    if request.method() != Method::POST {
        let named = session_named(&request).map(str::to_owned);
        let line = request.extensions().get::<Line>().cloned();
        // A poll waits for an event, and a WebSocket for its end.
        let response = next.run(request).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let (Some(name), Some(line)) = (named, line)
        {
            hub.upgrades.note(&name, &line);
        }
        return response;
    }
    tokio::time::timeout(http::DEADLINE, next.run(request))
        .await
        .unwrap_or_else(|_| http::refuse(http::late_body()))
}

/// The session that a request of Socket.IO goes on with.
fn session_named(request: &Request) -> Option<&str> {
    let query = request.uri().query()?;
    query.split('&').find_map(|part| part.strip_prefix("sid="))
}

/// Browsers name the origin of the page that asks; other clients name none.
fn of_a_page_that_may(hub: &Hub, request: &Request) -> Result<(), Refusal> {
    let mut origins = request.headers().get_all(ORIGIN).iter();
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let may = match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => origin
            .to_str()
            .is_ok_and(|origin| hub.origins.allow(origin, host)),
        (Some(_), Some(_)) => false,
    };
    if may {
        return Ok(());
    }
    Err(Refusal::new(
        Code::OriginNotAllowed,
        "Pages of this origin may not ask this; CORS_ALLOWED_ORIGINS names those that may",
    ))
}

fn look_at(hub: &Hub, request: &Request) -> Result<(), Refusal> {
    of_a_page_that_may(hub, request)?;
    if session_named(request).is_none() {
        // Who comes anew would only be sent away again: this is an answer after which clients try elsewhere.
        if hub.closing.load(Ordering::Relaxed) {
            return Err(Refusal::new(Code::Unavailable, "This replica is stopping"));
        }
        let address = http::client_of(request.headers(), request.extensions(), &hub.limits);
        hub.limits.connect(address)?;
    }
    Ok(())
}
