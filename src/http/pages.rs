//! Pages, embedded in the binary: the demo at `/` and the API reference at `/api/docs`.
//!
//! npm builds and compresses them from `web/` before the binary is built. In a binary without them, their routes answer
//! with instructions.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use rust_embed::RustEmbed;

use super::document::JSON;
use super::files::{self, File};
use crate::middleware::ApiError;
use crate::protocol::{Code, Refusal};

#[derive(RustEmbed)]
#[folder = "web/dist/"]
#[allow_missing = true]
struct Dist;

/// Content security policy of a page: scripts of this service only. The libraries of pages set inline styles.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Content security policy of the demo, which also connects to other replicas on this machine.
const DEMO_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self' http://127.0.0.1:* http://localhost:*; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// All files of the pages, by name.
fn all() -> &'static HashMap<String, File> {
    static ALL: OnceLock<HashMap<String, File>> = OnceLock::new();
    ALL.get_or_init(|| {
        let bytes = |name: &str| {
            let file = Dist::get(name)?;
            Some(match file.data {
                std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                std::borrow::Cow::Owned(bytes) => bytes.into(),
            })
        };
        let compressed = |name: &str| name.ends_with(".gz") || name.ends_with(".br");
        let names = Dist::iter().filter(|name| !compressed(name));
        names
            .filter_map(|name| {
                let file = File::new(kind(&name), bytes(&name)?)
                    .with("br", bytes(&format!("{name}.br")))
                    .with("gzip", bytes(&format!("{name}.gz")));
                Some((name.into_owned(), file))
            })
            .collect()
    })
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        Some("woff2") => "font/woff2",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// Routes of the pages, with or without the demo.
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
}

/// Route of the OpenAPI document.
pub(super) fn openapi<S: Clone + Send + Sync + 'static>(document: String) -> Router<S> {
    let text = Bytes::from(document);
    let gzipped = files::gzip(&text);
    let document = Arc::new(File::new(JSON, text).with("gzip", gzipped));
    let answer = move |headers: HeaderMap| {
        let document = document.clone();
        async move { document.answer(&headers) }
    };
    Router::new().route("/api/openapi.json", get(answer))
}

fn page(headers: &HeaderMap, name: &str) -> Response {
    if !all().contains_key(name) {
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
    let Some(file) = all().get(name) else {
        return ApiError::from(Refusal::new(Code::NotFound, "There is no such file"))
            .into_response();
    };
    let mut response = file.answer(headers);
    let policy = if name == "index.html" {
        DEMO_POLICY
    } else {
        POLICY
    };
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
