//! Replication between replicas: applies messages from the bus, and detects and repairs missed ones.
//!
//! Layer 4. Three loops update [`Rooms`]:
//!
//! - *receive* decodes and applies messages from the bus;
//! - *watch* checks the bus several times a second. If messages were possibly not published, it records that in
//!   PostgreSQL and reads the records of other replicas there, because a replica that cannot publish cannot report it
//!   over the bus. It does the same for statements whose outcome is unknown: PostgreSQL may still execute them, and
//!   nobody will publish their changes;
//! - *reconcile* compares all rooms with PostgreSQL: immediately after a gap, every second while the bus is down, and
//!   every half minute in any case, because a message can be lost unnoticed.
//!
//! On failure each loop retries at its next iteration.

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

/// Interval of passes while the bus is healthy.
const IDLE: Duration = Duration::from_secs(30);
/// Interval of passes while it is not, from start to start: a change must be shown within two seconds.
const DEGRADED: Duration = Duration::from_millis(900);
/// Minimum pause between passes, however often gaps are reported.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum rooms in one statement.
const CHUNK: usize = 2000;
/// Interval of checks of the bus.
const CHECK: Duration = Duration::from_millis(250);
/// Interval of reads of other replicas' unpublished records.
const UNPUBLISHED: Duration = Duration::from_millis(500);
/// Interval of sweeps of the rooms.
const SWEEP: Duration = Duration::from_secs(1);
/// Interval of requests for other replicas' rosters.
const REQUEST_ROSTERS: Duration = Duration::from_millis(250);
/// Maximum rooms per interval for which rosters are requested.
const MAX_ROSTER_REQUESTS: usize = 200;
/// Maximum rooms waiting to be compared individually; beyond it all rooms are compared.
const MAX_SUSPECTS: usize = 1000;

/// Replication of one replica.
pub struct Replication {
    rooms: Arc<Rooms>,
    store: Store,
    bus: Arc<dyn Bus>,
    /// Name of this replica, to recognize its own echo.
    replica: String,
    /// Notified if messages may have been lost: all rooms are compared with PostgreSQL.
    gap: Notify,
    /// Rooms of messages that could not be read. A std mutex: held for an insert or a swap, never across an await.
    suspects: Mutex<HashSet<RoomId>>,
    /// Notified for each new suspect.
    suspected: Notify,
}

impl Replication {
    /// Creates the replication of these rooms.
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

    /// Messages may have been lost: compares all rooms, and requests all rosters.
    fn missed(&self) {
        self.rooms.mark_rosters_stale();
        self.gap.notify_one();
    }

