//! Local rooms: the subscriptions of this replica's sockets, the last state that was sent to each room, and the only
//! way to the sockets.
//!
//! ```text
//!            subscribe               admit (snapshot)
//!   nobody ─────────▶ subscribing ───────────────────▶ watching ◀──┐
//!      ▲                                                │   apply: compare, enqueue, advance
//!      └── empty for a while ◀── unsubscribe, disconnect┘
//! ```
//!
//! Layer 2. PostgreSQL assigns versions; a room only compares them. Applying a change compares, enqueues it and then
//! advances the version that was seen, all under one short mutex. So the queue is in the order of versions, and a
//! snapshot that passes through it is newer than everything before it and older than everything after. Each item of the
//! queue carries its recipients.
//!
//! On failure: if the queue is full, the version does not advance, and reconcile finds the room behind.
//!
//! A room also keeps its [`Roster`]: members here and members on other replicas. Joins and leaves are announced over
//! the bus; after a gap the other replicas are asked for their full rosters.

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

use crate::bus::announcer::Announcer;
use crate::domain::ids::{RoomId, SessionId, UserId};
use crate::domain::lease::{Change, LockState, Reason};
use crate::domain::transition::{Transition, classify};
use crate::protocol::{CursorFrame, Message};
use crate::sync::{Guard, Ordered, Rank};
use crate::telemetry;

pub use event::{Audience, Event};
pub use queue::{Join, OutboundItem, Recipients, RoomUpdate};
use roster::{CursorRefused, Departure, Replicas, Roster};
use subscription::Subscription;
pub use subscription::{SubscribeRefused, Subscribed};

/// Length of the queue to the dispatcher; beyond it, changes are repaired later and cursors are dropped.
const OUTBOUND_QUEUE: usize = 8192;
/// Time for which an empty room keeps its channel: a reloaded page is back within it.
const LINGER: Duration = Duration::from_secs(10);
/// Maximum subscriptions per socket.
pub const MAX_SUBSCRIPTIONS: usize = 100;

/// Outcome of applying a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The change was new and was applied.
    Shown,
    /// The room has seen this version or a newer one.
    Stale,
    /// This replica does not have the room, or no longer: the bus may deliver late.
    NoRoom,
    /// The change was new, but the queue was full: reconcile will repair the room.
    Full,
}

/// Holder of the last lease that a room saw.
#[derive(Debug, Clone)]
pub struct SeenHolder {
    /// The user.
    pub user_id: UserId,
    /// The tab, if the lease was taken for one.
    pub session_id: Option<SessionId>,
    /// Expiry of the lease, as last seen, on this replica's monotonic clock.
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
    /// True if the other replicas' rosters are to be requested.
    roster_stale: bool,
    /// True if the whole roster is to be sent, because an arrival or departure of a member was not announced.
    roster_owed: bool,
}

#[derive(Default)]
struct Inner {
    rooms: HashMap<RoomId, Room>,
    /// Rooms of each connected socket.
    sockets: HashMap<Arc<str>, HashSet<RoomId>>,
    replicas: Replicas,
}

/// The local rooms of one replica.
pub struct Rooms {
    inner: Ordered<Inner>,
    outbound: mpsc::Sender<OutboundItem>,
    announcer: Announcer,
    /// Notified if a change did not fit into the queue.
    behind: Notify,
}

impl Rooms {
    /// Creates the rooms and the dispatcher's end of the queue.
    pub fn new(announcer: Announcer) -> (Self, mpsc::Receiver<OutboundItem>) {
        Self::with_queue(announcer, OUTBOUND_QUEUE)
    }

    /// Like [`Rooms::new`], with a queue of that length.
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

    /// Registers a connected socket. Must be paired with [`Rooms::disconnect`].
    pub fn connect(&self, socket: &Arc<str>) {
        self.inner().sockets.entry(socket.clone()).or_default();
    }

