//! How replicas stay of one mind: what others publish is shown here, and what was missed is found.
//!
//! Layer 4. Three loops; all end in [`Rooms`]:
//!
//! - *receive* decodes what the bus brings;
//! - *watch* looks at the bus several times a second: is it well, and did all get out that was sent? What may
//!   not have got out is noted in PostgreSQL, and others' notes are read there, because a replica that cannot
//!   publish cannot say so over the bus; and so is what PostgreSQL may carry out yet of what it was asked
//!   before it fell silent, which nobody will publish;
//! - *reconcile* asks PostgreSQL for every room that is behind, or ahead: at once after a gap, every second while the
//!   bus is down, and every half minute in any case, because a message can be lost without anybody's knowing.
//!
//! On failure each tries again at its next turn.

mod peers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, info_span, warn};

use crate::bus::{Bus, BusEvent};
use crate::domain::ids::RoomId;
use crate::domain::lease::{Change, LockState};
use crate::protocol::{Envelope, Message};
use crate::rooms::{Outcome, Rooms};
use crate::store::{Store, StoreError};
use crate::telemetry::{self, LogThrottle, TRACE};

use peers::Peers;

/// Between two passes while the bus is healthy.
const IDLE: Duration = Duration::from_secs(30);
/// Between two passes while it is not, from start to start: a change is to be seen within two seconds.
const DEGRADED: Duration = Duration::from_millis(900);
/// Between two passes however often gaps are reported.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Rooms in one statement.
const CHUNK: usize = 2000;
/// Between two looks at the bus.
const LOOK: Duration = Duration::from_millis(250);
/// Between two looks at what others could not publish.
const NOTES: Duration = Duration::from_millis(500);
/// Between two looks for cursors and rooms that are no longer there.
const SWEEP: Duration = Duration::from_secs(1);

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
        let mut peers = Peers::default();
        // Kept at hand, because there are so many.
        let shown = metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => "shown");
        let echo = metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => "echo");
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => event,
                _ = sweep.tick() => {
                    if peers.sweep(&self.rooms) {
                        // It may have died between a change and its publication.
                        self.gap.notify_one();
                    }
                    self.rooms.prune();
                    continue;
                }
            };
            match event {
                None => return,
                Some(BusEvent::Gap) => self.gap.notify_one(),
                Some(BusEvent::Alive(replica)) => peers.heard(&replica),
                Some(BusEvent::Message(bytes)) => match self.show(&bytes, &mut peers) {
                    "shown" => shown.increment(1),
                    "echo" => echo.increment(1),
                    rare => {
                        metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => rare).increment(1);
                    }
                },
            }
        }
    }

    fn show(&self, bytes: &[u8], peers: &mut Peers) -> &'static str {
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
                let span = match &envelope.traceparent {
                    None => Span::none(),
                    Some(sent_along) => {
                        let span = info_span!(
                            target: TRACE, "receive", otel.kind = "consumer", messaging.system = "redis",
                            apptlock.appointment = %change.state.room.appointment, apptlock.version = change.state.version,
                        );
                        telemetry::goes_on(&span, sent_along);
                        span
                    }
                };
                return match span.in_scope(|| self.rooms.apply_remote(&change)) {
                    Outcome::Shown => "shown",
                    Outcome::Stale => "stale",
                    Outcome::NoRoom => "no_room",
                    Outcome::Full => "full",
                };
            }
            Message::Cursors { room, frames } => {
                peers.point(&envelope.from, &room, &frames);
                self.rooms
                    .show_cursors(&room, frames.into_iter().map(|frame| (frame, None)));
            }
            Message::CursorLeft { room, user_id } => {
                peers.left(&envelope.from, &room, &user_id);
                self.rooms.show_cursor_left(&room, &user_id);
            }
        }
        "shown"
    }

    /// Looks at the bus, and tells and asks PostgreSQL where the bus cannot, until it is stopped.
    pub async fn watch(&self, stop: CancellationToken) {
        let work = async {
            let mut was_well = self.bus.healthy();
            let (mut owed, mut unknown_outcome) = (false, None);
            let mut known = None;
            let mut asked: Option<Instant> = None;
            loop {
                tokio::time::sleep(LOOK).await;
                let well = self.bus.healthy();
                if was_well && !well {
                    self.gap.notify_one();
                }
                was_well = well;
                owed |= self.bus.take_unsent();
                if self.store.take_unknown_outcome() {
                    unknown_outcome = Some(UnknownOutcome::default());
                }
                if let Some(unknown_outcome) = &unknown_outcome {
                    // What PostgreSQL carries out yet, nobody publishes: here and there it is looked for.
                    owed = true;
                    if unknown_outcome.answered.is_some() {
                        self.gap.notify_one();
                    }
                }
                if owed {
                    match self.store.note_unpublished(&self.replica).await {
                        Ok(()) => {
                            owed = false;
                            if let Some(unknown_outcome) = &mut unknown_outcome {
                                unknown_outcome.answered.get_or_insert_with(Instant::now);
                            }
                        }
                        // No other replica hears of it from there either; it stays owed.
                        Err(error) => debug!(%error, "could not note what was not published"),
                    }
                }
                unknown_outcome = unknown_outcome.filter(UnknownOutcome::lasts);
                // While the bus is down here, reconcile looks every second in any case.
                if well && asked.is_none_or(|at| at.elapsed() >= NOTES) {
                    asked = Some(Instant::now());
                    match self.store.unpublished(&self.replica).await {
                        Ok(notes) => {
                            // The first ones too: they may be of after a room was read.
                            if known.as_ref() != Some(&notes) {
                                self.gap.notify_one();
                            }
                            known = Some(notes);
                        }
                        Err(error) => debug!(%error, "could not read what was not published"),
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Finds what was missed, until it is stopped.
    pub async fn reconcile(&self, stop: CancellationToken) {
        let work = async {
            let (mut begun, mut warned) = (Instant::now(), false);
            loop {
                let pause = if self.bus.healthy() {
                    // Not all replicas at once.
                    IDLE - IDLE.mul_f64(jitter() / 4.0)
                } else {
                    DEGRADED
                };
                let in_time = tokio::select! {
                    () = tokio::time::sleep_until(begun + pause) => self.bus.healthy(),
                    () = self.gap.notified() => false,
                    () = self.rooms.behind() => false,
                };
                begun = Instant::now();
                metrics::counter!(telemetry::RECONCILES).increment(1);
                match self.pass(in_time).await {
                    Ok(()) => warned = false,
                    Err(error) => {
                        if !warned {
                            warn!(%error, "could not compare rooms with PostgreSQL; trying until it answers");
                        }
                        warned = true;
                        // What was missed is still missed.
                        tokio::time::sleep(LOOK).await;
                        self.gap.notify_one();
                    }
                }
                tokio::time::sleep(MIN_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// One pass over all rooms, in chunks. Where there is no hurry, with a breath between them.
    ///
    /// # Errors
    /// The store's: rooms after the failing chunk were not looked at.
    pub async fn pass(&self, no_hurry: bool) -> Result<(), StoreError> {
        let seen = self.rooms.seen_versions();
        for chunk in seen.chunks(CHUNK) {
            let mut ahead = None;
            for state in self.store.differing(chunk).await? {
                match self.rooms.apply_local(&Change::from(state.clone())) {
                    Outcome::Shown => metrics::counter!(telemetry::REPAIRS).increment(1),
                    // The room was ahead before PostgreSQL was asked: what it saw is not there any more.
                    Outcome::Stale => {
                        let seen = ahead.get_or_insert_with(|| chunk.iter().cloned().collect());
                        self.reset(seen, &state);
                    }
                    Outcome::NoRoom | Outcome::Full => {}
                }
            }
            if no_hurry && chunk.len() == CHUNK {
                tokio::time::sleep(MIN_INTERVAL.mul_f64(jitter())).await;
            }
        }
        Ok(())
    }

    /// Puts a room that is ahead of PostgreSQL back to what is there.
    fn reset(&self, seen: &HashMap<RoomId, i64>, state: &LockState) {
        let before = seen.get(&state.room).copied();
        let Some(ahead) = before.filter(|version| *version > state.version) else {
            return;
        };
        if self.rooms.reset(state, ahead) {
            metrics::counter!(telemetry::RESETS).increment(1);
            if let Some(hidden) = RESET.allow() {
                let (appointment, version) = (&state.room.appointment, state.version);
                warn!(%appointment, version, ahead, hidden,
                    "a room was ahead of PostgreSQL, which was restored or has lost commits; its sockets connect anew");
            }
        }
    }
}

/// Lines about rooms that were ahead.
static RESET: LogThrottle = LogThrottle::new();

/// Transitions of which nobody knows what became.
#[derive(Default)]
struct UnknownOutcome {
    /// When PostgreSQL first answered again.
    answered: Option<Instant>,
}

impl UnknownOutcome {
    /// Whether PostgreSQL may still carry out what it was asked.
    fn lasts(&self) -> bool {
        self.answered.is_none_or(|at| at.elapsed() < Store::SETTLED)
    }
}

/// From 0 to 1, at random.
fn jitter() -> f64 {
    // The low bits of a random name: no generator of its own for a handful of numbers an hour.
    f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX)
}
