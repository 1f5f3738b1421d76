//! From an HTTP request to checked values. Owns which content types a body may have, and that each fault has
//! its own status: 400 malformed, 413 too large, 415 not JSON, 422 not what was expected.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use axum::middleware::Next;
use axum::response::Response;
use bytes::BytesMut;
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::Web;
use super::answer::ApiError;
use crate::auth::Principal;
use crate::domain::ids::{AppointmentId, RoomId, UserId};
use crate::limits::{Limits, RateLimitKey};
use crate::protocol::{Code, Refusal, from_slice};

/// Who asks.
pub(super) struct Who(pub(super) Principal);

/// What the request's token came to, in its extensions.
#[derive(Clone)]
struct Asked(Result<Principal, Refusal>);

/// Reads the token, so that all that follows knows who asks, and whose budget it is.
pub(super) async fn identify(
    State(web): State<Arc<Web>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, mut body) = request.into_parts();
    let address = client_of(&parts.headers, &parts.extensions, &web.limits);
    let token = bearer(&parts.headers);
    let asked = web.auth.principal(token, &web.limits, address).await;
    let known = match &asked {
        Ok(principal) => match &principal.identity {
            Some(identity) => Some(RateLimitKey::user(
                &principal.tenant,
                &identity.person.user_id,
            )),
            // Where identities are trusted the body says who it is, and must be looked into.
            None if web.limits.config().rate.is_some() => {
                let bytes = whole(body).await?;
                let user = named(&bytes);
                body = bytes.into();
                user.map(|user| RateLimitKey::user(&principal.tenant, &user))
            }
            None => None,
        },
        Err(_) => None,
    };
    let key = known.unwrap_or_else(|| RateLimitKey::address(address));
    parts.extensions.insert(key);
    parts.extensions.insert(Asked(asked));
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn whole(body: Body) -> Result<Bytes, ApiError> {
    collect(body, super::MAX_BODY)
        .await
        .map_err(|fault| match fault {
            Unread::TooLarge => too_large().into(),
            Unread::Broken => unreadable().into(),
        })
}

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is longer than it may be.
    TooLarge,
    /// It ended before its end.
    Broken,
}

/// Reads a body into one piece of memory. A list of its chunks would take many times its length where each is a byte.
///
/// # Errors
/// [`Unread`].
pub async fn collect(mut body: Body, max: usize) -> Result<Bytes, Unread> {
    let announced = HttpBody::size_hint(&body).lower();
    if usize::try_from(announced).is_ok_and(|length| length > max) {
        return Err(Unread::TooLarge);
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > max {
            return Err(Unread::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Why the body of a Socket.IO request was not read.
pub fn unread_body(fault: Unread) -> Refusal {
    match fault {
        Unread::TooLarge => Refusal::new(
            Code::TooLarge,
            "The payload is too large: at most 64 KiB, and 16 KiB before the session has joined",
        ),
        Unread::Broken => unreadable(),
    }
}

/// Whom a body names, as user or as admin.
fn named(body: &[u8]) -> Option<UserId> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        user_id: Option<UserId>,
        admin_id: Option<UserId>,
    }
    let named: Named = serde_json::from_slice(body).ok()?;
    named.user_id.or(named.admin_id)
}

/// What needs no identity has a budget by address.
pub(super) async fn open_to_all(
    State(web): State<Arc<Web>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let address = client_of(request.headers(), request.extensions(), &web.limits);
    web.limits.open(address)?;
    Ok(next.run(request).await)
}

/// Where the client is, whatever proxies are between.
pub fn client_of(headers: &HeaderMap, extensions: &Extensions, limits: &Limits) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
    let forwarded = headers.get_all("x-forwarded-for");
    // What is not text is a part that nobody can read, not one that is not there.
    let lists: Vec<_> = forwarded
        .iter()
        .map(|list| String::from_utf8_lossy(list.as_bytes()))
        .collect();
    let lists = lists.iter().map(AsRef::as_ref);
    limits.config().proxies.client(peer, lists)
}

/// The token of `Authorization: Bearer` (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    // Of two, whoever stands in front may have read the other.
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(Asked(asked)) = parts.extensions.get().cloned() else {
            // A route that was not laid behind `identify`: nobody may use it.
            return Err(Refusal::new(Code::Unauthenticated, "This route knows nobody").into());
        };
        Ok(Self(asked?))
    }
}

/// Which appointment of whose: the path's id, of the tenant of the one who asks.
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
        // The router leaves a % that begins no escape as it is, which would make two names of one.
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

/// What stands after the question mark.
pub(super) struct Params(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let malformed = || Refusal::new(Code::Malformed, "The query is not percent-encoded UTF-8");
        // The reader of queries leaves what is neither as it is, or puts something else there.
        let query = parts.uri.query().unwrap_or_default();
        if !is_percent_encoded(query) || percent_decode_str(query).decode_utf8().is_err() {
            return Err(malformed().into());
        }
        let Query(pairs): Query<Vec<(String, String)>> =
            Query::try_from_uri(&parts.uri).map_err(|_| malformed())?;
        let mut params = HashMap::new();
        for (name, value) in pairs {
            if params.contains_key(&name) {
                // Of two, whoever stands in front may have taken the other.
                return Err(Refusal::invalid(&name, "is there twice").into());
            }
            params.insert(name, value);
        }
        Ok(Self(params))
    }
}

impl Params {
    /// A whole number, where it is there.
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

    /// An appointment's id, where it is there.
    pub(super) fn id(&self, name: &str) -> Result<Option<AppointmentId>, Refusal> {
        self.0
            .get(name)
            .map(|id| {
                AppointmentId::new(id.as_str()).map_err(|fault| Refusal::invalid(name, fault))
            })
            .transpose()
    }
}

/// Whether each % is followed by two hexadecimal digits.
fn is_percent_encoded(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

/// A JSON body. An empty one without a type is `{}`, which is what a `DELETE` without a body is.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let kind = content_type(request.headers());
        let json = kind.as_deref().is_some_and(is_json);
        read(request, json, kind.is_none()).await.map(Self)
    }
}

/// A JSON body that may also come as `text/plain`, which is what `sendBeacon` sends of a string.
pub(super) struct BeaconBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for BeaconBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let kind = content_type(request.headers());
        let json = kind
            .as_deref()
            .is_some_and(|kind| is_json(kind) || kind == "text/plain");
        read(request, json, kind.is_none()).await.map(Self)
    }
}

async fn read<T: DeserializeOwned>(
    request: Request,
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
    let bytes = whole(request.into_body()).await?;
    if bytes.is_empty() {
        return Ok(from_slice(b"{}")?);
    }
    if untyped {
        return Err(unsupported().into());
    }
    Ok(from_slice(&bytes)?)
}

fn too_large() -> Refusal {
    let most = super::MAX_BODY / 1024;
    Refusal::new(Code::TooLarge, format!("The body is over {most} KiB"))
}

fn unreadable() -> Refusal {
    Refusal::new(Code::Malformed, "The body could not be read to its end")
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

/// Whether the charset, where one is named, is UTF-8.
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
