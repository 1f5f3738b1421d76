//! Routes for admins: an appointment's history, and the leases in force.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::input::{Of, Params, Who};
use super::parameters::{AppointmentPath, HistoryPage, LocksPage};
use super::responses::{AnyRefusal, NotAdmin, UrlRefusal};
use super::web::Web;
use crate::middleware::ApiError;
use crate::protocol::{HistoryAnswer, LocksAnswer};

/// Default number of entries per page.
const DEFAULT_LIMIT: i64 = 100;
/// Maximum number of entries per page.
const MAX_LIMIT: i64 = 1000;

/// History of an appointment, newest entry first.
#[utoipa::path(
    get, path = "/api/appointments/{id}/history", tag = "audit",
    params(AppointmentPath, HistoryPage),
    responses(
        (status = 200, description = "Entries of the history", body = HistoryAnswer),
        AnyRefusal, NotAdmin, UrlRefusal,
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
    let limit = params
        .number("limit", 1, MAX_LIMIT)?
        .unwrap_or(DEFAULT_LIMIT);
    let entries = web.store.history(&room, before, limit).await?;
    Ok(Json(HistoryAnswer::of(entries)))
}

/// Leases in force, ordered by appointment.
#[utoipa::path(
    get, path = "/api/locks", tag = "audit",
    params(LocksPage),
    responses(
        (status = 200, description = "Leases in force", body = LocksAnswer),
        AnyRefusal, NotAdmin, UrlRefusal,
    )
)]
pub(super) async fn locks(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    params: Params,
) -> Result<Json<LocksAnswer>, ApiError> {
    who.may_audit()?;
    let after = params.id("after")?;
    let limit = params
        .number("limit", 1, MAX_LIMIT)?
        .unwrap_or(DEFAULT_LIMIT);
    let leases = web.store.leases(&who.tenant, after.as_ref(), limit).await?;
    Ok(Json(LocksAnswer::of(&leases)))
}
