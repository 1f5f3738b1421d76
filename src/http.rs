//! The public HTTP interface: REST, the OpenAPI document and the pages.
//!
//! Layer 5. Owns the router and the order of its layers; handlers only translate. Every answer, whichever
//! layer gives it, is the JSON envelope. A failure is logged here, once, with the request's id.

mod answer;
mod audit;
mod input;
mod limits;
mod locks;
pub mod ops;
mod pages;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::Method;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::request_id::{
    MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tracing::field::Empty;
use tracing::{Instrument, error, info_span, warn};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, RefOr, Required, Schema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::config::Origins;
use crate::limits::Limits;
use crate::locks::Locks;
use crate::protocol::{Code, Refusal};
use crate::store::Store;
use crate::telemetry::{self, Muffler, TRACE};

use answer::{Cause, Failure};
pub use input::client_of;
use limits::Forget;

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
    modifiers(&Bearer),
    security(("bearer" = [])),
    tags(
        (name = "locks", description = "One appointment, one holder."),
        (name = "audit", description = "For admins: what happened, and who holds what.")
    )
)]
struct Document;

/// Where tokens are asked for, this is how they come.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.bearer_format = Some("JWT".into());
        http.description = Some("Not asked for where AUTH_MODE is trusted.".into());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(http));
    }
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
    let (mut keeping, _) = keeping().split_for_parts();
    let (mut releasing, _) = releasing().split_for_parts();
    let mut forget = Vec::new();
    if let Some(rate) = web.limits.allowance().rate {
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

/// Says of each body that asks for no field that it may be left out: an empty one is `{}`.
fn mark_bodies(document: &mut utoipa::openapi::OpenApi) {
    let schemas = document.components.iter().flat_map(|it| &it.schemas);
    let free: Vec<String> = schemas
        .filter_map(|(name, schema)| match schema {
            RefOr::T(Schema::Object(fields)) if fields.required.is_empty() => {
                Some(format!("#/components/schemas/{name}"))
            }
            _ => None,
        })
        .collect();
    let operations = document
        .paths
        .paths
        .values_mut()
        .flat_map(|path| [&mut path.post, &mut path.delete]);
    for operation in operations.flatten() {
        let Some(RefOr::T(body)) = &mut operation.request_body else {
            continue;
        };
        let json = body.content.get(JSON);
        let refers = json.is_some_and(|json| match json {
            RefOr::T(Content {
                schema: Some(RefOr::Ref(to)),
                ..
            }) => free.contains(&to.ref_location),
            _ => false,
        });
        if refers {
            body.required = Some(Required::False);
        }
    }
}

/// The OpenAPI document, as JSON.
#[must_use]
pub fn openapi() -> String {
    let mut document = asking().merge(keeping()).merge(releasing()).into_openapi();
    mark_bodies(&mut document);
    let mut text = document
        .to_pretty_json()
        .expect("an OpenAPI document is strings and lists, which JSON can say");
    text.push('\n');
    text
}

/// The whole public interface but Socket.IO, which is a layer around it.
pub fn router(web: Web, stop: CancellationToken) -> Router {
    let document: Arc<str> = openapi().into();
    let json = [(CONTENT_TYPE, JSON)];
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
    .layer(middleware::from_fn(witness))
    .layer(PropagateRequestIdLayer::x_request_id())
    .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
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

/// The layer that answers for browsers whether a page of another origin may ask.
pub fn cors(origins: &Origins) -> CorsLayer {
    let allowed = match origins {
        Origins::All => AllowOrigin::any(),
        Origins::These(origins) => AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        ),
    };
    CorsLayer::new()
        .allow_origin(allowed)
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
    Failure::from(refusal).into_response()
}

/// Nobody waits longer than the deadline, whatever the database does.
async fn deadline(request: Request, next: Next) -> Result<Response, Failure> {
    tokio::time::timeout(DEADLINE, next.run(request))
        .await
        .map_err(|_| Refusal::new(Code::Unavailable, "The request took too long; try again").into())
}

/// Lines about requests that were put off.
static PUT_OFF: Muffler = Muffler::new();

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
async fn witness(request: Request, next: Next) -> Response {
    let method = known(request.method());
    let path = request.uri().path().to_owned();
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
    telemetry::goes_on_from_headers(&span, request.headers());
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
            if let Some(hidden) = PUT_OFF.speak() {
                warn!(%method, path, status, request_id, cause, hidden, "a request was put off: {method} {path}: {cause}");
            }
        } else {
            error!(%method, path, status, request_id, cause, "a request failed: {method} {path}: {cause}");
        }
    }
    response
}
