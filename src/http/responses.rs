//! Refusals in the OpenAPI document: each status and its description once. Owns which of them belong together.
//!
//! The types are documentation only. Handlers answer with `ApiError`, whose code maps to the same status.

#![expect(
    dead_code,
    reason = "the types describe responses and are never constructed"
)]

use utoipa::IntoResponses;

use crate::protocol::Answer;

/// Refusals of every route.
#[derive(IntoResponses)]
pub(super) enum AnyRefusal {
    /// `UNAUTHENTICATED`: no token, or an invalid one
    #[response(status = 401)]
    Unauthenticated(Answer),
    /// `REQUEST_TIMEOUT`: the body did not arrive in time
    #[response(status = 408)]
    RequestTimeout(Answer),
    /// `TOO_LARGE`: the body is over 16 KiB
    #[response(status = 413)]
    TooLarge(Answer),
    /// `RATE_LIMITED`: too many requests; `Retry-After` says when to try again
    #[response(status = 429)]
    RateLimited(Answer),
    /// `UNAVAILABLE`: the database is unavailable; try again
    #[response(status = 503)]
    Unavailable(Answer),
}

/// Refusals of a route that takes no body.
#[derive(IntoResponses)]
pub(super) enum UrlRefusal {
    /// `MALFORMED`: the path or the query is not percent-encoded UTF-8
    #[response(status = 400)]
    Malformed(Answer),
    /// `INVALID`: the id or a query parameter is invalid; the message names it
    #[response(status = 422)]
    Invalid(Answer),
}

/// Refusals of a route that takes a body.
#[derive(IntoResponses)]
pub(super) enum BodyRefusal {
    /// `MALFORMED`: the body is not JSON, or the id is not percent-encoded UTF-8
    #[response(status = 400)]
    Malformed(Answer),
    /// `UNSUPPORTED_MEDIA_TYPE`: the body's content type, charset or encoding is not supported
    #[response(status = 415)]
    UnsupportedMediaType(Answer),
    /// `INVALID`: a field or the id is invalid; the message names it
    #[response(status = 422)]
    Invalid(Answer),
}

/// `IDENTITY_MISMATCH`: the token names somebody else
#[derive(IntoResponses)]
#[response(status = 403)]
pub(super) struct IdentityMismatch(Answer);

/// `NOT_HOLDER`: somebody else holds the lock; `IDENTITY_MISMATCH`: the token names somebody else
#[derive(IntoResponses)]
#[response(status = 403)]
pub(super) struct HolderRefusal(Answer);

/// `NOT_ADMIN`: only an admin may do this; `IDENTITY_MISMATCH`: the token names somebody else
#[derive(IntoResponses)]
#[response(status = 403)]
pub(super) struct AdminRefusal(Answer);

/// `NOT_ADMIN`: only an admin may do this
#[derive(IntoResponses)]
#[response(status = 403)]
pub(super) struct NotAdmin(Answer);

/// `NOT_LOCKED`: nobody holds the lock
#[derive(IntoResponses)]
#[response(status = 404)]
pub(super) struct NotLocked(Answer);

/// `STALE_TOKEN`: the fencing token is not that of the lease in force
#[derive(IntoResponses)]
#[response(status = 409)]
pub(super) struct StaleToken(Answer);
