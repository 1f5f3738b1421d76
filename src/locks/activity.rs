//! Activity that renews a lease: the holder's cursor. Owns the thrift of it: at most one write per tenth of
//! the TTL, and yet the lease ends exactly one TTL after the last activity.
//!
//! The first move of a tenth waits for its end, those that follow only note their time, and the write then
//! says how long ago the last one was. On failure it is written again until it has come through or the lease
//! would be over; at a stop, what was not written yet is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::debug;

use super::{LockError, Locks};
use crate::domain::ids::{RoomId, SessionId, UserId};
use crate::domain::lease::Position;
use crate::rooms::Rooms;

#[derive(Clone)]
struct Last {
    user: UserId,
    position: Position,
    at: Instant,
    written: bool,
}

/// After a write that failed.
const AGAIN: Duration = Duration::from_millis(500);
/// Writes at once, at a stop.
const AT_ONCE: usize = 16;

/// The activity of holders whose sockets are on this replica.
#[derive(Clone)]
pub struct Activity {
    locks: Locks,
    rooms: Arc<Rooms>,
    /// One entry for each room with a write under way or to come. A std mutex: held for a look-up, never
    /// across an await.
    pending: Arc<Mutex<HashMap<RoomId, Last>>>,
}

impl Activity {
    /// Renews through `locks` where `rooms` sees the mover hold the lease.
    pub fn new(locks: Locks, rooms: Arc<Rooms>) -> Self {
        Self {
            locks,
            rooms,
            pending: Arc::default(),
        }
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<RoomId, Last>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody moved. Where that is the holder, the lease is renewed, now or soon.
    pub fn moved(
        &self,
        room: &RoomId,
        user: &UserId,
        session: Option<&SessionId>,
        position: Position,
    ) {
        let Some(holder) = self.rooms.holder(room) else {
            return;
        };
        let other_tab =
            matches!((&holder.session_id, session), (Some(theirs), Some(own)) if theirs != own);
        if holder.user_id != *user || other_tab {
            return;
        }
        let last = Last {
            user: user.clone(),
            position,
            at: Instant::now(),
            written: false,
        };
        if self.pending().insert(room.clone(), last).is_none() {
            // A tenth after the last renewal; at once where that is past.
            let age_at_end = self.locks.ttl() * 9 / 10;
            let left = holder.ends_at.saturating_duration_since(Instant::now());
            let pause = left.saturating_sub(age_at_end);
            let (this, room) = (self.clone(), room.clone());
            tokio::spawn(async move { this.renew_after(pause, room).await });
        }
    }

    async fn renew_after(self, mut pause: Duration, room: RoomId) {
        loop {
            tokio::time::sleep(pause).await;
            let Some(last) = self.pending().get(&room).cloned() else {
                return;
            };
            if last.written {
                // A tenth has passed in which nothing more came.
                let mut pending = self.pending();
                if pending.get(&room).is_none_or(|now| now.written) {
                    pending.remove(&room);
                    return;
                }
                continue;
            }
            // The entry stays for a tenth after it is written, so that what follows is gathered and no second
            // write begins.
            pause = if self.write(&room, &last).await {
                self.locks.ttl() / 10
            } else {
                AGAIN
            };
        }
    }

    /// Writes one activity; false where it is to be tried again.
    async fn write(&self, room: &RoomId, last: &Last) -> bool {
        let (user, position) = (last.user.clone(), Some(last.position));
        let renewed = self
            .locks
            .renew(room.clone(), user, position, last.at.elapsed())
            .await;
        if let Err(error @ (LockError::Store(_) | LockError::Fault(_))) = &renewed {
            debug!(appointment = %room.appointment, %error, "an activity was not written");
            if last.at.elapsed() < self.locks.ttl() {
                return false;
            }
        }
        if let Some(now) = self.pending().get_mut(room)
            && now.at == last.at
        {
            now.written = true;
        }
        true
    }

    /// Writes what was not written yet. What moves later is not written any more.
    pub async fn finish(&self) {
        let left: Vec<(RoomId, Last)> = std::mem::take(&mut *self.pending())
            .into_iter()
            .filter(|(_, last)| !last.written)
            .collect();
        for some in left.chunks(AT_ONCE) {
            let writes = some.iter().map(|(room, last)| self.write(room, last));
            futures_util::future::join_all(writes).await;
        }
    }
}
