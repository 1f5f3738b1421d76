//! Ids of requests. Owns which ids a client may choose. An invalid one is removed, and a new one is generated in its
//! place, as if the client had sent none.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::HeaderName;

/// Header of the id, in requests and responses.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of an id, in bytes.
const MAX_LENGTH: usize = 128;

/// Removes an id that is too long or not visible ASCII, which would corrupt logs.
pub async fn discard_invalid_request_id(mut request: Request) -> Request {
    let valid = |id: &HeaderValue| {
        let bytes = id.as_bytes();
        (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    if !request.headers().get(X_REQUEST_ID).is_some_and(valid) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}
