//! Messages between replicas over the bus.
//!
//! Each envelope is complete in itself: a receiver that missed all others still shows the right state. The wire types
//! are private and converted here, so that two releases can run side by side: unknown fields are ignored, an unknown
//! reason is read as the nearest known one, and an unknown message still yields its room, so that the receiver can
//! compare that room with PostgreSQL immediately.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::domain::ids::{Member, RoomId, SessionId, UserId};
use crate::domain::lease::{Admin, Change, Lease, LockState, Reason, UserInfo};

/// A message with its sender.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The sending replica, which drops its own echo.
    pub from: String,
    /// Trace context of the sender (W3C `traceparent`), if there is one.
    pub traceparent: Option<String>,
    /// The message.
    pub message: Message,
}

/// A message from one replica to the others.
#[derive(Debug, Clone)]
pub enum Message {
    /// A lock changed.
    Change(Box<Change>),
    /// Cursor positions collected over one tick, one frame per user.
    Cursors {
        /// The room.
        room: RoomId,
        /// `cursor-update` payloads.
        frames: Vec<CursorFrame>,
    },
    /// A cursor that is to be removed from the screens.
    CursorLeft {
        /// The room.
        room: RoomId,
        /// The cursor's user.
        user_id: UserId,
    },
    /// The first socket of a member joined on the sender.
    Joined {
        /// The room.
        room: RoomId,
        /// The member.
        member: Member,
    },
    /// The last socket of a member left on the sender.
    Left {
        /// The room.
        room: RoomId,
        /// The member.
        member: Member,
    },
    /// All members on the sender: the answer to [`Message::RosterWanted`].
    Roster {
        /// The room.
        room: RoomId,
        /// The members, each once.
        members: Vec<Member>,
    },
    /// The sender may have missed joins and leaves, and asks all replicas for their rosters.
    RosterWanted {
        /// The room.
        room: RoomId,
    },
    /// A message of another release that this one cannot read.
    Unknown {
        /// Its room, if it is in the usual place.
        room: Option<RoomId>,
    },
}

/// One `cursor-update`, encoded once by the replica that received it and forwarded unchanged by all others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CursorFrame {
    /// The cursor's user, so that it can be removed from the screens if that replica is gone.
    pub user_id: UserId,
    /// The payload.
    pub update: Box<RawValue>,
}

#[derive(Serialize)]
struct WireOut<'a> {
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    message: WireMessage,
}

#[derive(Deserialize)]
struct WireIn<'a> {
    from: String,
    #[serde(default)]
    traceparent: Option<String>,
    /// Parsed in a second step, so that an unknown message does not make the envelope unreadable.
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WireMessage {
    Change(Box<WireChange>),
    Cursors {
        room: RoomId,
        frames: Vec<CursorFrame>,
    },
    CursorLeft {
        room: RoomId,
        user_id: UserId,
    },
    Joined {
        room: RoomId,
        member: Member,
    },
    Left {
        room: RoomId,
        member: Member,
    },
    Roster {
        room: RoomId,
        members: Vec<Member>,
    },
    RosterWanted {
        room: RoomId,
    },
}

#[derive(Serialize, Deserialize)]
struct WireChange {
    state: WireState,
    admin: Option<WireAdmin>,
}

#[derive(Serialize, Deserialize)]
struct WireState {
    room: RoomId,
    version: i64,
    reason: Option<String>,
    lease: Option<WireLease>,
    #[serde(with = "time::serde::rfc3339")]
    now: OffsetDateTime,
}

#[derive(Serialize, Deserialize)]
struct WireLease {
    user_id: UserId,
    user_info: UserInfo,
    session_id: Option<SessionId>,
    #[serde(with = "time::serde::rfc3339")]
    granted_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    fencing_token: i64,
}

#[derive(Serialize, Deserialize)]
struct WireAdmin {
    admin_id: UserId,
    admin_info: Option<UserInfo>,
}

impl From<Change> for WireChange {
    fn from(Change { state, admin }: Change) -> Self {
        Self {
            state: WireState {
                room: state.room,
                version: state.version,
                reason: state.reason.map(|reason| reason.as_str().to_owned()),
                lease: state.lease.map(|lease| WireLease {
                    user_id: lease.user_id,
                    user_info: lease.user_info,
                    session_id: lease.session_id,
                    granted_at: lease.granted_at,
                    expires_at: lease.expires_at,
                    fencing_token: lease.fencing_token,
                }),
                now: state.now,
            },
            admin: admin.map(|admin| WireAdmin {
                admin_id: admin.admin_id,
                admin_info: admin.admin_info,
            }),
        }
    }
}

impl From<WireChange> for Change {
    fn from(WireChange { state, admin }: WireChange) -> Self {
        let held = state.lease.is_some();
        Self {
            state: LockState {
                room: state.room,
                version: state.version,
                reason: state.reason.map(|word| Reason::nearest(&word, held)),
                lease: state.lease.map(|lease| Lease {
                    user_id: lease.user_id,
                    user_info: lease.user_info,
                    session_id: lease.session_id,
                    granted_at: lease.granted_at,
                    expires_at: lease.expires_at,
                    fencing_token: lease.fencing_token,
                }),
                now: state.now,
            },
            admin: admin.map(|admin| Admin {
                admin_id: admin.admin_id,
                admin_info: admin.admin_info,
            }),
        }
    }
}

