//! What comes for Socket.IO, before it does. Owns who is let in at all: pages of allowed origins, new sessions
//! within their budget and not during a shutdown, bodies that end in time and hold no more packets than their budget;
//! and that a WebSocket's frames are counted before anything parses them. Whoever is refused hears why, in the usual
//! envelope.
//!
//! ```text
//!   request ──▶ origin, budget ──┬─ WebSocket ──▶ upgraded here ──▶ Frames ──▶ socketioxide
//!                                ├─ POST ──▶ Payload, budget ─────────────────▶ socketioxide
//!                                └─ GET ──────────────────────────────────────▶ socketioxide
//! ```
//!
//! What a session keeps of its first request is made anew here: hyper's read buffer lives for as long as any URI or
//! header that was sliced from it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until, timeout};
use tower_service::Service;
use tracing::debug;
use tungstenite::handshake::derive_accept_key;

use super::context::{MAX_MESSAGE, SocketContext};
use super::engine::Engine;
use super::frames::Frames;
use super::payload::Payload;
use super::refusal::with_code;
use crate::limits::{FrameBudget, Verdict};
use crate::middleware::{
    DEADLINE, MAX_BODY, check_origin, client_address, collect, late_body, refuse,
};
use crate::protocol::{Code, Refusal};
use crate::server::{ConnectionHandle, count_closed};

/// Maximum of packets in one POST: 64 KiB of the shortest events that anybody sends.
const PACKETS: u32 = 4096;
/// Maximum of packets in one POST of a session that has not joined.
const PACKETS_BEFORE_JOINING: u32 = 16;
/// Packets of a POST that are handed on at a time.
const PART: usize = 128;
/// Between two looks whether a client has taken some of its answers.
const CATCHING_UP: Duration = Duration::from_millis(5);
/// How long the packets of a POST may wait for their budget.
const PATIENCE: Duration = Duration::from_secs(5);

/// Message for a POST over its maximum size.
const TOO_LARGE: &str =
    "The payload is too large: at most 64 KiB, and 16 KiB before the session has joined";

/// The longest name of a session, in bytes; they have fewer.
const LONGEST_NAME: usize = 64;

/// Where a session's client is.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    context: Arc<SocketContext>,
    engine: Engine,
}

/// A poll that waits. A client that gives it up gives its session up: what is sent with an answer that nobody takes
/// would be lost.
struct Waiting<'a> {
    engine: &'a Engine,
    session: Option<String>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let engine = self.engine.clone();
            tokio::spawn(async move { engine.end(&session).await });
        }
    }
}

/// Takes what comes for Socket.IO, and passes on everything else.
pub async fn middleware(
    State(transport): State<Transport>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let ours = path
        .strip_prefix("/socket.io")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if ours {
        let answered = transport.answer(request).await;
        return answered.unwrap_or_else(refuse);
    }
    next.run(request).await
}

/// What a query says of a session: socketioxide reads it the same way.
struct Query<'a> {
    session: Option<&'a str>,
    websocket: bool,
    protocol: bool,
}

impl<'a> Query<'a> {
    fn of(uri: &'a Uri) -> Self {
        let parts = || uri.query().unwrap_or_default().split('&');
        let value = |name| {
            let part = parts().find(|part| part.starts_with(name))?;
            part.split('=').nth(1)
        };
        Self {
            session: parts().find_map(|part| part.strip_prefix("sid=")),
            websocket: value("transport=") == Some("websocket"),
            protocol: value("EIO=") == Some("4"),
        }
    }
}

impl Transport {
    pub(super) fn new(context: Arc<SocketContext>, engine: Engine) -> Self {
        Self { context, engine }
    }

