//! What REST takes and answers.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::domain::ids::{Email, Name, Note, SessionId, UserId};
use crate::domain::lease::{LockState, Position, UserInfo};

use super::input::{maybe_object, maybe_whole, object, whole};
use super::lock::{Lock, held_by, rfc3339_millis};
use super::refusal::{Code, Refusal};

/// A name that a client gives itself or somebody.
fn name<'de, D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    let name = Name::deserialize(from)?;
    name.shows_as_written().map_err(D::Error::custom)?;
    Ok(name)
}

/// A person, as a client names one. Other fields are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[schema(as = UserInfoInput)]
pub struct UserInfoBody {
    /// What the person is called.
    #[schema(value_type = String, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*[^\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069][^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$")]
    #[serde(deserialize_with = "name")]
    pub name: Name,
    /// How to reach them; may be empty.
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
    /// Who wants to edit. Required where identities are trusted; with a token it may be left out.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub user_id: Option<UserId>,
    /// How others see this person. Required where identities are trusted.
    #[serde(default, deserialize_with = "maybe_object")]
    pub user_info: Option<UserInfoBody>,
    /// The tab that wants to edit, named by the client.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
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
    /// Who holds the lease. Required where identities are trusted.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub user_id: Option<UserId>,
    /// Release only a lease of this tab.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub session_id: Option<SessionId>,
    /// Release only the lease with this token.
    #[serde(default, deserialize_with = "maybe_whole")]
    pub fencing_token: Option<i64>,
}

/// Body of `force-release-lock`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForceReleaseBody {
    /// The admin. Required where identities are trusted.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub admin_id: Option<UserId>,
    /// How others see the admin.
    #[serde(default, deserialize_with = "maybe_object")]
    pub admin_info: Option<UserInfoBody>,
    /// A user who is no admin, where identities are trusted: refused.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub user_id: Option<UserId>,
    /// Why; kept in the history.
    #[schema(value_type = Option<String>, max_length = 1000, pattern = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$")]
    pub reason: Option<Note>,
    /// Only the lease with this token.
    #[serde(default, deserialize_with = "maybe_whole")]
    pub fencing_token: Option<i64>,
}

/// Body of `take-over`: the same as that of `force-release-lock`.
pub type TakeOverBody = ForceReleaseBody;

/// Where somebody points, as a client says it.
#[derive(Deserialize, ToSchema)]
#[schema(as = PositionInput)]
struct PointBody {
    /// To the right.
    #[serde(deserialize_with = "coordinate")]
    #[schema(minimum = -1e15, maximum = 1e15)]
    x: f64,
    /// Downwards.
    #[serde(deserialize_with = "coordinate")]
    #[schema(minimum = -1e15, maximum = 1e15)]
    y: f64,
}

/// The largest coordinate. No page is so large; and the largest numbers of all, which PostgreSQL gives back
/// with all their three hundred digits, would not be read again.
const FARTHEST: f64 = 1e15;

fn coordinate<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    if number.abs() <= FARTHEST {
        Ok(number)
    } else {
        Err(serde::de::Error::custom("must be from -1e15 to 1e15"))
    }
}

/// For a field that is a position: `#[serde(deserialize_with = "position")]`.
pub(super) fn position<'de, D: Deserializer<'de>>(from: D) -> Result<Position, D::Error> {
    object(from).map(|PointBody { x, y }| Position { x, y })
}

/// Body of `update-position`.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionBody {
    /// Who holds the lease. Required where identities are trusted.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub user_id: Option<UserId>,
    /// Where the holder points.
    #[serde(deserialize_with = "position")]
    #[schema(value_type = PointBody)]
    pub position: Position,
}

/// Body of `verify`.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyBody {
    /// The token that came with the lease: a whole number, which may be written as 1.0.
    #[serde(deserialize_with = "whole")]
    pub fencing_token: i64,
    /// The user who saves: must be the lease's holder.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub user_id: Option<UserId>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The answer to a change, and to `verify`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockAnswer {
    /// True.
    pub success: bool,
    /// What happened, for people.
    pub message: String,
    /// The lease, where one is in force now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// The version of the lock's state.
    pub version: i64,
}

impl LockAnswer {
    /// What happened, and the state that it led to.
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

/// The answer of `lock-status`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusAnswer {
    /// True.
    pub success: bool,
    /// For people.
    pub message: String,
    /// Whether a lease is in force.
    pub locked: bool,
    /// That lease, or null.
    pub lock: Option<Lock>,
    /// The version of the lock's state; 0 where it was never locked.
    pub version: i64,
    /// The server's clock, which is PostgreSQL's.
    #[serde(serialize_with = "rfc3339_millis")]
    #[schema(value_type = String, format = DateTime)]
    pub server_time: OffsetDateTime,
}

impl StatusAnswer {
    /// The state, as `lock-status` shows it.
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

/// The envelope of a refusal, and of any answer that says no more than that.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the wish was granted.
    pub success: bool,
    /// For people.
    pub message: String,
    /// For programs, in a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// In a conflict: the lease that stands in the way.
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
