//! The local rooms: the subscriptions of this replica's sockets, the last state of each lock that they were shown, and
//! the ONE way to the sockets.
//!
//! ```text
//!            subscribe               admit (snapshot)
//!   nobody ─────────▶ subscribing ───────────────────▶ watching ◀──┐
//!      ▲                                                │   apply: compare, put into the queue, advance
//!      └── empty for a while ◀── unsubscribe, disconnect┘
//! ```
//!
//! Layer 2. PostgreSQL decides what a version is; a room only compares. Applying a change compares, puts it into the
//! queue and only then advances the version that was seen, under one short mutex: so the order of the queue is the
//! order of versions, and a snapshot that goes through it lies between what came before and what follows. Each entry of
//! the queue carries the subscriptions that it is for.
//!
//! On failure: if the queue is full the version does not advance, and reconcile finds the room behind.
//!
//! A room also keeps its [`Roster`]: members here, and members that other replicas told of. Members are announced over
//! the bus as they come and go; after a gap the others are asked for all of theirs.

mod event;
mod members;
mod queue;
pub mod roster;
pub mod subscription;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};
use tracing::Span;

use crate::bus::Subscribing;
use crate::bus::announcer::Announcer;
use crate::domain::ids::{RoomId, SessionId, UserId};
use crate::domain::lease::{Change, LockState, Reason};
use crate::domain::transition::{Transition, classify};
use crate::protocol::{CursorFrame, Message};
use crate::sync::{Guard, Ordered, Rank};
use crate::telemetry;

pub use event::{Audience, Event};
pub use queue::{Join, OutboundItem, Recipients, RoomUpdate};
use roster::{Departure, PointRefused, Replicas, Roster};
use subscription::Subscription;

/// Entries that wait for the dispatcher; beyond that, changes are repaired later and cursors are dropped.
const OUTBOUND_QUEUE: usize = 8192;
/// How long a room without audience keeps its channel: a reloaded page comes back within it.
const LINGER: Duration = Duration::from_secs(10);
/// Appointments that one socket may subscribe to.
pub const MAX_SUBSCRIPTIONS: usize = 100;

/// What became of a change in the rooms here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was news, and its room shows it.
    Shown,
    /// The room has seen this version, or a newer one.
    Stale,
    /// This replica does not keep the room, or no longer: the bus may bring a last message late.
    NoRoom,
    /// It was news, and the queue full: reconcile will show it.
    Full,
}

/// Why a socket cannot subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeRefused {
    /// The socket is gone.
    Closed,
    /// It has [`MAX_SUBSCRIPTIONS`].
    TooMany,
}

/// A subscription on its way.
pub struct Subscribed {
    /// The subscription; the one that there is, if the socket was in the room already.
    pub subscription: Arc<Subscription>,
    /// To be awaited before the state is read, so that no change falls between the two.
    pub subscribing: Option<Subscribing>,
}

/// The holder of the lease that a room saw last.
#[derive(Debug, Clone)]
pub struct SeenHolder {
    /// The user.
    pub user_id: UserId,
    /// The tab, if the lease was taken for one.
    pub session_id: Option<SessionId>,
    /// The end of the lease by what this room saw, on this replica's monotonic clock.
    pub ends_at: Instant,
}

struct Seen {
    state: LockState,
    at: Instant,
}

#[derive(Default)]
struct Room {
    roster: Roster,
    emptied: Option<Instant>,
    seen: Option<Seen>,
    /// Whether the other replicas' members are to be asked for.
    unsure: bool,
}

#[derive(Default)]
struct Inner {
    rooms: HashMap<RoomId, Room>,
    /// The rooms of each socket that is connected.
    sockets: HashMap<Arc<str>, HashSet<RoomId>>,
    replicas: Replicas,
}

/// The local rooms of one replica.
pub struct Rooms {
    inner: Ordered<Inner>,
    outbound: mpsc::Sender<OutboundItem>,
    announcer: Announcer,
    /// Rung when a room could not be shown a change.
    behind: Notify,
}

impl Rooms {
    /// No rooms yet, and the queue that the dispatcher empties.
    pub fn new(announcer: Announcer) -> (Self, mpsc::Receiver<OutboundItem>) {
        Self::with_queue(announcer, OUTBOUND_QUEUE)
    }

