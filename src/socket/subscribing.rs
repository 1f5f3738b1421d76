//! The `subscribe` event, from the request to the snapshot that answers it, and the room's sink to the socket.
//!
//! ```text
//!   begin ──▶ Rooms::subscribe ──▶ bus channel ──▶ read the state ──▶ Rooms::admit ──▶ queue ──▶ answer
//!   (in the order of the socket's events)     (waits)         (waits)
//! ```
//!
//! If the database fails, the request is refused and the client retries.

use std::sync::Arc;

use serde_json::Value;
use socketioxide::extract::SocketRef;
use socketioxide::{SendError, SocketError};
use tracing::{debug, warn};

use super::ack::Ack;
use super::client::Client;
use super::context::SocketContext;
use super::request::{answer, payload, room_of};
use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;
use crate::limits::count_rejection;
use crate::protocol::{Code, CursorChoice, Refusal, SubscribePayload, Subscribed as Answer};
use crate::rooms::subscription::{Options, Sent, Sink, Subscription};
use crate::rooms::{Event, Join, MAX_SUBSCRIPTIONS, SubscribeRefused, Subscribed};
use crate::telemetry::{self, LogThrottle};

/// Throttle of the log line about failed subscriptions.
static FAILED: LogThrottle = LogThrottle::new();

/// Sink of a room to one socket.
struct SocketSink {
    socket: SocketRef,
    client: Arc<Client>,
}

impl Sink for SocketSink {
    fn send(&self, event: &Event) -> Sent {
        match self.socket.emit(event.name, &*event.payload) {
            Ok(()) => Sent::Queued,
            Err(SendError::Socket(SocketError::InternalChannelFull)) => Sent::Full,
            Err(error) => {
                debug!(event = event.name, %error, "a socket is closed");
                Sent::Gone
            }
        }
    }

    fn admitted(&self, request: u64, state: &LockState) {
        metrics::counter!(telemetry::SOCKET_EVENTS, "event" => "subscribe", "outcome" => "ok")
            .increment(1);
        if let Some(ack) = self.client.requests.take(request) {
            self.client.answer(ack, &Answer::of(state));
        }
    }

    fn reconnect(&self) {
        self.client.abort();
    }
}

/// Synchronous part, which keeps the order of a socket's events.
///
/// # Errors
/// Refusal for the client.
pub(super) fn begin(
    context: &SocketContext,
    client: &Arc<Client>,
    socket: SocketRef,
    data: Option<Value>,
) -> Result<(RoomId, Subscribed), Refusal> {
    let SubscribePayload {
        appointment_id,
        cursors,
        presence,
    } = payload("subscribe", data)?;
    if cursors != CursorChoice::Each {
        let fault = "only \"each\" is available in this version; leave it out";
        return Err(Refusal::invalid("cursors", fault));
    }
    if presence {
        return Err(Refusal::invalid(
            "presence",
            "is not available in this version; leave it out",
        ));
    }
    let room = room_of(client, appointment_id);
    let options = Options {
        cursors,
        presence,
        list: false,
    };
    let sink = Box::new(SocketSink {
        socket,
        client: client.clone(),
    });
    let subscription = Subscription::new(client.socket.clone(), client.member(), options, sink);
    let subscribed = context.rooms.subscribe(&room, subscription);
    let subscribed = subscribed.map_err(|refused| match refused {
        SubscribeRefused::Closed => Refusal::new(Code::Unavailable, "This connection is closing"),
        SubscribeRefused::TooMany => {
            count_rejection("subscription");
            Refusal::new(
                Code::LimitExceeded,
                format!(
                    "A socket may subscribe to {MAX_SUBSCRIPTIONS} appointments; unsubscribe from one"
                ),
            )
        }
    })?;
    Ok((room, subscribed))
}

/// Asynchronous part: waits for the channel and the state, then admits the socket.
pub(super) async fn finish(
    context: Arc<SocketContext>,
    client: Arc<Client>,
    begun: Result<(RoomId, Subscribed), Refusal>,
    ack: Ack,
) {
    let (room, subscribed) = match begun {
        Ok(begun) => begun,
        Err(refusal) => return answer("subscribe", &client, ack, Err(refusal)),
    };
    // First the channel, then the state: a change between the two would be lost otherwise. A burst of reads is queued,
    // as long as PostgreSQL answers.
    let read = async {
        if let Some(subscribing) = subscribed.subscribing {
            subscribing.await;
        }
        context.locks.status_in_turn(&room).await
    };
    let Some(read) = client.closed.run_until_cancelled(read).await else {
        return;
    };
    let subscription = subscribed.subscription;
    match read {
        Ok(state) => {
            let request = client.requests.add(ack);
            let join = Join {
                subscription,
                request,
            };
            context.rooms.admit(state, join).await;
        }
        Err(error) => {
            // While PostgreSQL is unavailable, all sockets fail here repeatedly.
            if let Some(hidden) = FAILED.allow() {
                let (appointment, socket) = (&room.appointment, &client.socket);
                warn!(%appointment, %socket, %error, hidden, "a subscription failed: {error}");
            }
            for user in context.rooms.abandon(&room, &subscription) {
                context.cursors.leave(&room, &user);
            }
            answer("subscribe", &client, ack, Err(error.into()));
        }
    }
}
