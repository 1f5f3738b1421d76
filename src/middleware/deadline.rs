//! Deadline of a request, the arrival of its body included. Owns who is at fault when it passes: a request whose body
//! has not arrived is answered with 408, any other with 503. The work behind it is dropped, except for a transition of a
//! lock, which runs detached in `locks`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use super::api_error::ApiError;
use crate::protocol::{Code, Refusal};

/// Maximum duration of a request.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Refuses a request that takes longer than [`DEADLINE`].
///
/// # Errors
/// `REQUEST_TIMEOUT` or `UNAVAILABLE`.
pub async fn deadline(request: Request, next: Next) -> Result<Response, ApiError> {
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

/// Refusal of a request whose body did not arrive in time.
pub fn late_body() -> Refusal {
    Refusal::new(
        Code::RequestTimeout,
        "The body did not arrive in time; send it again",
    )
}

/// Body that records whether a reader waits for more of it.
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
