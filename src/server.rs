//! The TCP connections of clients. Owns how many are open, how long one may keep this replica waiting, and that any
//! of them can be aborted, whatever its reader and writer are doing.
//!
//! ```text
//!   accepted ──▶ reading a request ──▶ answering ──▶ reading the next … or a WebSocket, for as long as it lives
//!      │ no place   │ too slow            │ the client does not take it
//!      ▼            ▼                     ▼
//!   refused       closed               aborted: reads end, writes fail, so whoever uses it lets go
//! ```
//!
//! Layer 4. A client that stops reading would otherwise keep its socket's writer for ever, since that one
//! waits for room and for nothing else. A shutdown loses no request that can be had: while it is about to leave, each
//! answer ends its connection, so that whoever keeps connections open lets go of them; then the listener closes,
//! those that still waited at it are served, idle connections close, and requests under way finish.

mod handle;
mod limit;
mod refuse;
mod stream;
mod unread;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::{debug, warn};

use crate::telemetry::LogThrottle;
pub use handle::{ConnectionHandle, WeakHandle, count_closed};
pub use limit::{ConnectionLimit, raise_file_limit};
use refuse::Refuser;
use stream::ConnectionStream;
use unread::Unread;

/// How long a client may take for the head of a request, the wait for it on an open connection included.
/// Longer than balancers keep idle connections, so that it is they who close them, and never in the moment in
/// which they send a request.
const HEAD: Duration = Duration::from_secs(75);
/// After an accept that failed, for want of file descriptors for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Connections that may wait at the listener; Linux allows no more of them by default.
pub const BACKLOG: u32 = 4096;
/// What a connection that was made as the listener closed may take for the head of its first request.
const FIRST: Duration = Duration::from_secs(1);
/// After the end, a connection that takes longer than this, and on which nothing is being answered, is closed: its
/// client takes an answer too slowly, or its head has no end.
const LAST: Duration = Duration::from_secs(2);
/// The largest head of a request, in bytes: as much is held for each connection that says half of one.
const LARGEST_HEAD: usize = 32 * 1024;

/// Maximum of what the system keeps for a client that has not taken it yet, in bytes; Linux doubles it. Without a
/// bound it grows to several MiB a connection, which a crowd of clients that do not read turns into all memory.
const SEND_BUFFER: usize = 64 * 1024;

/// Refusals on one connection, less what was granted, after which each further one waits, and how long: a refusal costs
/// time too, and a client may send as many requests at once as it likes.
const SLOWED: u32 = 10;
const SLOW: Duration = Duration::from_millis(250);
/// And after which the connection ends.
const ENDED: u32 = 100;

/// Lines about connections that could not be accepted.
static UNACCEPTED: LogThrottle = LogThrottle::new();
/// Lines about clients that found no place.
static FULL: LogThrottle = LogThrottle::new();

/// How serving ends, in this order.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// From now on each answer ends its connection.
    pub leave: CancellationToken,
    /// No further connection, and no further request on one.
    pub finish: CancellationToken,
}

/// Serves as many connections at a time as the limit allows, until the end of the [`Shutdown`], and then until every
/// request under way has been answered. Further clients are refused.
pub fn serve(
    listener: TcpListener,
    router: Router,
    limit: ConnectionLimit,
    shutdown: Shutdown,
) -> JoinHandle<()> {
    // Accepted connections inherit it.
    if let Err(error) = SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER) {
        warn!(%error, "the send buffers of connections could not be bounded");
    }
    tokio::spawn(async move {
        let connections = TaskTracker::new();
        let refuser = Refuser::new();
        let finish = shutdown.finish.clone();
        while let Some(accepted) = finish.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => match limit.admit(peer.ip()) {
                    Ok(permit) => {
                        let stream = ConnectionStream::new(stream, permit);
                        let (router, shutdown) = (router.clone(), shutdown.clone());
                        connections.spawn(answer(stream, peer, router, limit.clone(), shutdown));
                    }
                    Err(full) => {
                        if let Some(hidden) = FULL.allow() {
                            let (_, max) = limit.open();
                            warn!(max, hidden, %peer, ?full, "a connection was refused: no place is free");
                        }
                        refuser.refuse(stream, full);
                    }
                },
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if let Some(hidden) = UNACCEPTED.allow() {
                        warn!(%error, hidden, "could not accept a connection; trying again");
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        for (stream, peer) in still_waiting(listener) {
            let stream = ConnectionStream::new(stream, limit.admit_over());
            let (router, shutdown) = (router.clone(), shutdown.clone());
            connections.spawn(answer(stream, peer, router, limit.clone(), shutdown));
        }
        connections.close();
        connections.wait().await;
    })
}

/// Closes the listener, and returns who waited at it: closing resets them otherwise.
fn still_waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Asked itself: what the runtime knows of the listener may be older.
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    std::iter::from_fn(|| listener.accept().ok())
        .take(BACKLOG as usize)
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

/// Refusals on one connection: requests over a limit. What is refused for another reason costs a budget too.
#[derive(Default)]
struct Refusals(AtomicU32);

impl Refusals {
    /// How many there are more than grants, this answer included.
    fn count(&self, status: StatusCode) -> u32 {
        // Requests of one connection are answered one after the other.
        let before = self.0.load(Ordering::Relaxed);
        let now = if status == StatusCode::TOO_MANY_REQUESTS {
            before.saturating_add(1)
        } else {
            before.saturating_sub(1)
        };
        self.0.store(now, Ordering::Relaxed);
        if now > before { now } else { 0 }
    }
}

