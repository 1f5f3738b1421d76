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

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, info_span, warn};

use crate::bus::announcer::Announcer;
use crate::bus::{Bus, BusEvent};
use crate::domain::ids::RoomId;
use crate::domain::lease::{Change, LockState};
use crate::protocol::{Envelope, Message};
use crate::rooms::{Outcome, Rooms};
use crate::store::{Store, StoreError};
use crate::telemetry::{self, LogThrottle, TRACE};

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
/// Between two times that other replicas are asked for their members.
const ASK: Duration = Duration::from_millis(250);
/// Rooms for which they are asked at once.
const ASKED: usize = 200;
/// Rooms that wait to be compared alone; beyond that, all rooms are compared.
const SUSPECTS: usize = 1000;

/// What this replica hears from others, and what it may have missed.
pub struct Replication {
    rooms: Arc<Rooms>,
    store: Store,
    bus: Arc<dyn Bus>,
    /// The name of this replica, to know its own echo.
    replica: String,
    /// Rung when messages may have been lost: all rooms are compared with PostgreSQL.
    gap: Notify,
    /// Rooms of messages that could not be read. A std mutex: held for an insert or a swap, never across an await.
    suspects: Mutex<HashSet<RoomId>>,
    /// Rung when there is one more.
    suspected: Notify,
}

impl Replication {
    /// Applies to those rooms what other replicas announce, and what PostgreSQL says.
    pub fn new(rooms: Arc<Rooms>, store: Store, announcer: Announcer) -> Self {
        Self {
            rooms,
            store,
            bus: announcer.bus().clone(),
            replica: announcer.replica().to_owned(),
            gap: Notify::new(),
            suspects: Mutex::default(),
            suspected: Notify::new(),
        }
    }

    /// Messages may have been lost.
    fn missed(&self) {
        self.rooms.unsure();
        self.gap.notify_one();
    }

    /// A message could not be read: its room is compared at once, or all if it does not name one.
    fn suspect(&self, room: Option<RoomId>) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        match room {
            Some(room) if suspects.len() < SUSPECTS => {
                suspects.insert(room);
                self.suspected.notify_one();
            }
            _ => self.gap.notify_one(),
        }
    }

    /// Shows what the bus brings, until it ends.
    pub async fn receive(&self, mut events: mpsc::Receiver<BusEvent>, stop: CancellationToken) {
        // Kept at hand, because there are so many.
        let shown = metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => "shown");
        let echo = metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => "echo");
        let mut sweep = tokio::time::interval(SWEEP);
        let mut ask = tokio::time::interval(ASK);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => event,
                _ = sweep.tick() => {
                    if self.rooms.sweep() {
                        // It may have died between a change and its announcement.
                        self.gap.notify_one();
                    }
                    continue;
                }
                _ = ask.tick() => {
                    if self.bus.healthy() {
                        self.rooms.ask_rosters(ASKED);
                    }
                    continue;
                }
            };
            match event {
                None => return,
                Some(BusEvent::Gap) => self.missed(),
                Some(BusEvent::Alive(replica)) => self.rooms.heard(&replica),
                Some(BusEvent::Message(bytes)) => match self.show(&bytes) {
                    "shown" => shown.increment(1),
                    "echo" => echo.increment(1),
                    rare => {
                        metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => rare).increment(1);
                    }
                },
            }
        }
    }

    fn show(&self, bytes: &[u8]) -> &'static str {
        let envelope = match Envelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                debug!(%error, "a message is no envelope; all rooms are compared");
                self.suspect(None);
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
                self.rooms
                    .show_remote_cursors(&envelope.from, &room, frames);
            }
            Message::CursorLeft { room, user_id } => {
                self.rooms
                    .show_remote_cursor_left(&envelope.from, &room, &user_id);
            }
            Message::Joined { room, member } => {
                self.rooms.member_joined(&envelope.from, &room, member);
                return "members";
            }
            Message::Left { room, member } => {
                self.rooms.member_left(&envelope.from, &room, &member);
                return "members";
            }
            Message::Roster { room, members } => {
                self.rooms.members_are(&envelope.from, &room, members);
                return "members";
            }
            Message::RosterWanted { room } => {
                self.rooms.tell_members(&room);
                return "members";
            }
            Message::Unknown { room } => {
                debug!(
                    ?room,
                    from = envelope.from,
                    "a message of another release; its room is compared"
                );
                self.suspect(room);
                return "unreadable";
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
                    self.missed();
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
                let due = tokio::select! {
                    () = tokio::time::sleep_until(begun + pause) => Due::All { no_hurry: self.bus.healthy() },
                    () = self.gap.notified() => Due::All { no_hurry: false },
                    () = self.rooms.behind() => Due::All { no_hurry: false },
                    () = self.suspected.notified() => Due::Suspects,
                };
                let done = match due {
                    Due::All { no_hurry } => {
                        begun = Instant::now();
                        metrics::counter!(telemetry::RECONCILES).increment(1);
                        self.pass(no_hurry).await
                    }
                    Due::Suspects => self.pass_suspects().await,
                };
                match done {
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
        self.compare(self.rooms.seen_versions(), no_hurry).await
    }

    /// The same over the rooms of messages that could not be read.
    async fn pass_suspects(&self) -> Result<(), StoreError> {
        let suspects = {
            let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *suspects)
        };
        let suspects: Vec<RoomId> = suspects.into_iter().collect();
        self.compare(self.rooms.seen_versions_of(&suspects), false)
            .await
    }

    async fn compare(&self, seen: Vec<(RoomId, i64)>, no_hurry: bool) -> Result<(), StoreError> {
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

/// What a pass of reconcile is over.
enum Due {
    /// All rooms.
    All {
        /// Whether chunks may be spread in time.
        no_hurry: bool,
    },
    /// The rooms of messages that could not be read.
    Suspects,
}

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
