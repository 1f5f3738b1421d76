//! The stream of one connection. Owns its abort, whatever its reader and writer are doing; the timeouts of clients that
//! read nothing, or too slowly; and the release of its slot when it is closed.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::debug;

use super::handle::{ConnectionHandle, Slot, count_closed};

/// Timeouts of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Maximum time without progress while sending.
    pub(super) stalled: Duration,
    /// Maximum time from the first write to the flush, of a response for example: a client that reads a byte now and
    /// then is no better than one that reads none.
    pub(super) flush: Duration,
    /// Maximum time from the first byte of a request's head to its last, also on a connection that was idle: half a
    /// head takes memory, an idle connection does not.
    pub(super) head: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            stalled: Duration::from_secs(20),
            flush: Duration::from_secs(60),
            head: Duration::from_secs(10),
        }
    }
}

/// A stream that can be aborted, and that closes if its client does not read.
pub(super) struct ConnectionStream {
    stream: TcpStream,
    handle: ConnectionHandle,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    timeouts: Timeouts,
    /// Time of the first write that is not flushed yet.
    sending: Option<Instant>,
    /// Timer of a write without progress.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Deadline of the head that has begun, and the number of its request.
    head: Option<(Instant, usize)>,
    /// Timer of that deadline.
    half: Option<Pin<Box<Sleep>>>,
    dead: bool,
}

impl ConnectionStream {
    /// Wraps a connection with its slot, which it holds until it is closed, also as a WebSocket.
    pub(super) fn new(stream: TcpStream, slot: impl Slot + 'static) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "could not set TCP_NODELAY; the client has disconnected");
        }
        Self::with_timeouts(stream, Some(Box::new(slot)), Timeouts::default())
    }

    /// Handle to this connection.
    pub(super) fn handle(&self) -> ConnectionHandle {
        self.handle.clone()
    }

    fn with_timeouts(stream: TcpStream, slot: Option<Box<dyn Slot>>, timeouts: Timeouts) -> Self {
        let handle = ConnectionHandle::open(slot);
        Self {
            stream,
            aborted: Box::pin(handle.aborted()),
            handle,
            timeouts,
            sending: None,
            stalled: None,
            head: None,
            half: None,
            dead: false,
        }
    }

    /// Starts the deadline of a head at its first bytes. Bytes that arrive during a request belong to its body.
    fn start_head(&mut self) {
        let begun = self.handle.begun();
        if self.handle.is_busy() {
            self.head = None;
        } else if self.head.is_none_or(|(_, of)| of != begun) {
            self.head = Some((Instant::now() + self.timeouts.head, begun));
        }
    }

    /// True if the head that has begun is still incomplete at its deadline.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let begun = self.handle.begun();
        let Some((until, _)) = self.head.filter(|(_, of)| *of == begun) else {
            (self.head, self.half) = (None, None);
            return false;
        };
        let half = self
            .half
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if half.deadline() != until {
            half.as_mut().reset(until);
        }
        half.as_mut().poll(cx).is_ready()
    }

    fn write_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.dead {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let since = *self.sending.get_or_insert_with(Instant::now);
        let late = since.elapsed() >= self.timeouts.flush;
        if !late && let Poll::Ready(outcome) = write(Pin::new(&mut self.stream), cx) {
            self.stalled = None;
            return Poll::Ready(outcome);
        }
        if !late {
            let until = (since + self.timeouts.flush).min(Instant::now() + self.timeouts.stalled);
            let stalled = self
                .stalled
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(stalled.as_mut().poll(cx));
        }
        self.dead = true;
        count_closed("slow");
        self.handle.abort();
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl Drop for ConnectionStream {
    fn drop(&mut self) {
        // Remaining handles see that the connection has closed.
        self.handle.abort();
        self.handle.release();
    }
}

impl AsyncRead for ConnectionStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.handle.is_aborted() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(outcome) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before {
                self.start_head();
            }
            return Poll::Ready(outcome);
        }
        if self.head_is_late(cx) {
            count_closed("silent");
            self.handle.abort();
            return Poll::Ready(Ok(()));
        }
        // A read of no bytes is the end of the stream.
        self.aborted.as_mut().poll(cx).map(Ok)
    }
}

impl AsyncWrite for ConnectionStream {
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
        // Writers pass on all their data before they flush.
        self.sending = None;
        self.handle.flushed();
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
    const LONG: Duration = Duration::from_secs(60);
    const STALLED: Timeouts = Timeouts {
        stalled: SHORT,
        flush: LONG,
        head: LONG,
    };
    const SLOW: Timeouts = Timeouts {
        stalled: LONG,
        flush: SHORT,
        head: SHORT,
    };

    async fn pair(timeouts: Timeouts) -> (ConnectionStream, ConnectionHandle, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let stream = ConnectionStream::with_timeouts(stream, None, timeouts);
        let handle = stream.handle();
        (stream, handle, client)
    }

    #[tokio::test]
    async fn the_reader_of_an_aborted_connection_sees_its_end_and_may_still_write() {
        let (mut stream, handle, mut client) = pair(STALLED).await;
        let reading = tokio::spawn(async move {
            let read = stream.read(&mut [0; 8]).await;
            stream.write_all(b"bye").await.unwrap();
            read
        });
        tokio::task::yield_now().await;
        handle.abort();
        assert_eq!(reading.await.unwrap().unwrap(), 0);
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "bye");
    }

    async fn error_of_writing(stream: &mut ConnectionStream) -> io::Error {
        let chunk = vec![0; 1 << 20];
        loop {
            if let Err(error) = stream.write_all(&chunk).await {
                return error;
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_aborted() {
        let (mut stream, handle, client) = pair(STALLED).await;
        let since = std::time::Instant::now();
        let error = error_of_writing(&mut stream).await;
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(since.elapsed() >= SHORT, "{:?}", since.elapsed());
        assert!(handle.is_aborted());
        let again = stream.write(b"x").await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::BrokenPipe);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        drop(client);
    }

    #[tokio::test]
    async fn a_client_that_reads_too_slowly_is_aborted() {
        let (mut stream, _handle, mut client) = pair(SLOW).await;
        let drop_by_drop = tokio::spawn(async move {
            let mut some = vec![0; 64 * 1024];
            let mut tick = tokio::time::interval(SHORT / 20);
            while client.read(&mut some).await.is_ok_and(|read| read > 0) {
                tick.tick().await;
            }
        });
        let since = std::time::Instant::now();
        let error = error_of_writing(&mut stream).await;
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(since.elapsed() >= SHORT, "{:?}", since.elapsed());
        drop(stream);
        drop_by_drop.await.unwrap();
    }

    #[tokio::test]
    async fn an_incomplete_head_ends_the_connection_and_a_complete_one_does_not() {
        let (mut stream, handle, mut client) = pair(SLOW).await;
        let mut some = [0; 8];
        client.write_all(b"GET /").await.unwrap();
        assert_eq!(stream.read(&mut some).await.unwrap(), 5);
        // The head was complete: a request begins and ends.
        handle.begin();
        handle.finish();
        let idle = tokio::time::timeout(SHORT * 3, stream.read(&mut some)).await;
        assert!(idle.is_err(), "an idle connection was ended");
        client.write_all(b"GET /").await.unwrap();
        assert_eq!(stream.read(&mut some).await.unwrap(), 5);
        assert_eq!(stream.read(&mut some).await.unwrap(), 0);
        assert!(handle.is_aborted());
    }
}
