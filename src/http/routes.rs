//! Table of the API's routes. Owns which rate limit each route has, and which body: the middleware in front of a route
//! parses it if identities are trusted, since it then names the caller.
//!
//! The limits for keeping and for releasing one's own lease are separate from that of other requests, so that a limit
//! never costs anybody a lock.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::MethodRouter;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use super::document::Document;
use super::web::Web;
use super::{audit, demo, locks};
use crate::limits::Limits;
use crate::middleware::{Identification, RateLimit, identify};
use crate::protocol::{
    AcquireBody, DemoSaveBody, ForceReleaseBody, NamesCaller, NoBody, PositionBody, ReleaseBody,
    TakeOverBody, VerifyBody,
};

/// Interval between two sweeps of unused rate limits.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Rate limit that a route counts against.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// Releasing one's own lease.
    Release,
    /// Keeping one's own lease.
    Keep,
    /// All else.
    Request,
}

/// Middleware in front of the API's routes.
pub(super) struct Guard {
    identification: Arc<Identification>,
    rates: Option<Rates>,
}

#[derive(Clone)]
struct Rates {
    release: RateLimit,
    keep: RateLimit,
    request: RateLimit,
}

impl Guard {
    pub(super) fn new(web: &Web) -> Self {
        Self {
            identification: Arc::new(Identification {
                auth: web.auth.clone(),
                limits: web.limits.clone(),
            }),
            rates: web.limits.config().rate.map(|rate| Rates {
                release: RateLimit::new(rate, "release"),
                keep: RateLimit::new(rate, "keep"),
                request: RateLimit::new(rate, "request"),
            }),
        }
    }

    /// Identifies callers by a body `B` and limits their rate, in that order.
    fn wrap<B: NamesCaller>(
        &self,
        limit: Limit,
        mut methods: MethodRouter<Arc<Web>>,
    ) -> MethodRouter<Arc<Web>> {
        if let Some(rates) = &self.rates {
            let rate = match limit {
                Limit::Release => &rates.release,
                Limit::Keep => &rates.keep,
                Limit::Request => &rates.request,
            };
            methods = rate.apply(methods);
        }
        methods.layer(from_fn_with_state(
            self.identification.clone(),
            identify::<B>,
        ))
    }

    /// Discards unused rate limits every now and then, until `stop`.
    pub(super) fn sweep(&self, limits: Arc<Limits>, stop: CancellationToken) {
        let rates = self.rates.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                for Rates {
                    release,
                    keep,
                    request,
                } in &rates
                {
                    release.sweep();
                    keep.sweep();
                    request.sweep();
                }
                limits.sweep();
            }
        }));
    }
}

/// Routes of the API, with their part of the OpenAPI document. That document alone needs no guard.
pub(super) fn api(guard: Option<&Guard>) -> OpenApiRouter<Arc<Web>> {
    use Limit::{Keep, Release, Request};
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(route::<NoBody>(guard, Request, routes!(locks::lock_status)))
        .routes(route::<AcquireBody>(
            guard,
            Request,
            routes!(locks::acquire_lock),
        ))
        .routes(route::<ForceReleaseBody>(
            guard,
            Request,
            routes!(locks::force_release_lock),
        ))
        .routes(route::<TakeOverBody>(
            guard,
            Request,
            routes!(locks::take_over),
        ))
        .routes(route::<VerifyBody>(guard, Request, routes!(locks::verify)))
        .routes(route::<NoBody>(guard, Request, routes!(audit::history)))
        .routes(route::<NoBody>(guard, Request, routes!(audit::locks)))
        .routes(route::<PositionBody>(
            guard,
            Keep,
            routes!(locks::update_position),
        ))
        .routes(route::<ReleaseBody>(
            guard,
            Release,
            routes!(locks::release_lock, locks::release_lock_by_beacon),
        ))
}

/// Routes of the demo page, which are in no document.
pub(super) fn demo(guard: &Guard) -> Router<Arc<Web>> {
    Router::new()
        .route(
            "/demo/info",
            guard.wrap::<NoBody>(Limit::Request, demo::info()),
        )
        .route(
            "/demo/records/{id}",
            guard.wrap::<DemoSaveBody>(Limit::Request, demo::record()),
        )
}

fn route<B: NamesCaller>(
    guard: Option<&Guard>,
    limit: Limit,
    (schemas, paths, methods): UtoipaMethodRouter<Arc<Web>>,
) -> UtoipaMethodRouter<Arc<Web>> {
    let methods = match guard {
        Some(guard) => guard.wrap::<B>(limit, methods),
        None => methods,
    };
    (schemas, paths, methods)
}

#[cfg(test)]
mod tests {
    use super::super::document;

    #[test]
    fn every_id_has_its_schema() {
        let document = document::of(super::api(None).into_openapi(), false);
        assert!(!document.contains(r#""format": "id""#));
    }
}
