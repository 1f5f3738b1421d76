//! The TCP connections of clients. Owns how long one may keep this replica waiting, and that any of them can be
//! hung up, whatever its reader and writer are doing.
//!
//! ```text
//!   accepted ──▶ reading a request ──▶ answering ──▶ reading the next … or a WebSocket, for as long as it lives
//!                  │ too slow            │ the client does not take it
//!                  ▼                     ▼
//!                closed               hung up: reads end, writes fail, so whoever uses it lets go
//! ```
//!
//! Layer 4. A client that stops reading would otherwise keep its socket's writer for ever, since that one
//! waits for room and for nothing else. A stop loses no request that can be had: while it is about to leave, each
//! answer ends its connection, so that whoever keeps connections open lets go of them; then the listener closes,
//! those that still waited at it are served, idle connections close, and requests under way finish.

mod wire;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::{debug, warn};

use crate::telemetry::Muffler;
use wire::Wire;
pub use wire::{Line, WeakLine};

/// How long a client may take for the head of a request, the wait for it on an open connection included.
/// Longer than balancers keep idle connections, so that it is they who close them, and never in the moment in
/// which they send a request.
const HEAD: Duration = Duration::from_secs(75);
/// After an accept that failed, for want of file descriptors for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How many may wait at the listener: no system lets more of them by default.
const BACKLOG: usize = 4096;
/// What a connection that was made as the listener closed may take for the head of its first request.
const FIRST: Duration = Duration::from_secs(1);

/// Clients' connections besides those of sockets.
const REQUESTS: usize = 1000;
/// Connections of those who watch: probes, scrapes.
pub const WATCHERS: usize = 100;
/// Open files besides the connections of clients and to PostgreSQL: those who watch, Redis, and some to spare.
const BESIDES: usize = WATCHERS + 100;
/// Lines about connections that could not be accepted.
static UNACCEPTED: Muffler = Muffler::new();
/// Lines about clients that wait until others leave.
static FULL: Muffler = Muffler::new();

/// How many connections of clients may be open at once, so that files are left for so many to PostgreSQL, and for
/// probes: whoever opens connections and says nothing must not make this replica look dead.
#[must_use]
pub fn room_for(sockets: usize, database: u32) -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let rest = limit.saturating_sub(BESIDES + database as usize);
    (sockets + REQUESTS).min(rest).max(1)
}

/// Sees to it that so many sockets can be open at once: raises the limit of open files that this process was
/// started with, which is 1024 in many containers, as far as the system lets it. Says so where that is not far enough.
pub fn make_room_for(sockets: usize, database: u32) {
    let wanted = (sockets + REQUESTS + BESIDES) as u64 + u64::from(database);
    let limit = rlimit::increase_nofile_limit(wanted);
    if !limit.as_ref().is_ok_and(|limit| *limit >= wanted) {
        let limit = limit.map_or_else(|error| error.to_string(), |limit| limit.to_string());
        warn!(
            limit,
            wanted,
            "this process may not open as many files as MAX_SOCKETS asks for: raise the hard limit (LimitNOFILE=, ulimit -Hn, the container runtime's), or lower MAX_SOCKETS"
        );
    }
}

/// How serving ends, in this order.
#[derive(Debug, Clone, Default)]
pub struct Farewell {
    /// From now on each answer ends its connection.
    pub leave: CancellationToken,
    /// No further connection, and no further request on one.
    pub finish: CancellationToken,
}

/// Serves so many connections at a time, until the end of the [`Farewell`], and then until every request under way
/// has been answered. Further clients wait at the listener.
pub fn serve(
    listener: TcpListener,
    router: Router,
    most: usize,
    farewell: Farewell,
) -> JoinHandle<()> {
    let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    tokio::spawn(async move {
        let lines = TaskTracker::new();
        let next = async || {
            let place = places.clone();
            if place.available_permits() == 0
                && let Some(hidden) = FULL.speak()
            {
                warn!(
                    most,
                    hidden,
                    "all connections that this replica may have open are; further clients wait"
                );
            }
            let place = place.acquire_owned().await;
            (listener.accept().await, place)
        };
        while let Some((accepted, place)) = farewell.finish.run_until_cancelled(next()).await {
            match accepted {
                Ok((stream, peer)) => {
                    let wire = Wire::new(stream, place.ok());
                    lines.spawn(answer(wire, peer, router.clone(), farewell.clone()));
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if let Some(hidden) = UNACCEPTED.speak() {
                        warn!(%error, hidden, "could not accept a connection; trying again");
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        for (stream, peer) in still_waiting(listener) {
            let wire = Wire::new(stream, None);
            lines.spawn(answer(wire, peer, router.clone(), farewell.clone()));
        }
        lines.close();
        lines.wait().await;
    })
}

/// Closes the listener, and returns who waited at it: closing resets them otherwise.
fn still_waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Asked itself: what the runtime knows of the listener may be older.
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    std::iter::from_fn(|| listener.accept().ok())
        .take(BACKLOG)
        .filter_map(|(stream, peer)| {
            stream.set_nonblocking(true).ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        })
        .collect()
}

/// A client that was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

async fn answer(wire: Wire, peer: SocketAddr, router: Router, farewell: Farewell) {
    let line = wire.line();
    let wire = TokioIo::new(wire);
    let asked = Notify::new();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        asked.notify_one();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(line.clone());
        let answered = router.clone().call(request);
        let leave = &farewell.leave;
        async move {
            let mut response = answered.await?;
            if leave.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(wire, service)
        .with_upgrades();
    tokio::pin!(connection);
    let last = async {
        farewell.finish.cancelled().await;
        // What was asked once is known; who was let in a moment ago has not been heard yet.
        let _ = timeout(FIRST, asked.notified()).await;
    };
    let done = tokio::select! {
        done = &mut connection => done,
        () = last => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = done {
        debug!(%error, %peer, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn router() -> Router {
        Router::new().route("/", axum::routing::get(|| async { "here" }))
    }

    async fn ask(client: &mut TcpStream) {
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
    }

    #[tokio::test]
    async fn who_waited_at_the_listener_when_it_closed_is_served() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = TcpStream::connect(address).await.unwrap();
            ask(&mut client).await;
            clients.push(client);
        }
        let farewell = Farewell::default();
        farewell.leave.cancel();
        farewell.finish.cancel();
        let serving = serve(listener, router(), 100, farewell);
        for mut client in clients {
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert!(
                heard.starts_with("HTTP/1.1 200") && heard.ends_with("here"),
                "{heard}"
            );
        }
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn whoever_says_nothing_holds_up_no_stop() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let farewell = Farewell::default();
        farewell.finish.cancel();
        let since = std::time::Instant::now();
        serve(listener, router(), 100, farewell).await.unwrap();
        let took = since.elapsed();
        assert!(took < FIRST * 2, "{took:?}");
        drop(client);
    }

    #[tokio::test]
    async fn each_answer_of_one_that_leaves_ends_its_connection() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let farewell = Farewell::default();
        let serving = serve(listener, router(), 100, farewell.clone());
        ask(&mut client).await;
        let mut heard = String::new();
        while !heard.ends_with("here") {
            let mut some = [0; 256];
            let length = client.read(&mut some).await.unwrap();
            assert_ne!(length, 0, "{heard}");
            heard += std::str::from_utf8(&some[..length]).unwrap();
        }
        assert!(!heard.contains("connection: close"), "{heard}");
        farewell.leave.cancel();
        ask(&mut client).await;
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert!(
            heard.contains("connection: close\r\n") && heard.ends_with("here"),
            "{heard}"
        );
        farewell.finish.cancel();
        serving.await.unwrap();
    }
}
