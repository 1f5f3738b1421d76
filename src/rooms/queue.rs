//! Items of the queue from the rooms to the sockets.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::Span;

use super::event::Event;
use super::subscription::Subscription;
use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;

/// Subscriptions that were in the room when an event was enqueued.
pub type Recipients = Arc<Vec<Arc<Subscription>>>;

/// Change of a lock, for the sockets of its room.
pub struct RoomUpdate {
    /// The room.
    pub room: RoomId,
    /// Recipients.
    pub recipients: Recipients,
    /// Events, in order.
    pub events: Vec<Event>,
    /// Span of the change.
    pub span: Span,
    /// Commit time by PostgreSQL's clock, if the change was made on another replica.
    pub decided_remotely: Option<OffsetDateTime>,
    /// True if the sockets must reconnect afterwards, because their clients have seen versions that no longer exist.
    pub reconnect: bool,
}

/// Admission of a socket to a room.
pub struct Join {
    /// Its subscription.
    pub subscription: Arc<Subscription>,
    /// Number of the request that is answered by it.
    pub request: u64,
}

/// Item of the queue from rooms to sockets.
pub enum OutboundItem {
    /// A change of a lock: each socket of the room must get the newest one.
    Change(RoomUpdate),
    /// Cursors in a room: dropped for slow sockets.
    Cursors(Recipients, Vec<Event>),
    /// A socket joins: it gets this state, then every later event of the room.
    Admit(Join, LockState),
}
