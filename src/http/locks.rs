//! The routes of one appointment. Each handler reads who asks and what for, calls [`crate::locks`], and
//! says what happened.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Web;
use super::answer::ApiError;
use super::input::{BeaconBody, JsonBody, Of, Who};
use crate::protocol::{
    AcquireBody, Answer, ForceReleaseBody, LockAnswer, PositionBody, ReleaseBody, StatusAnswer,
    TakeOverBody, VerifyBody,
};

type Answered = Result<Json<LockAnswer>, ApiError>;

/// What the lock's state is.
#[utoipa::path(
    get, path = "/api/appointments/{id}/lock-status", tag = "locks",
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 200, description = "The state", body = StatusAnswer),
        (status = 400, description = "The id is not percent-encoded UTF-8", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "A body, which this does not take, is too large", body = Answer),
        (status = 422, description = "The id is not acceptable", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn lock_status(
    State(web): State<Arc<Web>>,
    Of(room): Of,
) -> Result<Json<StatusAnswer>, ApiError> {
    Ok(Json(StatusAnswer::of(&web.locks.status(&room).await?)))
}

/// Take a free lock, or renew one's own lease.
#[utoipa::path(
    post, path = "/api/appointments/{id}/acquire-lock", tag = "locks", request_body = AcquireBody,
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 201, description = "A new grant", body = LockAnswer),
        (status = 200, description = "The holder's own lease, renewed", body = LockAnswer),
        (status = 400, description = "The body is not JSON, or the id not percent-encoded UTF-8", body = Answer),
        (status = 403, description = "IDENTITY_MISMATCH: the token names somebody else", body = Answer),
        (status = 409, description = "LOCK_HELD: somebody else holds it; HELD_BY_YOU: in another tab", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "The body is too large", body = Answer),
        (status = 415, description = "The body is not JSON by its type", body = Answer),
        (status = 422, description = "A field or the id is not acceptable; the message names it", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn acquire_lock(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    Of(room): Of,
    JsonBody(body): JsonBody<AcquireBody>,
) -> Result<(StatusCode, Json<LockAnswer>), ApiError> {
    let person = who.person(body.user_id, body.user_info.map(Into::into))?;
    let granted = web
        .locks
        .acquire(room, person, body.session_id, body.transfer)
        .await?;
    let (status, message) = if granted.new {
        (StatusCode::CREATED, "Lock acquired")
    } else {
        (StatusCode::OK, "Lock renewed")
    };
    Ok((status, Json(LockAnswer::new(message, &granted.state))))
}

/// Give one's own lease up.
#[utoipa::path(
    delete, path = "/api/appointments/{id}/release-lock", tag = "locks", request_body = ReleaseBody,
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 200, description = "Released", body = LockAnswer),
        (status = 400, description = "The body is not JSON, or the id not percent-encoded UTF-8", body = Answer),
        (status = 403, description = "NOT_HOLDER: somebody else holds it; IDENTITY_MISMATCH: the token names somebody else", body = Answer),
        (status = 404, description = "NOT_LOCKED", body = Answer),
        (status = 409, description = "STALE_TOKEN", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "The body is too large", body = Answer),
        (status = 415, description = "The body is not JSON by its type", body = Answer),
        (status = 422, description = "A field or the id is not acceptable; the message names it", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn release_lock(
    state: State<Arc<Web>>,
    who: Who,
    room: Of,
    JsonBody(body): JsonBody<ReleaseBody>,
) -> Answered {
    release(state, who, room, body).await
}

/// Give one's own lease up as the page goes away: the body may be `text/plain` that holds the JSON, as
/// `navigator.sendBeacon` sends a string. Text that is not that JSON is 400, as it is for `application/json`.
#[utoipa::path(
    post, path = "/api/appointments/{id}/release-lock", tag = "locks",
    request_body(content((ReleaseBody = "application/json"), (String = "text/plain"))),
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 200, description = "Released", body = LockAnswer),
        (status = 400, description = "The body is not JSON, or the id not percent-encoded UTF-8", body = Answer),
        (status = 403, description = "NOT_HOLDER: somebody else holds it; IDENTITY_MISMATCH: the token names somebody else", body = Answer),
        (status = 404, description = "NOT_LOCKED", body = Answer),
        (status = 409, description = "STALE_TOKEN", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "The body is too large", body = Answer),
        (status = 415, description = "The body is neither JSON nor text", body = Answer),
        (status = 422, description = "A field or the id is not acceptable; the message names it", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn release_lock_by_beacon(
    state: State<Arc<Web>>,
    who: Who,
    room: Of,
    BeaconBody(body): BeaconBody<ReleaseBody>,
) -> Answered {
    release(state, who, room, body).await
}

async fn release(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    Of(room): Of,
    body: ReleaseBody,
) -> Answered {
    let user = who.user(body.user_id)?;
    let state = web
        .locks
        .release(room, user, body.session_id, body.fencing_token)
        .await?;
    Ok(Json(LockAnswer::new("Lock released", &state)))
}

/// As an admin, end somebody's lease.
#[utoipa::path(
    delete, path = "/api/appointments/{id}/force-release-lock", tag = "locks", request_body = ForceReleaseBody,
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 200, description = "Released", body = LockAnswer),
        (status = 400, description = "The body is not JSON, or the id not percent-encoded UTF-8", body = Answer),
        (status = 403, description = "NOT_ADMIN; IDENTITY_MISMATCH: the token names somebody else", body = Answer),
        (status = 404, description = "NOT_LOCKED", body = Answer),
        (status = 409, description = "STALE_TOKEN", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "The body is too large", body = Answer),
        (status = 415, description = "The body is not JSON by its type", body = Answer),
        (status = 422, description = "A field or the id is not acceptable; the message names it", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn force_release_lock(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    Of(room): Of,
    JsonBody(body): JsonBody<ForceReleaseBody>,
) -> Answered {
    let admin = who.admin(body.admin_id, body.admin_info.map(Into::into), body.user_id)?;
    let state = web
        .locks
        .force_release(room, admin, body.reason, body.fencing_token)
        .await?;
    Ok(Json(LockAnswer::new("Lock released by an admin", &state)))
}

/// As an admin, take the lease, with never a free moment between. A free lock is taken too.
#[utoipa::path(
    post, path = "/api/appointments/{id}/take-over", tag = "locks", request_body = ForceReleaseBody,
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 200, description = "The lease is the admin's", body = LockAnswer),
        (status = 400, description = "The body is not JSON, or the id not percent-encoded UTF-8", body = Answer),
        (status = 403, description = "NOT_ADMIN; IDENTITY_MISMATCH: the token names somebody else", body = Answer),
        (status = 409, description = "STALE_TOKEN", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "The body is too large", body = Answer),
        (status = 415, description = "The body is not JSON by its type", body = Answer),
        (status = 422, description = "A field or the id is not acceptable; the message names it", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn take_over(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    Of(room): Of,
    JsonBody(body): JsonBody<TakeOverBody>,
) -> Answered {
    let admin = who.admin(body.admin_id, body.admin_info.map(Into::into), body.user_id)?;
    let state = web
        .locks
        .take_over(room, admin, body.reason, body.fencing_token)
        .await?;
    Ok(Json(LockAnswer::new("Lock taken over", &state)))
}

/// As the holder, say where one points; the lease is renewed.
#[utoipa::path(
    post, path = "/api/appointments/{id}/update-position", tag = "locks", request_body = PositionBody,
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 200, description = "Noted, and the lease renewed", body = LockAnswer),
        (status = 400, description = "The body is not JSON, or the id not percent-encoded UTF-8", body = Answer),
        (status = 403, description = "NOT_HOLDER: somebody else holds it; IDENTITY_MISMATCH: the token names somebody else", body = Answer),
        (status = 404, description = "NOT_LOCKED", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "The body is too large", body = Answer),
        (status = 415, description = "The body is not JSON by its type", body = Answer),
        (status = 422, description = "A field or the id is not acceptable; the message names it", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn update_position(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    Of(room): Of,
    JsonBody(body): JsonBody<PositionBody>,
) -> Answered {
    let user = who.user(body.user_id)?;
    let state = web
        .locks
        .renew(room, user, Some(body.position), Duration::ZERO)
        .await?;
    Ok(Json(LockAnswer::new("Position updated", &state)))
}

/// Before a save: is the lease with this token still in force?
#[utoipa::path(
    post, path = "/api/appointments/{id}/verify", tag = "locks", request_body = VerifyBody,
    params(("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character")),
    responses(
        (status = 200, description = "Still that lease", body = LockAnswer),
        (status = 400, description = "The body is not JSON, or the id not percent-encoded UTF-8", body = Answer),
        (status = 403, description = "NOT_HOLDER: the lease is not that user's; do not save", body = Answer),
        (status = 409, description = "STALE_TOKEN: do not save", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "The body is too large", body = Answer),
        (status = 415, description = "The body is not JSON by its type", body = Answer),
        (status = 422, description = "A field or the id is not acceptable; the message names it", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn verify(
    State(web): State<Arc<Web>>,
    Of(room): Of,
    JsonBody(body): JsonBody<VerifyBody>,
) -> Answered {
    let state = web
        .locks
        .verify(&room, body.fencing_token, body.user_id.as_ref())
        .await?;
    Ok(Json(LockAnswer::new("The lease is in force", &state)))
}
