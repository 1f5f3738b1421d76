//! Closing of sockets by the server: when a token expires, and at a shutdown. Owns the notice that each socket gets
//! before its connection ends, and the staggered reconnection of clients after a shutdown.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;
use socketioxide::socket::Sid;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::client::{Client, FLUSH_DELAY};
use super::context::SocketContext;
use crate::protocol::{Restarting, TokenExpired};
use crate::server::{ConnectionHandle, count_closed};

/// Maximum pause between two sockets at a shutdown: few sockets need little time.
const CLOSE_PAUSE: Duration = Duration::from_millis(50);
/// Interval of checks for connections that are still open after an abort.
const SETTLE_CHECK: Duration = Duration::from_millis(5);
/// Time for a client that has left the namespace to close its connection.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the last sockets to close at a shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Disconnects a socket once its token has expired. Its client does not reconnect automatically, since the same token
/// would be rejected.
pub(super) async fn close_on_expiry(
    expired: impl Future<Output = bool>,
    io: Arc<OnceLock<SocketIo>>,
    id: Sid,
) {
    if !expired.await {
        return;
    }
    let Some(socket) = io.get().and_then(|io| io.get_socket(id)) else {
        return;
    };
    let message = "The token has expired; connect with a fresh one";
    // A client that is gone or does not read notices the end of its connection.
    let _ = socket.emit("token-expired", &TokenExpired { message });
    let Some(client) = socket.extensions.get::<Arc<Client>>() else {
        return;
    };
    let _ = socket.disconnect();
    tokio::time::sleep(FLUSH_DELAY).await;
    client.abort();
}

/// Closes the connection of a socket that has left the namespace, unless its client does. The connection would escape
/// the limit of sockets and the expiry of its token otherwise. `connection` is passed in because the Engine.IO session
/// is forgotten once its socket is closed.
pub(super) async fn abort_after_leave(client: Arc<Client>, connection: Option<ConnectionHandle>) {
    if let Some(connection) = connection {
        tokio::time::sleep(LEAVE_TIMEOUT).await;
        if !connection.is_aborted() {
            count_closed("left");
            connection.abort();
        }
    }
    client.abort();
}

/// Notifies and closes all sockets at a shutdown, staggered over at most `duration`, so that clients do not all
/// reconnect to the other replicas at once.
pub async fn close(io: &SocketIo, context: &SocketContext, duration: Duration) {
    context.closing.store(true, Ordering::Relaxed);
    let sockets = io.sockets();
    let pause = CLOSE_PAUSE.min(duration / u32::try_from(sockets.len().max(1)).unwrap_or(u32::MAX));
    let begun = Instant::now();
    let mut closing = JoinSet::new();
    for (n, socket) in (0..).zip(&sockets) {
        let Some(client) = socket.extensions.get::<Arc<Client>>() else {
            continue;
        };
        // Polling clients are closed together at the end, so the notice staggers their reconnection.
        let spread = match client.connection() {
            Some(_) => Duration::ZERO,
            None => pause * n,
        };
        let reconnect_in_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        // A client that is gone needs no notice.
        let _ = socket.emit("server-restarting", &Restarting { reconnect_in_ms });
        if let Some(connection) = client.connection() {
            closing.spawn(async move {
                tokio::time::sleep(FLUSH_DELAY).await;
                connection.abort();
            });
        }
        tokio::time::sleep_until(begun + pause * n).await;
    }
    while closing.join_next().await.is_some() {}
    // Sockets on aborted connections close by themselves: an Engine.IO close packet that arrives before the abort would
    // make some clients not reconnect.
    let end = Instant::now() + FLUSH_DELAY * 5;
    let connected = |socket: &SocketRef| {
        let client = socket.extensions.get::<Arc<Client>>();
        client.is_some_and(|client| client.connection().is_some())
    };
    while io.sockets().iter().any(connected) && Instant::now() < end {
        tokio::time::sleep(SETTLE_CHECK).await;
    }
    close_rest(io).await;
}

/// Closes the remaining sockets. socketioxide runs no disconnect handlers then, so their clean-up is done here first.
async fn close_rest(io: &SocketIo) {
    for client in io
        .sockets()
        .iter()
        .filter_map(|socket| socket.extensions.get::<Arc<Client>>())
    {
        client.close();
    }
    if tokio::time::timeout(CLOSE_TIMEOUT, io.close())
        .await
        .is_err()
    {
        warn!("some sockets did not close in time");
    }
}
