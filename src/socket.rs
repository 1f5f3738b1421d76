//! Socket.IO interface: connections, the events of clients, and the events to them.
//!
//! ```text
//!   connect ──▶ Client ─── subscribe ──▶ Rooms::subscribe … read the state … Rooms::admit ─┐
//!                  │                                                                       ▼
//!                  ├── cursor-position ──▶ Cursors::move_to, Activity::moved     queue ──▶ dispatcher ──▶ sockets
//!                  └── closed ──▶ Rooms::disconnect, Cursors::leave
//! ```
//!
//! Layer 5. This file authenticates connections. `events` handles the clients' events, `client` is the state of a
//! connected client, `subscribing` handles `subscribe`, `dispatcher` sends events, `close` closes sockets, and
//! `transport` handles requests before they reach Socket.IO.
//!
//! Three terms are kept apart: a *client* is one connected socket; an *Engine.IO session* is the transport below it,
//! polled or upgraded to a WebSocket; a *tab* is the `sessionId` that the client sends.

mod ack;
mod budget;
mod client;
mod close;
mod connect_error;
mod context;
mod dispatcher;
mod engine;
mod engine_sessions;
mod events;
mod frames;
mod payload;
mod request;
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
use client::{Client, ClientInfo};
pub use close::close;
use close::{abort_after_leave, close_on_expiry};
use connect_error::ConnectError;
use context::MAX_MESSAGE;
pub use context::SocketContext;
pub use dispatcher::dispatch;
use engine::{Engine, NotFound};
use transport::ClientAddress;
pub use transport::{Transport, middleware};

/// Timeout for joining the namespace.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Length of a socket's outbound queue.
const SOCKET_QUEUE: usize = 256;

/// Starts Socket.IO. Returns the transport for `/socket.io`, and the handle to the sockets.
pub fn start(context: Arc<SocketContext>) -> (Transport, SocketIo) {
    let (service, io) = SocketIo::builder()
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .max_buffer_size(SOCKET_QUEUE)
        .max_payload(MAX_MESSAGE as u64)
        .ws_max_message_size(MAX_MESSAGE)
        .ws_max_frame_size(MAX_MESSAGE)
        .ws_read_buffer_size(4096)
        // No event has binary attachments, and none are accepted.
        .with_parser(
            ParserConfig::common()
                .max_incoming_binaries(0)
                .max_incoming_binary_buf_size(0),
        )
        .build_with_inner_svc(NotFound);
    let engine = Engine(service);
    // These are set only here, once.
    let _ = context.engine.set(engine.clone());
    let _ = context.io.set(io.clone());
    let transport = Transport::new(context.clone(), engine);
    // Handlers are registered in the namespace's middleware, before the client learns that it is connected: its first
    // events would be lost otherwise.
    let connect = async move |socket: SocketRef, TryData(auth): TryData<Value>| {
        connect(&context, &socket, auth.ok()).await
    };
    io.ns("/", (async || {}).with(connect));
    (transport, io)
}

/// Number of sockets that poll.
#[must_use]
pub fn polling(io: &SocketIo) -> usize {
    let sockets = io.of("/").map(|all| all.sockets()).unwrap_or_default();
    let polls = |socket: &&SocketRef| socket.transport_type() == TransportType::Polling;
    sockets.iter().filter(polls).count()
}

/// Authenticates a connection and registers its handlers.
///
/// # Errors
/// A `connect_error` for the client: one line that names the field.
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
        // The value may be a token, and is not repeated.
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
                .map_err(handshake_error)?,
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
    let client = Arc::new(Client::new(
        context,
        socket,
        ClientInfo {
            address,
            principal,
            person,
            session_id: handshake.session_id,
        },
        Budget::new(key.clone(), permit, context.limits.clone()),
        &frames,
        key,
    ));
    socket.extensions.insert(client.clone());
    // Events that are not answered yet are counted there.
    socket.extensions.insert(client.frames.clone());
    if let Some(connection) = client.connection() {
        // From here on it counts toward its identity, not its address.
        connection.leave_address();
    }

    events::register(context, &client, socket);
    if client.expires_at.borrow().is_some() {
        let expired = client.expired();
        tokio::spawn(close_on_expiry(expired, context.io.clone(), socket.id));
    }
    socket.on_disconnect(move |reason: DisconnectReason| {
        if reason == DisconnectReason::ClientNSDisconnect {
            let connection = client.connection();
            tokio::spawn(abort_after_leave(client.clone(), connection));
        }
        client.close();
        std::future::ready(())
    });
    Ok(())
}

/// Error of a handshake: an invalid field is named as part of `auth`.
fn handshake_error(refusal: Refusal) -> ConnectError {
    match refusal.code {
        Code::Invalid => ConnectError::of_auth(".", refusal),
        _ => refusal.into(),
    }
}