impl WireMessage {
    /// Wire form; `None` for a message that is only received.
    fn of(message: Message) -> Option<Self> {
        Some(match message {
            Message::Change(change) => Self::Change(Box::new((*change).into())),
            Message::Cursors { room, frames } => Self::Cursors { room, frames },
            Message::CursorLeft { room, user_id } => Self::CursorLeft { room, user_id },
            Message::Joined { room, member } => Self::Joined { room, member },
            Message::Left { room, member } => Self::Left { room, member },
            Message::Roster { room, members } => Self::Roster { room, members },
            Message::RosterWanted { room } => Self::RosterWanted { room },
            Message::Unknown { .. } => return None,
        })
    }
}

impl From<WireMessage> for Message {
    fn from(wire: WireMessage) -> Self {
        match wire {
            WireMessage::Change(change) => Self::Change(Box::new((*change).into())),
            WireMessage::Cursors { room, frames } => Self::Cursors { room, frames },
            WireMessage::CursorLeft { room, user_id } => Self::CursorLeft { room, user_id },
            WireMessage::Joined { room, member } => Self::Joined { room, member },
            WireMessage::Left { room, member } => Self::Left { room, member },
            WireMessage::Roster { room, members } => Self::Roster { room, members },
            WireMessage::RosterWanted { room } => Self::RosterWanted { room },
        }
    }
}

/// Room of an unreadable message: every message has it, at the top or in its state.
fn room_of(message: &RawValue) -> Option<RoomId> {
    let value: serde_json::Value = serde_json::from_str(message.get()).ok()?;
    let body = value.as_object()?.values().next()?;
    let room = body
        .get("room")
        .or_else(|| body.get("state")?.get("room"))?;
    serde_json::from_value(room.clone()).ok()
}

impl Envelope {
    /// Encodes the envelope. Empty for [`Message::Unknown`], which is only received.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Some(message) = WireMessage::of(self.message) else {
            return Vec::new();
        };
        let wire = WireOut {
            from: &self.from,
            traceparent: self.traceparent.as_deref(),
            message,
        };
        serde_json::to_vec(&wire).expect(
            "all map keys are strings, and all times are within RFC 3339: JSON can represent that",
        )
    }

    /// Decodes a received envelope.
    ///
    /// # Errors
    /// serde's error if the bytes are not an envelope.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let wire: WireIn = serde_json::from_slice(bytes)?;
        let message = match serde_json::from_str::<WireMessage>(wire.message.get()) {
            Ok(message) => message.into(),
            Err(_) => Message::Unknown {
                room: room_of(wire.message),
            },
        };
        Ok(Self {
            from: wire.from,
            traceparent: wire.traceparent,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(message: &str) -> Message {
        let bytes = format!(r#"{{"from":"next","hops":3,"message":{message}}}"#);
        Envelope::decode(bytes.as_bytes()).unwrap().message
    }

    const ROOM: &str = r#"{"tenant":"","appointment":"42"}"#;

    #[test]
    fn a_change_of_a_future_release_is_read_with_the_nearest_reason() {
        let lease = r#"{"user_id":"ann","user_info":{"name":"Ann","email":""},"session_id":null,"away":true,
            "granted_at":"2026-01-01T00:00:00Z","expires_at":"2026-01-01T00:05:00Z","fencing_token":3}"#;
        for (lease, word, nearest) in [
            (lease, "holder-away", Reason::Renewed),
            (lease, "acquired", Reason::Acquired),
            ("null", "archived", Reason::Released),
        ] {
            let message = decode(&format!(
                r#"{{"change":{{"state":{{"room":{ROOM},"version":7,"reason":"{word}","lease":{lease},"revision":"r1",
                "now":"2026-01-01T00:00:01Z"}},"admin":null}}}}"#
            ));
            let Message::Change(change) = message else {
                panic!("{message:?}")
            };
            assert_eq!(change.state.version, 7);
            assert_eq!(change.state.reason, Some(nearest), "{word}");
        }
    }

    #[test]
    fn of_a_message_of_a_future_release_the_room_is_read() {
        let rooms = [
            decode(&format!(
                r#"{{"takeover-pending":{{"room":{ROOM},"due":1}}}}"#
            )),
            decode(&format!(
                r#"{{"change":{{"state":{{"room":{ROOM},"version":"7b"}}}}}}"#
            )),
        ];
        for message in rooms {
            let Message::Unknown { room: Some(room) } = message else {
                panic!("{message:?}")
            };
            assert_eq!(room.appointment.as_str(), "42");
        }
        for message in [r#""hello""#, r#"{"hello":{}}"#, r#"{"hello":[1]}"#] {
            assert!(matches!(decode(message), Message::Unknown { room: None }));
        }
    }

    #[test]
    fn what_is_no_envelope_is_an_error() {
        for bytes in ["", "{}", "[]", r#"{"from":"a"}"#, r#"{"message":{}}"#] {
            assert!(Envelope::decode(bytes.as_bytes()).is_err(), "{bytes}");
        }
    }
}
