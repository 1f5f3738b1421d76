//! Queues for the rows of appointments. Owns that one appointment whose row is held, by a back end's saving transaction
//! for example, cannot take all of a replica's connections: each appointment has only a few statements in progress, and
//! the others wait here, without a connection. And that one decision answers a crowd that wants one lock: requests that
//! wait while another one gets it have lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;

/// Maximum concurrent statements of one appointment.
const CONCURRENCY: usize = 3;
/// Timeout of the wait for a permit.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The queue of one appointment.
struct Queue {
    permits: Arc<Semaphore>,
    /// State after the last acquire.
    decided: watch::Sender<Option<(Instant, LockState)>>,
}

/// The queues of all appointments that have one.
#[derive(Default)]
pub(super) struct Queues {
    /// A std mutex: never held across an await.
    rooms: Mutex<HashMap<RoomId, Arc<Queue>>>,
    waiting: AtomicUsize,
}

/// A waiting request, counted until it is dropped.
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

/// Permission to run one statement on a row, until it is dropped.
pub(super) struct RowPermit<'a> {
    queues: &'a Queues,
    room: &'a RoomId,
    queue: Option<Arc<Queue>>,
    permit: Option<OwnedSemaphorePermit>,
    /// When the permit was had: the statement begins after it.
    since: Instant,
}

/// Result of the wait for a permit.
pub(super) enum Waited<'a> {
    /// The permit.
    Permit(RowPermit<'a>),
    /// Another acquire was decided meanwhile, which answers this request too.
    Decided(LockState),
    /// Timeout.
    TimedOut,
}

impl RowPermit<'_> {
    /// Passes the state after an acquire to all requests that wait.
    pub(super) fn decided(&self, state: &LockState) {
        if let Some(queue) = &self.queue
            && queue.decided.receiver_count() > 0
        {
            queue
                .decided
                .send_replace(Some((self.since, state.clone())));
        }
    }
}

impl Queues {
    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomId, Arc<Queue>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of requests that wait for a permit.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a permit; `None` on timeout.
    pub(super) async fn permit<'a>(&'a self, room: &'a RoomId) -> Option<RowPermit<'a>> {
        match self.permit_unless(room, |_| false).await {
            Waited::Permit(row_permit) => Some(row_permit),
            Waited::Decided(_) | Waited::TimedOut => None,
        }
    }

    /// Waits for a permit, or for the decision of another acquire whose state satisfies `enough`.
    pub(super) async fn permit_unless<'a>(
        &'a self,
        room: &'a RoomId,
        enough: impl Fn(&LockState) -> bool,
    ) -> Waited<'a> {
        let queue = self
            .rooms()
            .entry(room.clone())
            .or_insert_with(|| {
                Arc::new(Queue {
                    permits: Arc::new(Semaphore::new(CONCURRENCY)),
                    decided: watch::Sender::new(None),
                })
            })
            .clone();
        let mut row_permit = RowPermit {
            queues: self,
            room,
            queue: Some(queue.clone()),
            permit: None,
            since: Instant::now(),
        };
        if let Ok(permit) = queue.permits.clone().try_acquire_owned() {
            row_permit.permit = Some(permit);
            row_permit.since = Instant::now();
            return Waited::Permit(row_permit);
        }
        let _waiting = Waiting::begin(&self.waiting);
        // Decisions of statements that begin from now on: what an earlier one saw may have ended before this request
        // was sent.
        let asked = Instant::now();
        let mut news = queue.decided.subscribe();
        let permits = queue.permits.clone();
        drop(queue);
        let decided = async {
            loop {
                if news.changed().await.is_err() {
                    return std::future::pending().await;
                }
                let decision = news.borrow_and_update().clone();
                if let Some((since, state)) = decision
                    && since >= asked
                    && enough(&state)
                {
                    return state;
                }
            }
        };
        let waited = tokio::time::timeout(PERMIT_TIMEOUT, async {
            tokio::select! {
                permit = permits.acquire_owned() => Ok(permit),
                state = decided => Err(state),
            }
        });
        match waited.await {
            Ok(Ok(Ok(permit))) => {
                row_permit.permit = Some(permit);
                row_permit.since = Instant::now();
                Waited::Permit(row_permit)
            }
            Ok(Err(state)) => Waited::Decided(state),
            // The semaphore is never closed.
            Ok(Ok(Err(_))) | Err(_) => Waited::TimedOut,
        }
    }
}

impl Drop for RowPermit<'_> {
    fn drop(&mut self) {
        let mut rooms = self.queues.rooms();
        drop(self.permit.take());
        drop(self.queue.take());
        // Only the map's own reference is left: every request that waits holds one.
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
    async fn a_few_statements_run_and_the_others_wait() {
        let queues = Queues::default();
        let (busy, other) = (room("busy"), room("other"));
        let mut held = Vec::new();
        for _ in 0..CONCURRENCY {
            held.push(queues.permit(&busy).await.unwrap());
        }
        let mut next = Box::pin(queues.permit(&busy));
        assert!(futures_util::poll!(&mut next).is_pending());
        assert!(queues.permit(&other).await.is_some(), "another's queue");
        held.pop();
        let permit = next.await;
        assert!(permit.is_some());
        drop((permit, held));
        assert!(queues.rooms().is_empty(), "a queue of nobody is kept");
    }

    #[tokio::test]
    async fn a_decision_answers_only_requests_that_waited_before_its_statement() {
        let queues = Queues::default();
        let busy = room("busy");
        let state = LockState {
            room: busy.clone(),
            version: 1,
            reason: None,
            lease: None,
            now: time::OffsetDateTime::UNIX_EPOCH,
        };
        let mut held = Vec::new();
        for _ in 0..CONCURRENCY {
            held.push(queues.permit(&busy).await.unwrap());
        }
        let mut first = Box::pin(queues.permit_unless(&busy, |_| true));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(queues.permit_unless(&busy, |_| true));
        assert!(futures_util::poll!(&mut second).is_pending());
        held[0].decided(&state);
        assert!(
            futures_util::poll!(&mut first).is_pending(),
            "it may be over"
        );
        assert!(
            futures_util::poll!(&mut second).is_pending(),
            "it may be over"
        );
        held.pop();
        let Waited::Permit(permit) = first.await else {
            panic!("no permit")
        };
        permit.decided(&state);
        assert!(matches!(second.await, Waited::Decided(decided) if decided == state));
    }
}
