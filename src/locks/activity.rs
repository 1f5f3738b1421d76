//! Renewal of a lease by the holder's cursor. Owns its cost: at most one write per tenth of the TTL, and yet the lease
//! ends exactly one TTL after the last activity.
//!
//! The first move of a tenth waits for its end, later moves only update the time, and the write then contains the time
//! since the last one. On failure the write is retried until it succeeds or the lease would have expired; at shutdown,
//! pending activity is written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::debug;

use super::error::LockError;
use super::operations::Locks;
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

/// Pause after a failed write.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum concurrent writes at shutdown.
const CONCURRENCY: usize = 16;

/// The activity of holders whose sockets are on this replica.
#[derive(Clone)]
pub struct Activity {
    locks: Locks,
    rooms: Arc<Rooms>,
    /// One entry for each room with a write in progress or pending. A std mutex: never held across an await.
    pending: Arc<Mutex<HashMap<RoomId, Last>>>,
}

impl Activity {
    /// Activity that renews through `locks` if `rooms` has the user as the holder.
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

    /// Takes a cursor move. If the user is the holder, the lease is renewed, now or soon.
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
            // A tenth after the last renewal; immediately if that is past.
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
                // No activity for a tenth.
                let mut pending = self.pending();
                if pending.get(&room).is_none_or(|now| now.written) {
                    pending.remove(&room);
                    return;
                }
                continue;
            }
            // The entry stays for a tenth after the write, so that later moves are collected and no second write
            // begins.
            pause = if self.write(&room, &last).await {
                self.locks.ttl() / 10
            } else {
                RETRY_INTERVAL
            };
        }
    }

    /// Writes one activity; false if it must be retried.
    async fn write(&self, room: &RoomId, last: &Last) -> bool {
        let (user, position) = (last.user.clone(), Some(last.position));
        let renewed = self
            .locks
            .renew(room.clone(), user, position, last.at.elapsed())
            .await;
        if let Err(error @ (LockError::Store(_) | LockError::Fault(_))) = &renewed {
            debug!(appointment = %room.appointment, %error, "could not write an activity");
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

    /// Writes pending activity. Later moves are not written.
    pub async fn finish(&self) {
        let left: Vec<(RoomId, Last)> = std::mem::take(&mut *self.pending())
            .into_iter()
            .filter(|(_, last)| !last.written)
            .collect();
        for some in left.chunks(CONCURRENCY) {
            let writes = some.iter().map(|(room, last)| self.write(room, last));
            futures_util::future::join_all(writes).await;
        }
    }
}
