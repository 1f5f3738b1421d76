//! The bus: best-effort messages between replicas. Owns delivery of a message to the other replicas that have
//! subscribers of its room.
//!
//! Layer 2. **No delivery guarantee.** A message may be lost, repeated or reordered. Each message is therefore
//! complete in itself and carries a version, and each endpoint reports the losses it knows of:
//!
//! - [`BusEvent::Gap`]: this replica may have missed messages;
//! - [`Bus::take_unsent`]: other replicas may have missed messages from this one;
//! - [`Bus::healthy`]: false while a probe that was sent does not come back.
//!
//! Reconcile finds all other losses. Messages are lost if Redis is unavailable, a queue is full, or this replica
//! reads too slowly.
//!
//! Nothing here waits for Redis: `publish` puts the message into a bounded queue, `subscribe` returns a future that the
//! caller may drop.

pub mod announcer;
pub mod memory;
pub mod redis;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::domain::ids::RoomId;

/// An event that the bus delivers to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// A message of a room that this replica is subscribed to.
    Message(Bytes),
    /// Messages may have been lost: rooms are to be compared with PostgreSQL.
    Gap,
    /// The heartbeat of another replica, a few times a second.
    Alive(String),
}

/// Name and key shared by all replicas on one PostgreSQL database, and by nobody else.
#[derive(Clone)]
pub struct Installation {
    /// Random name, the prefix of its channels.
    pub name: String,
    /// Random key that signs its messages.
    pub key: Vec<u8>,
}

/// Load of a bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Subscribed rooms.
    pub subscriptions: usize,
    /// Messages waiting to be sent.
    pub queued: usize,
}

/// Future that resolves once the subscription is active, or cannot be activated now.
pub type Subscribing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One replica's endpoint of the bus.
pub trait Bus: Send + Sync + 'static {
    /// Sends a message, a JSON object that is not empty, to every replica subscribed to the room, and to this one too
    /// if the transport echoes. The current span stays open until the message was sent.
    fn publish(&self, room: &RoomId, message: Bytes);

    /// Subscribes to a room. Idempotent.
    fn subscribe(&self, room: &RoomId) -> Subscribing;

    /// Unsubscribes from a room.
    fn unsubscribe(&self, room: &RoomId);

    /// True if there is room for messages that could also be sent later. While there is not, the others go first.
    fn has_room(&self) -> bool {
        true
    }

    /// True if messages flow in both directions, as far as this endpoint knows. While it is false, reconcile runs every
    /// second.
    fn healthy(&self) -> bool;

    /// True if messages published since the last call may not have reached other replicas.
    fn take_unsent(&self) -> bool;

    /// Current load.
    fn load(&self) -> Load {
        Load::default()
    }

    /// Stops, once all published messages were sent or a short timeout has passed.
    fn close(&self) -> Subscribing;
}
