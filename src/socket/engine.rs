//! The sessions of Engine.IO, as the library keeps them: how a request reaches one, and how one is ended from here.

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

/// The sessions of Engine.IO. Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine(pub(super) SocketIoService<Elsewhere>);

/// What answers for other paths than those of Socket.IO, which never come here.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere;

impl Service<Request> for Elsewhere {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        let nothing = Refusal::new(Code::NotFound, "There is no such route");
        ready(Ok(refuse(nothing)))
    }
}

impl Engine {
    pub(super) async fn answer(&self, request: Request) -> Response {
        let mut service = self.0.clone();
        match Service::call(&mut service, request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }

    /// Ends a session that polls, as its client would. One that does not, or is gone, is left alone.
    pub(super) async fn end(&self, session: &str) {
        let uri = format!("/socket.io/?EIO=4&transport=polling&sid={session}");
        let mut request = Request::new(Body::from("1"));
        *request.method_mut() = Method::POST;
        if let Ok(uri) = uri.parse() {
            *request.uri_mut() = uri;
            self.answer(request).await;
        }
    }
}
