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

/// Interval between two sweeps of rate limits.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

type Route = UtoipaMethodRouter<Arc<Web>>;

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

    /// Puts identification in front of a route whose body is a `B`, and its rate limit behind that.
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

    /// Discards the buckets of idle callers every now and then, until `stop`.
    pub(super) fn sweep(&self, limits: Arc<Limits>, stop: CancellationToken) {
        let rates = self.rates.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                if let Some(rates) = &rates {
                    rates.release.sweep();
                    rates.keep.sweep();
                    rates.request.sweep();
                }
                limits.sweep();
            }
        }));
    }
}

/// Routes of the API, with their part of the OpenAPI document. That document alone needs no guard.
pub(super) fn api(guard: Option<&Guard>) -> OpenApiRouter<Arc<Web>> {
    let router = OpenApiRouter::with_openapi(Document::openapi());
    Table { guard, router }
        .request::<NoBody>(routes!(locks::lock_status))
        .request::<AcquireBody>(routes!(locks::acquire_lock))
        .request::<ForceReleaseBody>(routes!(locks::force_release_lock))
        .request::<TakeOverBody>(routes!(locks::take_over))
        .request::<VerifyBody>(routes!(locks::verify))
        .request::<NoBody>(routes!(audit::history))
        .request::<NoBody>(routes!(audit::locks))
        .keep::<PositionBody>(routes!(locks::update_position))
        .release::<ReleaseBody>(routes!(locks::release_lock, locks::release_lock_by_beacon))
        .router
}

/// Routes of the demo page, which are in no document.
pub(super) fn demo(guard: &Guard) -> Router<Arc<Web>> {
    let info = guard.wrap::<NoBody>(Limit::Request, demo::info());
    let record = guard.wrap::<DemoSaveBody>(Limit::Request, demo::record());
    Router::new()
        .route("/demo/info", info)
        .route("/demo/records/{id}", record)
}

/// The routes so far. Each is added by the name of its limit, and with the type of its body.
struct Table<'a> {
    guard: Option<&'a Guard>,
    router: OpenApiRouter<Arc<Web>>,
}

impl Table<'_> {
    fn request<B: NamesCaller>(self, route: Route) -> Self {
        self.add::<B>(Limit::Request, route)
    }

    fn keep<B: NamesCaller>(self, route: Route) -> Self {
        self.add::<B>(Limit::Keep, route)
    }

    fn release<B: NamesCaller>(self, route: Route) -> Self {
        self.add::<B>(Limit::Release, route)
    }

    fn add<B: NamesCaller>(self, limit: Limit, (schemas, paths, methods): Route) -> Self {
        let methods = match self.guard {
            Some(guard) => guard.wrap::<B>(limit, methods),
            None => methods,
        };
        Self {
            router: self.router.routes((schemas, paths, methods)),
            ..self
        }
    }
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
