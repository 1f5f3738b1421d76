//! Rate limits of requests. Owns the two budgets: one for what keeps or ends one's own lease, so that a limit
//! never costs anyone a lock, and one for all else; and how a limit looks to the client.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use governor::middleware::StateInformationMiddleware;
use tower_governor::GovernorLayer;
use tower_governor::errors::GovernorError;
use tower_governor::governor::{GovernorConfigBuilder, SharedRateLimiter};
use tower_governor::key_extractor::KeyExtractor;

use super::answer::ApiError;
use crate::limits::{Rate, RateLimitKey, count_rejection};
use crate::protocol::{Code, Refusal};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Who asks, as `input::identify` has read it.
#[derive(Debug, Clone, Copy)]
struct ByRateLimitKey;

impl KeyExtractor for ByRateLimitKey {
    type Key = RateLimitKey;

    fn extract<T>(&self, request: &Request<T>) -> Result<RateLimitKey, GovernorError> {
        let key = request.extensions().get::<RateLimitKey>().cloned();
        key.ok_or(GovernorError::UnableToExtractKey)
    }
}

/// Forgets those who have not asked for a while.
pub(super) type Forget = Arc<dyn Fn() + Send + Sync>;

/// Lays a budget of its own around those routes.
pub(super) fn limited<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    rate: Rate,
    kind: &'static str,
) -> (Router<S>, Forget) {
    let config = GovernorConfigBuilder::default()
        .period(Duration::from_secs(1) / rate.per_second.get())
        .burst_size(rate.burst.get())
        .key_extractor(ByRateLimitKey)
        .use_headers()
        .finish()
        .expect("neither the period nor the burst is zero");
    let limiter: SharedRateLimiter<RateLimitKey, StateInformationMiddleware> =
        config.limiter().clone();
    let layer: GovernorLayer<ByRateLimitKey, StateInformationMiddleware, Body> =
        GovernorLayer::new(config).error_handler(move |error| refuse(&error, kind));
    let routes = routes
        .route_layer(layer)
        .route_layer(axum::middleware::map_response(move |response| {
            std::future::ready(in_standard_words(response, rate))
        }));
    (routes, Arc::new(move || limiter.retain_recent()))
}

fn refuse(error: &GovernorError, kind: &'static str) -> Response<Body> {
    let GovernorError::TooManyRequests { wait_time, headers } = error else {
        return ApiError::from(Refusal::new(
            Code::Internal,
            "A request without a rate limit key",
        ))
        .into_response();
    };
    count_rejection(kind);
    // Whole seconds, of which the first has begun.
    let wait = wait_time.saturating_add(1);
    let message = format!("Too many requests; try again in {wait} s");
    let mut response = ApiError::from(Refusal::new(Code::RateLimited, message)).into_response();
    if let Some(headers) = headers {
        response.headers_mut().extend(headers.clone());
    }
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(wait));
    response
}

/// The headers of the IETF's draft on rate limits, in the place of the library's own.
fn in_standard_words(mut response: Response<Body>, rate: Rate) -> Response<Body> {
    let headers = response.headers_mut();
    let number = |value: Option<HeaderValue>| -> Option<u32> { value?.to_str().ok()?.parse().ok() };
    headers.remove("x-ratelimit-after");
    headers.remove("x-ratelimit-limit");
    if let Some(remaining) = number(headers.remove("x-ratelimit-remaining")) {
        let spent = rate.burst.get().saturating_sub(remaining);
        headers.insert(LIMIT, HeaderValue::from(rate.burst.get()));
        headers.insert(REMAINING, HeaderValue::from(remaining));
        headers.insert(
            RESET,
            HeaderValue::from(spent.div_ceil(rate.per_second.get())),
        );
    }
    response
}
