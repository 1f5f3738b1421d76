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
mod pump;
mod session;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::Value;
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, SocketRef, TryData};
use socketioxide::handler::ConnectHandler;
use socketioxide::layer::SocketIoLayer;
use socketioxide::socket::Sid;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::auth::Auth;
use crate::config::Origins;
use crate::cursors::Cursors;
use crate::domain::ids::{AppointmentId, RoomId};
use crate::domain::lease::Person;
use crate::limits::{Asker, Limits};
use crate::lines::Line;
use crate::locks::{Activity, LockError, Locks};
use crate::protocol::{
    Code, CursorChoice, CursorPosition, Handshake, Object, RefreshToken, Refusal, Restarting, Room,
    Subscribed, TokenExpired, ack, from_value,
};
use crate::rooms::{Rooms, Ticket};
use crate::store::StoreError;
use crate::{http, telemetry};

use budget::Budget;
pub use pump::pump;
use session::{Entry, Session, Upgrades};

/// The largest message of a socket, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long a connection may take to join the namespace.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Packets that wait for one slow socket.
const SOCKET_QUEUE: usize = 1024;
/// Between two sockets that are closed at a stop, at most: a few need not take long.
const CLOSE_PAUSE: Duration = Duration::from_millis(50);
/// Between the word that a socket is told and its end, so that the word gets out.
const LAST_WORD: Duration = Duration::from_millis(100);
/// How long the last sockets may take to close at a stop.
const CLOSING: Duration = Duration::from_secs(3);

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
            answer("cursor-position", ack, done);
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
                    send(ack, &Subscribed::of(state));
                }),
            };
            hub.rooms.admit(state, ticket).await;
        }
        Err(error) => {
            warn!(appointment = %room.appointment, %error, "a subscription could not be answered: {error}");
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

/// A socket lives as long as its token. It is sent away for good, since it would only be refused if it came
/// back with the same one.
async fn close_when_it_runs_out(
    wait: impl Future<Output = bool>,
    io: Arc<OnceLock<SocketIo>>,
    id: Sid,
) {
    if !wait.await {
        return;
    }
    let Some(socket) = io.get().and_then(|io| io.get_socket(id)) else {
        return;
    };
    let message = "The token has run out; connect with a fresh one";
    // A client that is gone, or does not read, learns it from the end of its connection.
    let _ = socket.emit("token-expired", &TokenExpired { message });
    let Some(session) = socket.extensions.get::<Arc<Session>>() else {
        return;
    };
    let line = session.line();
    let _ = socket.disconnect();
    tokio::time::sleep(LAST_WORD).await;
    if let Some(line) = line {
        line.hang_up();
    }
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

/// Looks at what comes for Socket.IO before it does: pages of other origins are sent away, since no other
/// rule of browsers keeps them from WebSockets; and an upgraded session's connection is noted, so that it can
/// be hung up.
pub async fn at_the_door(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with("/socket.io") {
        // Where bodies say who it is, a page that somebody happens to visit could act for them.
        let acts = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        if acts
            && matches!(hub.auth, Auth::Trusted)
            && let Err(refusal) = of_a_page_that_may(&hub, &request)
        {
            return http::refuse(refusal);
        }
        return next.run(request).await;
    }
    if let Err(refusal) = look_at(&hub, &request) {
        return http::refuse(refusal);
    }
    if request.method() != Method::POST {
        let named = session_named(&request).map(str::to_owned);
        let line = request.extensions().get::<Line>().cloned();
        // A poll waits for an event, and a WebSocket for its end.
        let response = next.run(request).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let (Some(name), Some(line)) = (named, line)
        {
            hub.upgrades.note(&name, &line);
        }
        return response;
    }
    let late = "The message did not arrive in time";
    tokio::time::timeout(http::DEADLINE, next.run(request))
        .await
        .unwrap_or_else(|_| http::refuse(Refusal::new(Code::Unavailable, late)))
}

/// The session that a request of Socket.IO goes on with.
fn session_named(request: &Request) -> Option<&str> {
    let query = request.uri().query()?;
    query.split('&').find_map(|part| part.strip_prefix("sid="))
}

/// Browsers name the origin of the page that asks; other clients name none.
fn of_a_page_that_may(hub: &Hub, request: &Request) -> Result<(), Refusal> {
    let mut origins = request.headers().get_all(ORIGIN).iter();
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let may = match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => origin
            .to_str()
            .is_ok_and(|origin| hub.origins.allow(origin, host)),
        (Some(_), Some(_)) => false,
    };
    if may {
        return Ok(());
    }
    Err(Refusal::new(
        Code::OriginNotAllowed,
        "Pages of this origin may not ask this; CORS_ALLOWED_ORIGINS names those that may",
    ))
}

fn look_at(hub: &Hub, request: &Request) -> Result<(), Refusal> {
    of_a_page_that_may(hub, request)?;
    if session_named(request).is_none() {
        // Who comes anew would only be sent away again: this is an answer after which clients try elsewhere.
        if hub.closing.load(Ordering::Relaxed) {
            return Err(Refusal::new(Code::Unavailable, "This replica is stopping"));
        }
        let address = http::client_of(request.headers(), request.extensions(), &hub.limits);
        hub.limits.connect(address)?;
    }
    Ok(())
}

/// Tells every socket that this replica goes and closes it, one after the other over at most that time: so
/// they do not all come back to the other replicas at once.
pub async fn close(io: &SocketIo, hub: &Hub, over: Duration) {
    hub.closing.store(true, Ordering::Relaxed);
    let sockets = io.sockets();
    let pause = CLOSE_PAUSE.min(over / u32::try_from(sockets.len().max(1)).unwrap_or(u32::MAX));
    let begun = Instant::now();
    let mut closing = JoinSet::new();
    for (n, socket) in (0..).zip(&sockets) {
        let Some(session) = socket.extensions.get::<Arc<Session>>() else {
            continue;
        };
        // Those without a connection of their own poll, and are closed together: so they are to come back one
        // after the other.
        let spread = match session.line() {
            Some(_) => Duration::ZERO,
            None => pause * n,
        };
        let reconnect_in_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        // A client that is gone already needs no word.
        let _ = socket.emit("server-restarting", &Restarting { reconnect_in_ms });
        if let Some(line) = session.line() {
            closing.spawn(async move {
                tokio::time::sleep(LAST_WORD).await;
                line.hang_up();
            });
        }
        tokio::time::sleep_until(begun + pause * n).await;
    }
    while closing.join_next().await.is_some() {}
    close_rest(io, hub).await;
}

/// Closes those that are left. socketioxide calls no disconnect handler then, so what they would do is done
/// here first.
async fn close_rest(io: &SocketIo, hub: &Hub) {
    for session in io
        .sockets()
        .iter()
        .filter_map(|socket| socket.extensions.get::<Arc<Session>>())
    {
        session.close(&hub.rooms, &hub.cursors);
    }
    if tokio::time::timeout(CLOSING, io.close()).await.is_err() {
        warn!("some sockets did not close in time");
    }
}
