//! The pages, from the binary: the demo at `/` and the API's documentation at `/api/docs`.
//!
//! They are built from `web/` by npm before the binary is; without that build there is a line that says how.

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use rust_embed::RustEmbed;
use tower_http::compression::CompressionLayer;

use super::answer::Failure;
use crate::protocol::{Code, Refusal};

#[derive(RustEmbed)]
#[folder = "web/dist/"]
#[allow_missing = true]
struct Dist;

/// A page's own scripts and nothing else. Its libraries set styles in place.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The demo also looks for its other replicas on this machine.
const DEMO_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self' http://127.0.0.1:* http://localhost:*; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The pages' routes; the demo only where it is wanted.
pub(super) fn router<S: Clone + Send + Sync + 'static>(demo: bool) -> Router<S> {
    let home = if demo {
        get(|headers: HeaderMap| async move { page(&headers, "index.html") })
    } else {
        get(|| async { Redirect::temporary("/api/docs") })
    };
    Router::new()
        .route("/", home)
        .route(
            "/api/docs",
            get(|headers: HeaderMap| async move { page(&headers, "docs.html") }),
        )
        .route(
            "/assets/{*path}",
            get(|Path(path): Path<String>, headers: HeaderMap| async move {
                file(&headers, &format!("assets/{path}"))
            }),
        )
        .layer(CompressionLayer::new())
}

fn page(headers: &HeaderMap, name: &str) -> Response {
    if Dist::get(name).is_none() {
        let text = "This binary was built without its pages: run `make web`, then build again.\n";
        return (
            StatusCode::NOT_FOUND,
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            text,
        )
            .into_response();
    }
    file(headers, name)
}

fn file(headers: &HeaderMap, name: &str) -> Response {
    let Some(file) = Dist::get(name) else {
        return Failure::from(Refusal::new(Code::NotFound, "There is no such file"))
            .into_response();
    };
    let tag: String = file
        .metadata
        .sha256_hash()
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let tag = format!("\"{tag}\"");
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("woff2") => "font/woff2",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    };
    // Names do not change with content, so a browser asks each time and mostly hears "not modified".
    let common = [
        (ETAG, tag.as_str()),
        (CACHE_CONTROL, "no-cache"),
        (
            CONTENT_SECURITY_POLICY,
            if name == "index.html" {
                DEMO_POLICY
            } else {
                POLICY
            },
        ),
    ];
    let weak = format!("W/{tag}");
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|known| *known == tag || *known == weak);
    if known {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(CONTENT_TYPE, kind)], file.data.into_owned()).into_response()
}
