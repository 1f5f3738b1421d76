//! Live cursors. Owns the tick: positions are collected per room, and only the newest one of each user is sent, encoded
//! once for all replicas.
//!
//! Layer 3. Cursors never touch PostgreSQL, and nothing waits for them. On failure, or beyond the maximum, a position
//! is skipped: a newer one follows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bus::announcer::Announcer;
use crate::domain::ids::{RoomId, UserId};
use crate::domain::lease::{Person, Position};
use crate::protocol::{CursorFrame, CursorUpdate, Message};
use crate::rooms::Rooms;
use crate::sync::{Ordered, Rank};
use crate::telemetry;

/// Maximum users per room and tick; further ones are skipped until the next.
const MAX_USERS: usize = 1000;

struct Moved {
    frame: CursorFrame,
    by: Arc<str>,
}

/// Metric handles, looked up once because cursors are frequent.
struct Counts {
    received: Counter,
    coalesced: Counter,
    sent: Counter,
}

/// Positions collected until the next tick.
pub struct Cursors {
    gathered: Ordered<HashMap<RoomId, HashMap<UserId, Moved>>>,
    /// Held while cursors are sent, so that no cursor is shown after its `cursor-left`.
    outgoing: Ordered<()>,
    something: Notify,
    counts: Counts,
    rooms: Arc<Rooms>,
    announcer: Announcer,
}

impl Cursors {
    /// Creates the gatherer of cursors for those rooms; `announcer` sends them to other replicas.
    pub fn new(rooms: Arc<Rooms>, announcer: Announcer) -> Self {
        Self {
            gathered: Ordered::new(Rank::CursorsGathered, HashMap::new()),
            outgoing: Ordered::new(Rank::CursorsOutgoing, ()),
            something: Notify::new(),
            counts: Counts {
                received: metrics::counter!(telemetry::CURSORS_RECEIVED),
                coalesced: metrics::counter!(telemetry::CURSORS_COALESCED),
                sent: metrics::counter!(telemetry::CURSORS_SENT),
            },
            rooms,
            announcer,
        }
    }

    /// Records a cursor's new position. Calls for one socket come in the order of its events. `by` is that socket,
    /// which does not receive the update.
    pub fn move_to(&self, room: &RoomId, person: &Person, position: Position, by: &Arc<str>) {
        let update = CursorUpdate {
            appointment_id: &room.appointment,
            user_id: &person.user_id,
            user_info: &person.user_info,
            position,
        };
        let update = serde_json::value::to_raw_value(&update)
            .expect("a cursor is strings and finite numbers, which JSON can represent");
        let moved = Moved {
            frame: CursorFrame {
                user_id: person.user_id.clone(),
                update,
            },
            by: by.clone(),
        };
        let mut gathered = self.gathered.lock();
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

    /// Removes a user's cursor, here and on other replicas, once none of its sockets here shows it any more. If the
    /// user has a socket on another replica, its next move shows the cursor again.
    pub fn leave(&self, room: &RoomId, user_id: &UserId) {
        let _order = self.outgoing.lock();
        if let Some(users) = self.gathered.lock().get_mut(room) {
            users.remove(user_id);
        }
        self.rooms.show_cursor_left(room, user_id);
        let message = Message::CursorLeft {
            room: room.clone(),
            user_id: user_id.clone(),
        };
        self.announcer.announce(room, message);
    }

    /// Runs the tick until stopped. Sleeps while no cursor moves.
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
        let _order = self.outgoing.lock();
        let gathered = std::mem::take(&mut *self.gathered.lock());
        for (room, users) in gathered {
            if users.is_empty() {
                continue;
            }
            self.counts.sent.increment(users.len() as u64);
            let frames = users.values().map(|moved| moved.frame.clone()).collect();
            self.rooms.show_cursors(
                &room,
                users.into_values().map(|moved| (moved.frame, moved.by)),
            );
            let message = Message::Cursors {
                room: room.clone(),
                frames,
            };
            self.announcer.announce(&room, message);
        }
    }
}
