//! Live cursors. Owns the tick: where people point is gathered per room, and only the newest position of
//! each user goes out, encoded once for the whole cluster.
//!
//! Layer 3. Cursors never touch PostgreSQL, and nobody waits for them. On failure, or over the bound, a
//! position is skipped: a newer one follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics::Counter;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::domain::ids::{RoomId, UserId};
use crate::domain::lease::{Person, Position};
use crate::protocol::{CursorFrame, CursorUpdate, Envelope, Message};
use crate::rooms::Rooms;
use crate::telemetry;

/// Users whose positions are gathered for one room and tick; further ones are skipped until the next.
const MAX_USERS: usize = 1000;

struct Moved {
    frame: CursorFrame,
    by: Arc<str>,
}

/// Kept at hand, because there are so many cursors.
struct Counts {
    received: Counter,
    coalesced: Counter,
    sent: Counter,
}

/// Where people point, until the next tick.
pub struct Cursors {
    /// A std mutex: held for an insert or a swap, never across an await.
    gathered: Mutex<HashMap<RoomId, HashMap<UserId, Moved>>>,
    /// How many local sockets show a user's cursor in a room: it leaves with the last of them. A std mutex:
    /// held for a count, never across an await.
    shown: Mutex<HashMap<(RoomId, UserId), usize>>,
    /// Held while cursors go out, so that none is shown after it was said to be gone. A std mutex: held for
    /// hand-overs into queues, never across an await.
    outgoing: Mutex<()>,
    something: Notify,
    counts: Counts,
    rooms: Arc<Rooms>,
    bus: Arc<dyn Bus>,
    replica: String,
}

impl Cursors {
    /// Shows cursors in those rooms, and on that bus. `replica` signs what is sent.
    pub fn new(rooms: Arc<Rooms>, bus: Arc<dyn Bus>, replica: String) -> Self {
        Self {
            gathered: Mutex::default(),
            shown: Mutex::default(),
            outgoing: Mutex::default(),
            something: Notify::new(),
            counts: Counts {
                received: metrics::counter!(telemetry::CURSORS_RECEIVED),
                coalesced: metrics::counter!(telemetry::CURSORS_COALESCED),
                sent: metrics::counter!(telemetry::CURSORS_SENT),
            },
            rooms,
            bus,
            replica,
        }
    }

    fn gathered(&self) -> MutexGuard<'_, HashMap<RoomId, HashMap<UserId, Moved>>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgoing(&self) -> MutexGuard<'_, ()> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> MutexGuard<'_, HashMap<(RoomId, UserId), usize>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody points there now. Calls for one socket come in the order of its events. `by` is that
    /// socket, which does not hear it.
    pub fn move_to(&self, room: &RoomId, person: &Person, position: Position, by: &Arc<str>) {
        let update = CursorUpdate {
            appointment_id: &room.appointment,
            user_id: &person.user_id,
            user_info: &person.user_info,
            position,
        };
        let update = serde_json::value::to_raw_value(&update)
            .expect("a cursor is strings and finite numbers, which JSON can say");
        let moved = Moved {
            frame: CursorFrame {
                user_id: person.user_id.clone(),
                update,
            },
            by: by.clone(),
        };
        let mut gathered = self.gathered();
        let quiet = gathered.is_empty();
        let users = gathered.entry(room.clone()).or_default();
        self.counts.received.increment(1);
        let fits = users.len() < MAX_USERS || users.contains_key(&person.user_id);
        if !fits || users.insert(person.user_id.clone(), moved).is_some() {
            self.counts.coalesced.increment(1);
        }
        if quiet {
            self.something.notify_one();
        }
    }

    /// One more socket shows that user's cursor. Each call is answered by one [`Cursors::leave`].
    pub fn appear(&self, room: &RoomId, user_id: &UserId) {
        *self
            .shown()
            .entry((room.clone(), user_id.clone()))
            .or_default() += 1;
    }

    /// A socket no longer shows that user's cursor. With the last one it is taken off the screens, here and
    /// there. A user whose other socket is on another replica comes back with its next move.
    pub fn leave(&self, room: &RoomId, user_id: &UserId) {
        let key = (room.clone(), user_id.clone());
        {
            let mut shown = self.shown();
            if let Some(count) = shown.get_mut(&key).filter(|count| **count > 1) {
                *count -= 1;
                return;
            }
            shown.remove(&key);
        }
        let _order = self.outgoing();
        if let Some(users) = self.gathered().get_mut(room) {
            users.remove(user_id);
        }
        self.rooms.show_cursor_left(room, user_id);
        self.tell(
            room,
            Message::CursorLeft {
                room: room.clone(),
                user_id: user_id.clone(),
            },
        );
    }

    /// The tick. Sleeps while nobody moves.
    pub async fn run(&self, interval: Duration, stop: CancellationToken) {
        loop {
            let tick = async {
                self.something.notified().await;
                tokio::time::sleep(interval).await;
            };
            if stop.run_until_cancelled(tick).await.is_none() {
                return;
            }
            self.flush();
        }
    }

    fn flush(&self) {
        let _order = self.outgoing();
        let gathered = std::mem::take(&mut *self.gathered());
        for (room, users) in gathered {
            if users.is_empty() {
                continue;
            }
            self.counts.sent.increment(users.len() as u64);
            let frames = users.values().map(|moved| moved.frame.clone()).collect();
            self.rooms.show_cursors(
                &room,
                users
                    .into_values()
                    .map(|moved| (moved.frame, Some(moved.by))),
            );
            self.tell(
                &room,
                Message::Cursors {
                    room: room.clone(),
                    frames,
                },
            );
        }
    }

    fn tell(&self, room: &RoomId, message: Message) {
        let envelope = Envelope {
            from: self.replica.clone(),
            traceparent: None,
            message,
        };
        self.bus.publish(room, Bytes::from(envelope.encode()));
    }
}
