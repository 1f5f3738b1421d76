//! The bus, which only tells. Owns how a message gets from one replica to the others that have an audience.
//!
//! Layer 2. **The guarantee: none.** A message may be lost, repeated or reordered. Everything sent over it is
//! therefore whole in itself and carries a version, and each end says as much as it knows:
//!
//! - what this end may have missed is a [`BusEvent::Gap`];
//! - what others may have missed from here is [`Bus::take_unsent`];
//! - whether messages come through at all is [`Bus::healthy`], by a probe that goes out and must come back.
//!
//! What nobody can know is found by reconcile. Cases in which messages are lost: Redis is away, a queue is
//! full, this replica reads too slowly.
//!
//! Nothing here waits for Redis: `publish` puts into a bounded queue, `subscribe` hands back a future that a
//! caller may stop waiting for.

pub mod announcer;
pub mod memory;
pub mod redis;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::domain::ids::RoomId;

/// What the bus hands to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// A message of some room that this replica wants.
    Message(Bytes),
    /// Messages may have been lost: compare with PostgreSQL.
    Gap,
    /// Another replica is there. It says so a few times a second.
    Alive(String),
}

/// What all replicas over one PostgreSQL share, and nobody else has.
#[derive(Clone)]
pub struct Installation {
    /// Its name by chance, which its channels begin with.
    pub name: String,
    /// The key by chance, which its messages are signed with.
    pub key: Vec<u8>,
}

/// How much a bus has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Rooms that are wanted.
    pub subscriptions: usize,
    /// Messages that wait to go out.
    pub queued: usize,
}

/// Resolves when the subscription is in force, or when it is clear that it is not now.
pub type Subscribing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One replica's end of the bus.
pub trait Bus: Send + Sync + 'static {
    /// Sends a message, a JSON object that is not empty, to every replica that wants the room, this one too where the
    /// carrier echoes. The span that is current lasts until the message has gone out.
    fn publish(&self, room: &RoomId, message: Bytes);

    /// Wants a room. Repeating it does no harm.
    fn subscribe(&self, room: &RoomId) -> Subscribing;

    /// No longer wants a room.
    fn unsubscribe(&self, room: &RoomId);

    /// Whether messages flow, both ways, as far as this end knows. While they do not, reconcile looks every
    /// second.
    fn healthy(&self) -> bool;

    /// Whether, since this was last asked, messages were published that may not have reached the others.
    fn take_unsent(&self) -> bool;

    /// How much there is to do now.
    fn load(&self) -> Load {
        Load::default()
    }

    /// Stops, after what was published has gone out or a short wait.
    fn close(&self) -> Subscribing;
}
