//! One socket: who it is, which rooms it is in, whose cursors it has shown.
//!
//! Owns that every `enter` has its `leave`, whatever order subscribe, unsubscribe and disconnect come in. The
//! mutex also covers joining the socket's room: a socket that has been closed is never joined again.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;
use socketioxide::socket::Sid;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SocketContext;
use super::ack::LateAcks;
use super::budget::Budget;
use super::carriers::Carriers;
use super::close::LAST_WORD;
use super::transport::Engine;
use crate::auth::Principal;
use crate::bus::Subscribing;
use crate::cursors::Cursors;
use crate::domain::ids::{RoomId, SessionId, UserId};
use crate::domain::lease::Person;
use crate::limits::{FrameBudget, RateLimitKey, count_rejection};
use crate::protocol::{Code, Refusal};
use crate::rooms::Rooms;
use crate::server::ConnectionHandle;

/// Appointments that one socket may subscribe to.
const MAX_ROOMS: usize = 100;
/// People that one socket may speak for in one room, where identities are trusted.
const MAX_SHOWN: usize = 64;

#[derive(Default)]
struct Membership {
    closed: bool,
    entries: u64,
    rooms: HashMap<RoomId, Member>,
}

struct Member {
    number: u64,
    shown: HashSet<UserId>,
}

/// A room that was entered, or entered again.
pub(super) struct RoomEntry {
    /// Which entering this was.
    pub(super) number: u64,
    /// What to await before the state is read.
    pub(super) subscribing: Option<Subscribing>,
}

/// Who joined, and from where.
pub(super) struct Who {
    /// Where the client is.
    pub(super) address: IpAddr,
    /// Who asks.
    pub(super) principal: Principal,
    /// Who the handshake said it is.
    pub(super) person: Option<Person>,
    /// Which tab the handshake said it is.
    pub(super) session_id: Option<SessionId>,
}

/// One socket.
pub(super) struct Session {
    /// The socket's id.
    id: Sid,
    /// Where all sockets are, to find it.
    io: Arc<OnceLock<SocketIo>>,
    /// The socket's name, and that of the room in which it is alone.
    pub(super) socket: Arc<str>,
    /// Who it is.
    pub(super) who: Who,
    /// What it may ask.
    pub(super) budget: Budget,
    /// What its connection may send.
    pub(super) frames: Arc<FrameBudget>,
    /// Answers that did not fit into its queue.
    pub(super) late: LateAcks,
    /// Its connection, where it began as a WebSocket.
    connection: Option<ConnectionHandle>,
    /// Where its connection is noted, if it began by polling and was upgraded.
    carriers: Arc<Carriers>,
    /// What ends it, if it polls.
    engine: Arc<OnceLock<Engine>>,
    /// Until when its token lasts, where it has one.
    pub(super) lasts: watch::Sender<Option<Instant>>,
    /// Rung when the socket is gone.
    pub(super) gone: CancellationToken,
    /// A std mutex: held for a change of a map, never across an await.
    membership: Mutex<Membership>,
}

impl Session {
    pub(super) fn new(
        context: &SocketContext,
        socket: &SocketRef,
        who: Who,
        budget: Budget,
        frames: &Arc<FrameBudget>,
        key: RateLimitKey,
    ) -> Self {
        let name = socket.id.to_string();
        // Only the request of a WebSocket has it, if the session began with that.
        let connection = socket.req_parts().extensions.get::<ConnectionHandle>();
        let connection = connection.cloned();
        let frames = match &connection {
            Some(_) => frames.clone(),
            None => context.carriers.join(&name, frames.clone()),
        };
        frames.join(key);
        let lasts = who.principal.lasts().map(|left| Instant::now() + left);
        Self {
            id: socket.id,
            io: context.io.clone(),
            socket: name.into(),
            connection,
            carriers: context.carriers.clone(),
            engine: context.engine.clone(),
            lasts: watch::Sender::new(lasts),
            gone: CancellationToken::new(),
            who,
            budget,
            frames,
            late: LateAcks::default(),
            membership: Mutex::default(),
        }
    }

    fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Is in the room from now on, as far as counting goes; it hears nothing before [`Session::join`].
    ///
    /// # Errors
    /// `UNAVAILABLE` where the socket is closed, `LIMIT_EXCEEDED` where it is in as many rooms as may be.
    pub(super) fn enter(&self, room: &RoomId, rooms: &Rooms) -> Result<RoomEntry, Refusal> {
        let mut membership = self.membership();
        if membership.closed {
            return Err(Refusal::new(
                Code::Unavailable,
                "This connection is closing",
            ));
        }
        if let Some(member) = membership.rooms.get(room) {
            return Ok(RoomEntry {
                number: member.number,
                subscribing: None,
            });
        }
        if membership.rooms.len() >= MAX_ROOMS {
            count_rejection("subscription");
            return Err(Refusal::new(
                Code::LimitExceeded,
                format!("A socket may subscribe to {MAX_ROOMS} appointments; unsubscribe from one"),
            ));
        }
        membership.entries += 1;
        let number = membership.entries;
        membership.rooms.insert(
            room.clone(),
            Member {
                number,
                shown: HashSet::new(),
            },
        );
        Ok(RoomEntry {
            number,
            subscribing: Some(rooms.enter(room)),
        })
    }