    /// Subscribes a socket. It is a member immediately, but gets no events before [`Rooms::admit`]. Each success must
    /// be followed by one `admit` or [`Rooms::abandon`].
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
        if let Some(known) = known.and_then(|room| room.roster.enter_again(&subscription.socket)) {
            // The first request may still wait for the channel: the second must not be answered before it.
            return Ok(Subscribed {
                subscription: known,
                subscribing: Some(self.announcer.bus().subscribe(id)),
            });
        }
        if of_socket.len() >= MAX_SUBSCRIPTIONS {
            return Err(SubscribeRefused::TooMany);
        }
        of_socket.insert(id.clone());
        let room = rooms.entry(id.clone()).or_insert_with(|| Room {
            roster_stale: true,
            ..Room::default()
        });
        room.emptied = None;
        let subscription = Arc::new(subscription);
        let arrival = room.roster.enter(subscription.clone());
        // Under the mutex, so that the unsubscribe of a room being dropped cannot overtake it.
        let subscribing = self.announcer.bus().subscribe(id);
        if let Some(member) = arrival.first_here {
            let message = Message::Joined {
                room: id.clone(),
                member,
            };
            room.roster_owed |= !self.announcer.announce_if_idle(id, message);
        }
        Ok(Subscribed {
            subscription,
            subscribing: Some(subscribing),
        })
    }

    /// Admits a socket through the queue, with the newest state that this room knows. `read` is the state in
    /// PostgreSQL, read after [`Subscribed::subscribing`] resolved.
    pub async fn admit(&self, read: LockState, join: Join) {
        let Ok(permit) = self.outbound.reserve().await else {
            return;
        };
        self.apply_local(&Change::from(read.clone()));
        let mut inner = self.inner();
        let mut room = inner.rooms.get_mut(&read.room);
        let seen = room.as_ref().and_then(|room| room.seen.as_ref());
        // At the same version the fresh read is more accurate about expiry. If the room is still behind the read, the
        // queue was full: the snapshot is the room's state then, because the newer one will follow as an event and
        // would be a duplicate otherwise.
        let state = match seen {
            Some(seen) if seen.state.version != read.version => seen.state.clone(),
            _ => read,
        };
        if let Some(room) = &mut room {
            room.roster.admit(&join.subscription);
            self.request_stale(&state.room, room, Instant::now());
        }
        permit.send(OutboundItem::Admit(join, state));
    }

    /// Withdraws a subscription that was not admitted. Returns the users whose cursors no local socket sends any
    /// longer.
    pub fn abandon(&self, id: &RoomId, subscription: &Arc<Subscription>) -> Vec<UserId> {
        let mut inner = self.inner();
        let Some(room) = inner.rooms.get_mut(id) else {
            return Vec::new();
        };
        let Some(departure) = room.roster.fail(subscription) else {
            return Vec::new();
        };
        let cursors = self.departed(id, room, departure);
        if let Some(of_socket) = inner.sockets.get_mut(&subscription.socket) {
            of_socket.remove(id);
        }
        cursors
    }

    /// Removes a socket from a room. Returns the users whose cursors no local socket sends any longer.
    pub fn unsubscribe(&self, id: &RoomId, socket: &str) -> Vec<UserId> {
        let mut inner = self.inner();
        if let Some(of_socket) = inner.sockets.get_mut(socket) {
            of_socket.remove(id);
        }
        self.leave(&mut inner, id, socket)
    }

    /// Removes a closed socket from all rooms; it can no longer subscribe. Returns the users whose cursors no local
    /// socket sends any longer, by room.
    pub fn disconnect(&self, socket: &str) -> Vec<(RoomId, Vec<UserId>)> {
        let mut inner = self.inner();
        let ids = inner.sockets.remove(socket).unwrap_or_default();
        ids.into_iter()
            .map(|id| {
                let cursors = self.leave(&mut inner, &id, socket);
                (id, cursors)
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
            let message = Message::Left {
                room: id.clone(),
                member,
            };
            room.roster_owed |= !self.announcer.announce_if_idle(id, message);
        }
        departure.cursors
    }

    /// Records that a socket sends that user's cursor.
    ///
    /// # Errors
    /// [`CursorRefused`].
    pub fn add_cursor(
        &self,
        id: &RoomId,
        socket: &str,
        user_id: &UserId,
    ) -> Result<(), CursorRefused> {
        let mut inner = self.inner();
        let room = inner
            .rooms
            .get_mut(id)
            .ok_or(CursorRefused::NotSubscribed)?;
        room.roster.add_cursor(socket, user_id)
    }

    /// Number of rooms.
    pub fn count(&self) -> usize {
        self.inner().rooms.len()
    }

    /// Items in the queue to the dispatcher, and its capacity.
    pub fn outbound(&self) -> (usize, usize) {
        let capacity = self.outbound.max_capacity();
        (capacity - self.outbound.capacity(), capacity)
    }

    /// Applies a change that was committed here, if it is new.
    pub fn apply_local(&self, change: &Change) -> Outcome {
        self.apply(change, None)
    }

    /// Applies a change that another replica announced.
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
            if !self.enqueue(room, change, transition, decided_remotely, false) {
                return Outcome::Full;
            }
        }
        room.seen = Some(Seen {
            state: state.clone(),
            at: Instant::now(),
        });
        Outcome::Shown
    }

    /// Enqueues a change. False if the queue is full.
    fn enqueue(
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

    /// Resets a room whose version `ahead` no longer exists, because PostgreSQL has an older one. Sends the state and
    /// reconnects the room's sockets, so that clients which accept only newer versions get a snapshot. False if the
    /// room has seen another version meanwhile or the queue is full: the next pass retries.
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
        if !self.enqueue(room, &change, transition, None, true) {
            return false;
        }
        room.seen = Some(Seen {
            state: state.clone(),
            at: Instant::now(),
        });
        true
    }

    /// Sends cursors that moved here, encoded once for all replicas. Each frame comes with the socket that sent it,
    /// which is excluded.
    pub fn show_cursors(&self, id: &RoomId, frames: impl Iterator<Item = (CursorFrame, Arc<str>)>) {
        let inner = self.inner();
        let Some(room) = inner.rooms.get(id) else {
            return;
        };
        let recipients = room.roster.audience();
        // The sender is excluded: a socket that is alone in the room needs no event.
        if recipients.len() > 1 {
            let events = frames
                .map(|(frame, by)| Event::cursor(frame, Audience::AllBut(by)))
                .collect();
            self.enqueue_cursors(recipients, events);
        }
    }

    /// Sends cursors that moved on another replica.
    pub fn show_remote_cursors(&self, replica: &str, id: &RoomId, frames: Vec<CursorFrame>) {
        let mut inner = self.inner();
        inner.replicas.heard(replica, Instant::now());
        let Some(room) = inner.rooms.get_mut(id) else {
            return;
        };
        let users = frames.iter().map(|frame| &frame.user_id);
        room.roster.add_remote_cursors(replica, users);
        let events = frames
            .into_iter()
            .map(|frame| Event::cursor(frame, Audience::Room))
            .collect();
        self.enqueue_cursors(room.roster.audience(), events);
    }

    /// Removes a cursor from the screens here.
    pub fn show_cursor_left(&self, id: &RoomId, user_id: &UserId) {
        if let Some(room) = self.inner().rooms.get(id)
            && !room.roster.has_cursor(user_id)
        {
            let left = Event::cursor_left(&id.appointment, user_id);
            self.enqueue_cursors(room.roster.audience(), vec![left]);
        }
    }

    /// Removes a cursor from the screens here, at the request of another replica.
    pub fn show_remote_cursor_left(&self, replica: &str, id: &RoomId, user_id: &UserId) {
        let mut inner = self.inner();
        inner.replicas.heard(replica, Instant::now());
        if let Some(room) = inner.rooms.get_mut(id) {
            room.roster.remove_remote_cursor(replica, user_id);
            if !room.roster.has_cursor(user_id) {
                let left = Event::cursor_left(&id.appointment, user_id);
                self.enqueue_cursors(room.roster.audience(), vec![left]);
            }
        }
    }

    fn enqueue_cursors(&self, recipients: Recipients, events: Vec<Event>) {
        if recipients.is_empty() || events.is_empty() {
            return;
        }
        let item = OutboundItem::Cursors(recipients, events);
        if self.outbound.try_send(item).is_err() {
            metrics::counter!(telemetry::OUTLET_FULL).increment(1);
        }
    }

    /// Holder of the last lease that the room saw, which may have expired since.
    pub fn holder(&self, id: &RoomId) -> Option<SeenHolder> {
        let inner = self.inner();
        let seen = inner.rooms.get(id)?.seen.as_ref()?;
        let lease = seen.state.lease.as_ref()?;
        Some(SeenHolder {
            user_id: lease.user_id.clone(),
            session_id: lease.session_id.clone(),
            // The time that was left when PostgreSQL read it: an old lease that a late subscriber reads is not taken
            // for a fresh one.
            ends_at: seen.at
                + Duration::try_from(lease.expires_at - seen.state.now).unwrap_or_default(),
        })
    }

    /// Last version that each room saw, for reconcile.
    pub fn seen_versions(&self) -> Vec<(RoomId, i64)> {
        self.inner()
            .rooms
            .iter()
            .filter_map(|(id, room)| Some((id.clone(), room.seen.as_ref()?.state.version)))
            .collect()
    }

    /// Like [`Rooms::seen_versions`], for these rooms.
    pub fn seen_versions_of(&self, ids: &[RoomId]) -> Vec<(RoomId, i64)> {
        let inner = self.inner();
        let seen = |id: &RoomId| Some(inner.rooms.get(id)?.seen.as_ref()?.state.version);
        ids.iter()
            .filter_map(|id| Some((id.clone(), seen(id)?)))
            .collect()
    }

    /// Resolves if a change did not fit into the queue.
    pub async fn behind(&self) {
        self.behind.notified().await;
    }
}
