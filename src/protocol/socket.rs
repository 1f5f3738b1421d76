//! What Socket.IO clients send and hear.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::{AppointmentId, SessionId, UserId};
use crate::domain::lease::{LockState, Position, Reason, UserInfo};

use super::input::maybe_object;
use super::lock::{Lock, rfc3339_millis};
use super::refusal::Refusal;
use super::rest::{Answer, UserInfoBody, position};

/// The `auth` of a handshake. Everything is optional: an anonymous socket may watch where identities are
/// trusted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake {
    /// A bearer token.
    pub token: Option<String>,
    /// Who it is, where identities are trusted.
    pub user_id: Option<UserId>,
    /// How others see this person, where identities are trusted.
    #[serde(default, deserialize_with = "maybe_object")]
    pub user_info: Option<UserInfoBody>,
    /// The tab.
    pub session_id: Option<SessionId>,
}

/// Payload of `refresh-token`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RefreshToken {
    /// The fresh one, of the same user.
    pub token: String,
}

/// `token-expired`: the token has run out, and the connection is closed.
#[derive(Debug, Clone, Serialize)]
pub struct TokenExpired<'a> {
    /// What to do, for people.
    pub message: &'a str,
}

/// Payload of `subscribe` and `unsubscribe`: the id alone, or an object with it.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscribePayload {
    /// Which appointment.
    pub appointment_id: AppointmentId,
    /// How cursors are to come.
    pub cursors: CursorChoice,
    /// Whether viewers are to be told.
    pub presence: bool,
}

/// How a subscriber wants cursors. Only `each` is available yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CursorChoice {
    /// One event a user and tick.
    #[default]
    Each,
    /// One event a tick.
    Batch,
    /// None at all.
    None,
}

// By hand: what serde derives would take `{"each":null}` too, and speak of variants and units.
impl<'de> Deserialize<'de> for CursorChoice {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Word;
        impl serde::de::Visitor<'_> for Word {
            type Value = CursorChoice;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"each\", \"batch\" or \"none\"")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<CursorChoice, E> {
                match word {
                    "each" => Ok(CursorChoice::Each),
                    "batch" => Ok(CursorChoice::Batch),
                    "none" => Ok(CursorChoice::None),
                    other => Err(E::unknown_variant(other, &["each", "batch", "none"])),
                }
            }
        }
        from.deserialize_str(Word)
    }
}

impl<'de> Deserialize<'de> for SubscribePayload {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = SubscribePayload;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an appointmentId, or an object with one")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SubscribePayload, E> {
                let appointment_id = AppointmentId::new(text)
                    .map_err(|fault| E::custom(format!("appointmentId {fault}")))?;
                Ok(SubscribePayload {
                    appointment_id,
                    cursors: CursorChoice::Each,
                    presence: false,
                })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<SubscribePayload, A::Error> {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Fields {
                    appointment_id: AppointmentId,
                    #[serde(default)]
                    cursors: CursorChoice,
                    #[serde(default)]
                    presence: bool,
                }
                let fields =
                    Fields::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(SubscribePayload {
                    appointment_id: fields.appointment_id,
                    cursors: fields.cursors,
                    presence: fields.presence,
                })
            }
        }
        from.deserialize_any(Either)
    }
}

/// Payload of `cursor-position`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CursorPosition {
    /// In which room.
    pub appointment_id: AppointmentId,
    /// Where.
    #[serde(deserialize_with = "position")]
    pub position: Position,
    /// Whose cursor, where identities are trusted and the handshake named nobody.
    pub user_id: Option<UserId>,
    /// As others see them.
    #[serde(default, deserialize_with = "maybe_object")]
    pub user_info: Option<UserInfoBody>,
}

/// `lock-update`: every change; this one alone is enough to follow a lock.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockUpdate<'a> {
    /// Which appointment.
    pub appointment_id: &'a AppointmentId,
    /// The lease in force, or null.
    pub lock: Option<&'a Lock>,
    /// Only rises.
    pub version: i64,
    /// What happened.
    pub reason: Reason,
}

/// `lock-acquired`: a new grant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockAcquired<'a> {
    /// Which appointment.
    pub appointment_id: &'a AppointmentId,
    /// The new lease.
    pub lock: Option<&'a Lock>,
    /// Only rises.
    pub version: i64,
}

/// `lock-released`: a lease ended and none followed it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockReleased<'a> {
    /// Which appointment.
    pub appointment_id: &'a AppointmentId,
    /// Only rises.
    pub version: i64,
    /// `released`, `expired` or `forced`.
    pub reason: Reason,
}

/// `admin-takeover`: an admin stepped in; comes before the event that it causes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminTakeover<'a> {
    /// Which appointment.
    pub appointment_id: &'a AppointmentId,
    /// Who.
    pub admin_id: &'a UserId,
    /// As others see them, or null.
    pub admin_info: Option<&'a UserInfo>,
    /// The version of the change that it causes.
    pub version: i64,
}

/// `cursor-update`: somebody's newest position.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CursorUpdate<'a> {
    /// In which room.
    pub appointment_id: &'a AppointmentId,
    /// Whose.
    pub user_id: &'a UserId,
    /// As others see them.
    pub user_info: &'a UserInfo,
    /// Where.
    pub position: Position,
}

/// `cursor-left`: a cursor to take off the screen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CursorLeft<'a> {
    /// In which room.
    pub appointment_id: &'a AppointmentId,
    /// Whose.
    pub user_id: &'a UserId,
}

/// `server-restarting`: this replica is about to close the connection; connect again, to another one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restarting {
    /// Wait this long, in milliseconds, so that not everybody comes back at once.
    pub reconnect_in_ms: u64,
}

/// The acknowledgement of `subscribe`: the state at joining.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscribed<'a> {
    /// True.
    pub success: bool,
    /// Which appointment.
    pub appointment_id: &'a AppointmentId,
    /// Whether a lease is in force.
    pub locked: bool,
    /// That lease, or null.
    pub lock: Option<Lock>,
    /// Every later change has a higher one.
    pub version: i64,
    /// PostgreSQL's clock.
    #[serde(serialize_with = "rfc3339_millis")]
    pub server_time: OffsetDateTime,
}

impl<'a> Subscribed<'a> {
    /// The state, as the acknowledgement shows it.
    #[must_use]
    pub fn of(state: &'a LockState) -> Self {
        let lock = Lock::of(state);
        Self {
            success: true,
            appointment_id: &state.room.appointment,
            locked: lock.is_some(),
            lock,
            version: state.version,
            server_time: state.now,
        }
    }
}

/// An acknowledgement that says no more than whether it went well.
#[must_use]
pub fn ack(outcome: Result<&str, Refusal>) -> Answer {
    match outcome {
        Ok(message) => Answer {
            success: true,
            message: message.into(),
            code: None,
            lock: None,
        },
        Err(refusal) => refusal.into(),
    }
}
