//! The events of a room, encoded once each, and their audience.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::ids::{AppointmentId, Member, UserId};
use crate::domain::lease::{Change, Reason};
use crate::domain::transition::Transition;
use crate::protocol::{
    AdminTakeover, CursorFrame, CursorLeft, Lock, LockAcquired, LockReleased, LockUpdate,
};

/// The subscriptions of a room that an event is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// All.
    Room,
    /// All but one socket, which caused the event.
    AllBut(Arc<str>),
    /// All sockets of a user.
    User(UserId),
    /// All sockets of a user's tab.
    Session(Member),
    /// One socket.
    Socket(Arc<str>),
}

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