    async fn answer(&self, mut request: Request) -> Result<Response, Refusal> {
        let context = &self.context;
        check_origin(&context.origins, request.headers())?;
        let query = Query::of(request.uri());
        let address = client_address(request.headers(), request.extensions(), &context.limits);
        if query.session.is_none() {
            // Who comes anew would only be sent away again: this is an answer after which clients try elsewhere.
            if context.closing.load(Ordering::Relaxed) {
                return Err(Refusal::new(Code::Unavailable, "This replica is stopping"));
            }
        }
        if query.session.is_none() || query.websocket {
            context.limits.connect(address)?;
        }
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let query = Query::of(request.uri());
        if request.method() == Method::GET && query.websocket && query.protocol {
            return self.websocket(&request, upgrade, address);
        }
        match (request.method(), query.session) {
            (&Method::POST, Some(session)) => {
                let session = session.to_owned();
                self.post(request, &session, address).await
            }
            (&Method::GET, None) => Ok(self.engine.answer(self.fresh(&request, address)).await),
            (&Method::GET, Some(session)) if !query.websocket => {
                let session = &session.to_owned();
                let mut poll = Waiting {
                    engine: &self.engine,
                    session: Some(session.to_owned()),
                };
                let answer = self.engine.answer(request).await;
                poll.session = None;
                if answer.status() == StatusCode::BAD_REQUEST {
                    // Of a session that is not there: anybody can ask for those.
                    context.limits.connect(address)?;
                }
                Ok(self.with_refusals(session, answer).await)
            }
            _ => Ok(self.engine.answer(request).await),
        }
    }

    /// What a poll brings to a session that has not joined may be a refusal, whose code is put where clients look.
    async fn with_refusals(&self, session: &str, answer: Response) -> Response {
        if self.context.carriers.budget(session).is_some() {
            return answer;
        }
        let (parts, body) = answer.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let bytes = with_code(&bytes).map_or(bytes, Into::into);
        Response::from_parts(parts, bytes.into())
    }

    /// The first request of a session, made anew: all that its session keeps of it.
    fn fresh(&self, request: &Request, address: IpAddr) -> Request {
        let mut fresh = Request::new(Body::empty());
        *fresh.uri_mut() = copy(request.uri());
        fresh.extensions_mut().insert(ClientAddress(address));
        let budget = Arc::new(FrameBudget::new(self.context.limits.clone()));
        fresh.extensions_mut().insert(budget);
        fresh
    }

