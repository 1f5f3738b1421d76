//! Activity that renews a lease: the holder's cursor. Owns the thrift of it: at most one write per tenth of
//! the TTL, and yet the lease ends exactly one TTL after the last activity.
//!
//! The first move of a tenth waits for its end, those that follow only note their time, and the write then
//! says how long ago the last one was. On failure the write is dropped; the next move tries again.

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
}

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
            let renewed = self
                .locks
                .renew(
                    room.clone(),
                    last.user,
                    Some(last.position),
                    last.at.elapsed(),
                )
                .await;
            match renewed {
                Ok(_) | Err(LockError::NotLocked | LockError::NotHolder(_)) => {}
                Err(error) => {
                    debug!(appointment = %room.appointment, %error, "an activity was not written")
                }
            }
            // The entry stays for a tenth, so that what follows is gathered and no second write begins.
            pause = Duration::ZERO;
            tokio::time::sleep(self.locks.ttl() / 10).await;
            let mut pending = self.pending();
            if pending.get(&room).is_none_or(|newer| newer.at == last.at) {
                pending.remove(&room);
                return;
            }
        }
    }
}
