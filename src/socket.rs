//! The Socket.IO interface: who connects, what sockets ask, what they hear.
//!
//! ```text
//!   connect ──▶ Session ── subscribe ──▶ Rooms::subscribe … read the state … Rooms::admit ─┐
//!                  │                                                                       ▼
//!                  ├── cursor-position ──▶ Cursors::move_to, Activity::moved     queue ──▶ dispatcher ──▶ sockets
//!                  └── gone ──▶ Rooms::disconnect, Cursors::leave
//! ```
//!
//! Layer 5. Who connects is decided here; what a socket may ask is in `events`, its state in `session`, how it
//! subscribes in `subscribing`, how it is told in `dispatcher`, how it ends in `close`, and what comes before it is a socket in `transport`.

mod ack;
mod budget;
mod carriers;
mod close;
mod context;
mod dispatcher;
mod engine;
mod events;
mod frames;
mod payload;
mod refusal;
mod request;
mod session;
mod subscribing;
mod transport;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use socketioxide::extract::{SocketRef, TryData};
use socketioxide::handler::ConnectHandler;
use socketioxide::socket::DisconnectReason;
use socketioxide::{ParserConfig, SocketIo, TransportType};

use crate::limits::{FrameBudget, RateLimitKey};
use crate::protocol::{Code, Handshake, InvalidInput, Object, Refusal, from_value};
use crate::telemetry;

use budget::Budget;
pub use close::close;
use close::{close_when_it_runs_out, end_when_it_left};
use context::MAX_MESSAGE;
pub use context::SocketContext;
pub use dispatcher::dispatch;
use engine::{Elsewhere, Engine};
use refusal::ConnectError;
use session::{Session, Who};
use transport::ClientAddress;
pub use transport::{Transport, middleware};

/// How long a connection may take to join the namespace.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Packets that wait for one slow socket.
const SOCKET_QUEUE: usize = 256;

/// What answers for `/socket.io`, and the handle to its sockets.
pub fn start(context: Arc<SocketContext>) -> (Transport, SocketIo) {
    let (service, io) = SocketIo::builder()
        .connect_timeout(HANDSHAKE)
        .max_buffer_size(SOCKET_QUEUE)
        .max_payload(MAX_MESSAGE as u64)
        .ws_max_message_size(MAX_MESSAGE)
        .ws_max_frame_size(MAX_MESSAGE)
        .ws_read_buffer_size(4096)
        // Nothing here is binary: no attachments, and none that are announced.
        .with_parser(
            ParserConfig::common()
                .max_incoming_binaries(0)
                .max_incoming_binary_buf_size(0),
        )
        .build_with_inner_svc(Elsewhere);
    let engine = Engine(service);
    // Nobody else sets them.
    let _ = context.engine.set(engine.clone());
    let _ = context.io.set(io.clone());
    let transport = Transport::new(context.clone(), engine);
    // Handlers are registered in the middleware, which runs before the client hears that it is connected:
    // what a client sends right after that would be lost otherwise.
    let connect = async move |socket: SocketRef, TryData(auth): TryData<Value>| {
        connect(&context, &socket, auth.ok()).await
    };
    io.ns("/", (async || {}).with(connect));
    (transport, io)
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
async fn connect(
    context: &Arc<SocketContext>,
    socket: &SocketRef,
    auth: Option<Value>,
) -> Result<(), ConnectError> {
    let request = socket.req_parts();
    let ClientAddress(address) = request
        .extensions
        .get()
        .copied()
        .unwrap_or(ClientAddress(Ipv4Addr::UNSPECIFIED.into()));
    let handshake: Handshake = match auth {
        None | Some(Value::Null) => Handshake::default(),
        // What it is instead may be a token, and is not repeated.
        Some(auth) if !auth.is_object() => {
            metrics::counter!(telemetry::BAD_PAYLOADS, "event" => "connect").increment(1);
            return Err(Refusal::invalid("auth", "must be an object").into());
        }
        Some(auth) => from_value(auth).map(|Object(it)| it).map_err(|fault| {
            metrics::counter!(telemetry::BAD_PAYLOADS, "event" => "connect").increment(1);
            match fault {
                InvalidInput::Invalid { field, fault } if field == "body" => {
                    Refusal::invalid("auth", fault).into()
                }
                other => ConnectError::of_auth(".", other.into()),
            }
        })?,
    };
    let principal = context
        .auth
        .principal(handshake.token.as_deref(), &context.limits, address)
        .await
        .map_err(|refusal| ConnectError::of_auth(".token: ", refusal))?;
    let person = match (&principal.identity, handshake.user_id) {
        (None, None) => None,
        (_, named) => Some(
            principal
                .person(named, handshake.user_info.map(Into::into))
                .map_err(of_the_handshake)?,
        ),
    };
    let key = match &person {
        Some(person) => RateLimitKey::user(&principal.tenant, &person.user_id),
        None => RateLimitKey::address(address),
    };
    context.limits.join(&key)?;
    let permit = context.limits.socket(&key)?;
    let frames = request.extensions.get::<Arc<FrameBudget>>().cloned();
    let frames = frames.unwrap_or_else(|| Arc::new(FrameBudget::new(context.limits.clone())));
    let session = Arc::new(Session::new(
        context,
        socket,
        Who {
            address,
            principal,
            person,
            session_id: handshake.session_id,
        },
        Budget::new(key.clone(), permit, context.limits.clone()),
        &frames,
        key,
    ));
    socket.extensions.insert(session.clone());
    // What it is asked before it is answered counts there.
    socket.extensions.insert(session.frames.clone());
    if let Some(connection) = session.connection() {
        // From here on it counts as a socket of its identity.
        connection.leave_address();
    }

    events::register(context, &session, socket);
    if session.lasts.borrow().is_some() {
        let wait = session.runs_out();
        tokio::spawn(close_when_it_runs_out(wait, context.io.clone(), socket.id));
    }
    socket.on_disconnect(move |reason: DisconnectReason| {
        if reason == DisconnectReason::ClientNSDisconnect {
            let connection = session.connection();
            tokio::spawn(end_when_it_left(session.clone(), connection));
        }
        session.close();
        std::future::ready(())
    });
    Ok(())
}

/// Why a handshake was refused: a field of it is named as that.
fn of_the_handshake(refusal: Refusal) -> ConnectError {
    match refusal.code {
        Code::Invalid => ConnectError::of_auth(".", refusal),
        _ => refusal.into(),
    }
}
