//! The one place where a refusal becomes an HTTP response.

use std::any::Any;

use axum::Json;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

use crate::locks::LockError;
use crate::protocol::{Answer, Code, InvalidInput, Refusal};
use crate::store::StoreError;

/// What is behind a failure, for the log; it rides on the response to the one place that logs.
#[derive(Debug, Clone)]
pub(super) struct Cause(pub(super) String);

/// A request that was not granted.
#[derive(Debug)]
pub(super) struct ApiError {
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
        let said = || Cause(self.refusal.message.clone());
        let cause = self.cause.unwrap_or_else(said);
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

/// A panic in a handler: a bug of ours, answered in the envelope like everything else.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response<axum::body::Body> {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    let refusal = Refusal::new(Code::Internal, "Something went wrong here; it was logged");
    ApiError {
        refusal,
        cause: Some(Cause(what.to_owned())),
    }
    .into_response()
}
