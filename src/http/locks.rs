//! The routes of one appointment. Each handler reads the caller and the body, calls [`crate::locks`], and translates
//! the outcome.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::input::{BeaconBody, JsonBody, Of, Who};
use super::parameters::AppointmentPath;
use super::responses::{
    AdminRefusal, AnyRefusal, BodyRefusal, HolderRefusal, IdentityMismatch, NotLocked, StaleToken,
    UrlRefusal,
};
use super::web::Web;
use crate::middleware::ApiError;
use crate::protocol::{
    AcquireBody, Answer, ForceReleaseBody, LockAnswer, PositionBody, ReleaseBody, StatusAnswer,
    TakeOverBody, VerifyBody,
};

type Answered = Result<Json<LockAnswer>, ApiError>;

/// State of a lock.
#[utoipa::path(
    get, path = "/api/appointments/{id}/lock-status", tag = "locks",
    params(AppointmentPath),
    responses(
        (status = 200, description = "State of the lock", body = StatusAnswer),
        AnyRefusal, UrlRefusal,
    )
)]
pub(super) async fn lock_status(
    State(web): State<Arc<Web>>,
    Of(room): Of,
) -> Result<Json<StatusAnswer>, ApiError> {
    Ok(Json(StatusAnswer::of(&web.locks.status(&room).await?)))
}

/// Acquire a free lock, or renew the caller's own lease.
#[utoipa::path(
    post, path = "/api/appointments/{id}/acquire-lock", tag = "locks", request_body = AcquireBody,
    params(AppointmentPath),
    responses(
        (status = 201, description = "A new grant", body = LockAnswer),
        (status = 200, description = "The caller's own lease, renewed", body = LockAnswer),
        (status = 409, description = "`LOCK_HELD`: somebody else holds the lock; `HELD_BY_YOU`: the same user holds it in another tab", body = Answer),
        AnyRefusal, BodyRefusal, IdentityMismatch,
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

/// Release the caller's own lease.
#[utoipa::path(
    delete, path = "/api/appointments/{id}/release-lock", tag = "locks", request_body = ReleaseBody,
    params(AppointmentPath),
    responses(
        (status = 200, description = "Released", body = LockAnswer),
        AnyRefusal, BodyRefusal, HolderRefusal, NotLocked, StaleToken,
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

/// Release the caller's own lease while the page unloads.
///
/// The body may also be JSON sent as `text/plain`, which is how `navigator.sendBeacon` sends a string. Text that is not
/// JSON is answered with 400.
#[utoipa::path(
    post, path = "/api/appointments/{id}/release-lock", tag = "locks",
    request_body(content((ReleaseBody = "application/json"), (String = "text/plain"))),
    params(AppointmentPath),
    responses(
        (status = 200, description = "Released", body = LockAnswer),
        AnyRefusal, BodyRefusal, HolderRefusal, NotLocked, StaleToken,
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

/// End somebody's lease, as an admin.
#[utoipa::path(
    delete, path = "/api/appointments/{id}/force-release-lock", tag = "locks", request_body = ForceReleaseBody,
    params(AppointmentPath),
    responses(
        (status = 200, description = "Released", body = LockAnswer),
        AnyRefusal, BodyRefusal, AdminRefusal, NotLocked, StaleToken,
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

/// Take over the lease, as an admin, without the lock becoming free in between. A free lock is acquired.
#[utoipa::path(
    post, path = "/api/appointments/{id}/take-over", tag = "locks", request_body = ForceReleaseBody,
    params(AppointmentPath),
    responses(
        (status = 200, description = "The admin holds the lease", body = LockAnswer),
        AnyRefusal, BodyRefusal, AdminRefusal, StaleToken,
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

/// Report the holder's position; the lease is renewed.
#[utoipa::path(
    post, path = "/api/appointments/{id}/update-position", tag = "locks", request_body = PositionBody,
    params(AppointmentPath),
    responses(
        (status = 200, description = "Position stored, lease renewed", body = LockAnswer),
        AnyRefusal, BodyRefusal, HolderRefusal, NotLocked,
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

/// Check, before a save, that the lease with this token is still in force.
#[utoipa::path(
    post, path = "/api/appointments/{id}/verify", tag = "locks", request_body = VerifyBody,
    params(AppointmentPath),
    responses(
        (status = 200, description = "That lease is in force", body = LockAnswer),
        (status = 403, description = "`NOT_HOLDER`: the lease is another user's; do not save", body = Answer),
        (status = 409, description = "`STALE_TOKEN`: the lease has ended; do not save", body = Answer),
        AnyRefusal, BodyRefusal,
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