async fn answer(
    stream: ConnectionStream,
    peer: SocketAddr,
    router: Router,
    limit: ConnectionLimit,
    shutdown: Shutdown,
) {
    let handle = stream.handle();
    let stream = TokioIo::new(stream);
    let asked = CancellationToken::new();
    let refused = Refusals::default();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        asked.cancel();
        handle.begin();
        let expects = request.headers().contains_key(EXPECT);
        let mut request = request.map(|body| Body::new(Unread::new(body, expects)));
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(handle.clone());
        let mut router = router.clone();
        let (handle, leave, refused) = (&handle, &shutdown.leave, &refused);
        let further = handle.has_asked_before();
        async move {
            if further {
                // hyper answers many requests that came at once in one go, which keeps all others waiting.
                tokio::task::yield_now().await;
            }
            let mut response = router.call(request).await?;
            let refusals = refused.count(response.status());
            if refusals > SLOWED {
                sleep(SLOW).await;
            }
            if refusals > ENDED {
                count_closed("flood");
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            // A WebSocket is in use for as long as it is open.
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                handle.finish();
                if leave.is_cancelled() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(stream, service)
        .with_upgrades();
    tokio::pin!(connection);
    let silent = async {
        if timeout(limit.silence(), asked.cancelled()).await.is_ok() {
            std::future::pending().await
        }
    };
    let last = async {
        shutdown.finish.cancelled().await;
        // What was asked once is known; who was let in a moment ago has not been heard yet.
        let _ = timeout(FIRST, asked.cancelled()).await;
    };
    let done = tokio::select! {
        done = &mut connection => Some(done),
        () = silent => {
            limit.count("silent");
            None
        }
        () = last => {
            connection.as_mut().graceful_shutdown();
            loop {
                match timeout(LAST, connection.as_mut()).await {
                    Ok(done) => break Some(done),
                    Err(_) if !handle.is_busy() => break None,
                    Err(_) => {}
                }
            }
        }
    };
    match done {
        Some(Ok(())) => {}
        Some(Err(error)) => debug!(%error, %peer, "a connection ended badly"),
        None => {
            debug!(%peer, "a connection on which nothing was asked, or not to its end, was closed")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn router() -> Router {
        Router::new().route("/", axum::routing::get(|| async { "here" }))
    }

    fn limit() -> ConnectionLimit {
        let none = crate::limits::Proxies::default();
        ConnectionLimit::new(100, 100, Duration::from_millis(500), none)
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
        let shutdown = Shutdown::default();
        shutdown.leave.cancel();
        shutdown.finish.cancel();
        let serving = serve(listener, router(), limit(), shutdown);
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
    async fn whoever_says_nothing_or_half_of_it_holds_up_no_stop() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET /api/appo").await.unwrap();
        let shutdown = Shutdown::default();
        shutdown.finish.cancel();
        let since = std::time::Instant::now();
        serve(listener, router(), limit(), shutdown).await.unwrap();
        let took = since.elapsed();
        assert!(took < FIRST + LAST * 2, "{took:?}");
        drop((client, half));
    }

    #[tokio::test]
    async fn whoever_asks_nothing_loses_the_place_and_whoever_asked_keeps_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut silent, mut half, mut kept) = (
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        );
        let limit = limit();
        let shutdown = Shutdown::default();
        let serving = serve(listener, router(), limit.clone(), shutdown.clone());
        half.write_all(b"GET / HT").await.unwrap();
        ask(&mut kept).await;
        for closed in [&mut silent, &mut half] {
            assert_eq!(closed.read(&mut [0; 8]).await.unwrap(), 0);
        }
        ask(&mut kept).await;
        let mut heard = String::new();
        while heard.matches("here").count() < 2 {
            let mut some = [0; 256];
            let length = kept.read(&mut some).await.unwrap();
            assert_ne!(length, 0, "{heard}");
            heard += std::str::from_utf8(&some[..length]).unwrap();
        }
        assert_eq!(limit.open(), (1, 100));
        shutdown.finish.cancel();
        serving.await.unwrap();
        assert_eq!(limit.open(), (0, 100));
    }

    /// As much is held for each connection that says half of a head.
    #[tokio::test]
    async fn a_head_has_an_upper_bound() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::default();
        let _serving = serve(listener, router(), limit(), shutdown.clone());
        for (length, status) in [(LARGEST_HEAD - 200, "200"), (LARGEST_HEAD * 2, "431")] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let padding = "x".repeat(length);
            let head =
                format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {padding}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let mut heard = [0; 12];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&heard[9..]), status, "{length}");
        }
    }

    #[tokio::test]
    async fn each_answer_of_one_that_leaves_ends_its_connection() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let shutdown = Shutdown::default();
        let serving = serve(listener, router(), limit(), shutdown.clone());
        ask(&mut client).await;
        let mut heard = String::new();
        while !heard.ends_with("here") {
            let mut some = [0; 256];
            let length = client.read(&mut some).await.unwrap();
            assert_ne!(length, 0, "{heard}");
            heard += std::str::from_utf8(&some[..length]).unwrap();
        }
        assert!(!heard.contains("connection: close"), "{heard}");
        shutdown.leave.cancel();
        ask(&mut client).await;
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert!(
            heard.contains("connection: close\r\n") && heard.ends_with("here"),
            "{heard}"
        );
        shutdown.finish.cancel();
        serving.await.unwrap();
    }
}
