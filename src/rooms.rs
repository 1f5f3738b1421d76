//! The local rooms: who on this replica watches which appointment, what each room last saw of its lock, and
//! the only path to the sockets.
//!
//! ```text
//!            enter                  admit (snapshot)
//!   nobody ─────────▶ subscribing ───────────────────▶ watching ◀──┐
//!      ▲                                                │   apply: compare, hand over, advance
//!      └── empty for a while ◀── leave (the last one) ──┘
//! ```
//!
//! Layer 2. PostgreSQL decides what a version is; a room only compares. `apply_local` compares, hands over and
//! only then advances the version it has seen, under one short mutex: so the order of the outbound queue is the
//! order of versions, and a snapshot handed out through it lies between what came before and what follows.
//! On failure: where the outbound queue is full the version does not advance, and reconcile finds the room behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tracing::Span;

use crate::bus::{Bus, Subscribing};
use crate::domain::ids::{RoomId, SessionId, UserId};
use crate::domain::lease::{Change, LockState, Reason};
use crate::domain::transition::{Transition, classify};
use crate::protocol::{
    AdminTakeover, CursorFrame, CursorLeft, Lock, LockAcquired, LockReleased, LockUpdate,
};
use crate::telemetry;

/// What waits for the dispatcher; beyond that, changes are repaired later and cursors are dropped.
const OUTBOUND_QUEUE: usize = 8192;
/// How long a room without audience keeps its channel: a reloaded page comes back within it.
const LINGER: Duration = Duration::from_secs(10);

/// One event for the sockets of a room, encoded once.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// Its payload.
    pub payload: Box<RawValue>,
    /// The socket that caused it and does not hear it.
    pub except: Option<Arc<str>>,
}

impl Event {
    fn new(name: &'static str, payload: &impl Serialize) -> Self {
        let payload = serde_json::value::to_raw_value(payload)
            .expect("our payloads are structs of strings and finite numbers, which JSON can say");
        Self {
            name,
            payload,
            except: None,
        }
    }
}

/// The events of one change of a lock.
pub struct RoomUpdate {
    /// Where.
    pub room: RoomId,
    /// What.
    pub events: Vec<Event>,
    /// What it is a part of.
    pub span: Span,
    /// When PostgreSQL decided it, by its own clock, where it was another replica that asked.
    pub decided_afar: Option<OffsetDateTime>,
    /// Whether the room's sockets connect anew after it: their clients have seen versions that are no more.
    pub anew: bool,
}

/// What became of a change in the rooms here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was news, and its room shows it.
    Shown,
    /// The room has seen this version, or a newer one.
    Stale,
    /// This replica does not keep the room, or no longer: the bus may bring a last message late.
    NoRoom,
    /// It was news, and the outbound queue full: reconcile will show it.
    Full,
}

/// What the dispatcher hands to the sockets, in this order.
pub enum OutboundItem {
    /// A change of a lock: no socket of the room may miss the newest.
    Change(RoomUpdate),
    /// Cursors in a room: who does not keep up misses them.
    Cursors(RoomId, Vec<Event>),
    /// A socket joins: it gets this state, and every later event of its room.
    Admit(Join, LockState),
}

/// What lets one socket in, once.
pub struct Join {
    /// The socket's name.
    pub socket: Arc<str>,
    /// Joins the room, and tells the state.
    pub let_in: Box<dyn FnOnce(&LockState) + Send>,
}

/// Whose lease a room sees in force.
#[derive(Debug, Clone)]
pub struct SeenHolder {
    /// Who.
    pub user_id: UserId,
    /// In which tab, where it was taken for one.
    pub session_id: Option<SessionId>,
    /// When it runs out by what this room saw, on this replica's monotonic clock.
    pub ends_at: Instant,
}

struct Seen {
    state: LockState,
    at: Instant,
}

#[derive(Default)]
struct Room {
    members: usize,
    emptied: Option<Instant>,
    seen: Option<Seen>,
}

/// The local rooms of one replica.
pub struct Rooms {
    /// A std mutex: held for a comparison and a hand-over, never across an await.
    rooms: Mutex<HashMap<RoomId, Room>>,
    outbound: mpsc::Sender<OutboundItem>,
    bus: Arc<dyn Bus>,
    /// Rung when a room could not be shown a change.
    behind: Notify,
}

impl Rooms {
    /// No rooms yet, and the outbound queue that the dispatcher empties.
    pub fn new(bus: Arc<dyn Bus>) -> (Self, mpsc::Receiver<OutboundItem>) {
        Self::with_outbound(bus, OUTBOUND_QUEUE)
    }

