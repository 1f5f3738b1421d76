//! Routes of the demo page, which only `dev` serves. Here the service also acts as the application that uses it: it
//! stores the records, and checks the lease before each save as a back end would.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use super::files::is_known;
use super::input::{JsonBody, Of, Who};
use super::web::Web;
use crate::middleware::ApiError;
use crate::protocol::{Code, DemoInfoAnswer, DemoRecordAnswer, DemoSaveBody, Lock, Refusal};
use crate::store::{LeaseNotInForce, Saved};

/// Methods of `/demo/info`.
pub(super) fn info() -> MethodRouter<Arc<Web>> {
    get(read_info)
}

/// Methods of `/demo/records/{id}`.
pub(super) fn record() -> MethodRouter<Arc<Web>> {
    get(read).put(save)
}

/// Product and installation.
async fn read_info(State(web): State<Arc<Web>>) -> Result<Json<DemoInfoAnswer>, ApiError> {
    let (installation, _) = web.store.installation().await?;
    Ok(Json(DemoInfoAnswer {
        success: true,
        message: "The demo of apptlock".into(),
        product: "apptlock",
        installation,
    }))
}

/// The record, unless the page already has that revision.
async fn read(
    State(web): State<Arc<Web>>,
    Of(room): Of,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let saved = web.store.demo_record(&room).await?;
    let tag = tag(saved.as_ref());
    let common = [
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (
            ETAG,
            HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")),
        ),
    ];
    if is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    let message = match saved {
        Some(_) => "The record",
        None => "Nothing was saved yet",
    };
    Ok((common, Json(answer(message, saved))).into_response())
}

/// Saves the record if the lease is in force, in one statement.
async fn save(
    State(web): State<Arc<Web>>,
    Who(who): Who,
    Of(room): Of,
    JsonBody(body): JsonBody<DemoSaveBody>,
) -> Result<Response, ApiError> {
    let user = who.user(body.user_id)?;
    let saved = web
        .store
        .save_demo_record(&room, &user, body.fencing_token, &body.record)
        .await?;
    match saved {
        Ok(saved) => Ok(Json(answer("Saved", Some(saved))).into_response()),
        Err(LeaseNotInForce(why)) => {
            let lock = Lock::of(&web.locks.status(&room).await?);
            let holder = match &lock {
                Some(lock) => format!(
                    "{} holds the lock now, with fencing token {}.",
                    lock.user_info.name, lock.fencing_token
                ),
                None => "Nobody holds the lock now.".into(),
            };
            let message = format!("Nothing was saved: {why}. {holder}");
            Err(Refusal::conflict(Code::StaleToken, message, lock).into())
        }
    }
}

/// Entity tag that no other content of this record has, not even after the database was created again.
fn tag(saved: Option<&Saved>) -> String {
    match saved {
        Some(saved) => format!(
            "\"{}-{}\"",
            saved.revision,
            saved.at.unix_timestamp_nanos() / 1000
        ),
        None => "\"0\"".into(),
    }
}

fn answer(message: &str, saved: Option<Saved>) -> DemoRecordAnswer {
    let revision = saved.as_ref().map_or(0, |saved| saved.revision);
    let (record, saved_by, saved_by_name, saved_at) = match saved {
        Some(saved) => (
            Some(saved.record),
            Some(saved.by),
            Some(saved.by_name),
            Some(saved.at),
        ),
        None => (None, None, None, None),
    };
    DemoRecordAnswer {
        success: true,
        message: message.into(),
        record,
        revision,
        saved_by,
        saved_by_name,
        saved_at,
    }
}
