//! Who waits for whose row. Owns that one appointment whose row is held, by a back end's saving transaction for
//! example, cannot take all of a replica's connections: of each appointment only a few statements are under way
//! at a time, and the others wait here, where waiting costs nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::ids::RoomId;

/// Statements of one appointment that are under way at a time.
const AT_A_TIME: usize = 3;
/// How long one waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// The queues of all appointments that have one.
#[derive(Default)]
pub(super) struct Queues {
    /// A std mutex: held for a look-up, never across an await.
    rooms: Mutex<HashMap<RoomId, Arc<Semaphore>>>,
    waiting: AtomicUsize,
}

/// Somebody who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A statement's turn, until it is dropped.
pub(super) struct Turn<'a> {
    queues: &'a Queues,
    room: &'a RoomId,
    permit: Option<OwnedSemaphorePermit>,
}

impl Queues {
    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomId, Arc<Semaphore>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for the turn; `None` where it did not come in time.
    pub(super) async fn turn<'a>(&'a self, room: &'a RoomId) -> Option<Turn<'a>> {
        let queue = self
            .rooms()
            .entry(room.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME)))
            .clone();
        let mut turn = Turn {
            queues: self,
            room,
            permit: None,
        };
        let waiting = Waiting::begin(&self.waiting);
        let waited = tokio::time::timeout(PATIENCE, queue.acquire_owned()).await;
        drop(waiting);
        // The semaphore is never closed.
        turn.permit = Some(waited.ok()?.ok()?);
        Some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut rooms = self.queues.rooms();
        drop(self.permit.take());
        // The map's own, and nobody's else: whoever waits holds one.
        if rooms
            .get(self.room)
            .is_some_and(|queue| Arc::strong_count(queue) == 1)
        {
            rooms.remove(self.room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{AppointmentId, TenantId};

    fn room(name: &str) -> RoomId {
        RoomId {
            tenant: TenantId::default(),
            appointment: AppointmentId::new(name).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_few_are_under_way_and_the_others_wait_their_turn() {
        let queues = Queues::default();
        let (busy, other) = (room("busy"), room("other"));
        let mut turns = Vec::new();
        for _ in 0..AT_A_TIME {
            turns.push(queues.turn(&busy).await.unwrap());
        }
        let mut next = Box::pin(queues.turn(&busy));
        assert!(futures_util::poll!(&mut next).is_pending());
        assert!(queues.turn(&other).await.is_some(), "another's queue");
        turns.pop();
        let turn = next.await;
        assert!(turn.is_some());
        drop((turn, turns));
        assert!(queues.rooms().is_empty(), "a queue of nobody is kept");
    }
}
