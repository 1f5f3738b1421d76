//! What replicas tell each other over the bus.
//!
//! Each envelope is whole in itself: a receiver that missed all others still shows the right thing. Unknown
//! fields are ignored and unknown messages dropped, so that two releases can run side by side.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::ids::{RoomId, UserId};
use crate::domain::lease::Change;

/// A message with its sender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// The replica that sent it, which drops its own echo.
    pub from: String,
    /// The trace that it is a part of, in the words of the W3C's Trace Context, where it is a part of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What it says.
    pub message: Message,
}

/// What one replica tells the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// A lock changed.
    Change(Box<Change>),
    /// Where people point, one frame a user, gathered over one tick.
    Cursors {
        /// In which room.
        room: RoomId,
        /// `cursor-update` payloads.
        frames: Vec<CursorFrame>,
    },
    /// A cursor to take off the screen.
    CursorLeft {
        /// In which room.
        room: RoomId,
        /// Whose.
        user_id: UserId,
    },
}

/// One `cursor-update`, encoded once by the replica that heard it and passed through by all others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CursorFrame {
    /// Whose, so that it can be taken off the screens when that replica is gone.
    pub user_id: UserId,
    /// The payload.
    pub update: Box<RawValue>,
}

impl Envelope {
    /// The bytes on the bus.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings, numbers and raw JSON: there is no value of this type that JSON cannot say.
        serde_json::to_vec(self)
            .expect("no map keys but strings, and times of this century: JSON can say that")
    }

    /// Reads what came over the bus.
    ///
    /// # Errors
    /// What serde says: another release's message, or not ours at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
