//! The public HTTP interface: REST, the OpenAPI document and the pages.
//!
//! Layer 5. Owns the router and the order of its layers; handlers only translate. Every answer, whichever
//! layer gives it, is the JSON envelope. A failure is logged here, once, with the request's id.

mod answer;
mod input;
mod locks;
pub mod ops;
mod pages;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{
    MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tracing::{error, warn};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::locks::Locks;
use crate::protocol::{Code, Refusal};

use answer::{Cause, Failure};

/// The largest body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;
/// How long a request may take, its body's arrival included.
const DEADLINE: Duration = Duration::from_secs(5);

/// What the handlers need.
#[derive(Clone)]
pub struct Web {
    /// The lock operations.
    pub locks: Locks,
    /// Who asks.
    pub auth: Auth,
    /// Whether the demo page is served at `/`.
    pub demo: bool,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "apptlock",
        description = "Edit locks on records, with live cursors. Socket.IO events at `/socket.io` tell every change.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(name = "apptlock")
    ),
    tags((name = "locks", description = "One appointment, one holder."))
)]
struct Document;

fn api() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(locks::lock_status))
        .routes(routes!(locks::acquire_lock))
        .routes(routes!(locks::release_lock, locks::release_lock_by_beacon))
        .routes(routes!(locks::force_release_lock))
        .routes(routes!(locks::take_over))
        .routes(routes!(locks::update_position))
        .routes(routes!(locks::verify))
}

/// The OpenAPI document, as JSON.
#[must_use]
pub fn openapi() -> String {
    let document = api().into_openapi();
    let mut text = document
        .to_pretty_json()
        .expect("an OpenAPI document is strings and lists, which JSON can say");
    text.push('\n');
    text
}

/// The whole public interface but Socket.IO, which is a layer around it.
pub fn router(web: Web) -> Router {
    let document: Arc<str> = openapi().into();
    let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
    let (api, _) = api().split_for_parts();
    let web = Arc::new(web);
    // Who asks is read once, before anything else looks at the request.
    let api = api.route_layer(middleware::from_fn_with_state(web.clone(), input::identify));
    api.route(
        "/api/openapi.json",
        get(move || async move { (json, document.to_string()) }),
    )
    .merge(pages::router(web.demo))
    .fallback(|| async {
        Failure::from(Refusal::new(
            Code::NotFound,
            "There is no such route; /api/docs lists them",
        ))
    })
    .method_not_allowed_fallback(|| async {
        Failure::from(Refusal::new(
            Code::MethodNotAllowed,
            "This route has no such method; /api/docs lists them",
        ))
    })
    .layer(DefaultBodyLimit::max(MAX_BODY))
    .layer(CatchPanicLayer::custom(answer::panicked))
    .layer(middleware::from_fn(deadline))
    .layer(middleware::from_fn(log_failures))
    .layer(PropagateRequestIdLayer::x_request_id())
    .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
    .with_state(web)
}

/// Nobody waits longer than the deadline, whatever the database does.
async fn deadline(request: Request, next: Next) -> Result<Response, Failure> {
    tokio::time::timeout(DEADLINE, next.run(request))
        .await
        .map_err(|_| Refusal::new(Code::Unavailable, "The request took too long; try again").into())
}

/// The one place where a failed request is logged.
async fn log_failures(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let id = request.extensions().get::<RequestId>().cloned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    if status >= 500 {
        let request_id = id
            .as_ref()
            .and_then(|id| id.header_value().to_str().ok())
            .unwrap_or_default();
        let cause = response
            .extensions()
            .get::<Cause>()
            .map_or("none given", |cause| cause.0.as_str());
        if status == 503 {
            warn!(%method, path, status, request_id, cause, "a request was put off: {method} {path}: {cause}");
        } else {
            error!(%method, path, status, request_id, cause, "a request failed: {method} {path}: {cause}");
        }
    }
    response
}
