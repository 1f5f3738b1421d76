//! Refusals as HTTP responses, in one place. Owns the headers that go with a code; the code itself decides the status.
//!
//! The cause of a failure travels in the response's extensions to `request_log`, the only place that logs it.

use std::any::Any;

use axum::Json;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

use crate::locks::LockError;
use crate::protocol::{Answer, Code, InvalidInput, Refusal};
use crate::store::StoreError;

/// Cause of a failure, for the log. Clients do not see it.
#[derive(Debug, Clone)]
pub(super) struct Cause(pub(super) String);

/// Error of a handler or of a middleware.
#[derive(Debug)]
pub struct ApiError {
    refusal: Refusal,
    cause: Option<Cause>,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            cause: None,
        }
    }
}

impl From<InvalidInput> for ApiError {
    fn from(input: InvalidInput) -> Self {
        Refusal::from(input).into()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        LockError::from(error).into()
    }
}

impl From<LockError> for ApiError {
    fn from(error: LockError) -> Self {
        let cause = Some(Cause(error.to_string()));
        Self {
            refusal: error.into(),
            cause,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        let code = self.refusal.code;
        let message = || Cause(self.refusal.message.clone());
        let cause = self.cause.unwrap_or_else(message);
        let status =
            StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(Answer::from(self.refusal))).into_response();
        if let Some(seconds) = code.retry_after() {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if code == Code::Unauthenticated {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(cause);
        response
    }
}

/// A refusal as a response, for code that returns no `Result`.
pub fn refuse(refusal: Refusal) -> axum::response::Response {
    ApiError::from(refusal).into_response()
}

/// Response to a request whose handler panicked, in the envelope of every other answer.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response<axum::body::Body> {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    let refusal = Refusal::new(Code::Internal, "Something went wrong here; it was logged");
    ApiError {
        refusal,
        cause: Some(Cause(message.to_owned())),
    }
    .into_response()
}
