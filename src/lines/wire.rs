//! One connection's stream. Owns that it can be hung up whatever its reader and writer are doing, and that a
//! client which takes nothing of what is sent to it does not keep its writer for ever.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::debug;

use super::places::Place;

/// A client that takes nothing of what is sent for this long is gone.
const STALLED: Duration = Duration::from_secs(20);

/// A handle to one connection; it is in the extensions of each of its requests.
#[derive(Debug, Clone, Default)]
pub struct Line(Arc<CancellationToken>);

impl Line {
    /// Ends it: its reader sees the end at once, what was written before still goes out.
    pub fn hang_up(&self) {
        self.0.cancel();
    }

    /// A handle that does not keep it in memory.
    pub fn downgrade(&self) -> WeakLine {
        WeakLine(Arc::downgrade(&self.0))
    }
}

/// A handle to a connection that may be gone.
#[derive(Debug, Clone)]
pub struct WeakLine(Weak<CancellationToken>);

impl WeakLine {
    /// The connection, where it is still there.
    pub fn upgrade(&self) -> Option<Line> {
        self.0.upgrade().map(Line)
    }
}

/// A stream that can be hung up, and that notices a client which takes nothing.
pub(super) struct Wire {
    stream: TcpStream,
    line: Line,
    hung_up: Pin<Box<WaitForCancellationFutureOwned>>,
    patience: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    dead: bool,
    _place: Option<Place>,
}

impl Wire {
    /// Of a connection, and the place that it takes until it is closed, also where it became a WebSocket.
    pub(super) fn new(stream: TcpStream, place: Place) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection could not be tuned; it was gone already");
        }
        Self::with_patience(stream, Some(place), STALLED)
    }

    /// The handle to it.
    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    fn with_patience(stream: TcpStream, place: Option<Place>, patience: Duration) -> Self {
        let line = Line::default();
        Self {
            _place: place,
            stream,
            hung_up: Box::pin((*line.0).clone().cancelled_owned()),
            line,
            patience,
            stalled: None,
            dead: false,
        }
    }

    fn write_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.dead {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if let Poll::Ready(outcome) = write(Pin::new(&mut self.stream), cx) {
            self.stalled = None;
            return Poll::Ready(outcome);
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        self.dead = true;
        self.line.hang_up();
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.line.0.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(outcome) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            return Poll::Ready(outcome);
        }
        // Nothing read is the end of the stream.
        self.hung_up.as_mut().poll(cx).map(Ok)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_with(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_with(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const SHORT: Duration = Duration::from_millis(200);

    async fn pair() -> (Wire, Line, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let wire = Wire::with_patience(stream, None, SHORT);
        let line = wire.line();
        (wire, line, client)
    }

    #[tokio::test]
    async fn whoever_reads_a_line_that_is_hung_up_sees_its_end_and_may_still_write() {
        let (mut wire, line, mut client) = pair().await;
        let reading = tokio::spawn(async move {
            let read = wire.read(&mut [0; 8]).await;
            wire.write_all(b"bye").await.unwrap();
            read
        });
        tokio::task::yield_now().await;
        line.hang_up();
        assert_eq!(reading.await.unwrap().unwrap(), 0);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "bye");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_hung_up() {
        let (mut wire, line, client) = pair().await;
        let since = std::time::Instant::now();
        let chunk = vec![0; 1 << 20];
        let fault = loop {
            if let Err(fault) = wire.write_all(&chunk).await {
                break fault;
            }
        };
        assert_eq!(fault.kind(), ErrorKind::TimedOut);
        assert!(since.elapsed() >= SHORT, "{:?}", since.elapsed());
        assert!(line.0.is_cancelled());
        let again = wire.write(b"x").await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::BrokenPipe);
        assert_eq!(wire.read(&mut [0; 8]).await.unwrap(), 0);
        drop(client);
    }
}
