//! One socket: its identity, its budgets, and how it ends. Its subscriptions are the rooms' own.
//!
//! Owns that the rooms and everybody's screens are rid of it when it is gone, however it went.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;
use socketioxide::socket::Sid;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::ack::{Ack, Handed, LateAcks, Requests};
use super::budget::{Budget, Spent};
use super::carriers::Carriers;
use super::context::SocketContext;
use super::engine::Engine;
use crate::auth::Principal;
use crate::cursors::Cursors;
use crate::domain::ids::{Member, RoomId, SessionId};
use crate::domain::lease::Person;
use crate::limits::{FrameBudget, RateLimitKey};
use crate::protocol::{Code, Refusal};
use crate::rooms::Rooms;
use crate::server::ConnectionHandle;
use crate::telemetry;

/// Between the word that a socket is told and its end, so that the word gets out.
pub(super) const LAST_WORD: Duration = Duration::from_millis(100);

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
    /// Requests to subscribe that are not answered yet.
    pub(super) requests: Requests,
    rooms: Arc<Rooms>,
    cursors: Arc<Cursors>,
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
        let name: Arc<str> = name.into();
        context.rooms.connect(&name);
        let lasts = who.principal.lasts().map(|left| Instant::now() + left);
        Self {
            id: socket.id,
            io: context.io.clone(),
            socket: name,
            connection,
            carriers: context.carriers.clone(),
            engine: context.engine.clone(),
            lasts: watch::Sender::new(lasts),
            gone: CancellationToken::new(),
            who,
            budget,
            frames,
            late: LateAcks::default(),
            requests: Requests::default(),
            rooms: context.rooms.clone(),
            cursors: context.cursors.clone(),
        }
    }

    /// What presence counts it by, if it has an identity.
    pub(super) fn member(&self) -> Option<Member> {
        self.who.person.as_ref().map(|person| Member {
            user_id: person.user_id.clone(),
            session_id: self.who.session_id.clone(),
        })
    }

    /// Pays for an event. A socket that goes on and on beyond its budget is ended.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub(super) fn spend(&self, price: fn(&Budget) -> Spent) -> Result<(), Refusal> {
        let spent = price(&self.budget);
        if spent.abuse {
            self.end();
        }
        spent.outcome
    }

    /// Answers an event, now or as soon as there is room.
    pub(super) fn answer(self: &Arc<Self>, ack: Ack, answer: &impl Serialize) {
        if ack.try_send(answer) == Handed::Done {
            return;
        }
        metrics::counter!(telemetry::SOCKET_FULL).increment(1);
        // What could be encoded once can be encoded again.
        let Ok(answer) = serde_json::value::to_raw_value(answer) else {
            return;
        };
        if self.late.keep(ack, answer) {
            let session = self.clone();
            tokio::spawn(async move {
                if !session.late.hand_over().await {
                    debug!(socket = %session.socket, "a client takes no answers");
                    session.end();
                }
            });
        }
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

    /// Leaves the room, and takes its cursors off the screens.
    pub(super) fn leave(&self, room: &RoomId) {
        for user in self.rooms.unsubscribe(room, &self.socket) {
            self.cursors.leave(room, &user);
        }
    }

    /// The socket is gone: leaves every room, and enters none any more.
    pub(super) fn close(&self) {
        self.gone.cancel();
        self.budget.free();
        self.late.forget();
        self.requests.forget();
        for (room, users) in self.rooms.disconnect(&self.socket) {
            for user in users {
                self.cursors.leave(&room, &user);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Not before: what carries it is still to be found when it is ended. And a session of Engine.IO that ends while
        // its socket joins is told to nobody.
        self.carriers.forget(&self.socket);
        self.rooms.disconnect(&self.socket);
    }
}
