//! Events of a room, each encoded once, and their audience.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::ids::{AppointmentId, Member, UserId};
use crate::domain::lease::{Change, Reason};
use crate::domain::transition::Transition;
use crate::protocol::{
    AdminTakeover, CursorFrame, CursorLeft, Lock, LockAcquired, LockReleased, LockUpdate,
};

/// Recipients of an event among the subscriptions of its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// All subscriptions.
    Room,
    /// All except one socket, which caused the event.
    AllBut(Arc<str>),
    /// All sockets of a user.
    User(UserId),
    /// All sockets of one tab of a user.
    Session(Member),
    /// One socket.
    Socket(Arc<str>),
}

/// An encoded event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Event name.
    pub name: &'static str,
    /// Encoded payload.
    pub payload: Box<RawValue>,
    /// Recipients.
    pub audience: Audience,
}

impl Event {
    fn new(name: &'static str, payload: &impl Serialize) -> Self {
        let payload = serde_json::value::to_raw_value(payload)
            .expect("payloads are structs of strings and finite numbers, which JSON can represent");
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

/// Events of a change, in order: the admin's intervention, the new state, the transition.
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