    /// Hears the room from now on, unless it has left meanwhile.
    pub(super) fn join(&self, room: &RoomId, socket: &SocketRef) {
        let membership = self.membership();
        if !membership.closed && membership.rooms.contains_key(room) {
            socket.join([room.name(), self.socket.to_string()]);
        }
    }

    /// Whether it is in the room.
    pub(super) fn hears(&self, room: &RoomId) -> bool {
        let membership = self.membership();
        !membership.closed && membership.rooms.contains_key(room)
    }

    /// Its connection, where it has one of its own: a session that polls has none.
    pub(super) fn connection(&self) -> Option<ConnectionHandle> {
        self.connection
            .clone()
            .or_else(|| self.carriers.connection(&self.socket))
    }

    /// Sends the socket away for good, and ends its session of Engine.IO, and its connection where it has one of its
    /// own.
    pub(super) fn end(&self) {
        if let Some(socket) = self.io.get().and_then(|io| io.get_socket(self.id)) {
            // Where its queue is full the connection is all that can be ended.
            let _ = socket.disconnect();
        }
        self.abort();
    }

    /// Ends what carries it: its connection, where it has one of its own, and its session of Engine.IO.
    pub(super) fn abort(&self) {
        if let Some(connection) = self.connection() {
            connection.abort();
        }
        // A session that polls has no connection to end; one that does not is left alone by this.
        if let Some(engine) = self.engine.get().cloned() {
            let name = self.socket.clone();
            tokio::spawn(async move {
                // So that a poll under way gets what was said last.
                tokio::time::sleep(LAST_WORD).await;
                engine.end(&name).await;
            });
        }
    }

    /// What waits until the token has run out and no fresh one has come: true then, false where the socket was
    /// gone before. It does not keep the session in memory: a client may be gone before it was quite here.
    pub(super) fn runs_out(&self) -> impl Future<Output = bool> + Send + 'static {
        let (mut lasts, gone) = (self.lasts.subscribe(), self.gone.clone());
        let wait = async move {
            loop {
                let until = *lasts.borrow_and_update();
                let Some(until) = until else {
                    return std::future::pending().await;
                };
                tokio::select! {
                    () = tokio::time::sleep_until(until) => return true,
                    changed = lasts.changed() => if changed.is_err() {
                        return false;
                    },
                }
            }
        };
        async move { gone.run_until_cancelled(wait).await.unwrap_or(false) }
    }

    /// A fresh token of the same user came.
    ///
    /// # Errors
    /// `IDENTITY_MISMATCH` where it is somebody else's.
    pub(super) fn refresh(&self, fresh: &Principal) -> Result<(), Refusal> {
        if !self.who.principal.is(fresh) {
            return Err(Refusal::new(
                Code::IdentityMismatch,
                "The token is somebody else's; connect anew to become somebody else",
            ));
        }
        self.lasts
            .send_replace(fresh.lasts().map(|left| Instant::now() + left));
        Ok(())
    }

    /// Takes back an entering that failed, unless the room was left and entered anew since.
    pub(super) fn abandon(&self, room: &RoomId, number: u64, rooms: &Rooms) {
        let mut membership = self.membership();
        if membership
            .rooms
            .get(room)
            .is_some_and(|member| member.number == number)
        {
            membership.rooms.remove(room);
            rooms.leave(room);
        }
    }

    /// Leaves the room, and takes its cursors off the screens.
    pub(super) fn leave(
        &self,
        room: &RoomId,
        rooms: &Rooms,
        cursors: &Cursors,
        socket: &SocketRef,
    ) {
        let mut membership = self.membership();
        socket.leave(room.name());
        if let Some(member) = membership.rooms.remove(room) {
            rooms.leave(room);
            for user in member.shown {
                cursors.leave(room, &user);
            }
        }
    }

    /// Notes that this socket shows that user's cursor.
    ///
    /// # Errors
    /// It is not in the room, or speaks for too many people there.
    pub(super) fn shows(
        &self,
        room: &RoomId,
        user: &UserId,
        cursors: &Cursors,
    ) -> Result<(), Refusal> {
        let mut membership = self.membership();
        let Some(member) = membership.rooms.get_mut(room) else {
            return Err(Refusal::new(
                Code::NotSubscribed,
                "Subscribe to the appointment first",
            ));
        };
        if !member.shown.contains(user) {
            if member.shown.len() >= MAX_SHOWN {
                return Err(Refusal::invalid(
                    "userId",
                    format!("is one too many: a socket may speak for {MAX_SHOWN} people in a room"),
                ));
            }
            member.shown.insert(user.clone());
            cursors.appear(room, user);
        }
        Ok(())
    }

    /// The socket is gone: leaves every room, and enters none any more.
    pub(super) fn close(&self, rooms: &Rooms, cursors: &Cursors) {
        self.gone.cancel();
        self.budget.free();
        self.late.forget();
        let mut membership = self.membership();
        membership.closed = true;
        for (room, member) in std::mem::take(&mut membership.rooms) {
            rooms.leave(&room);
            for user in member.shown {
                cursors.leave(&room, &user);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Not before: what carries it is still to be found when it is ended. And a session of Engine.IO that ends while
        // its socket joins is told to nobody.
        self.carriers.forget(&self.socket);
    }
}
