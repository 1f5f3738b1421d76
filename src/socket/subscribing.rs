//! `subscribe`: from the request to the snapshot that answers it, and the room's way to the socket.
//!
//! ```text
//!   begin ──▶ Rooms::subscribe ──▶ the bus's channel ──▶ the state is read ──▶ Rooms::admit ──▶ queue ──▶ the answer
//!   (in the order of the socket's events)     (waits)         (waits)
//! ```
//!
//! On failure of the database the request is refused, and the client asks again.

use std::sync::Arc;

use serde_json::Value;
use socketioxide::extract::SocketRef;
use socketioxide::{SendError, SocketError};
use tracing::{debug, warn};

use super::ack::Ack;
use super::context::SocketContext;
use super::request::{answer, payload, room_of};
use super::session::Session;
use crate::domain::ids::RoomId;
use crate::domain::lease::LockState;
use crate::limits::count_rejection;
use crate::protocol::{Code, CursorChoice, Refusal, SubscribePayload, Subscribed as Answer};
use crate::rooms::subscription::{Options, Sent, Sink, Subscription};
use crate::rooms::{Event, Join, MAX_SUBSCRIPTIONS, SubscribeRefused, Subscribed};
use crate::telemetry::{self, LogThrottle};

/// Lines about subscriptions that were not answered.
static UNANSWERED: LogThrottle = LogThrottle::new();

/// A room's way to one socket.
struct SocketSink {
    socket: SocketRef,
    session: Arc<Session>,
}

impl Sink for SocketSink {
    fn send(&self, event: &Event) -> Sent {
        match self.socket.emit(event.name, &*event.payload) {
            Ok(()) => Sent::Queued,
            Err(SendError::Socket(SocketError::InternalChannelFull)) => Sent::Full,
            Err(error) => {
                debug!(event = event.name, %error, "a socket is gone");
                Sent::Gone
            }
        }
    }

    fn admitted(&self, request: u64, state: &LockState) {
        metrics::counter!(telemetry::SOCKET_EVENTS, "event" => "subscribe", "outcome" => "ok")
            .increment(1);
        if let Some(ack) = self.session.requests.take(request) {
            self.session.answer(ack, &Answer::of(state));
        }
    }

    fn reconnect(&self) {
        self.session.abort();
    }
}

/// The part that keeps the order of a socket's events.
///
/// # Errors
/// The refusal for the client.
pub(super) fn begin(
    context: &SocketContext,
    session: &Arc<Session>,
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
    let room = room_of(session, appointment_id);
    let options = Options {
        cursors,
        presence,
        list: false,
    };
    let sink = Box::new(SocketSink {
        socket,
        session: session.clone(),
    });
    let subscription = Subscription::new(session.socket.clone(), session.member(), options, sink);
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

/// The part that waits.
pub(super) async fn finish(
    context: Arc<SocketContext>,
    session: Arc<Session>,
    begun: Result<(RoomId, Subscribed), Refusal>,
    ack: Ack,
) {
    let (room, subscribed) = match begun {
        Ok(begun) => begun,
        Err(refusal) => return answer("subscribe", &session, ack, Err(refusal)),
    };
    // First the channel, then the state: a change between the two would be seen by neither. A burst waits for its
    // turn, as long as PostgreSQL answers at all.
    let read = async {
        if let Some(subscribing) = subscribed.subscribing {
            subscribing.await;
        }
        context.locks.status_in_turn(&room).await
    };
    let Some(read) = session.gone.run_until_cancelled(read).await else {
        return;
    };
    let subscription = subscribed.subscription;
    match read {
        Ok(state) => {
            let request = session.requests.add(ack);
            let join = Join {
                subscription,
                request,
            };
            context.rooms.admit(state, join).await;
        }
        Err(error) => {
            // While PostgreSQL is away all sockets come here, again and again.
            if let Some(hidden) = UNANSWERED.allow() {
                let (appointment, socket) = (&room.appointment, &session.socket);
                warn!(%appointment, %socket, %error, hidden, "a subscription could not be answered: {error}");
            }
            for user in context.rooms.abandon(&room, &subscription) {
                context.cursors.leave(&room, &user);
            }
            answer("subscribe", &session, ack, Err(error.into()));
        }
    }
}
