//! Extractors: from an HTTP request to checked values. Owns the content types of bodies, and that each fault has a
//! status of its own: 400 malformed, 413 too large, 415 not JSON, 422 invalid. An invalid request does not reach its
//! handler.

use std::collections::HashMap;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::auth::Principal;
use crate::domain::ids::{AppointmentId, RoomId};
use crate::middleware::{ApiError, Caller, ParsedBody, collect_rest_body};
use crate::protocol::{Code, Refusal};

/// Caller, as `identify` has found it.
pub(super) struct Who(pub(super) Principal);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(Caller(principal)) = parts.extensions.get().cloned() else {
            // The route has no `identify` in front: refusing everybody is the safe default.
            let fault = "This route does not identify its callers";
            return Err(Refusal::new(Code::Unauthenticated, fault).into());
        };
        Ok(Self(principal?))
    }
}

/// Room of the appointment in the path, of the caller's tenant.
pub(super) struct Of(pub(super) RoomId);

impl<S: Send + Sync> FromRequestParts<S> for Of {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Who(principal) = Who::from_request_parts(parts, state).await?;
        let malformed = || {
            Refusal::new(
                Code::Malformed,
                "id: is not percent-encoded UTF-8; encode it with encodeURIComponent",
            )
        };
        // The router keeps a % that starts no escape, so that two different paths would name one appointment.
        if !is_percent_encoded(parts.uri.path()) {
            return Err(malformed().into());
        }
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| malformed())?;
        let appointment = AppointmentId::new(id).map_err(|fault| Refusal::invalid("id", fault))?;
        Ok(Self(RoomId {
            tenant: principal.tenant,
            appointment,
        }))
    }
}

/// Parameters of the query.
pub(super) struct Params(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let malformed = || Refusal::new(Code::Malformed, "The query is not percent-encoded UTF-8");
        // The query parser keeps invalid escapes and replaces invalid UTF-8, where an error is expected.
        let query = parts.uri.query().unwrap_or_default();
        if !is_percent_encoded(query) || percent_decode_str(query).decode_utf8().is_err() {
            return Err(malformed().into());
        }
        let Query(pairs): Query<Vec<(String, String)>> =
            Query::try_from_uri(&parts.uri).map_err(|_| malformed())?;
        let mut params = HashMap::new();
        for (name, value) in pairs {
            if params.contains_key(&name) {
                // Of two values, a proxy in front may have checked the other one.
                return Err(Refusal::invalid(&name, "is given twice").into());
            }
            params.insert(name, value);
        }
        Ok(Self(params))
    }
}

impl Params {
    /// Whole number, if given.
    pub(super) fn number(&self, name: &str, least: i64, most: i64) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.0.get(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Refusal::invalid(
                name,
                format!("must be a whole number from {least} to {most}"),
            )),
        }
    }

    /// Id of an appointment, if given.
    pub(super) fn id(&self, name: &str) -> Result<Option<AppointmentId>, Refusal> {
        self.0
            .get(name)
            .map(|id| {
                AppointmentId::new(id.as_str()).map_err(|fault| Refusal::invalid(name, fault))
            })
            .transpose()
    }
}

/// True if each % is followed by two hexadecimal digits.
fn is_percent_encoded(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

/// JSON body. An empty one without a content type counts as `{}`, so that a `DELETE` may have no body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Clone + Send + Sync + 'static> FromRequest<S>
    for JsonBody<T>
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let kind = content_type(request.headers());
        let json = kind.as_deref().is_some_and(is_json);
        read(request, json, kind.is_none()).await.map(Self)
    }
}

/// JSON body that may also be sent as `text/plain`, which is how `sendBeacon` sends a string.
pub(super) struct BeaconBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Clone + Send + Sync + 'static> FromRequest<S>
    for BeaconBody<T>
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let kind = content_type(request.headers());
        let json = kind
            .as_deref()
            .is_some_and(|kind| is_json(kind) || kind == "text/plain");
        read(request, json, kind.is_none()).await.map(Self)
    }
}

