//! State of one connected client: its identity, budgets and pending answers. Its subscriptions belong to the rooms.
//!
//! Owns the clean-up: once the socket is closed, for any reason, it is in no room and its cursors are off the screens.

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

use super::ack::{Ack, Delivery, LateAcks, PendingRequests};
use super::budget::{Budget, Spent};
use super::context::SocketContext;
use super::engine::Engine;
use super::engine_sessions::EngineSessions;
use crate::auth::Principal;
use crate::cursors::Cursors;
use crate::domain::ids::{Member, RoomId, SessionId};
use crate::domain::lease::Person;
use crate::limits::{FrameBudget, RateLimitKey};
use crate::protocol::{Code, Refusal};
use crate::rooms::Rooms;
use crate::server::ConnectionHandle;
use crate::telemetry;

/// Delay between the last event to a socket and its end, so that the event is sent.
pub(super) const FLUSH_DELAY: Duration = Duration::from_millis(100);

/// Address and identity of a client.
pub(super) struct ClientInfo {
    /// Client address.
    pub(super) address: IpAddr,
    /// Principal of its token.
    pub(super) principal: Principal,
    /// Person named by the handshake.
    pub(super) person: Option<Person>,
    /// Tab named by the handshake.
    pub(super) session_id: Option<SessionId>,
}

/// One connected client.
pub(super) struct Client {
    id: Sid,
    /// All sockets, to look up its own.
    io: Arc<OnceLock<SocketIo>>,
    /// Id of its socket, which is also that of its Engine.IO session.
    pub(super) socket: Arc<str>,
    /// Address and identity.
    pub(super) info: ClientInfo,
    /// Budget of its events.
    pub(super) budget: Budget,
    /// Budget of its connection's frames.
    pub(super) frames: Arc<FrameBudget>,
    /// Acknowledgements that did not fit into its queue.
    pub(super) late: LateAcks,
    /// Unanswered `subscribe` requests.
    pub(super) requests: PendingRequests,
    rooms: Arc<Rooms>,
    cursors: Arc<Cursors>,
    /// Its connection, if the Engine.IO session began as a WebSocket.
    connection: Option<ConnectionHandle>,
    /// Registry of its connection, if the Engine.IO session began by polling and was upgraded.
    engine_sessions: Arc<EngineSessions>,
    /// Closes the Engine.IO session, if it polls.
    engine: Arc<OnceLock<Engine>>,
    /// Expiry of its token, if it has one.
    pub(super) expires_at: watch::Sender<Option<Instant>>,
    /// Cancelled once the socket is closed.
    pub(super) closed: CancellationToken,
}

impl Client {
    pub(super) fn new(
        context: &SocketContext,
        socket: &SocketRef,
        info: ClientInfo,
        budget: Budget,
        frames: &Arc<FrameBudget>,
        key: RateLimitKey,
    ) -> Self {
        let sid = socket.id.to_string();
        // Present only if the Engine.IO session began as a WebSocket.
        let connection = socket.req_parts().extensions.get::<ConnectionHandle>();
        let connection = connection.cloned();
        let frames = match &connection {
            Some(_) => frames.clone(),
            None => context.engine_sessions.join(&sid, frames.clone()),
        };
        frames.join(key);
        let sid: Arc<str> = sid.into();
        context.rooms.connect(&sid);
        let expires_at = info.principal.lasts().map(|left| Instant::now() + left);
        Self {
            id: socket.id,
            io: context.io.clone(),
            socket: sid,
            connection,
            engine_sessions: context.engine_sessions.clone(),
            engine: context.engine.clone(),
            expires_at: watch::Sender::new(expires_at),
            closed: CancellationToken::new(),
            info,
            budget,
            frames,
            late: LateAcks::default(),
            requests: PendingRequests::default(),
            rooms: context.rooms.clone(),
            cursors: context.cursors.clone(),
        }
    }

    /// Member of rooms, if it has an identity.
    pub(super) fn member(&self) -> Option<Member> {
        self.info.person.as_ref().map(|person| Member {
            user_id: person.user_id.clone(),
            session_id: self.info.session_id.clone(),
        })
    }

