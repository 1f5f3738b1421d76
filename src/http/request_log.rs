//! What is known of each request when it is over. Owns that it is counted, timed and traced here and nowhere else,
//! also where its client has hung up, and that a failed one is logged, once, with its id and its cause.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;
use tracing::field::Empty;
use tracing::{Instrument, error, info_span, warn};

use super::answer::Cause;
use super::{Web, X_REQUEST_ID};
use crate::telemetry::{self, LogThrottle, TRACE};

/// The longest id of a request that is taken, in bytes.
const LONGEST_ID: usize = 128;
/// How much of a path is told, in bytes: more than any route of ours has. The rest would fill logs and traces.
const LONGEST_PATH: usize = 1024;

/// A request whose `x-request-id`, if it has one, is fit to be told: short, and visible ASCII. Another one is taken
/// off, and a new one made.
pub(super) async fn named(mut request: Request) -> Request {
    let fit = |id: &HeaderValue| {
        let bytes = id.as_bytes();
        (1..=LONGEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    if !request.headers().get(X_REQUEST_ID).is_some_and(fit) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Lines about requests that were put off.
static PUT_OFF: LogThrottle = LogThrottle::new();

/// What nobody waits for any more, in the place of a status: as other servers have it.
const GIVEN_UP: u16 = 499;

/// A request that is being answered. It counts when it ends, also where its client has hung up.
struct Counted {
    since: Instant,
    method: &'static str,
    route: String,
    status: u16,
}

impl Counted {
    fn begin(method: &'static str, route: &str) -> Self {
        metrics::gauge!(telemetry::HTTP_IN_FLIGHT).increment(1.0);
        Self {
            since: Instant::now(),
            method,
            route: route.to_owned(),
            status: GIVEN_UP,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::HTTP_IN_FLIGHT).decrement(1.0);
        let (method, route) = (self.method, std::mem::take(&mut self.route));
        metrics::counter!(telemetry::HTTP_REQUESTS, "method" => method, "route" => route.clone(),
            "status" => self.status.to_string())
        .increment(1);
        metrics::histogram!(telemetry::HTTP_DURATION, "method" => method, "route" => route)
            .record(self.since.elapsed().as_secs_f64());
    }
}

/// A method as a label: a client may name any.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}

/// The one place where requests are counted, timed and traced, and where a failed one is logged.
pub(super) async fn request_log(
    State(web): State<Arc<Web>>,
    request: Request,
    next: Next,
) -> Response {
    let method = known(request.method());
    // A URI is ASCII, so it can be cut anywhere.
    let path = request.uri().path();
    let path = path[..path.len().min(LONGEST_PATH)].to_owned();
    let id = request.extensions().get::<RequestId>().cloned();
    let request_id = id
        .as_ref()
        .and_then(|id| id.header_value().to_str().ok())
        .unwrap_or_default();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let span = info_span!(
        target: TRACE, "request", otel.name = %format_args!("{method} {route}"), otel.kind = "server",
        http.request.method = method, http.route = route, url.path = path, request_id,
        http.response.status_code = Empty, otel.status_code = Empty,
    );
    telemetry::goes_on_from_headers(&span, request.headers(), web.trust_callers);
    let mut counted = Counted::begin(method, route);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    counted.status = status;
    drop(counted);
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
        let _within = span.enter();
        let cause = response
            .extensions()
            .get::<Cause>()
            .map_or("none given", |cause| cause.0.as_str());
        if status == 503 {
            // While PostgreSQL is away every request comes here: one line a second says as much.
            if let Some(hidden) = PUT_OFF.allow() {
                warn!(%method, path, status, request_id, cause, hidden, "a request was put off: {method} {path}: {cause}");
            }
        } else {
            error!(%method, path, status, request_id, cause, "a request failed: {method} {path}: {cause}");
        }
    }
    response
}
