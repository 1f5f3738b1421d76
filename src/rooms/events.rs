//! The events of a room, encoded once each, and their way to the dispatcher.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tracing::Span;

use super::subscription::{Audience, Subscription};
use crate::domain::ids::{AppointmentId, RoomId, UserId};
use crate::domain::lease::{Change, LockState, Reason};
use crate::domain::transition::Transition;
use crate::protocol::{
    AdminTakeover, CursorFrame, CursorLeft, Lock, LockAcquired, LockReleased, LockUpdate,
};

/// One event, encoded once.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// Its payload.
    pub payload: Box<RawValue>,
    /// The sockets that hear it.
    pub audience: Audience,
}

impl Event {
    fn new(name: &'static str, payload: &impl Serialize) -> Self {
        let payload = serde_json::value::to_raw_value(payload)
            .expect("our payloads are structs of strings and finite numbers, which JSON can say");
        Self {
            name,
            payload,
            audience: Audience::Room,
        }
    }

    pub(super) fn cursor(frame: CursorFrame, audience: Audience) -> Self {
        Self {
            name: "cursor-update",
            payload: frame.update,
            audience,
        }
    }

    pub(super) fn cursor_left(appointment_id: &AppointmentId, user_id: &UserId) -> Self {
        let left = CursorLeft {
            appointment_id,
            user_id,
        };
        Self::new("cursor-left", &left)
    }
}

/// The subscriptions that were in the room when an event was put into the queue.
pub type Recipients = Arc<Vec<Arc<Subscription>>>;

/// A change of a lock, for the sockets of its room.
pub struct RoomUpdate {
    /// The room.
    pub room: RoomId,
    /// Its subscriptions.
    pub recipients: Recipients,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The span that it is a part of.
    pub span: Span,
    /// When PostgreSQL decided it, by its own clock, if another replica asked.
    pub decided_remotely: Option<OffsetDateTime>,
    /// Whether the room's sockets reconnect after it: their clients have seen versions that are no more.
    pub reconnect: bool,
}

/// A socket that is let into a room.
pub struct Join {
    /// Its subscription.
    pub subscription: Arc<Subscription>,
    /// The number of its request, which is answered now.
    pub request: u64,
}

/// An entry of the queue from rooms to sockets.
pub enum OutboundItem {
    /// A change of a lock: no socket of the room may miss the newest.
    Change(RoomUpdate),
    /// Cursors in a room: a socket that does not keep up misses them.
    Cursors(Recipients, Vec<Event>),
    /// A socket joins: it gets this state, and every later event of its room.
    Admit(Join, LockState),
}

/// The events of a change: who stepped in, what happened, what is.
pub(super) fn of_change(change: &Change, transition: Transition) -> Vec<Event> {
    let state = &change.state;
    let (appointment_id, version) = (&state.room.appointment, state.version);
    let lock = Lock::of(state);
    let mut events = Vec::with_capacity(3);
    if let Some(admin) = &change.admin {
        let (admin_id, admin_info) = (&admin.admin_id, admin.admin_info.as_ref());
        events.push(Event::new(
            "admin-takeover",
            &AdminTakeover {
                appointment_id,
                admin_id,
                admin_info,
                version,
            },
        ));
    }
    let reason = state.reason.unwrap_or(Reason::Released);
    events.push(Event::new(
        "lock-update",
        &LockUpdate {
            appointment_id,
            lock: lock.as_ref(),
            version,
            reason,
        },
    ));
    match transition {
        Transition::Granted => {
            events.push(Event::new(
                "lock-acquired",
                &LockAcquired {
                    appointment_id,
                    lock: lock.as_ref(),
                    version,
                },
            ));
        }
        Transition::Ended(reason) => {
            events.push(Event::new(
                "lock-released",
                &LockReleased {
                    appointment_id,
                    version,
                    reason,
                },
            ));
        }
        Transition::Same => {}
    }
    events
}
