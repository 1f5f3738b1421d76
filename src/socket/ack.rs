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

use std::collections::VecDeque;
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

use super::session::Session;
use crate::limits::Pending;
use crate::telemetry;

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
        let session = socket.extensions.get::<Arc<Session>>();
        Ok(Self {
            socket: socket.clone(),
            id: *id,
            _pending: session.map(|session| session.frames.begin()),
        })
    }
}

impl Ack {
    fn try_send(&self, answer: &(impl Serialize + ?Sized)) -> Result<(), SendError> {
        // The library's own sender can be used once: it is made anew for each attempt.
        let unused = &mut Value::Bytes(bytes::Bytes::new());
        let Ok(sender) = AckSender::from_message_parts(&self.socket, unused, &self.id);
        sender.send(answer)
    }

    /// Answers, now or as soon as there is room.
    pub(super) fn send(self, session: &Arc<Session>, answer: &impl Serialize) {
        if self.id.is_none() {
            return;
        }
        match self.try_send(answer) {
            Ok(()) => {}
            Err(SendError::Socket(SocketError::InternalChannelFull)) => {
                metrics::counter!(telemetry::SOCKET_FULL).increment(1);
                // What could be encoded once can be encoded again.
                if let Ok(answer) = serde_json::value::to_raw_value(answer) {
                    session.late.keep(session, self, answer);
                }
            }
            Err(error) => debug!(%error, "an acknowledgement did not get out: the socket is gone"),
        }
    }
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

    fn keep(&self, session: &Arc<Session>, ack: Ack, answer: Box<RawValue>) {
        let mut all = self.all();
        all.push_back((ack, answer));
        if all.len() == 1 {
            tokio::spawn(hand_over(session.clone()));
        }
    }

    /// The socket is gone.
    pub(super) fn forget(&self) {
        self.all().clear();
    }
}

/// Hands over what is late, until nothing is.
async fn hand_over(session: Arc<Session>) {
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(AGAIN).await;
        let mut late = session.late.all();
        while let Some((ack, answer)) = late.front() {
            match ack.try_send(answer) {
                Err(SendError::Socket(SocketError::InternalChannelFull)) => break,
                Ok(()) | Err(_) => {
                    since = Instant::now();
                    late.pop_front();
                }
            }
        }
        if late.is_empty() {
            return;
        }
        drop(late);
        if since.elapsed() > PATIENCE {
            debug!(socket = %session.socket, "a client takes no answers");
            session.end();
            session.late.forget();
            return;
        }
    }
}
