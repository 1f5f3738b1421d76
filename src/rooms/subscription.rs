//! One socket's subscription to one appointment: who it is, which events it asked for, and the way to its queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::event::{Audience, Event};
use crate::domain::ids::Member;
use crate::domain::lease::LockState;
use crate::protocol::CursorChoice;

/// The events that a subscription asked for, beside changes of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Cursors: each move, one event a tick, or none.
    pub cursors: CursorChoice,
    /// Viewers who come and go.
    pub presence: bool,
    /// An entry of a list: `lock-update` alone.
    pub list: bool,
}

/// The fate of an event that was handed to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the socket's queue.
    Queued,
    /// The queue is full: the socket does not keep up.
    Full,
    /// The socket is gone.
    Gone,
}

/// A socket, as far as rooms know one.
pub trait Sink: Send + Sync + 'static {
    /// Puts an event into the socket's queue. Never waits.
    fn send(&self, event: &Event) -> Sent;

    /// Answers the `subscribe` of that number with the state; every later event of the room follows.
    fn admitted(&self, request: u64, state: &LockState);

    /// Ends the connection in a way after which clients come back by themselves.
    fn reconnect(&self);
}

/// One socket's subscription to one appointment.
pub struct Subscription {
    /// The socket's name.
    pub socket: Arc<str>,
    /// The user and tab, if the socket has an identity.
    pub member: Option<Member>,
    /// The events that it asked for.
    pub options: Options,
    sink: Box<dyn Sink>,
    /// False from the moment at which the socket left: events that wait for it then are not delivered.
    current: AtomicBool,
}

impl Subscription {
    /// A subscription of that socket, not in any room yet.
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

    /// The way to the socket.
    pub fn sink(&self) -> &dyn Sink {
        &*self.sink
    }

    /// Whether the socket is still in the room.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    /// Whether an event for that audience is for this socket.
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
