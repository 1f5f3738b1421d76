//! The public HTTP interface: REST, the OpenAPI document and the pages.
//!
//! Layer 5. Owns the router and the order of its layers; handlers only translate. Every answer, whichever
//! layer gives it, is the JSON envelope. A failure is logged here, once, with the request's id.

mod answer;
mod audit;
mod deadline;
mod demo;
mod document;
mod examples;
mod files;
mod hosts;
mod input;
mod limits;
mod locks;
pub mod ops;
mod pages;
mod parameters;
mod request_log;
mod responses;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::limits::{Limits, Origins};
use crate::locks::Locks;
use crate::protocol::{Code, Refusal};
use crate::store::Store;

use answer::ApiError;
use deadline::deadline;
pub use deadline::late_body;
use document::Document;
pub use hosts::allowed_hosts;
pub use input::{client_of, collect, unread_body};
use limits::Forget;
use request_log::{named, request_log};

const JSON: &str = "application/json";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The largest body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;
/// Between two times that those who have not asked for a while are forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// How long a request may take, its body's arrival included.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What the handlers need.
#[derive(Clone)]
pub struct Web {
    /// The lock operations.
    pub locks: Locks,
    /// What is only read.
    pub store: Store,
    /// Who asks.
    pub auth: Auth,
    /// How often.
    pub limits: Arc<Limits>,
    /// Whether a caller's traceparent decides about sampling.
    pub trust_callers: bool,
    /// Whether pages are served at all.
    pub pages: bool,
    /// Whether the demo page is served at `/`.
    pub demo: bool,
}

/// What ends one's own lease.
fn releasing() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new().routes(routes!(locks::release_lock, locks::release_lock_by_beacon))
}

/// What keeps one's own lease.
fn keeping() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new().routes(routes!(locks::update_position))
}

/// All else.
fn asking() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(locks::lock_status))
        .routes(routes!(locks::acquire_lock))
        .routes(routes!(locks::force_release_lock))
        .routes(routes!(locks::take_over))
        .routes(routes!(locks::verify))
        .routes(routes!(audit::history))
        .routes(routes!(audit::locks))
}

/// The routes of the API, each behind its budget and behind who asks; and what forgets old budgets.
fn api(web: &Arc<Web>) -> (Router<Arc<Web>>, Vec<Forget>) {
    let (mut asking, _) = asking().split_for_parts();
    if web.demo {
        asking = asking.merge(demo::router());
    }
    let (mut keeping, _) = keeping().split_for_parts();
    let (mut releasing, _) = releasing().split_for_parts();
    let mut forget = Vec::new();
    if let Some(rate) = web.limits.config().rate {
        for (routes, kind) in [
            (&mut asking, "request"),
            (&mut keeping, "keep"),
            (&mut releasing, "release"),
        ] {
            let (limited, forgets) = limits::limited(std::mem::take(routes), rate, kind);
            *routes = limited;
            forget.push(forgets);
        }
    }
    // Who asks is read once, before anything else looks at the request.
    let identify = middleware::from_fn_with_state(web.clone(), input::identify);
    let routes = asking.merge(keeping).merge(releasing);
    (routes.route_layer(identify), forget)
}

/// The OpenAPI document of a replica that asks for tokens, as JSON.
#[must_use]
pub fn openapi() -> String {
    document::of(false)
}

/// The whole public interface but Socket.IO, which is a layer around it.
pub fn router(web: Web, stop: CancellationToken) -> Router {
    let web = Arc::new(web);
    let (api, forget) = api(&web);
    let limits = web.limits.clone();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(FORGET).await;
            forget.iter().for_each(|forget| forget());
            limits.sweep();
        }
    }));
    let mut open = pages::openapi(matches!(web.auth, Auth::Trusted));
    if web.pages {
        open = open.merge(pages::router(web.demo));
    }
    open.fallback(|| async {
        ApiError::from(Refusal::new(
            Code::NotFound,
            "There is no such route; /api/openapi.json lists them",
        ))
    })
    .layer(middleware::from_fn_with_state(
        web.clone(),
        input::open_to_all,
    ))
    .merge(api)
    .method_not_allowed_fallback(|| async {
        ApiError::from(Refusal::new(
            Code::MethodNotAllowed,
            "This route has no such method; /api/openapi.json lists them",
        ))
    })
    .layer(CatchPanicLayer::custom(answer::panicked))
    .layer(middleware::from_fn(deadline))
    .layer(middleware::from_fn_with_state(web.clone(), request_log))
    .layer(PropagateRequestIdLayer::x_request_id())
    .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
    .layer(middleware::map_request(named))
    .with_state(web)
}

/// What browsers are told of every answer: it is what it says it is, nobody frames it, and where it says
/// nothing of caches it is not kept.
pub async fn safe_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let set = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let unless_said = [
        (CACHE_CONTROL, "no-store"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in unless_said {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The layer that answers for browsers whether a page of another origin may ask. Where origins are written out their
/// pages may send cookies: this service has none, but a balancer's cookie leads a polling session to its replica.
pub fn cors(origins: &Origins) -> CorsLayer {
    let layer = CorsLayer::new();
    let layer = match origins {
        Origins::All => layer.allow_origin(AllowOrigin::any()),
        Origins::These(origins) => {
            let listed = origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok());
            layer
                .allow_origin(AllowOrigin::list(listed))
                .allow_credentials(true)
        }
        Origins::ThisMachine => layer
            .allow_origin(AllowOrigin::predicate(|origin, _| {
                origin.to_str().is_ok_and(Origins::is_this_machine)
            }))
            .allow_credentials(true),
    };
    layer
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, X_REQUEST_ID])
        .expose_headers([
            RETRY_AFTER,
            X_REQUEST_ID,
            HeaderName::from_static("ratelimit-limit"),
            HeaderName::from_static("ratelimit-remaining"),
            HeaderName::from_static("ratelimit-reset"),
        ])
        .max_age(Duration::from_secs(3600))
}

/// A refusal as an answer, for layers around the router.
pub fn refuse(refusal: Refusal) -> Response {
    ApiError::from(refusal).into_response()
}
