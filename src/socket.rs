//! The Socket.IO interface: who connects, what sockets ask, what they hear.
//!
//! ```text
//!   connect ──▶ Session ── subscribe ──▶ Rooms::enter … read the state … Rooms::admit ─┐
//!                  │                                                                   ▼
//!                  ├── cursor-position ──▶ Cursors::move_to, Activity::moved     outlet ──▶ pump ──▶ sockets
//!                  └── gone ──▶ Rooms::leave, Cursors::leave
//! ```
//!
//! Layer 5. Each event's handler does what must keep the order of a socket's events before it awaits
//! anything: socketioxide calls handlers in that order and spawns only their futures. A malformed payload is
//! answered where there is an acknowledgement, counted in any case, and harms nobody. On failure of the
//! database `subscribe` says so, and the client asks again.

mod budget;
mod door;
mod ends;
mod pump;
mod session;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::Counter;
use serde::de::DeserializeOwned;
use serde_json::Value;
use socketioxide::extract::{AckSender, SocketRef, TryData};
use socketioxide::handler::ConnectHandler;
use socketioxide::layer::SocketIoLayer;
use socketioxide::{SocketIo, TransportType};
use tracing::{debug, warn};

use crate::auth::Auth;
use crate::config::Origins;
use crate::cursors::Cursors;
use crate::domain::ids::{AppointmentId, RoomId};
use crate::domain::lease::Person;
use crate::http;
use crate::limits::{Asker, Limits};
use crate::locks::{Activity, LockError, Locks};
use crate::protocol::{
    CursorChoice, CursorPosition, Handshake, Object, RefreshToken, Refusal, Room, Subscribed, ack,
    from_value,
};
use crate::rooms::{Rooms, Ticket};
use crate::store::StoreError;
use crate::telemetry::{self, Muffler};

use budget::Budget;
pub use door::at_the_door;
pub use ends::close;
use ends::close_when_it_runs_out;
pub use pump::pump;
use session::{Entry, Session, Upgrades};

/// The largest message of a socket, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long a connection may take to join the namespace.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Packets that wait for one slow socket.
const SOCKET_QUEUE: usize = 1024;

/// Lines about subscriptions that were not answered.
static UNANSWERED: Muffler = Muffler::new();

/// What the handlers need.
pub struct Hub {
    /// Snapshots.
    pub locks: Locks,
    /// Who watches what.
    pub rooms: Arc<Rooms>,
    /// Where people point.
    pub cursors: Arc<Cursors>,
    /// What renews a lease.
    pub activity: Activity,
    /// Who asks.
    auth: Auth,
    /// How often, and how many.
    limits: Arc<Limits>,
    /// From which pages.
    origins: Origins,
    /// Cursors that moved: kept at hand, because there are so many.
    moves: Counter,
    /// Whether sockets are being closed.
    closing: AtomicBool,
    /// Where all sockets are, once there is one.
    io: Arc<OnceLock<SocketIo>>,
    /// The connections of sessions that began by polling.
    upgrades: Arc<Upgrades>,
}

impl Hub {
    /// What the handlers need.
    pub fn new(
        locks: Locks,
        rooms: Arc<Rooms>,
        cursors: Arc<Cursors>,
        activity: Activity,
        auth: Auth,
        limits: Arc<Limits>,
        origins: Origins,
    ) -> Self {
        Self {
            locks,
            rooms,
            cursors,
            activity,
            auth,
            limits,
            origins,
            moves: metrics::counter!(
                telemetry::SOCKET_EVENTS, "event" => "cursor-position", "outcome" => "ok"
            ),
            closing: AtomicBool::new(false),
            io: Arc::default(),
            upgrades: Arc::default(),
        }
    }
}

/// The layer that answers `/socket.io`, and the handle to its sockets.
pub fn layer(hub: Arc<Hub>) -> (SocketIoLayer, SocketIo) {
    let (layer, io) = SocketIo::builder()
        .connect_timeout(HANDSHAKE)
        .max_buffer_size(SOCKET_QUEUE)
        .max_payload(MAX_MESSAGE as u64)
        .ws_max_message_size(MAX_MESSAGE)
        .ws_max_frame_size(MAX_MESSAGE)
        .ws_read_buffer_size(4096)
        .build_layer();
    // Handlers are registered in the middleware, which runs before the client hears that it is connected:
    // what a client sends right after that would be lost otherwise.
    let all = hub.io.clone();
    let connect = async move |socket: SocketRef, TryData(auth): TryData<Value>| {
        connect(&hub, &socket, auth.ok()).await
    };
    // Nobody else sets it.
    let _ = all.set(io.clone());
    io.ns("/", (async || {}).with(connect));
    (layer, io)
}

