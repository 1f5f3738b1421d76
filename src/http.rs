//! Public REST interface, its OpenAPI document, and the pages.
//!
//! Layer 5. Owns the router and the order of its middleware; handlers only translate. Every answer, a middleware's
//! included, is the JSON envelope.

mod audit;
mod demo;
mod document;
mod examples;
mod files;
mod input;
mod locks;
pub mod ops;
mod pages;
mod parameters;
mod responses;
mod routes;
mod web;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state, map_request};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

use crate::auth::Auth;
use crate::middleware::{
    ApiError, RequestLog, deadline, discard_invalid_request_id, limit_by_address, panicked,
    request_log,
};
use crate::protocol::{Code, Refusal};

use routes::Guard;
pub use web::Web;

/// The OpenAPI document as JSON, as a replica that requires tokens serves it.
#[must_use]
pub fn openapi() -> String {
    document::of(routes::api(None).into_openapi(), false)
}

/// The whole public interface except Socket.IO, which is a layer around it. `stop` ends the sweeps of its rate limits.
pub fn router(web: Web, stop: CancellationToken) -> Router {
    let web = Arc::new(web);
    let guard = Guard::new(&web);
    guard.sweep(web.limits.clone(), stop);
    let (mut api, document) = routes::api(Some(&guard)).split_for_parts();
    if web.demo {
        api = api.merge(routes::demo(&guard));
    }
    let trusted = matches!(web.auth, Auth::Trusted);
    let mut open = pages::openapi(document::of(document, trusted));
    if web.pages {
        open = open.merge(pages::router(web.demo));
    }
    let log = RequestLog {
        trust_callers: web.trust_callers,
    };
    open.fallback(|| async {
        ApiError::from(Refusal::new(
            Code::NotFound,
            "There is no such route; /api/openapi.json lists them",
        ))
    })
    .layer(from_fn_with_state(web.limits.clone(), limit_by_address))
    .merge(api)
    .method_not_allowed_fallback(|| async {
        ApiError::from(Refusal::new(
            Code::MethodNotAllowed,
            "This route has no such method; /api/openapi.json lists them",
        ))
    })
    .layer(CatchPanicLayer::custom(panicked))
    .layer(from_fn(deadline))
    .layer(from_fn_with_state(log, request_log))
    .layer(PropagateRequestIdLayer::x_request_id())
    .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
    .layer(map_request(discard_invalid_request_id))
    .with_state(web)
}
