//! Payloads, events and acknowledgements of Socket.IO.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::{AppointmentId, SessionId, UserId};
use crate::domain::lease::{LockState, Position, Reason, UserInfo};

use super::input::maybe_object;
use super::lock::{Lock, rfc3339_millis};
use super::refusal::Refusal;
use super::rest::{Answer, UserInfoBody, position};

/// The `auth` of a handshake. Every field is optional: an anonymous socket may subscribe if identities are trusted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake {
    /// Bearer token.
    pub token: Option<String>,
    /// User, if identities are trusted.
    pub user_id: Option<UserId>,
    /// Name and e-mail address shown to others, if identities are trusted.
    #[serde(default, deserialize_with = "maybe_object")]
    pub user_info: Option<UserInfoBody>,
    /// Tab.
    pub session_id: Option<SessionId>,
}

/// Payload of `refresh-token`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RefreshToken {
    /// Fresh token of the same user.
    pub token: String,
}

/// `token-expired`: the token has expired, and the connection is about to be closed.
#[derive(Debug, Clone, Serialize)]
pub struct TokenExpired<'a> {
    /// Human-readable advice.
    pub message: &'a str,
}

/// Payload of `subscribe` and `unsubscribe`: the id alone, or an object with the id.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscribePayload {
    /// Appointment.
    pub appointment_id: AppointmentId,
    /// Delivery of cursors.
    pub cursors: CursorChoice,
    /// True to receive presence events.
    pub presence: bool,
}

/// Delivery of cursors to a subscriber. Only `each` is supported so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CursorChoice {
    /// One event per user and tick.
    #[default]
    Each,
    /// One event per tick.
    Batch,
    /// No events.
    None,
}

// By hand: a derived implementation would also accept `{"each":null}`, and mention variants and units in its errors.
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
    /// Appointment.
    pub appointment_id: AppointmentId,
    /// Position on the page.
    #[serde(deserialize_with = "position")]
    pub position: Position,
    /// User, if identities are trusted and the handshake named nobody.
    pub user_id: Option<UserId>,
    /// Name and e-mail address shown to others.
    #[serde(default, deserialize_with = "maybe_object")]
    pub user_info: Option<UserInfoBody>,
}

/// `lock-update`: sent for every change; sufficient on its own to follow a lock.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockUpdate<'a> {
    /// Appointment.
    pub appointment_id: &'a AppointmentId,
    /// Lease in force, or null.
    pub lock: Option<&'a Lock>,
    /// Version of the lock's state; only increases.
    pub version: i64,
    /// Cause of the change.
    pub reason: Reason,
}

/// `lock-acquired`: a new grant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockAcquired<'a> {
    /// Appointment.
    pub appointment_id: &'a AppointmentId,
    /// New lease.
    pub lock: Option<&'a Lock>,
    /// Version of the lock's state; only increases.
    pub version: i64,
}

/// `lock-released`: a lease ended and no other followed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockReleased<'a> {
    /// Appointment.
    pub appointment_id: &'a AppointmentId,
    /// Version of the lock's state; only increases.
    pub version: i64,
    /// `released`, `expired` or `forced`.
    pub reason: Reason,
}

/// `admin-takeover`: an admin intervened; sent before the event that it causes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminTakeover<'a> {
    /// Appointment.
    pub appointment_id: &'a AppointmentId,
    /// Admin.
    pub admin_id: &'a UserId,
    /// Admin's name and e-mail address, or null.
    pub admin_info: Option<&'a UserInfo>,
    /// Version of the change that the admin causes.
    pub version: i64,
}

/// `cursor-update`: newest position of a user.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CursorUpdate<'a> {
    /// Appointment.
    pub appointment_id: &'a AppointmentId,
    /// User.
    pub user_id: &'a UserId,
    /// User's name and e-mail address.
    pub user_info: &'a UserInfo,
    /// Position on the page.
    pub position: Position,
}

/// `cursor-left`: a cursor to remove from the screen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CursorLeft<'a> {
    /// Appointment.
    pub appointment_id: &'a AppointmentId,
    /// User.
    pub user_id: &'a UserId,
}

/// `server-restarting`: this replica is about to close the connection; reconnect to another one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restarting {
    /// Delay before reconnecting, in milliseconds; differs between sockets, so that they do not all reconnect at once.
    pub reconnect_in_ms: u64,
}

/// Acknowledgement of `subscribe`: the state at the time of joining.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscribed<'a> {
    /// Always true.
    pub success: bool,
    /// Appointment.
    pub appointment_id: &'a AppointmentId,
    /// True if a lease is in force.
    pub locked: bool,
    /// Lease in force, or null.
    pub lock: Option<Lock>,
    /// Version of the lock's state; every later change has a higher one.
    pub version: i64,
    /// Server time, by PostgreSQL's clock.
    #[serde(serialize_with = "rfc3339_millis")]
    pub server_time: OffsetDateTime,
}

impl<'a> Subscribed<'a> {
    /// Acknowledgement that shows this state.
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

/// Acknowledgement without further fields.
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
