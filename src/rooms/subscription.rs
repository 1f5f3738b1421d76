//! Subscription of one socket to one appointment: its member, its options, and the sink to its queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::event::{Audience, Event};
use crate::bus::Subscribing;
use crate::domain::ids::Member;
use crate::domain::lease::LockState;
use crate::protocol::CursorChoice;

/// Options of a subscription, beside changes of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Cursor events: each move, one a tick, or none.
    pub cursors: CursorChoice,
    /// Presence events.
    pub presence: bool,
    /// Subscription of a list: only `lock-update` events.
    pub list: bool,
}

/// Outcome of sending an event to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The event is in the socket's queue.
    Queued,
    /// The queue is full: the socket is slow.
    Full,
    /// The socket is closed.
    Gone,
}

/// Interface of a socket to the rooms.
pub trait Sink: Send + Sync + 'static {
    /// Enqueues an event. Never waits.
    fn send(&self, event: &Event) -> Sent;

    /// Answers `subscribe` request number `request` with the state. Later events of the room follow.
    fn admitted(&self, request: u64, state: &LockState);

    /// Closes the connection in a way that makes clients reconnect automatically.
    fn reconnect(&self);
}

/// Reason why a subscription was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeRefused {
    /// The socket is closed.
    Closed,
    /// The socket has the maximum number of subscriptions.
    TooMany,
}

/// A subscription that was accepted, but is not admitted yet.
pub struct Subscribed {
    /// The subscription: the existing one if the socket was in the room already.
    pub subscription: Arc<Subscription>,
    /// To be awaited before the state is read, so that no change is lost in between.
    pub subscribing: Option<Subscribing>,
}

/// Subscription of one socket to one appointment.
pub struct Subscription {
    /// Socket id.
    pub socket: Arc<str>,
    /// User and tab, if the socket has an identity.
    pub member: Option<Member>,
    /// Options.
    pub options: Options,
    sink: Box<dyn Sink>,
    /// False once the socket has left: events still queued for it are not delivered.
    current: AtomicBool,
}

impl Subscription {
    /// Creates a subscription, which is in no room yet.
    pub fn new(
        socket: Arc<str>,
        member: Option<Member>,
        options: Options,
        sink: Box<dyn Sink>,
    ) -> Self {
        Self {
            socket,
            member,
            options,
            sink,
            current: AtomicBool::new(true),
        }
    }

    /// Sink of the socket.
    pub fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// True while the socket is in the room.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    /// True if this socket belongs to the audience.
    #[must_use]
    pub fn is_in(&self, audience: &Audience) -> bool {
        let member = self.member.as_ref();
        match audience {
            Audience::Room => true,
            Audience::AllBut(socket) => self.socket != *socket,
            Audience::User(user_id) => member.is_some_and(|member| member.user_id == *user_id),
            Audience::Session(session) => member == Some(session),
            Audience::Socket(socket) => self.socket == *socket,
        }
    }

    pub(super) fn end(&self) {
        self.current.store(false, Ordering::Release);
    }
}
