//! Metrics, traces and log lines of requests. Owns that each request is counted, timed and traced once, also if its
//! client hangs up, and that a failure is logged once, with the request's id and its cause.
//!
//! A 500 is an error. A 503 is a warning, of which one per second is logged: during an outage of PostgreSQL every
//! request ends so.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;
use tracing::field::Empty;
use tracing::{Instrument, error, info_span, warn};

use super::api_error::Cause;
use crate::telemetry::{self, LogThrottle, TRACE};

/// Maximum length of a path in logs and traces, in bytes: longer than that of any route.
const MAX_PATH: usize = 1024;
/// Status label of a request whose client closed the connection before the response, as other servers have it.
const CLIENT_CLOSED: u16 = 499;

/// Log lines about requests answered with 503.
static UNAVAILABLE: LogThrottle = LogThrottle::new();

/// State of [`request_log`].
#[derive(Debug, Clone, Copy)]
pub struct RequestLog {
    /// True if the caller's `traceparent` decides about sampling.
    pub trust_callers: bool,
}

/// Request in progress. It is counted when dropped, which includes a client that hangs up.
struct InProgress {
    since: Instant,
    method: &'static str,
    route: String,
    status: u16,
}

impl InProgress {
    fn begin(method: &'static str, route: &str) -> Self {
        metrics::gauge!(telemetry::HTTP_IN_FLIGHT).increment(1.0);
        Self {
            since: Instant::now(),
            method,
            route: route.to_owned(),
            status: CLIENT_CLOSED,
        }
    }
}

impl Drop for InProgress {
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

/// Method as a label. Methods are the client's choice, labels are not.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}

/// Counts, times and traces a request, and logs it if it fails.
pub async fn request_log(
    State(config): State<RequestLog>,
    request: Request,
    next: Next,
) -> Response {
    let method = label(request.method());
    // A URI is ASCII, so it can be cut anywhere.
    let path = request.uri().path();
    let path = path[..path.len().min(MAX_PATH)].to_owned();
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
    telemetry::goes_on_from_headers(&span, request.headers(), config.trust_callers);
    let mut in_progress = InProgress::begin(method, route);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    in_progress.status = status;
    drop(in_progress);
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
        let _within = span.enter();
        let cause = response
            .extensions()
            .get::<Cause>()
            .map_or("unknown", |cause| cause.0.as_str());
        if status == 503 {
            if let Some(hidden) = UNAVAILABLE.allow() {
                warn!(%method, path, status, request_id, cause, hidden, "a request was answered with 503: {method} {path}: {cause}");
            }
        } else {
            error!(%method, path, status, request_id, cause, "a request failed: {method} {path}: {cause}");
        }
    }
    response
}
