//! TCP connections of clients. Owns their maximum number, their timeouts, and the ability to abort any of them,
//! whatever its reader and writer are doing.
//!
//! ```text
//!   accepted ──▶ reading a request ──▶ responding ──▶ reading the next … or a WebSocket, until it closes
//!      │ limit      │ too slow            │ the client does not read
//!      ▼            ▼                     ▼
//!   refused       closed               aborted: reads end and writes fail, so the tasks that use it end
//! ```
//!
//! Layer 4. Without the abort, a client that stops reading would block its socket's writer forever, since the writer
//! waits for buffer space only. A shutdown loses no request: first each response closes its connection, so that
//! clients release the ones they keep open; then the listener closes, connections still in its backlog are served,
//! idle connections close, and requests in progress finish.

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

/// Timeout of a request's head, including the idle time before it. Longer than the idle timeout of load balancers, so
/// that they close idle connections first and never send a request on one that is being closed.
const HEAD: Duration = Duration::from_secs(75);
/// Delay after a failed accept, for example for lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Maximum connections in the listener's backlog; Linux caps it at this value by default.
pub const BACKLOG: u32 = 4096;
/// Timeout of the first request's head on connections accepted as the listener closes.
const FIRST: Duration = Duration::from_secs(1);
/// Interval at which a shutdown closes connections without a request in progress: their clients read a response too
/// slowly, or send a head without end.
const LAST: Duration = Duration::from_secs(2);
/// Maximum size of a request's head, in bytes: each connection that sends half a head may hold this much memory.
const LARGEST_HEAD: usize = 32 * 1024;

/// Send buffer of a connection, in bytes; Linux doubles it. By default it grows to several MiB per connection, with
/// which many clients that do not read could exhaust the memory.
const SEND_BUFFER: usize = 64 * 1024;

/// Rejections on one connection, minus successes, beyond which each further one is delayed: a rejection costs time too,
/// and a client may pipeline any number of requests.
const SLOWED: u32 = 10;
/// Delay of such a rejection.
const SLOW: Duration = Duration::from_millis(250);
/// Rejections on one connection, minus successes, beyond which it is closed.
const ENDED: u32 = 100;

/// Throttle of log lines about failed accepts.
static UNACCEPTED: LogThrottle = LogThrottle::new();
/// Throttle of log lines about refused connections.
static FULL: LogThrottle = LogThrottle::new();

/// The two phases of a graceful shutdown, in this order.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// From now on each response closes its connection.
    pub leave: CancellationToken,
    /// From now on no connection and no request is accepted.
    pub finish: CancellationToken,
}

/// Serves connections up to the limit and refuses further ones. Completes after the last phase of the [`Shutdown`],
/// once every request in progress has been answered.
pub fn serve(
    listener: TcpListener,
    router: Router,
    limit: ConnectionLimit,
    shutdown: Shutdown,
) -> JoinHandle<()> {
    // Accepted connections inherit the size.
    if let Err(error) = SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER) {
        warn!(%error, "could not limit the send buffers of connections");
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
                            warn!(max, hidden, %peer, ?full, "connection refused: the limit is reached");
                        }
                        refuser.refuse(stream, full);
                    }
                },
                Err(error) if is_client_gone(&error) => {}
                Err(error) => {
                    if let Some(hidden) = UNACCEPTED.allow() {
                        warn!(%error, hidden, "could not accept a connection; trying again");
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        for (stream, peer) in drain_backlog(listener) {
            let stream = ConnectionStream::new(stream, limit.admit_over());
            let (router, shutdown) = (router.clone(), shutdown.clone());
            connections.spawn(answer(stream, peer, router, limit.clone(), shutdown));
        }
        connections.close();
        connections.wait().await;
    })
}

