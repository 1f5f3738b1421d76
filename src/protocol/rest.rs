//! Bodies and answers of REST. A field with the schema format `id` gets the schema of an id when the OpenAPI document
//! is made.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::domain::ids::{Email, Name, Note, SessionId, UserId};
use crate::domain::lease::{LockState, Position, UserInfo};

use super::input::{maybe_object, maybe_whole, object, whole};
use super::lock::{Lock, held_by, rfc3339_millis};
use super::refusal::{Code, Refusal};

/// Deserializes a name that a client gives to itself or to somebody else.
fn name<'de, D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    let name = Name::deserialize(from)?;
    name.shows_as_written().map_err(D::Error::custom)?;
    Ok(name)
}

/// Person, as a client sends it. Other fields are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[schema(as = UserInfoInput)]
pub struct UserInfoBody {
    /// Display name.
    #[schema(value_type = String, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*[^\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069][^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$")]
    #[serde(deserialize_with = "name")]
    pub name: Name,
    /// E-mail address; may be empty.
    #[schema(value_type = String, max_length = 320, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub email: Email,
}

impl From<UserInfoBody> for UserInfo {
    fn from(body: UserInfoBody) -> Self {
        Self {
            name: body.name,
            email: body.email,
            position: None,
        }
    }
}

/// Body of `acquire-lock`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcquireBody {
    /// User who wants to edit. Required if identities are trusted; may be omitted with a token.
    #[schema(value_type = Option<String>, format = "id")]
    pub user_id: Option<UserId>,
    /// Name and e-mail address shown to others. Required if identities are trusted.
    #[serde(default, deserialize_with = "maybe_object")]
    pub user_info: Option<UserInfoBody>,
    /// Tab that wants to edit, named by the client.
    #[schema(value_type = Option<String>, format = "id")]
    pub session_id: Option<SessionId>,
    /// Move the lease here if the same user holds it in another tab.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schema(value_type = Option<bool>)]
    pub transfer: bool,
}

/// Body of `release-lock`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseBody {
    /// Holder of the lease. Required if identities are trusted.
    #[schema(value_type = Option<String>, format = "id")]
    pub user_id: Option<UserId>,
    /// Release only a lease of this tab.
    #[schema(value_type = Option<String>, format = "id")]
    pub session_id: Option<SessionId>,
    /// Release only the lease with this token.
    #[serde(default, deserialize_with = "maybe_whole")]
    pub fencing_token: Option<i64>,
}

/// Body of `force-release-lock`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForceReleaseBody {
    /// Admin. Required if identities are trusted.
    #[schema(value_type = Option<String>, format = "id")]
    pub admin_id: Option<UserId>,
    /// Admin's name and e-mail address shown to others.
    #[serde(default, deserialize_with = "maybe_object")]
    pub admin_info: Option<UserInfoBody>,
    /// User who is not an admin, if identities are trusted: rejected.
    #[schema(value_type = Option<String>, format = "id")]
    pub user_id: Option<UserId>,
    /// Reason; kept in the history.
    #[schema(value_type = Option<String>, max_length = 1000, pattern = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$")]
    pub reason: Option<Note>,
    /// End only the lease with this token.
    #[serde(default, deserialize_with = "maybe_whole")]
    pub fencing_token: Option<i64>,
}

/// Body of `take-over`: the same as that of `force-release-lock`.
pub type TakeOverBody = ForceReleaseBody;

/// Position on the page, as a client sends it.
#[derive(Deserialize, ToSchema)]
#[schema(as = PositionInput)]
struct PointBody {
    /// Distance from the left, in the client's unit.
    #[serde(deserialize_with = "coordinate")]
    #[schema(minimum = -1e15, maximum = 1e15)]
    x: f64,
    /// Distance from the top, in the client's unit.
    #[serde(deserialize_with = "coordinate")]
    #[schema(minimum = -1e15, maximum = 1e15)]
    y: f64,
}

/// Largest coordinate. No page is that large, and PostgreSQL returns the largest numbers with all their three hundred
/// digits, which serde_json would not read again.
const MAX_COORDINATE: f64 = 1e15;

fn coordinate<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    if number.abs() <= MAX_COORDINATE {
        Ok(number)
    } else {
        Err(serde::de::Error::custom("must be from -1e15 to 1e15"))
    }
}

/// Deserializes a position: `#[serde(deserialize_with = "position")]`.
pub(super) fn position<'de, D: Deserializer<'de>>(from: D) -> Result<Position, D::Error> {
    object(from).map(|PointBody { x, y }| Position { x, y })
}

/// Body of `update-position`.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionBody {
    /// Holder of the lease. Required if identities are trusted.
    #[schema(value_type = Option<String>, format = "id")]
    pub user_id: Option<UserId>,
    /// Holder's position on the page.
    #[serde(deserialize_with = "position")]
    #[schema(value_type = PointBody)]
    pub position: Position,
}

/// Body of `verify`.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyBody {
    /// Fencing token of the lease: a whole number, which may be written as 1.0.
    #[serde(deserialize_with = "whole")]
    pub fencing_token: i64,
    /// User who saves: must be the lease's holder.
    #[schema(value_type = Option<String>, format = "id")]
    pub user_id: Option<UserId>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Answer to a change, and to `verify`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockAnswer {
    /// Always true.
    pub success: bool,
    /// Human-readable summary.
    pub message: String,
    /// Lease in force after the request, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// Version of the lock's state.
    pub version: i64,
}

impl LockAnswer {
    /// Answer with that message and the state after the request.
    #[must_use]
    pub fn new(message: impl Into<String>, state: &LockState) -> Self {
        Self {
            success: true,
            message: message.into(),
            lock: Lock::of(state),
            version: state.version,
        }
    }
}

/// Answer of `lock-status`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusAnswer {
    /// Always true.
    pub success: bool,
    /// Human-readable summary.
    pub message: String,
    /// True if a lease is in force.
    pub locked: bool,
    /// Lease in force, or null.
    pub lock: Option<Lock>,
    /// Version of the lock's state; 0 if the appointment was never locked.
    pub version: i64,
    /// Server time, by PostgreSQL's clock.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub server_time: OffsetDateTime,
}

impl StatusAnswer {
    /// Answer that shows this state.
    #[must_use]
    pub fn of(state: &LockState) -> Self {
        let lock = Lock::of(state);
        let message = match &lock {
            Some(lock) => held_by(&lock.user_info),
            None => "Appointment is not locked".into(),
        };
        Self {
            success: true,
            message,
            locked: lock.is_some(),
            lock,
            version: state.version,
            server_time: state.now,
        }
    }
}

/// Envelope of a refusal, and of an acknowledgement without further fields.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// True if the request succeeded.
    pub success: bool,
    /// Human-readable summary.
    pub message: String,
    /// Machine-readable code of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Conflicting lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self {
            success: false,
            message: refusal.message,
            code: Some(refusal.code),
            lock: refusal.lock.map(|lock| *lock),
        }
    }
}