async fn read<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    mut request: Request,
    json: bool,
    untyped: bool,
) -> Result<T, ApiError> {
    let unsupported = || {
        Refusal::new(
            Code::UnsupportedMediaType,
            "The body must be JSON: send Content-Type: application/json",
        )
    };
    if !json && !untyped {
        return Err(unsupported().into());
    }
    if let Some(encoding) = request.headers().get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Refusal::new(
            Code::UnsupportedMediaType,
            "The body must not be encoded: leave Content-Encoding out",
        )
        .into());
    }
    if !is_utf8(request.headers()) {
        return Err(Refusal::new(
            Code::UnsupportedMediaType,
            "The body must be UTF-8: leave the charset of Content-Type out",
        )
        .into());
    }
    // Parsed before only if identities are trusted and rates are limited.
    let parsed = match request.extensions_mut().remove::<ParsedBody<T>>() {
        Some(parsed) => parsed,
        None => ParsedBody::parse(&collect_rest_body(request.into_body()).await?),
    };
    if untyped && !parsed.empty {
        return Err(unsupported().into());
    }
    Ok(parsed.outcome?)
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    Some(
        text.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

/// True if the charset is UTF-8 or not given.
fn is_utf8(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    text.split(';').skip(1).all(|part| {
        let charset = part.trim().strip_prefix("charset=");
        charset.is_none_or(|name| matches!(name.trim_matches('"').trim(), "utf-8" | "utf8"))
    })
}

fn is_json(kind: &str) -> bool {
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::{Body, to_bytes};
    use axum::handler::Handler;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use axum::{Extension, Router};
    use serde::Deserialize;
    use tower_service::Service;

    use super::*;
    use crate::auth::Auth;
    use crate::domain::ids::{TenantId, UserId};
    use crate::limits::{LimitConfig, Limits, Proxies, Rate, RateLimitKey};
    use crate::middleware::{Identification, identify};
    use crate::protocol::{AcquireBody, NamesCaller};

    static PARSED: AtomicUsize = AtomicUsize::new(0);

    #[derive(Clone, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Counted {
        #[serde(deserialize_with = "count")]
        user_id: UserId,
    }

    fn count<'de, D: serde::Deserializer<'de>>(from: D) -> Result<UserId, D::Error> {
        PARSED.fetch_add(1, Ordering::Relaxed);
        UserId::deserialize(from)
    }

    impl NamesCaller for Counted {
        fn caller(&self) -> Option<&UserId> {
            Some(&self.user_id)
        }
    }

    /// Answer of a handler behind `identify`, where identities are trusted and rates are limited.
    async fn answer<B: NamesCaller, T: 'static>(
        handler: impl Handler<T, ()>,
        body: &str,
    ) -> String {
        let limits = Limits::new(LimitConfig {
            rate: Some(Rate {
                per_second: NonZeroU32::MIN,
                burst: NonZeroU32::MIN,
            }),
            sockets: 1,
            sockets_each: 1,
            connections_each: 1,
            proxies: Proxies::default(),
        });
        let auth = Auth::Trusted;
        let state = Arc::new(Identification { auth, limits });
        let route = post(handler).layer(from_fn_with_state(state, identify::<B>));
        let mut router = Router::new().route("/", route);
        let request = Request::post("/")
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = router.call(request).await.unwrap();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_trusted_body_is_parsed_once() {
        let handler = async |JsonBody(body): JsonBody<Counted>| body.user_id.to_string();
        let user = answer::<Counted, _>(handler, r#"{"userId":"ann"}"#).await;
        assert_eq!((user.as_str(), PARSED.load(Ordering::Relaxed)), ("ann", 1));
    }

    #[tokio::test]
    async fn an_invalid_body_counts_against_whom_it_names() {
        let handler = async |Extension(key): Extension<RateLimitKey>| format!("{key:?}");
        let ann = RateLimitKey::user(&TenantId::default(), &UserId::new("ann").unwrap());
        for body in [r#"{"userId":"ann"}"#, r#"{"userId":"ann","transfer":1}"#] {
            let key = answer::<AcquireBody, _>(handler, body).await;
            assert_eq!(key, format!("{ann:?}"), "{body}");
        }
        let key = answer::<AcquireBody, _>(handler, "{").await;
        assert!(key.starts_with("Address("), "{key}");
    }
}