    /// Answers the handshake (RFC 6455, 4.2) and hands the connection to socketioxide.
    fn websocket(
        &self,
        request: &Request,
        upgrade: Option<OnUpgrade>,
        address: IpAddr,
    ) -> Result<Response, Refusal> {
        let headers = request.headers();
        let says = |name: HeaderName, word: &str| {
            let values = headers.get_all(name).into_iter();
            values
                .filter_map(|value| value.to_str().ok())
                .flat_map(|list| list.split(','))
                .any(|part| part.trim().eq_ignore_ascii_case(word))
        };
        let asked = says(CONNECTION, "upgrade")
            && says(UPGRADE, "websocket")
            && says(SEC_WEBSOCKET_VERSION, "13");
        let key = headers.get(SEC_WEBSOCKET_KEY);
        let (Some(upgrade), Some(key), true) = (upgrade, key, asked) else {
            return Err(Refusal::new(
                Code::Malformed,
                "transport=websocket needs a WebSocket handshake (Upgrade, Sec-WebSocket-Key, version 13)",
            ));
        };
        let accept = derive_accept_key(key.as_bytes());
        let accept = HeaderValue::from_str(&accept)
            .map_err(|_| Refusal::new(Code::Malformed, "Sec-WebSocket-Key: is not a key"))?;
        let connection = request.extensions().get::<ConnectionHandle>().cloned();
        let session = Query::of(request.uri()).session.map(str::to_owned);
        if let Some(name) = &session
            && (name.len() > LONGEST_NAME || self.context.carriers.is_upgraded(name))
        {
            let fault = "sid: is no session that can be upgraded";
            return Err(Refusal::new(Code::Malformed, fault));
        }
        let fresh = self.fresh(request, address);
        let (mut parts, _) = fresh.into_parts();
        // Where the session began here, this is what carries it.
        if session.is_none()
            && let Some(connection) = &connection
        {
            parts.extensions.insert(connection.clone());
        }
        let transport = self.clone();
        tokio::spawn(async move {
            let upgraded = match upgrade.await {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => {
                    debug!(%error, "a connection ended before it became a WebSocket");
                    return;
                }
            };
            let mut budget = parts
                .extensions
                .get::<Arc<FrameBudget>>()
                .cloned()
                .unwrap_or_else(|| Arc::new(FrameBudget::new(transport.context.limits.clone())));
            if let (Some(name), Some(connection)) = (&session, &connection) {
                match transport.context.carriers.upgrade(name, connection, budget) {
                    Some(joined) => budget = joined,
                    None => return,
                }
            }
            let frames = Frames::new(upgraded, budget, connection);
            let fresh = axum::http::Request::from_parts(parts, ());
            let mut engine = transport.engine.0.clone();
            if let Err(error) = Service::call(&mut engine, (frames, fresh)).await {
                debug!(%error, "a WebSocket was not taken");
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        Ok(response)
    }

    /// Packets of a session that polls.
    async fn post(
        &self,
        request: Request,
        session: &str,
        address: IpAddr,
    ) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let budget = self.context.carriers.budget(session);
        // Before the body is read, which takes memory: of a session that has joined one at a time, and of all others
        // as many as their address may begin.
        let _posting = match &budget {
            Some(budget) => match budget.post() {
                Some(posting) => Some(posting),
                None => {
                    self.engine.end(session).await;
                    let fault = "Two requests at once for one session; it was closed";
                    return Err(Refusal::new(Code::Malformed, fault));
                }
            },
            None => {
                self.context.limits.connect(address)?;
                None
            }
        };
        let longest = match budget {
            Some(_) => MAX_MESSAGE,
            None => MAX_BODY,
        };
        let body = timeout(DEADLINE, collect(body, longest))
            .await
            .map_err(|_| late_body())?
            .map_err(|fault| fault.refusal(TOO_LARGE))?;
        let payload = Payload::of(&body);
        let max = match budget {
            Some(_) => PACKETS,
            None => PACKETS_BEFORE_JOINING,
        };
        if payload.binary {
            count_closed("binary");
            self.engine.end(session).await;
            let fault = "Binary packets are not used here; the session was closed";
            return Err(Refusal::new(Code::Malformed, fault));
        }
        let mut paid = payload.packets <= max && !payload.foreign;
        if paid && let Some(budget) = &budget {
            paid = pay(budget, payload.price).await;
        }
        if !paid {
            count_closed("flood");
            self.engine.end(session).await;
            let fault = "Too many packets; the session was closed";
            return Err(Refusal::new(Code::RateLimited, fault));
        }
        // In parts, so that its answers can be fetched meanwhile.
        let mut answer = None;
        for part in payload.parts(&body, PART) {
            if let Some(budget) = &budget
                && !caught_up(budget).await
            {
                count_closed("flood");
                self.engine.end(session).await;
                let fault = "No answers were fetched; the session was closed";
                return Err(Refusal::new(Code::RateLimited, fault));
            }
            let mut request = Request::new(Body::from(part));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = parts.uri.clone();
            if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
                request.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            let response = self.engine.answer(request).await;
            let well = response.status().is_success();
            answer = Some(response);
            if !well {
                break;
            }
        }
        answer.ok_or_else(|| Refusal::new(Code::Malformed, "The payload is empty"))
    }
}

/// Waits until its client has taken enough of its answers. False where it does not.
async fn caught_up(budget: &FrameBudget) -> bool {
    let end = Instant::now() + PATIENCE;
    while budget.is_behind() {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(CATCHING_UP).await;
    }
    true
}

/// Waits until the packets are within their budget. False where they are far beyond it.
async fn pay(budget: &FrameBudget, packets: u32) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut again = false;
    loop {
        match budget.spend(packets, again) {
            Verdict::Admit => return true,
            Verdict::Wait(time) if Instant::now() + time <= end => {
                sleep_until(Instant::now() + time).await;
            }
            Verdict::Wait(_) | Verdict::End => return false,
        }
        again = true;
    }
}

/// The same path and query in memory of their own.
fn copy(uri: &Uri) -> Uri {
    let query = uri.query().unwrap_or_default();
    let known = |part: &&str| {
        ["EIO=", "transport=", "sid="]
            .iter()
            .any(|name| part.starts_with(name))
    };
    let query: Vec<&str> = query.split('&').filter(known).collect();
    let text = format!("/socket.io/?{}", query.join("&"));
    // Parts of a URI that was one.
    text.parse().unwrap_or_default()
}
