//! The entries of the queue from the rooms to the sockets.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::Span;

use super::event::Event;
use super::subscription::Subscription;
use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;

/// The subscriptions that were in the room when an event was put into the queue.
pub type Recipients = Arc<Vec<Arc<Subscription>>>;

/// A change of a lock, for the sockets of its room.
pub struct RoomUpdate {
    /// The room.
    pub room: RoomId,
    /// Its subscriptions.
    pub recipients: Recipients,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The span that it is a part of.
    pub span: Span,
    /// When PostgreSQL decided it, by its own clock, if another replica asked.
    pub decided_remotely: Option<OffsetDateTime>,
    /// Whether the room's sockets reconnect after it: their clients have seen versions that are no more.
    pub reconnect: bool,
}

/// A socket that is let into a room.
pub struct Join {
    /// Its subscription.
    pub subscription: Arc<Subscription>,
    /// The number of its request, which is answered now.
    pub request: u64,
}

/// An entry of the queue from rooms to sockets.
pub enum OutboundItem {
    /// A change of a lock: no socket of the room may miss the newest.
    Change(RoomUpdate),
    /// Cursors in a room: a socket that does not keep up misses them.
    Cursors(Recipients, Vec<Event>),
    /// A socket joins: it gets this state, and every later event of its room.
    Admit(Join, LockState),
}