/// How many sockets poll.
#[must_use]
pub fn polling(io: &SocketIo) -> usize {
    let sockets = io.of("/").map(|all| all.sockets()).unwrap_or_default();
    let polls = |socket: &&SocketRef| socket.transport_type() == TransportType::Polling;
    sockets.iter().filter(polls).count()
}

/// Reads who connects, and registers what it may ask.
///
/// An `Err` is a `connect_error` for the client: one line that names the field.
async fn connect(hub: &Arc<Hub>, socket: &SocketRef, auth: Option<Value>) -> Result<(), Refused> {
    let request = socket.req_parts();
    let address = http::client_of(&request.headers, &request.extensions, &hub.limits);
    let refused = |refusal: Refusal| Refused(refusal.message);
    hub.limits.connect(address).map_err(refused)?;
    let handshake: Handshake = match auth {
        None | Some(Value::Null) => Handshake::default(),
        // What it is instead may be a token, and is not repeated.
        Some(auth) if !auth.is_object() => {
            metrics::counter!(telemetry::BAD_PAYLOADS, "event" => "connect").increment(1);
            return Err(Refused("auth: must be an object".into()));
        }
        Some(auth) => from_value(auth).map(|Object(it)| it).map_err(|fault| {
            metrics::counter!(telemetry::BAD_PAYLOADS, "event" => "connect").increment(1);
            Refused(format!("auth.{fault}"))
        })?,
    };
    let principal = hub
        .auth
        .principal(handshake.token.as_deref())
        .await
        .map_err(|refusal| Refused(format!("auth.token: {}", refusal.message)))?;
    let person = match (&principal.identity, handshake.user_id) {
        (None, None) => None,
        (_, named) => Some(
            principal
                .person(named, handshake.user_info.map(Into::into))
                .map_err(|refusal| Refused(format!("auth.{}", refusal.message)))?,
        ),
    };
    let asker = match &person {
        Some(person) => Asker::user(&principal.tenant, &person.user_id),
        None => Asker::address(address),
    };
    let place = hub.limits.socket(&asker).map_err(refused)?;
    let session = Arc::new(Session::new(
        socket,
        principal,
        person,
        handshake.session_id,
        Budget::new(asker, place, hub.limits.clone()),
        hub.upgrades.clone(),
        hub.io.clone(),
    ));
    socket.extensions.insert(session.clone());

    let (h, s) = (hub.clone(), session.clone());
    socket.on(
        "subscribe",
        move |socket: SocketRef, TryData(data): TryData<Value>, ack: AckSender| {
            let begun = s
                .budget
                .event(&s)
                .and_then(|()| begin_subscribe(&h, &s, data.ok()));
            finish_subscribe(h, s, socket, begun, ack)
        },
    );
    let (h, s) = (hub.clone(), session.clone());
    socket.on(
        "unsubscribe",
        move |socket: SocketRef, TryData(data): TryData<Value>, ack: AckSender| {
            let done = s
                .budget
                .trifle(&s)
                .and_then(|()| unsubscribe(&h, &s, &socket, data.ok()));
            answer("unsubscribe", ack, done);
            std::future::ready(())
        },
    );
    let (h, s) = (hub.clone(), session.clone());
    socket.on(
        "cursor-position",
        move |TryData(data): TryData<Value>, ack: AckSender| {
            let done = s
                .budget
                .cursor(&s)
                .and_then(|()| cursor_position(&h, &s, data.ok()));
            match done {
                Ok(shown) => {
                    h.moves.increment(1);
                    send(ack, &self::ack(Ok(shown)));
                }
                Err(refusal) => answer("cursor-position", ack, Err(refusal)),
            }
            std::future::ready(())
        },
    );
    let (h, s) = (hub.clone(), session.clone());
    socket.on(
        "refresh-token",
        async move |TryData(data): TryData<Value>, ack: AckSender| {
            let done = match s.budget.event(&s) {
                Ok(()) => refresh_token(&h, &s, data.ok()).await,
                Err(refusal) => Err(refusal),
            };
            answer("refresh-token", ack, done);
        },
    );
    let s = session.clone();
    socket.on_fallback(move || {
        // No event of ours: not answered, and not for ever.
        let _ = s.budget.trifle(&s);
        std::future::ready(())
    });
    if session.lasts.borrow().is_some() {
        let wait = session.runs_out();
        tokio::spawn(close_when_it_runs_out(wait, hub.io.clone(), socket.id));
    }
    let h = hub.clone();
    socket.on_disconnect(move || {
        session.close(&h.rooms, &h.cursors);
        std::future::ready(())
    });
    Ok(())
}

/// Why a connection was refused.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads an event's payload. One that is no JSON, or missing, is null, which no event takes.
fn payload<T: DeserializeOwned>(event: &'static str, data: Option<Value>) -> Result<T, Refusal> {
    from_value(data.unwrap_or(Value::Null)).map_err(|fault| {
        metrics::counter!(telemetry::BAD_PAYLOADS, "event" => event).increment(1);
        fault.into()
    })
}

