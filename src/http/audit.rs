//! What admins read: an appointment's history, and the leases in force.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Web;
use super::answer::ApiError;
use super::input::{Of, Params, Who};
use crate::protocol::{Answer, HistoryAnswer, LocksAnswer};

/// Entries of a page, unless another number is asked for.
const USUAL: i64 = 100;
/// Entries of a page at most.
const MOST: i64 = 1000;

/// What happened to an appointment, newest first.
#[utoipa::path(
    get, path = "/api/appointments/{id}/history", tag = "audit",
    params(
        ("id" = String, Path, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The appointment: 1 to 200 bytes of UTF-8, no control character"),
        ("before" = Option<i64>, Query, minimum = 1, description = "Only entries with a version below this one: the last one of the page before"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "How many at most: 1 to 1000, usually 100"),
    ),
    responses(
        (status = 200, description = "The entries", body = HistoryAnswer),
        (status = 400, description = "The id or the query is not percent-encoded UTF-8", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 403, description = "NOT_ADMIN", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "A body, which this does not take, is too large", body = Answer),
        (status = 422, description = "The id, before or limit is not acceptable", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn history(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    Of(room): Of,
    params: Params,
) -> Result<Json<HistoryAnswer>, ApiError> {
    who.may_audit()?;
    let before = params.number("before", 1, i64::MAX)?;
    let limit = params.number("limit", 1, MOST)?.unwrap_or(USUAL);
    let entries = web.store.history(&room, before, limit).await?;
    Ok(Json(HistoryAnswer::of(entries)))
}

/// The leases in force, by appointment.
#[utoipa::path(
    get, path = "/api/locks", tag = "audit",
    params(
        ("after" = Option<String>, Query, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Only appointments after this one: the last one of the page before"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1000, description = "How many at most: 1 to 1000, usually 100"),
    ),
    responses(
        (status = 200, description = "The leases", body = LocksAnswer),
        (status = 400, description = "The query is not percent-encoded UTF-8", body = Answer),
        (status = 401, description = "No token, or one that is not good", body = Answer),
        (status = 403, description = "NOT_ADMIN", body = Answer),
        (status = 408, description = "REQUEST_TIMEOUT: the body did not arrive in time", body = Answer),
        (status = 413, description = "A body, which this does not take, is too large", body = Answer),
        (status = 422, description = "after or limit is not acceptable", body = Answer),
        (status = 429, description = "RATE_LIMITED: too many requests; Retry-After says when to try again", body = Answer),
        (status = 503, description = "The database is away; try again", body = Answer),
    )
)]
pub(super) async fn locks(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    params: Params,
) -> Result<Json<LocksAnswer>, ApiError> {
    who.may_audit()?;
    let after = params.id("after")?;
    let limit = params.number("limit", 1, MOST)?.unwrap_or(USUAL);
    let leases = web.store.leases(&who.tenant, after.as_ref(), limit).await?;
    Ok(Json(LocksAnswer::of(&leases)))
}