    /// Charges an event to the budget. A socket that ignores the limit persistently is disconnected.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub(super) fn spend(&self, charge: fn(&Budget) -> Spent) -> Result<(), Refusal> {
        let spent = charge(&self.budget);
        if spent.abuse {
            self.disconnect();
        }
        spent.outcome
    }

    /// Answers an event, now or once its queue has room.
    pub(super) fn answer(self: &Arc<Self>, ack: Ack, answer: &impl Serialize) {
        if ack.try_send(answer) == Delivery::Done {
            return;
        }
        metrics::counter!(telemetry::SOCKET_FULL).increment(1);
        // Encoding succeeded before.
        let Ok(answer) = serde_json::value::to_raw_value(answer) else {
            return;
        };
        if self.late.push(ack, answer) {
            let client = self.clone();
            tokio::spawn(async move {
                if !client.late.flush().await {
                    debug!(socket = %client.socket, "a client does not read its acknowledgements");
                    client.disconnect();
                }
            });
        }
    }

    /// Its connection. None if the Engine.IO session polls.
    pub(super) fn connection(&self) -> Option<ConnectionHandle> {
        self.connection
            .clone()
            .or_else(|| self.engine_sessions.connection(&self.socket))
    }

    /// Disconnects the socket, so that its client does not reconnect automatically, then closes its connection and its
    /// Engine.IO session.
    pub(super) fn disconnect(&self) {
        if let Some(socket) = self.io.get().and_then(|io| io.get_socket(self.id)) {
            // If its queue is full, only the connection can be closed.
            let _ = socket.disconnect();
        }
        self.abort();
    }

    /// Closes its connection and its Engine.IO session, so that its client reconnects automatically.
    pub(super) fn abort(&self) {
        if let Some(connection) = self.connection() {
            connection.abort();
        }
        // An Engine.IO session that polls has no connection; this has no effect on others.
        if let Some(engine) = self.engine.get().cloned() {
            let sid = self.socket.clone();
            tokio::spawn(async move {
                // So that a pending poll gets the last event.
                tokio::time::sleep(FLUSH_DELAY).await;
                engine.close(&sid).await;
            });
        }
    }

    /// Future that resolves to true once the token has expired without a fresh one, and to false if the socket was
    /// closed before. It does not keep the client in memory, since the client may be gone before it has joined.
    pub(super) fn expired(&self) -> impl Future<Output = bool> + Send + 'static {
        let (mut expires_at, closed) = (self.expires_at.subscribe(), self.closed.clone());
        let wait = async move {
            loop {
                let until = *expires_at.borrow_and_update();
                let Some(until) = until else {
                    return std::future::pending().await;
                };
                tokio::select! {
                    () = tokio::time::sleep_until(until) => return true,
                    changed = expires_at.changed() => if changed.is_err() {
                        return false;
                    },
                }
            }
        };
        async move { closed.run_until_cancelled(wait).await.unwrap_or(false) }
    }

    /// Extends the expiry to that of a fresh token of the same user.
    ///
    /// # Errors
    /// `IDENTITY_MISMATCH` if the token is another user's.
    pub(super) fn refresh(&self, fresh: &Principal) -> Result<(), Refusal> {
        if !self.info.principal.is(fresh) {
            return Err(Refusal::new(
                Code::IdentityMismatch,
                "The token belongs to another user; reconnect to change the user",
            ));
        }
        self.expires_at
            .send_replace(fresh.lasts().map(|left| Instant::now() + left));
        Ok(())
    }

    /// Leaves a room and removes its cursors from the screens.
    pub(super) fn leave(&self, room: &RoomId) {
        for user in self.rooms.unsubscribe(room, &self.socket) {
            self.cursors.leave(room, &user);
        }
    }

    /// Cleans up after the socket is closed: leaves all rooms for good.
    pub(super) fn close(&self) {
        self.closed.cancel();
        self.budget.release();
        self.late.clear();
        self.requests.clear();
        for (room, users) in self.rooms.disconnect(&self.socket) {
            for user in users {
                self.cursors.leave(&room, &user);
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Not earlier: closing needs the connection. And if an Engine.IO session ends while its socket joins, no
        // disconnect handler runs.
        self.engine_sessions.remove(&self.socket);
        self.rooms.disconnect(&self.socket);
    }
}
