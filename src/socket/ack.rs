//! Acknowledgements. Owns the guarantee that each event of a client is answered or its connection is closed.
//!
//! ```text
//!   an event is read ──▶ pending ──▶ answered: into the socket's queue
//!                          │             │ the queue is full
//!                          │             ▼
//!                          │           kept here and retried until there is room ── timeout ──▶ disconnected
//!                          ▼
//!             too many pending: nothing more is read from this client until it has read some answers
//! ```

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::AckSender;
use socketioxide::handler::{FromMessageParts, Value};
use socketioxide::socket::Socket;
use socketioxide::{SendError, SocketError};
use tokio::time::Instant;
use tracing::debug;

use crate::limits::{FrameBudget, Pending};

/// Interval between attempts to send late acknowledgements.
const RETRY: Duration = Duration::from_millis(10);
/// Time without progress after which a client is disconnected.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Acknowledgement of one event, if the client asked for one.
pub(super) struct Ack {
    socket: Arc<Socket<LocalAdapter>>,
    id: Option<i64>,
    /// Counts as a pending event until dropped.
    _pending: Option<Pending>,
}

impl FromMessageParts<LocalAdapter> for Ack {
    type Error = Infallible;

    fn from_message_parts(
        socket: &Arc<Socket<LocalAdapter>>,
        _: &mut Value,
        id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        let frames = socket.extensions.get::<Arc<FrameBudget>>();
        Ok(Self {
            socket: socket.clone(),
            id: *id,
            _pending: frames.map(|frames| frames.begin()),
        })
    }
}

impl Ack {
    /// Enqueues the answer.
    pub(super) fn try_send(&self, answer: &(impl Serialize + ?Sized)) -> Delivery {
        if self.id.is_none() {
            return Delivery::Done;
        }
        // The library's sender can be used only once, so each attempt creates one.
        let unused = &mut Value::Bytes(bytes::Bytes::new());
        let Ok(sender) = AckSender::from_message_parts(&self.socket, unused, &self.id);
        match sender.send(answer) {
            Ok(()) => Delivery::Done,
            Err(SendError::Socket(SocketError::InternalChannelFull)) => Delivery::Full,
            Err(error) => {
                debug!(%error, "an acknowledgement was dropped: the socket is closed");
                Delivery::Done
            }
        }
    }
}

/// Outcome of sending an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Enqueued, or nobody is left to get it.
    Done,
    /// The socket's queue is full.
    Full,
}

/// Acknowledgements of one socket that did not fit into its queue.
#[derive(Default)]
pub(super) struct LateAcks(
    /// A std mutex: held to move an answer, never across an await.
    Mutex<VecDeque<(Ack, Box<RawValue>)>>,
);

impl LateAcks {
    fn all(&self) -> MutexGuard<'_, VecDeque<(Ack, Box<RawValue>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an acknowledgement. True for the first: the caller must start [`LateAcks::flush`].
    pub(super) fn push(&self, ack: Ack, answer: Box<RawValue>) -> bool {
        let mut all = self.all();
        all.push_back((ack, answer));
        all.len() == 1
    }

    /// Drops all, because the socket is closed.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    /// Retries until all are sent. False if the client reads nothing for too long.
    pub(super) async fn flush(&self) -> bool {
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            let mut late = self.all();
            while let Some((ack, answer)) = late.front() {
                if ack.try_send(answer) == Delivery::Full {
                    break;
                }
                since = Instant::now();
                late.pop_front();
            }
            if late.is_empty() {
                return true;
            }
            if since.elapsed() > TIMEOUT {
                late.clear();
                return false;
            }
        }
    }
}

/// `subscribe` requests waiting for their snapshots. Each counts as a pending event of its connection, which bounds
/// their number.
#[derive(Default)]
pub(super) struct PendingRequests(
    /// A std mutex: held for a change of a map, never across an await.
    Mutex<Inner>,
);

#[derive(Default)]
struct Inner {
    last: u64,
    acks: HashMap<u64, Ack>,
}

impl PendingRequests {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an acknowledgement. Returns its request number.
    pub(super) fn add(&self, ack: Ack) -> u64 {
        let mut inner = self.inner();
        inner.last += 1;
        let number = inner.last;
        inner.acks.insert(number, ack);
        number
    }

    /// Removes the acknowledgement of a request.
    pub(super) fn take(&self, number: u64) -> Option<Ack> {
        self.inner().acks.remove(&number)
    }

    /// Drops all, because the socket is closed.
    pub(super) fn clear(&self) {
        self.inner().acks.clear();
    }
}
