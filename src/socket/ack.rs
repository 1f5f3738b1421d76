//! Acknowledgements. Owns that what a client asked is answered, or its connection ends: never nothing.
//!
//! ```text
//!   an event is read ──▶ pending ──▶ answered: into the socket's queue
//!                          │             │ the queue is full
//!                          │             ▼
//!                          │           kept here, tried again until there is room ── never ──▶ the session ends
//!                          ▼
//!             too many pending: nothing more is read of this client, until it has taken some answers
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

/// Between two attempts to hand over what did not fit.
const AGAIN: Duration = Duration::from_millis(10);
/// How long a client may take none of its answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the answer to one event goes, if the client wants one.
pub(super) struct Ack {
    socket: Arc<Socket<LocalAdapter>>,
    id: Option<i64>,
    /// Counts while the event is not answered.
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
    /// Puts the answer into the socket's queue.
    pub(super) fn try_send(&self, answer: &(impl Serialize + ?Sized)) -> Handed {
        if self.id.is_none() {
            return Handed::Done;
        }
        // The library's own sender can be used once: it is made anew for each attempt.
        let unused = &mut Value::Bytes(bytes::Bytes::new());
        let Ok(sender) = AckSender::from_message_parts(&self.socket, unused, &self.id);
        match sender.send(answer) {
            Ok(()) => Handed::Done,
            Err(SendError::Socket(SocketError::InternalChannelFull)) => Handed::Full,
            Err(error) => {
                debug!(%error, "an acknowledgement did not get out: the socket is gone");
                Handed::Done
            }
        }
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// There is nothing more to do for it.
    Done,
    /// The socket's queue is full.
    Full,
}

/// Answers of one socket that did not fit into its queue.
#[derive(Default)]
pub(super) struct LateAcks(
    /// A std mutex: held to move an answer, never across an await.
    Mutex<VecDeque<(Ack, Box<RawValue>)>>,
);

impl LateAcks {
    fn all(&self) -> MutexGuard<'_, VecDeque<(Ack, Box<RawValue>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer. True for the first: somebody is to hand them over from now on.
    pub(super) fn keep(&self, ack: Ack, answer: Box<RawValue>) -> bool {
        let mut all = self.all();
        all.push_back((ack, answer));
        all.len() == 1
    }

    /// The socket is gone.
    pub(super) fn forget(&self) {
        self.all().clear();
    }

    /// Hands over what is late, until nothing is. False if the client takes nothing for too long.
    pub(super) async fn hand_over(&self) -> bool {
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(AGAIN).await;
            let mut late = self.all();
            while let Some((ack, answer)) = late.front() {
                if ack.try_send(answer) == Handed::Full {
                    break;
                }
                since = Instant::now();
                late.pop_front();
            }
            if late.is_empty() {
                return true;
            }
            if since.elapsed() > PATIENCE {
                late.clear();
                return false;
            }
        }
    }
}

/// Requests to subscribe that wait for their snapshots. Each one counts as a pending event of its connection, which
/// bounds them.
#[derive(Default)]
pub(super) struct Requests(
    /// A std mutex: held for a change of a map, never across an await.
    Mutex<Waiting>,
);

#[derive(Default)]
struct Waiting {
    last: u64,
    acks: HashMap<u64, Ack>,
}

impl Requests {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an acknowledgement, under a number.
    pub(super) fn add(&self, ack: Ack) -> u64 {
        let mut waiting = self.waiting();
        waiting.last += 1;
        let number = waiting.last;
        waiting.acks.insert(number, ack);
        number
    }

    /// Takes the acknowledgement of that number.
    pub(super) fn take(&self, number: u64) -> Option<Ack> {
        self.waiting().acks.remove(&number)
    }

    /// The socket is gone.
    pub(super) fn forget(&self) {
        self.waiting().acks.clear();
    }
}