    /// A message was unreadable: compares its room immediately, or all rooms if it names none.
    fn suspect(&self, room: Option<RoomId>) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        match room {
            Some(room) if suspects.len() < MAX_SUSPECTS => {
                suspects.insert(room);
                self.suspected.notify_one();
            }
            _ => self.gap.notify_one(),
        }
    }

    /// Applies events of the bus until it closes.
    pub async fn receive(&self, mut events: mpsc::Receiver<BusEvent>, stop: CancellationToken) {
        // Looked up once, because they are frequent.
        let shown = metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => "shown");
        let echo = metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => "echo");
        let mut sweep = tokio::time::interval(SWEEP);
        let mut request = tokio::time::interval(REQUEST_ROSTERS);
        request.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => event,
                _ = sweep.tick() => {
                    if self.rooms.sweep() {
                        // A replica may have died between a commit and its announcement.
                        self.gap.notify_one();
                    }
                    continue;
                }
                _ = request.tick() => {
                    if self.bus.healthy() {
                        self.rooms.exchange_rosters(MAX_ROSTER_REQUESTS);
                    }
                    continue;
                }
            };
            match event {
                None => return,
                Some(BusEvent::Gap) => self.missed(),
                Some(BusEvent::Alive(replica)) => self.rooms.heard(&replica),
                Some(BusEvent::Message(bytes)) => match self.apply(&bytes) {
                    "shown" => shown.increment(1),
                    "echo" => echo.increment(1),
                    rare => {
                        metrics::counter!(telemetry::BUS_RECEIVED, "outcome" => rare).increment(1);
                    }
                },
            }
        }
    }

    /// Applies a message. Returns the outcome for the metric.
    fn apply(&self, bytes: &[u8]) -> &'static str {
        let envelope = match Envelope::decode(bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                debug!(%error, "an unreadable message; comparing all rooms with PostgreSQL");
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
                    Some(traceparent) => {
                        let span = info_span!(
                            target: TRACE, "receive", otel.kind = "consumer", messaging.system = "redis",
                            apptlock.appointment = %change.state.room.appointment, apptlock.version = change.state.version,
                        );
                        telemetry::goes_on(&span, traceparent);
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
                self.rooms.replace_members(&envelope.from, &room, members);
                return "members";
            }
            Message::RosterWanted { room } => {
                self.rooms.send_members(&room);
                return "members";
            }
            Message::Unknown { room } => {
                debug!(
                    ?room,
                    from = envelope.from,
                    "an unknown message of another release; comparing its room with PostgreSQL"
                );
                self.suspect(room);
                return "unreadable";
            }
        }
        "shown"
    }

    /// Checks the bus until stopped, and uses PostgreSQL to report and find what could not be published.
    pub async fn watch(&self, stop: CancellationToken) {
        let work = async {
            let mut was_healthy = self.bus.healthy();
            let (mut unrecorded, mut unknown_outcome) = (false, None);
            let mut known = None;
            let mut read_at: Option<Instant> = None;
            loop {
                tokio::time::sleep(CHECK).await;
                let healthy = self.bus.healthy();
                if was_healthy && !healthy {
                    self.missed();
                }
                was_healthy = healthy;
                unrecorded |= self.bus.take_unsent();
                if self.store.take_unknown_outcome() {
                    unknown_outcome = Some(UnknownOutcome::default());
                }
                if let Some(unknown_outcome) = &unknown_outcome {
                    // PostgreSQL may still execute those statements, and nobody publishes their changes: all replicas
                    // compare.
                    unrecorded = true;
                    if unknown_outcome.answered.is_some() {
                        self.gap.notify_one();
                    }
                }
                if unrecorded {
                    match self.store.note_unpublished(&self.replica).await {
                        Ok(()) => {
                            unrecorded = false;
                            if let Some(unknown_outcome) = &mut unknown_outcome {
                                unknown_outcome.answered.get_or_insert_with(Instant::now);
                            }
                        }
                        // Retried at the next check.
                        Err(error) => debug!(%error, "could not record unpublished messages"),
                    }
                }
                unknown_outcome = unknown_outcome.filter(UnknownOutcome::lasts);
                // While the bus is down here, reconcile runs every second in any case.
                if healthy && read_at.is_none_or(|at| at.elapsed() >= UNPUBLISHED) {
                    read_at = Some(Instant::now());
                    match self.store.unpublished(&self.replica).await {
                        Ok(records) => {
                            // The first result too: it may be newer than the read of a room.
                            if known.as_ref() != Some(&records) {
                                self.gap.notify_one();
                            }
                            known = Some(records);
                        }
                        Err(error) => {
                            debug!(%error, "could not read the records of unpublished messages")
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Compares rooms with PostgreSQL until stopped.
    pub async fn reconcile(&self, stop: CancellationToken) {
        let work = async {
            let (mut begun, mut warned) = (Instant::now(), false);
            loop {
                let pause = if self.bus.healthy() {
                    // Jitter, so that replicas do not run at the same time.
                    IDLE - IDLE.mul_f64(jitter() / 4.0)
                } else {
                    DEGRADED
                };
                let due = tokio::select! {
                    () = tokio::time::sleep_until(begun + pause) => Due::All { spread: self.bus.healthy() },
                    () = self.gap.notified() => Due::All { spread: false },
                    () = self.rooms.behind() => Due::All { spread: false },
                    () = self.suspected.notified() => Due::Suspects,
                };
                let done = match due {
                    Due::All { spread } => {
                        begun = Instant::now();
                        metrics::counter!(telemetry::RECONCILES).increment(1);
                        self.pass(spread).await
                    }
                    Due::Suspects => self.pass_suspects().await,
                };
                match done {
                    Ok(()) => warned = false,
                    Err(error) => {
                        if !warned {
                            warn!(%error, "could not compare rooms with PostgreSQL; retrying");
                        }
                        warned = true;
                        // The missed changes are still to be found.
                        tokio::time::sleep(CHECK).await;
                        self.gap.notify_one();
                    }
                }
                tokio::time::sleep(MIN_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// One pass over all rooms, in chunks, with pauses between them if `spread`.
    ///
    /// # Errors
    /// The store's. Rooms after the failing chunk were not compared.
    pub async fn pass(&self, spread: bool) -> Result<(), StoreError> {
        self.compare(self.rooms.seen_versions(), spread).await
    }

    /// One pass over the rooms of unreadable messages.
    async fn pass_suspects(&self) -> Result<(), StoreError> {
        let suspects = {
            let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *suspects)
        };
        let suspects: Vec<RoomId> = suspects.into_iter().collect();
        self.compare(self.rooms.seen_versions_of(&suspects), false)
            .await
    }

    async fn compare(&self, seen: Vec<(RoomId, i64)>, spread: bool) -> Result<(), StoreError> {
        for chunk in seen.chunks(CHUNK) {
            let mut ahead = None;
            for state in self.store.differing(chunk).await? {
                match self.rooms.apply_local(&Change::from(state.clone())) {
                    Outcome::Shown => metrics::counter!(telemetry::REPAIRS).increment(1),
                    // The room was ahead before PostgreSQL was read: the version that it saw no longer exists.
                    Outcome::Stale => {
                        let seen = ahead.get_or_insert_with(|| chunk.iter().cloned().collect());
                        self.reset(seen, &state);
                    }
                    Outcome::NoRoom | Outcome::Full => {}
                }
            }
            if spread && chunk.len() == CHUNK {
                tokio::time::sleep(MIN_INTERVAL.mul_f64(jitter())).await;
            }
        }
        Ok(())
    }

    /// Resets a room that is ahead of PostgreSQL to the state there.
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
                    "a room was ahead of PostgreSQL, which was restored or has lost commits; its sockets reconnect");
            }
        }
    }
}

/// Throttle of the log line about rooms that were ahead.
static RESET: LogThrottle = LogThrottle::new();

/// Scope of a pass of reconcile.
enum Due {
    /// All rooms.
    All {
        /// True if chunks may be spread over time.
        spread: bool,
    },
    /// The rooms of unreadable messages.
    Suspects,
}

/// Statements whose outcome is unknown.
#[derive(Default)]
struct UnknownOutcome {
    /// Time at which PostgreSQL first answered again.
    answered: Option<Instant>,
}

impl UnknownOutcome {
    /// True while PostgreSQL may still execute them.
    fn lasts(&self) -> bool {
        self.answered.is_none_or(|at| at.elapsed() < Store::SETTLED)
    }
}

/// Random number from 0 to 1.
fn jitter() -> f64 {
    // The low bits of a UUID: a few numbers an hour need no generator of their own.
    f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX)
}
