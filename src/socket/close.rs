//! How sockets end from this side: one whose token has run out, and all of them at a stop. Owns that each hears
//! why before its connection ends, and that after a stop clients come back by themselves, not all at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;
use socketioxide::socket::Sid;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use super::context::SocketContext;
use super::session::{LAST_WORD, Session};
use crate::protocol::{Restarting, TokenExpired};
use crate::server::{ConnectionHandle, count_closed};

/// Between two sockets that are closed at a stop, at most: a few need not take long.
const CLOSE_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks whether connections that were ended are gone.
const SETTLING: Duration = Duration::from_millis(5);
/// How long a client that has left may take to close its connection.
const LEAVING: Duration = Duration::from_secs(1);
/// How long the last sockets may take to close at a stop.
const CLOSING: Duration = Duration::from_secs(3);

/// A socket lives as long as its token. It is sent away for good, since it would only be refused if it came
/// back with the same one.
pub(super) async fn close_when_it_runs_out(
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
    let _ = socket.disconnect();
    tokio::time::sleep(LAST_WORD).await;
    session.abort();
}

/// A socket that left the only namespace there is has nothing more to do here: its client closes the connection, or
/// it is closed. Else it would be past every limit of sockets, and past its token's end.
/// `connection` is its own, where it has one: what carries a session is forgotten when its socket is gone.
pub(super) async fn end_when_it_left(session: Arc<Session>, connection: Option<ConnectionHandle>) {
    if let Some(connection) = connection {
        tokio::time::sleep(LEAVING).await;
        if !connection.is_aborted() {
            count_closed("left");
            connection.abort();
        }
    }
    session.abort();
}

/// Tells every socket that this replica goes and closes it, one after the other over at most that time: so
/// they do not all come back to the other replicas at once.
pub async fn close(io: &SocketIo, context: &SocketContext, over: Duration) {
    context.closing.store(true, Ordering::Relaxed);
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
        let spread = match session.connection() {
            Some(_) => Duration::ZERO,
            None => pause * n,
        };
        let reconnect_in_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        // A client that is gone already needs no word.
        let _ = socket.emit("server-restarting", &Restarting { reconnect_in_ms });
        if let Some(connection) = session.connection() {
            closing.spawn(async move {
                tokio::time::sleep(LAST_WORD).await;
                connection.abort();
            });
        }
        tokio::time::sleep_until(begun + pause * n).await;
    }
    while closing.join_next().await.is_some() {}
    // Those whose connections were ended go by themselves: a goodbye of Engine.IO that overtook the end would tell
    // some clients not to come back.
    let end = Instant::now() + LAST_WORD * 5;
    let carried = |socket: &SocketRef| {
        let session = socket.extensions.get::<Arc<Session>>();
        session.is_some_and(|session| session.connection().is_some())
    };
    while io.sockets().iter().any(carried) && Instant::now() < end {
        tokio::time::sleep(SETTLING).await;
    }
    close_rest(io).await;
}

/// Closes those that are left. socketioxide calls no disconnect handler then, so what they would do is done
/// here first.
async fn close_rest(io: &SocketIo) {
    for session in io
        .sockets()
        .iter()
        .filter_map(|socket| socket.extensions.get::<Arc<Session>>())
    {
        session.close();
    }
    if tokio::time::timeout(CLOSING, io.close()).await.is_err() {
        warn!("some sockets did not close in time");
    }
}