    /// The same, with a queue of that length.
    pub fn with_queue(announcer: Announcer, length: usize) -> (Self, mpsc::Receiver<OutboundItem>) {
        let (outbound, dispatched) = mpsc::channel(length);
        (
            Self {
                inner: Ordered::new(Rank::Rooms, Inner::default()),
                outbound,
                announcer,
                behind: Notify::new(),
            },
            dispatched,
        )
    }

    fn inner(&self) -> Guard<'_, Inner> {
        self.inner.lock()
    }

    /// A socket is connected, and may subscribe. Answered by one [`Rooms::disconnect`].
    pub fn connect(&self, socket: &Arc<str>) {
        self.inner().sockets.entry(socket.clone()).or_default();
    }

    /// A socket subscribes. It is a member at once, and hears nothing before [`Rooms::admit`]. Each success is answered
    /// by one `admit` or [`Rooms::abandon`].
    ///
    /// # Errors
    /// [`SubscribeRefused`].
    pub fn subscribe(
        &self,
        id: &RoomId,
        subscription: Subscription,
    ) -> Result<Subscribed, SubscribeRefused> {
        let mut inner = self.inner();
        let Inner { rooms, sockets, .. } = &mut *inner;
        let Some(of_socket) = sockets.get_mut(&subscription.socket) else {
            return Err(SubscribeRefused::Closed);
        };
        let known = rooms.get_mut(id);
        if let Some(known) = known.and_then(|room| room.roster.ask_again(&subscription.socket)) {
            return Ok(Subscribed {
                subscription: known,
                subscribing: None,
            });
        }
        if of_socket.len() >= MAX_SUBSCRIPTIONS {
            return Err(SubscribeRefused::TooMany);
        }
        of_socket.insert(id.clone());
        let room = rooms.entry(id.clone()).or_insert_with(|| Room {
            unsure: true,
            ..Room::default()
        });
        room.emptied = None;
        let subscription = Arc::new(subscription);
        let arrival = room.roster.enter(subscription.clone());
        // Under the mutex, so that it cannot be overtaken by the unsubscribe of a room that is dropped now.
        let subscribing = self.announcer.bus().subscribe(id);
        if let Some(member) = arrival.first_here {
            let room = id.clone();
            self.announcer
                .announce(id, Message::Joined { room, member });
        }
        Ok(Subscribed {
            subscription,
            subscribing: Some(subscribing),
        })
    }

    /// Lets a socket in: through the queue, with the newest state that this room knows. `read` is what PostgreSQL said
    /// after [`Subscribed::subscribing`] was awaited.
    pub async fn admit(&self, read: LockState, join: Join) {
        let Ok(permit) = self.outbound.reserve().await else {
            return;
        };
        self.apply_local(&Change::from(read.clone()));
        let mut inner = self.inner();
        let mut room = inner.rooms.get_mut(&read.room);
        let seen = room.as_ref().and_then(|room| room.seen.as_ref());
        // At the same version the fresh reading knows better whether the lease has run out. If the room is behind
        // the reading, the queue was full: what the room knows is handed out, since the newer one will follow as an
        // event, and would be a repeat otherwise.
        let state = match seen {
            Some(seen) if seen.state.version != read.version => seen.state.clone(),
            _ => read,
        };
        if let Some(room) = &mut room {
            room.roster.admit(&join.subscription);
            self.ask_others(&state.room, room, Instant::now());
        }
        permit.send(OutboundItem::Admit(join, state));
    }

    /// A request to subscribe failed. Returns the users whose cursors no socket here shows any more.
    pub fn abandon(&self, id: &RoomId, subscription: &Arc<Subscription>) -> Vec<UserId> {
        let mut inner = self.inner();
        let Some(room) = inner.rooms.get_mut(id) else {
            return Vec::new();
        };
        let Some(departure) = room.roster.fail(subscription) else {
            return Vec::new();
        };
        let pointers = self.departed(id, room, departure);
        if let Some(of_socket) = inner.sockets.get_mut(&subscription.socket) {
            of_socket.remove(id);
        }
        pointers
    }

    /// A socket leaves a room. Returns the users whose cursors no socket here shows any more.
    pub fn unsubscribe(&self, id: &RoomId, socket: &str) -> Vec<UserId> {
        let mut inner = self.inner();
        if let Some(of_socket) = inner.sockets.get_mut(socket) {
            of_socket.remove(id);
        }
        self.leave(&mut inner, id, socket)
    }

    /// A socket is gone: it leaves every room, and enters none any more. Returns the users whose cursors no socket here
    /// shows any more, by room.
    pub fn disconnect(&self, socket: &str) -> Vec<(RoomId, Vec<UserId>)> {
        let mut inner = self.inner();
        let ids = inner.sockets.remove(socket).unwrap_or_default();
        ids.into_iter()
            .map(|id| {
                let pointers = self.leave(&mut inner, &id, socket);
                (id, pointers)
            })
            .collect()
    }

    fn leave(&self, inner: &mut Inner, id: &RoomId, socket: &str) -> Vec<UserId> {
        let Some(room) = inner.rooms.get_mut(id) else {
            return Vec::new();
        };
        match room.roster.leave(socket) {
            Some(departure) => self.departed(id, room, departure),
            None => Vec::new(),
        }
    }

    fn departed(&self, id: &RoomId, room: &mut Room, departure: Departure) -> Vec<UserId> {
        if room.roster.is_empty() {
            room.emptied = Some(Instant::now());
        }
        if let Some(member) = departure.last_here {
            let room = id.clone();
            self.announcer.announce(id, Message::Left { room, member });
        }
        departure.pointers
    }

    /// Notes that a socket shows that user's cursor.
    ///
    /// # Errors
    /// [`PointRefused`].
    pub fn point(&self, id: &RoomId, socket: &str, user_id: &UserId) -> Result<(), PointRefused> {
        let mut inner = self.inner();
        let room = inner.rooms.get_mut(id).ok_or(PointRefused::NotSubscribed)?;
        room.roster.point(socket, user_id)
    }

    /// Number of rooms.
    pub fn count(&self) -> usize {
        self.inner().rooms.len()
    }

    /// Entries that wait for the dispatcher, and the most that may.
    pub fn outbound(&self) -> (usize, usize) {
        let capacity = self.outbound.max_capacity();
        (capacity - self.outbound.capacity(), capacity)
    }

    /// A change was committed here: shows it, if it is news.
    pub fn apply_local(&self, change: &Change) -> Outcome {
        self.apply(change, None)
    }

    /// The same for a change that another replica announced.
    pub fn apply_remote(&self, change: &Change) -> Outcome {
        self.apply(change, Some(change.state.now))
    }

    fn apply(&self, change: &Change, decided_remotely: Option<OffsetDateTime>) -> Outcome {
        let state = &change.state;
        let mut inner = self.inner();
        let Some(room) = inner.rooms.get_mut(&state.room) else {
            return Outcome::NoRoom;
        };
        if let Some(seen) = &room.seen {
            let Some(transition) = classify(&seen.state, state) else {
                return Outcome::Stale;
            };
            if !self.show(room, change, transition, decided_remotely, false) {
                return Outcome::Full;
            }
        }
        room.seen = Some(Seen {
            state: state.clone(),
            at: Instant::now(),
        });
        Outcome::Shown
    }

    /// Puts a change into the queue. False if it is full.
    fn show(
        &self,
        room: &Room,
        change: &Change,
        transition: Transition,
        decided_remotely: Option<OffsetDateTime>,
        reconnect: bool,
    ) -> bool {
        let recipients = room.roster.audience();
        if recipients.is_empty() {
            return true;
        }
        let update = RoomUpdate {
            room: change.state.room.clone(),
            recipients,
            events: event::of_change(change, transition),
            span: Span::current(),
            decided_remotely,
            reconnect,
        };
        let sent = self.outbound.try_send(OutboundItem::Change(update)).is_ok();
        if !sent {
            metrics::counter!(telemetry::OUTLET_FULL).increment(1);
            self.behind.notify_one();
        }
        sent
    }

    /// PostgreSQL has an older version than the one that this room saw, so that one is no more. Shows what is there,
    /// and has the room's sockets reconnect: a client that only takes what is newer gets a snapshot so. False if the
    /// room has seen something else meanwhile, or the queue is full: the next pass looks again.
    pub fn reset(&self, state: &LockState, ahead: i64) -> bool {
        let mut inner = self.inner();
        let Some(room) = inner.rooms.get_mut(&state.room) else {
            return false;
        };
        let seen = room.seen.as_ref();
        let Some(seen) = seen.filter(|seen| seen.state.version == ahead) else {
            return false;
        };
        let transition = match (&seen.state.lease, &state.lease) {
            (_, Some(_)) => Transition::Granted,
            (Some(_), None) => Transition::Ended(Reason::Released),
            (None, None) => Transition::Same,
        };
        let change = Change::from(state.clone());
        if !self.show(room, &change, transition, None, true) {
            return false;
        }
        room.seen = Some(Seen {
            state: state.clone(),
            at: Instant::now(),
        });
        true
    }

    /// Cursors that moved here, encoded once for all replicas. Each frame comes with the socket that sent it, which
    /// does not hear it.
    pub fn show_cursors(&self, id: &RoomId, frames: impl Iterator<Item = (CursorFrame, Arc<str>)>) {
        let inner = self.inner();
        let Some(room) = inner.rooms.get(id) else {
            return;
        };
        let recipients = room.roster.audience();
        // A socket that is alone in the room has nobody to show it to.
        if recipients.len() > 1 {
            let events = frames
                .map(|(frame, by)| Event::cursor(frame, Audience::AllBut(by)))
                .collect();
            self.put_cursors(recipients, events);
        }
    }

    /// Cursors that moved on another replica.
    pub fn show_remote_cursors(&self, replica: &str, id: &RoomId, frames: Vec<CursorFrame>) {
        let mut inner = self.inner();
        inner.replicas.heard(replica, Instant::now());
        let Some(room) = inner.rooms.get_mut(id) else {
            return;
        };
        let users = frames.iter().map(|frame| &frame.user_id);
        room.roster.pointed(replica, users);
        let events = frames
            .into_iter()
            .map(|frame| Event::cursor(frame, Audience::Room))
            .collect();
        self.put_cursors(room.roster.audience(), events);
    }

    /// A cursor to take off the screens here.
    pub fn show_cursor_left(&self, id: &RoomId, user_id: &UserId) {
        if let Some(room) = self.inner().rooms.get(id) {
            let left = Event::cursor_left(&id.appointment, user_id);
            self.put_cursors(room.roster.audience(), vec![left]);
        }
    }

    /// The same, told by another replica.
    pub fn show_remote_cursor_left(&self, replica: &str, id: &RoomId, user_id: &UserId) {
        let mut inner = self.inner();
        inner.replicas.heard(replica, Instant::now());
        if let Some(room) = inner.rooms.get_mut(id) {
            room.roster.pointer_left(replica, user_id);
            let left = Event::cursor_left(&id.appointment, user_id);
            self.put_cursors(room.roster.audience(), vec![left]);
        }
    }

    fn put_cursors(&self, recipients: Recipients, events: Vec<Event>) {
        if recipients.is_empty() || events.is_empty() {
            return;
        }
        let item = OutboundItem::Cursors(recipients, events);
        if self.outbound.try_send(item).is_err() {
            metrics::counter!(telemetry::OUTLET_FULL).increment(1);
        }
    }

    /// The holder of the lease that the room saw last, whether or not it has run out since.
    pub fn holder(&self, id: &RoomId) -> Option<SeenHolder> {
        let inner = self.inner();
        let seen = inner.rooms.get(id)?.seen.as_ref()?;
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
        self.inner()
            .rooms
            .iter()
            .filter_map(|(id, room)| Some((id.clone(), room.seen.as_ref()?.state.version)))
            .collect()
    }

    /// The same for some rooms.
    pub fn seen_versions_of(&self, ids: &[RoomId]) -> Vec<(RoomId, i64)> {
        let inner = self.inner();
        let seen = |id: &RoomId| Some(inner.rooms.get(id)?.seen.as_ref()?.state.version);
        ids.iter()
            .filter_map(|id| Some((id.clone(), seen(id)?)))
            .collect()
    }

    /// Resolves when a room could not be shown a change.
    pub async fn behind(&self) {
        self.behind.notified().await;
    }
}