    /// The same, with an outbound queue that holds this much.
    pub fn with_outbound(bus: Arc<dyn Bus>, size: usize) -> (Self, mpsc::Receiver<OutboundItem>) {
        let (outbound, items) = mpsc::channel(size);
        (
            Self {
                rooms: Mutex::default(),
                outbound,
                bus,
                behind: Notify::new(),
            },
            items,
        )
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomId, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more member. Await the result before reading the state, so that no change falls between the two.
    /// Each `enter` is answered by one [`Rooms::leave`].
    pub fn enter(&self, id: &RoomId) -> Subscribing {
        let mut rooms = self.rooms();
        let room = rooms.entry(id.clone()).or_default();
        room.members += 1;
        room.emptied = None;
        // Under the mutex, so that it cannot be overtaken by the unsubscribe of a room that is dropped now.
        self.bus.subscribe(id)
    }

    /// One member less. The channel is kept for a while.
    pub fn leave(&self, id: &RoomId) {
        if let Some(room) = self.rooms().get_mut(id) {
            room.members = room.members.saturating_sub(1);
            if room.members == 0 {
                room.emptied = Some(Instant::now());
            }
        }
    }

    /// Whether this replica keeps the room.
    pub fn has(&self, id: &RoomId) -> bool {
        self.rooms().contains_key(id)
    }

    /// Drops rooms that have been empty for a while.
    pub fn prune(&self) {
        let mut rooms = self.rooms();
        rooms.retain(|id, room| {
            let keep = room.emptied.is_none_or(|since| since.elapsed() < LINGER);
            if !keep {
                self.bus.unsubscribe(id);
            }
            keep
        });
    }

    /// How many rooms there are.
    pub fn count(&self) -> usize {
        self.rooms().len()
    }

    /// How much waits for the dispatcher, and how much may.
    pub fn outbound(&self) -> (usize, usize) {
        let most = self.outbound.max_capacity();
        (most - self.outbound.capacity(), most)
    }

    /// A change was committed: shows it, if it is news.
    pub fn apply_local(&self, change: &Change) -> Outcome {
        self.show(change, None)
    }

    /// The same of a change that another replica told of.
    pub fn apply_remote(&self, change: &Change) -> Outcome {
        self.show(change, Some(change.state.now))
    }

    fn show(&self, change: &Change, decided_afar: Option<OffsetDateTime>) -> Outcome {
        let state = &change.state;
        let mut rooms = self.rooms();
        let Some(room) = rooms.get_mut(&state.room) else {
            return Outcome::NoRoom;
        };
        if let Some(seen) = &room.seen {
            let Some(transition) = classify(&seen.state, state) else {
                return Outcome::Stale;
            };
            if room.members > 0 {
                let update = RoomUpdate {
                    room: state.room.clone(),
                    events: events(change, transition),
                    span: Span::current(),
                    decided_afar,
                    anew: false,
                };
                if self
                    .outbound
                    .try_send(OutboundItem::Change(update))
                    .is_err()
                {
                    metrics::counter!(telemetry::OUTLET_FULL).increment(1);
                    self.behind.notify_one();
                    return Outcome::Full;
                }
            }
        }
        room.seen = Some(Seen {
            state: state.clone(),
            at: Instant::now(),
        });
        Outcome::Shown
    }

    /// PostgreSQL has an older version than the one that this room saw, so that one is no more. Shows what is there,
    /// and has the room's sockets connect anew: a client that only takes what is newer gets a snapshot so. False where
    /// the room has seen something else meanwhile, or the outbound queue is full: the next pass looks again.
    pub fn reset(&self, state: &LockState, ahead: i64) -> bool {
        let mut rooms = self.rooms();
        let Some(room) = rooms.get_mut(&state.room) else {
            return false;
        };
        let Some(seen) = room
            .seen
            .as_ref()
            .filter(|seen| seen.state.version == ahead)
        else {
            return false;
        };
        if room.members > 0 {
            let transition = match (&seen.state.lease, &state.lease) {
                (_, Some(_)) => Transition::Granted,
                (Some(_), None) => Transition::Ended(Reason::Released),
                (None, None) => Transition::Same,
            };
            let update = RoomUpdate {
                room: state.room.clone(),
                events: events(&Change::from(state.clone()), transition),
                span: Span::current(),
                decided_afar: None,
                anew: true,
            };
            if self
                .outbound
                .try_send(OutboundItem::Change(update))
                .is_err()
            {
                metrics::counter!(telemetry::OUTLET_FULL).increment(1);
                self.behind.notify_one();
                return false;
            }
        }
        room.seen = Some(Seen {
            state: state.clone(),
            at: Instant::now(),
        });
        true
    }

    /// Lets a socket in: through the outbound queue, with the newest state that this room knows. `read` is what
    /// PostgreSQL said after [`Rooms::enter`] was awaited.
    pub async fn admit(&self, read: LockState, join: Join) {
        let Ok(permit) = self.outbound.reserve().await else {
            return;
        };
        self.apply_local(&Change::from(read.clone()));
        let rooms = self.rooms();
        let seen = rooms.get(&read.room).and_then(|room| room.seen.as_ref());
        // At the same version the fresh reading knows better whether the lease has run out. Where the room is
        // behind the reading, the outbound queue was full: what the room knows is handed out, since the newer one will
        // follow as an event, and would be a repeat otherwise.
        let state = match seen {
            Some(seen) if seen.state.version != read.version => seen.state.clone(),
            _ => read,
        };
        permit.send(OutboundItem::Admit(join, state));
    }

    /// Cursors that moved, as they were encoded by the replica that heard them.
    pub fn show_cursors(
        &self,
        id: &RoomId,
        frames: impl Iterator<Item = (CursorFrame, Option<Arc<str>>)>,
    ) {
        // Nobody hears oneself: alone in the room there is nothing to show.
        let members = self.rooms().get(id).map_or(0, |room| room.members);
        let events: Vec<Event> = frames
            .filter(|(_, except)| members > usize::from(except.is_some()))
            .map(|(frame, except)| Event {
                name: "cursor-update",
                payload: frame.update,
                except,
            })
            .collect();
        self.hand_over(id, events);
    }

    /// A cursor to take off the screens.
    pub fn show_cursor_left(&self, id: &RoomId, user_id: &UserId) {
        if self.rooms().get(id).is_some_and(|room| room.members > 0) {
            let left = CursorLeft {
                appointment_id: &id.appointment,
                user_id,
            };
            self.hand_over(id, vec![Event::new("cursor-left", &left)]);
        }
    }

    fn hand_over(&self, id: &RoomId, events: Vec<Event>) {
        if !events.is_empty()
            && self
                .outbound
                .try_send(OutboundItem::Cursors(id.clone(), events))
                .is_err()
        {
            metrics::counter!(telemetry::OUTLET_FULL).increment(1);
        }
    }

    /// Whose lease the room saw last, whether or not it has run out since.
    pub fn holder(&self, id: &RoomId) -> Option<SeenHolder> {
        let rooms = self.rooms();
        let seen = rooms.get(id)?.seen.as_ref()?;
        let lease = seen.state.lease.as_ref()?;
        Some(SeenHolder {
            user_id: lease.user_id.clone(),
            session_id: lease.session_id.clone(),
            // What was left when PostgreSQL was read, from when it was seen: an old lease that a late
            // subscriber brings into sight is as old as it is.
            ends_at: seen.at
                + Duration::try_from(lease.expires_at - seen.state.now).unwrap_or_default(),
        })
    }

    /// The versions that the rooms saw last, for reconcile.
    pub fn seen_versions(&self) -> Vec<(RoomId, i64)> {
        self.rooms()
            .iter()
            .filter_map(|(id, room)| Some((id.clone(), room.seen.as_ref()?.state.version)))
            .collect()
    }

    /// Resolves when a room could not be shown a change.
    pub async fn behind(&self) {
        self.behind.notified().await;
    }
}

/// What a change is to the sockets: who stepped in, what happened, what is.
fn events(change: &Change, transition: Transition) -> Vec<Event> {
    let state = &change.state;
    let (appointment_id, version) = (&state.room.appointment, state.version);
    let lock = Lock::of(state);
    let mut events = Vec::with_capacity(3);
    if let Some(admin) = &change.admin {
        let (admin_id, admin_info) = (&admin.admin_id, admin.admin_info.as_ref());
        events.push(Event::new(
            "admin-takeover",
            &AdminTakeover {
                appointment_id,
                admin_id,
                admin_info,
                version,
            },
        ));
    }
    let reason = state.reason.unwrap_or(Reason::Released);
    events.push(Event::new(
        "lock-update",
        &LockUpdate {
            appointment_id,
            lock: lock.as_ref(),
            version,
            reason,
        },
    ));
    match transition {
        Transition::Granted => {
            events.push(Event::new(
                "lock-acquired",
                &LockAcquired {
                    appointment_id,
                    lock: lock.as_ref(),
                    version,
                },
            ));
        }
        Transition::Ended(reason) => {
            events.push(Event::new(
                "lock-released",
                &LockReleased {
                    appointment_id,
                    version,
                    reason,
                },
            ));
        }
        Transition::Same => {}
    }
    events
}
