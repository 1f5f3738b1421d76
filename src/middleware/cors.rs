//! Cross-origin resource sharing: what browsers let pages of other origins read. Owns the allowed methods and headers;
//! [`Origins`] decides which origins are allowed. A browser withholds the answer from a page of any other origin.

use std::time::Duration;

use axum::http::Method;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::request_id::X_REQUEST_ID;
use crate::limits::Origins;

/// Time for which browsers may cache the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// CORS layer. Pages of listed origins may send cookies: this service sets none, but a load balancer's cookie leads a
/// polling session to its replica.
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
        .max_age(MAX_AGE)
}
