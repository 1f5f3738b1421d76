//! The unread rest of a body after its response, such as 413. Owns the delivery of that response: a connection that is
//! closed with unread bytes of the client is reset, and the response is lost. So the rest is read and discarded, within
//! limits of bytes and time, before the connection closes (RFC 9112, 9.6).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::timeout;

/// Maximum bytes that are discarded.
const DISCARD: usize = 16 * 1024 * 1024;
/// Maximum time for discarding.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A body whose rest is read and discarded when it is dropped.
pub(super) struct Unread {
    body: Option<Incoming>,
    /// True while the client waits for `100 Continue`: with a response it does not send the body.
    expects: bool,
}

impl Unread {
    pub(super) fn new(body: Incoming, expects: bool) -> Self {
        Self {
            body: Some(body),
            expects,
        }
    }
}

impl HttpBody for Unread {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.expects = false;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if let Some(mut body) = self.body.take()
            && !body.is_end_stream()
            && !self.expects
        {
            tokio::spawn(timeout(TIMEOUT, async move {
                let mut left = DISCARD;
                while let Some(Ok(frame)) = body.frame().await {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    match left.checked_sub(length) {
                        Some(rest) => left = rest,
                        None => return,
                    }
                }
            }));
        }
    }
}
