//! Access to the Engine.IO sessions, which the library keeps: passing requests to them, and closing them.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use socketioxide::service::SocketIoService;
use tower_service::Service;

use crate::middleware::refuse;
use crate::protocol::{Code, Refusal};

/// Handle to the library's Engine.IO sessions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine(pub(super) SocketIoService<NotFound>);

/// Fallback for paths outside Socket.IO, which never get here.
#[derive(Debug, Clone)]
pub(super) struct NotFound;

impl Service<Request> for NotFound {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        let refusal = Refusal::new(Code::NotFound, "There is no such route");
        ready(Ok(refuse(refusal)))
    }
}

impl Engine {
    /// Passes a request to Engine.IO.
    pub(super) async fn answer(&self, request: Request) -> Response {
        let mut service = self.0.clone();
        match Service::call(&mut service, request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }

    /// Closes an Engine.IO session that polls, as its client would. No effect on others.
    pub(super) async fn close(&self, sid: &str) {
        let uri = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        let mut request = Request::new(Body::from("1"));
        *request.method_mut() = Method::POST;
        if let Ok(uri) = uri.parse() {
            *request.uri_mut() = uri;
            self.answer(request).await;
        }
    }
}
