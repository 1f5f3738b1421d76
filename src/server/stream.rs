//! One connection's stream. Owns that it can be aborted whatever its reader and writer are doing, that a client
//! which takes nothing, or too slowly, does not keep its writer for ever, and that its place is released with it.

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

/// How patient a stream is with its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A client that takes nothing of what is sent for this long is gone.
    pub(super) stalled: Duration,
    /// What was begun to be sent, an answer for example, is taken within this time, or the connection ends: a
    /// client that takes a byte now and then is no better than one that takes none.
    pub(super) flush: Duration,
    /// A request's head is whole within this time of its first byte, whatever the connection was before: half a head
    /// takes memory, an idle connection does not.
    pub(super) head: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stalled: Duration::from_secs(20),
            flush: Duration::from_secs(60),
            head: Duration::from_secs(10),
        }
    }
}

/// A stream that can be aborted, and that notices a client which does not take what it is sent.
pub(super) struct ConnectionStream {
    stream: TcpStream,
    handle: ConnectionHandle,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    patience: Patience,
    /// Since when something is being sent that is not flushed yet.
    sending: Option<Instant>,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Until when the head that has begun must be whole, and which request it is of.
    head: Option<(Instant, usize)>,
    /// Runs while that is awaited.
    half: Option<Pin<Box<Sleep>>>,
    dead: bool,
}

impl ConnectionStream {
    /// Of a connection, and the place that it has until it is closed, also after it became a WebSocket.
    pub(super) fn new(stream: TcpStream, slot: impl Slot + 'static) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection could not be tuned; it was gone already");
        }
        Self::with_patience(stream, Some(Box::new(slot)), Patience::default())
    }

    /// The handle to it.
    pub(super) fn handle(&self) -> ConnectionHandle {
        self.handle.clone()
    }

    fn with_patience(stream: TcpStream, slot: Option<Box<dyn Slot>>, patience: Patience) -> Self {
        let handle = ConnectionHandle::open(slot);
        Self {
            stream,
            aborted: Box::pin(handle.aborted()),
            handle,
            patience,
            sending: None,
            stalled: None,
            head: None,
            half: None,
            dead: false,
        }
    }

    /// Bytes came. Where nothing is asked yet they are the beginning of a head.
    fn a_head_begins(&mut self) {
        let begun = self.handle.begun();
        if self.handle.is_busy() {
            self.head = None;
        } else if self.head.is_none_or(|(_, of)| of != begun) {
            self.head = Some((Instant::now() + self.patience.head, begun));
        }
    }

    /// Whether the head that has begun is not whole yet, and had its time.
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
        let late = since.elapsed() >= self.patience.flush;
        if !late && let Poll::Ready(outcome) = write(Pin::new(&mut self.stream), cx) {
            self.stalled = None;
            return Poll::Ready(outcome);
        }
        if !late {
            let until = (since + self.patience.flush).min(Instant::now() + self.patience.stalled);
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
        // Whoever keeps a handle sees that it is over.
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
                self.a_head_begins();
            }
            return Poll::Ready(outcome);
        }
        if self.head_is_late(cx) {
            count_closed("silent");
            self.handle.abort();
            return Poll::Ready(Ok(()));
        }
        // Nothing read is the end of the stream.
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
        // Whoever writes hands over all that it has before it flushes.
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
    const STALLED: Patience = Patience {
        stalled: SHORT,
        flush: LONG,
        head: LONG,
    };
    const SLOW: Patience = Patience {
        stalled: LONG,
        flush: SHORT,
        head: SHORT,
    };

    async fn pair(patience: Patience) -> (ConnectionStream, ConnectionHandle, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let stream = ConnectionStream::with_patience(stream, None, patience);
        let handle = stream.handle();
        (stream, handle, client)
    }

    #[tokio::test]
    async fn whoever_reads_a_connection_that_is_aborted_sees_its_end_and_may_still_write() {
        let (mut stream, handle, mut client) = pair(STALLED).await;
        let reading = tokio::spawn(async move {
            let read = stream.read(&mut [0; 8]).await;
            stream.write_all(b"bye").await.unwrap();
            read
        });
        tokio::task::yield_now().await;
        handle.abort();
        assert_eq!(reading.await.unwrap().unwrap(), 0);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "bye");
    }

    async fn fault_of_writing(stream: &mut ConnectionStream) -> io::Error {
        let chunk = vec![0; 1 << 20];
        loop {
            if let Err(fault) = stream.write_all(&chunk).await {
                return fault;
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_aborted() {
        let (mut stream, handle, client) = pair(STALLED).await;
        let since = std::time::Instant::now();
        let fault = fault_of_writing(&mut stream).await;
        assert_eq!(fault.kind(), ErrorKind::TimedOut);
        assert!(since.elapsed() >= SHORT, "{:?}", since.elapsed());
        assert!(handle.is_aborted());
        let again = stream.write(b"x").await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::BrokenPipe);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        drop(client);
    }

    #[tokio::test]
    async fn a_client_that_takes_a_little_now_and_then_is_aborted_too() {
        let (mut stream, _handle, mut client) = pair(SLOW).await;
        let drop_by_drop = tokio::spawn(async move {
            let mut some = vec![0; 64 * 1024];
            let mut tick = tokio::time::interval(SHORT / 20);
            while client.read(&mut some).await.is_ok_and(|read| read > 0) {
                tick.tick().await;
            }
        });
        let since = std::time::Instant::now();
        let fault = fault_of_writing(&mut stream).await;
        assert_eq!(fault.kind(), ErrorKind::TimedOut);
        assert!(since.elapsed() >= SHORT, "{:?}", since.elapsed());
        drop(stream);
        drop_by_drop.await.unwrap();
    }

    #[tokio::test]
    async fn half_a_head_ends_the_connection_and_a_whole_one_does_not() {
        let (mut stream, handle, mut client) = pair(SLOW).await;
        let mut some = [0; 8];
        client.write_all(b"GET /").await.unwrap();
        assert_eq!(stream.read(&mut some).await.unwrap(), 5);
        // The head was whole: a request begins, and ends.
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
