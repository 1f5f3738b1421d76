//! Batched reads of states. Owns that a burst of subscriptions waits instead of failing: the next statement answers all
//! callers that wait, so a burst costs PostgreSQL a few statements, however many connections there are.
//!
//! ```text
//!   read ──▶ queue ──▶ one statement for up to 500 appointments ──▶ every caller's state
//! ```
//!
//! A caller enters the queue before the statement begins, so its state is never older than its call. A failure is
//! returned to all callers that wait: the next statement would wait as long, and fail too.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::LockError;
use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;
use crate::store::{Store, StoreError};

/// Maximum number of appointments in one statement.
const BATCH: usize = 500;
/// Capacity of the queue; further callers wait for a place in it.
const QUEUE: usize = 4096;

type Answer = Result<LockState, Arc<StoreError>>;

/// A caller that waits.
struct Read {
    room: RoomId,
    answer: oneshot::Sender<Answer>,
}

/// The sending end of the queue.
pub(super) struct Reads(mpsc::Sender<Read>);

/// The receiving end of the queue, served by [`Reader::run`].
pub struct Reader {
    queue: mpsc::Receiver<Read>,
    store: Store,
}

impl Reads {
    pub(super) fn new(store: Store) -> (Self, Reader) {
        let (reads, queue) = mpsc::channel(QUEUE);
        (Self(reads), Reader { queue, store })
    }

    /// Number of callers that wait in the queue.
    pub(super) fn waiting(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }

    /// State, as of a time after this call.
    pub(super) async fn read(&self, room: RoomId) -> Result<LockState, LockError> {
        let (answer, answered) = oneshot::channel();
        let read = Read { room, answer };
        self.0.send(read).await.map_err(|_| LockError::Stopping)?;
        let answer = answered.await.map_err(|_| LockError::Stopping)?;
        answer.map_err(LockError::Read)
    }
}

impl Reader {
    /// Answers callers until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let work = async {
            while self.queue.recv_many(&mut batch, BATCH).await > 0 {
                self.answer(&mut batch).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn answer(&mut self, batch: &mut Vec<Read>) {
        // Callers that are gone need no answer.
        batch.retain(|read| !read.answer.is_closed());
        let rooms: Vec<&RoomId> = batch.iter().map(|read| &read.room).collect();
        if rooms.is_empty() {
            return;
        }
        match self.store.statuses(&rooms).await {
            Ok(states) => {
                for (read, state) in batch.drain(..).zip(states) {
                    let _ = read.answer.send(Ok(state));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                // Only callers that wait now: a later statement may succeed.
                for _ in 0..self.queue.len() {
                    batch.extend(self.queue.try_recv());
                }
                for read in batch.drain(..) {
                    let _ = read.answer.send(Err(error.clone()));
                }
            }
        }
    }
}
