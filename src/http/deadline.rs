//! How long a request may take, whatever the database does, its body's arrival included. Owns whose fault it is
//! when the time is up: a body that was still awaited is the client's (408), all else is ours (503).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use super::DEADLINE;
use super::answer::ApiError;
use crate::protocol::{Code, Refusal};

/// Lets a request take so long and no longer.
pub(super) async fn deadline(request: Request, next: Next) -> Result<Response, ApiError> {
    let awaited = Arc::new(AtomicBool::new(false));
    let request = request.map(|body| {
        Body::new(Arriving {
            body,
            awaited: awaited.clone(),
        })
    });
    let answered = tokio::time::timeout(DEADLINE, next.run(request)).await;
    answered.map_err(|_| {
        let refusal = if awaited.load(Ordering::Relaxed) {
            late_body()
        } else {
            Refusal::new(Code::Unavailable, "The request took too long; try again")
        };
        refusal.into()
    })
}

/// A body that did not come in time.
pub fn late_body() -> Refusal {
    Refusal::new(
        Code::RequestTimeout,
        "The body did not arrive in time; send it again",
    )
}

/// A body, and whether somebody waits for more of it.
struct Arriving {
    body: Body,
    awaited: Arc<AtomicBool>,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.awaited.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