/// Closes the listener and returns the connections in its backlog, which closing would reset.
fn drain_backlog(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // The kernel is queried directly: the runtime's readiness of the listener may be stale.
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

/// True if the client disconnected before it was accepted.
fn is_client_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// Rate-limited requests of one connection. Requests rejected for other reasons are charged to budgets anyway.
#[derive(Default)]
struct Rejections(AtomicU32);

impl Rejections {
    /// Counts a response. Returns rejections minus successes if this is a rejection, else 0.
    fn count(&self, status: StatusCode) -> u32 {
        // Requests of one connection are answered one after another.
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
    let requested = CancellationToken::new();
    let rejected = Rejections::default();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        requested.cancel();
        handle.begin();
        let expects = request.headers().contains_key(EXPECT);
        let mut request = request.map(|body| Body::new(Unread::new(body, expects)));
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(handle.clone());
        let mut router = router.clone();
        let (handle, leave, rejected) = (&handle, &shutdown.leave, &rejected);
        let further = handle.is_follow_up();
        async move {
            if further {
                // hyper answers pipelined requests without yielding, which would keep other connections waiting.
                tokio::task::yield_now().await;
            }
            let mut response = router.call(request).await?;
            let rejections = rejected.count(response.status());
            if rejections > SLOWED {
                sleep(SLOW).await;
            }
            if rejections > ENDED {
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
        if timeout(limit.silence(), requested.cancelled())
            .await
            .is_ok()
        {
            std::future::pending().await
        }
    };
    let last = async {
        shutdown.finish.cancelled().await;
        // A connection accepted a moment ago gets some time for its first request.
        let _ = timeout(FIRST, requested.cancelled()).await;
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
        Some(Err(error)) => debug!(%error, %peer, "connection failed"),
        None => {
            debug!(%peer, "connection closed: no complete request in time")
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

    async fn send_request(client: &mut TcpStream) {
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
    }

    #[tokio::test]
    async fn connections_in_the_backlog_of_a_closing_listener_are_served() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = TcpStream::connect(address).await.unwrap();
            send_request(&mut client).await;
            clients.push(client);
        }
        let shutdown = Shutdown::default();
        shutdown.leave.cancel();
        shutdown.finish.cancel();
        let serving = serve(listener, router(), limit(), shutdown);
        for mut client in clients {
            let mut received = String::new();
            client.read_to_string(&mut received).await.unwrap();
            assert!(
                received.starts_with("HTTP/1.1 200") && received.ends_with("here"),
                "{received}"
            );
        }
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_sends_nothing_or_half_a_head_does_not_delay_a_shutdown() {
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
    async fn a_connection_without_a_request_is_closed_and_one_with_a_request_stays_open() {
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
        send_request(&mut kept).await;
        for closed in [&mut silent, &mut half] {
            assert_eq!(closed.read(&mut [0; 8]).await.unwrap(), 0);
        }
        send_request(&mut kept).await;
        let mut received = String::new();
        while received.matches("here").count() < 2 {
            let mut some = [0; 256];
            let length = kept.read(&mut some).await.unwrap();
            assert_ne!(length, 0, "{received}");
            received += std::str::from_utf8(&some[..length]).unwrap();
        }
        assert_eq!(limit.open(), (1, 100));
        shutdown.finish.cancel();
        serving.await.unwrap();
        assert_eq!(limit.open(), (0, 100));
    }

    #[tokio::test]
    async fn the_size_of_a_head_is_limited() {
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
            let mut received = [0; 12];
            client.read_exact(&mut received).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&received[9..]), status, "{length}");
        }
    }

    #[tokio::test]
    async fn before_a_shutdown_each_response_closes_its_connection() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let shutdown = Shutdown::default();
        let serving = serve(listener, router(), limit(), shutdown.clone());
        send_request(&mut client).await;
        let mut received = String::new();
        while !received.ends_with("here") {
            let mut some = [0; 256];
            let length = client.read(&mut some).await.unwrap();
            assert_ne!(length, 0, "{received}");
            received += std::str::from_utf8(&some[..length]).unwrap();
        }
        assert!(!received.contains("connection: close"), "{received}");
        shutdown.leave.cancel();
        send_request(&mut client).await;
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert!(
            received.contains("connection: close\r\n") && received.ends_with("here"),
            "{received}"
        );
        shutdown.finish.cancel();
        serving.await.unwrap();
    }
}
