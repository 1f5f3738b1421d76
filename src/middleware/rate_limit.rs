//! Rate limits of requests. Owns the token buckets of API requests, one per caller, and the `RateLimit-*` headers; the
//! buckets of open routes, one per address, are in [`Limits`].
//!
//! The key is that of `identity`, which must be in front. A request over its limit is counted, and answered with
//! `RATE_LIMITED` and `Retry-After`.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use axum::middleware::{Next, map_response};
use axum::response::IntoResponse;
use axum::routing::MethodRouter;
use governor::middleware::StateInformationMiddleware;
use tower_governor::GovernorLayer;
use tower_governor::errors::GovernorError;
use tower_governor::governor::{GovernorConfig, GovernorConfigBuilder};
use tower_governor::key_extractor::KeyExtractor;

use super::api_error::ApiError;
use super::client_address::client_address;
use crate::limits::{Limits, Rate, RateLimitKey, count_rejection};
use crate::protocol::{Code, Refusal};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Reads the key that `identity` left in the request's extensions.
#[derive(Debug, Clone, Copy)]
struct KeyFromExtensions;

impl KeyExtractor for KeyFromExtensions {
    type Key = RateLimitKey;

    fn extract<T>(&self, request: &axum::http::Request<T>) -> Result<RateLimitKey, GovernorError> {
        let key = request.extensions().get::<RateLimitKey>().cloned();
        key.ok_or(GovernorError::UnableToExtractKey)
    }
}

/// Rate limit that one or more routes share. Cheap to clone.
#[derive(Clone)]
pub struct RateLimit {
    rate: Rate,
    kind: &'static str,
    config: Arc<GovernorConfig<KeyFromExtensions, StateInformationMiddleware>>,
}

impl RateLimit {
    /// Rate limit of that rate. `kind` is the label of its rejections in the metrics.
    #[must_use]
    pub fn new(rate: Rate, kind: &'static str) -> Self {
        let config = GovernorConfigBuilder::default()
            .period(Duration::from_secs(1) / rate.per_second.get())
            .burst_size(rate.burst.get())
            .key_extractor(KeyFromExtensions)
            .use_headers()
            .finish()
            .expect("neither the period nor the burst is zero");
        Self {
            rate,
            kind,
            config: Arc::new(config),
        }
    }

    /// Limits the methods of a route.
    pub fn apply<S: Clone + Send + Sync + 'static>(
        &self,
        methods: MethodRouter<S>,
    ) -> MethodRouter<S> {
        let (rate, kind) = (self.rate, self.kind);
        let layer: GovernorLayer<KeyFromExtensions, StateInformationMiddleware, Body> =
            GovernorLayer::new(self.config.clone())
                .error_handler(move |error| refuse(&error, kind));
        methods.layer(layer).layer(map_response(move |response| {
            ready(standard_headers(response, rate))
        }))
    }

    /// Discards the buckets of callers that have sent no request for a while.
    pub fn sweep(&self) {
        self.config.limiter().retain_recent();
    }
}

/// Limits routes that need no identity, by the client's address.
///
/// # Errors
/// `RATE_LIMITED`.
pub async fn limit_by_address(
    State(limits): State<Arc<Limits>>,
    request: Request,
    next: Next,
) -> Result<axum::response::Response, ApiError> {
    let address = client_address(request.headers(), request.extensions(), &limits);
    limits.open(address)?;
    Ok(next.run(request).await)
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
    // The library rounds down to whole seconds.
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

/// Replaces the library's own headers by those of the IETF draft on rate limits.
fn standard_headers(mut response: Response<Body>, rate: Rate) -> Response<Body> {
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