fn answer(event: &'static str, sender: AckSender, outcome: Result<&str, Refusal>) {
    let ok = if outcome.is_ok() { "ok" } else { "refused" };
    metrics::counter!(telemetry::SOCKET_EVENTS, "event" => event, "outcome" => ok).increment(1);
    if let Err(refusal) = &outcome {
        debug!(event, code = ?refusal.code, "an event was refused: {}", refusal.message);
    }
    send(sender, &ack(outcome));
}

fn send(sender: AckSender, answer: &impl serde::Serialize) {
    if let Err(error) = sender.send(answer) {
        // The socket is gone, or does not read; it will ask again when it is back.
        debug!(%error, "an acknowledgement did not get out");
        metrics::counter!(telemetry::SOCKET_FULL).increment(1);
    }
}

fn room_of(session: &Session, appointment: AppointmentId) -> RoomId {
    RoomId {
        tenant: session.principal.tenant.clone(),
        appointment,
    }
}

fn begin_subscribe(
    hub: &Hub,
    session: &Session,
    data: Option<Value>,
) -> Result<(RoomId, Entry), Refusal> {
    let Room {
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
    let entry = session.enter(&room, &hub.rooms)?;
    Ok((room, entry))
}

async fn finish_subscribe(
    hub: Arc<Hub>,
    session: Arc<Session>,
    socket: SocketRef,
    begun: Result<(RoomId, Entry), Refusal>,
    ack: AckSender,
) {
    let (room, entry) = match begun {
        Ok(begun) => begun,
        Err(refusal) => return answer("subscribe", ack, Err(refusal)),
    };
    // First the channel, then the state: a change between the two would be seen by neither.
    let read = async {
        if let Some(subscribing) = entry.subscribing {
            subscribing.await;
        }
        hub.locks.status(&room).await
    };
    let read = tokio::time::timeout(http::DEADLINE, read).await;
    match read.unwrap_or(Err(LockError::Store(StoreError::NoAnswer))) {
        Ok(state) => {
            let ticket = Ticket {
                socket: session.socket.clone(),
                let_in: Box::new(move |state| {
                    session.join(&state.room, &socket);
                    metrics::counter!(telemetry::SOCKET_EVENTS, "event" => "subscribe", "outcome" => "ok")
                        .increment(1);
                    send(ack, &Subscribed::of(state));
                }),
            };
            hub.rooms.admit(state, ticket).await;
        }
        Err(error) => {
            // While PostgreSQL is away all sockets come here, again and again.
            if let Some(hidden) = UNANSWERED.speak() {
                let (appointment, socket) = (&room.appointment, &session.socket);
                warn!(%appointment, %socket, %error, hidden, "a subscription could not be answered: {error}");
            }
            session.abandon(&room, entry.number, &hub.rooms);
            answer("subscribe", ack, Err(error.into()));
        }
    }
}

fn unsubscribe(
    hub: &Hub,
    session: &Session,
    socket: &SocketRef,
    data: Option<Value>,
) -> Result<&'static str, Refusal> {
    let Room { appointment_id, .. } = payload("unsubscribe", data)?;
    session.leave(
        &room_of(session, appointment_id),
        &hub.rooms,
        &hub.cursors,
        socket,
    );
    Ok("Unsubscribed")
}

async fn refresh_token(
    hub: &Hub,
    session: &Session,
    data: Option<Value>,
) -> Result<&'static str, Refusal> {
    // What came instead may be a token too, and is not repeated.
    let Object(RefreshToken { token }) = payload("refresh-token", data)
        .map_err(|_| Refusal::invalid("token", "is missing, or is not text"))?;
    let fresh = hub.auth.principal(Some(&token)).await?;
    session.refresh(&fresh)?;
    Ok("Refreshed")
}

fn cursor_position(
    hub: &Hub,
    session: &Session,
    data: Option<Value>,
) -> Result<&'static str, Refusal> {
    let Object(CursorPosition {
        appointment_id,
        position,
        user_id,
        user_info,
    }) = payload("cursor-position", data)?;
    let person: Person = match (user_id, &session.person) {
        (Some(named), Some(known)) if named == known.user_id && user_info.is_none() => {
            known.clone()
        }
        (None, Some(known)) => known.clone(),
        (named, _) => session.principal.person(named, user_info.map(Into::into))?,
    };
    let room = room_of(session, appointment_id);
    session.shows(&room, &person.user_id, &hub.cursors)?;
    hub.cursors
        .move_to(&room, &person, position, &session.socket);
    hub.activity.moved(
        &room,
        &person.user_id,
        session.session_id.as_ref(),
        position,
    );
    Ok("Shown")
}
