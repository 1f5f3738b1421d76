//! How replicas stay of one mind: what others announce is shown here, and what was missed is found.
//!
//! Layer 4. Two loops; both end in [`Rooms`]. *Receive* decodes what the bus brings. *Reconcile* asks
//! PostgreSQL for every room that is behind: at once after a gap, every second while the bus is down, and
//! every half minute in any case, because a message can be lost without anybody's knowing. On failure
//! reconcile tries again at its next turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::bus::{Bus, BusEvent};
use crate::domain::lease::Change;
use crate::protocol::{Envelope, Message};
use crate::rooms::Rooms;
use crate::store::Store;
use crate::telemetry;

/// Between two passes while the bus is healthy.
const CALM: Duration = Duration::from_secs(30);
/// Between two passes while it is not.
const ALERT: Duration = Duration::from_secs(1);
/// Between two passes however often gaps are reported.
const BREATH: Duration = Duration::from_millis(100);
/// Rooms in one statement.
const CHUNK: usize = 500;

/// What this replica hears from others, and what it may have missed.
pub struct Replication {
    /// Where changes are shown.
    pub rooms: Arc<Rooms>,
    /// What was missed.
    pub store: Store,
    /// Whether messages flow.
    pub bus: Arc<dyn Bus>,
    /// The name of this replica, to know its own echo.
    pub replica: String,
    /// Rung by a gap.
    pub gap: Notify,
}

impl Replication {
    /// Shows what the bus brings, until it ends.
    pub async fn receive(&self, mut events: mpsc::Receiver<BusEvent>, stop: CancellationToken) {
        while let Some(Some(event)) = stop.run_until_cancelled(events.recv()).await {
            match event {
                BusEvent::Gap => self.gap.notify_one(),
                BusEvent::Message(bytes) => {
                    let outcome = self.show(&bytes);
                    metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => outcome).increment(1);
                }
            }
        }
    }

    fn show(&self, bytes: &[u8]) -> &'static str {
        let envelope = match Envelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                debug!(%error, "a message that this release cannot read; reconcile will show what it changed");
                return "unreadable";
            }
        };
        if envelope.from == self.replica {
            return "echo";
        }
        match envelope.message {
            Message::Change(change) => {
                if !self.rooms.observe(&change) {
                    return "stale";
                }
            }
            Message::Cursors { room, frames } => {
                self.rooms
                    .show_cursors(&room, frames.into_iter().map(|frame| (frame, None)));
            }
            Message::CursorLeft { room, user_id } => self.rooms.show_cursor_left(&room, &user_id),
        }
        "shown"
    }

    /// Finds what was missed, until it is stopped.
    pub async fn reconcile(&self, stop: CancellationToken) {
        let turn = async {
            loop {
                let pause = if self.bus.healthy() { CALM } else { ALERT };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.gap.notified() => {}
                    () = self.rooms.behind() => {}
                }
                self.pass().await;
                self.rooms.prune();
                tokio::time::sleep(BREATH).await;
            }
        };
        stop.run_until_cancelled(turn).await;
    }

    /// One pass over all rooms.
    async fn pass(&self) {
        let seen = self.rooms.seen_versions();
        for chunk in seen.chunks(CHUNK) {
            match self.store.newer(chunk).await {
                Ok(states) => {
                    for state in states {
                        if self.rooms.observe(&Change::from(state)) {
                            metrics::counter!(telemetry::REPAIRS).increment(1);
                        }
                    }
                }
                Err(error) => {
                    warn!(%error, "could not compare rooms with PostgreSQL; trying again");
                    return;
                }
            }
        }
    }
}
