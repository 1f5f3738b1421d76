//! Admission of requests to Socket.IO. Owns the checks before it: allowed origins; new Engine.IO sessions within the
//! rate limit, and none during a shutdown; POST bodies that arrive in time, with a limited number of packets; and the
//! frame limits of WebSockets, before anything parses them. Refusals use the usual envelope.
//!
//! ```text
//!   request ──▶ origin, budget ──┬─ WebSocket ──▶ upgraded here ──▶ Frames ──▶ socketioxide
//!                                ├─ POST ──▶ Payload, budget ─────────────────▶ socketioxide
//!                                └─ GET ──────────────────────────────────────▶ socketioxide
//! ```
//!
//! An Engine.IO session keeps a copy of its first request, made here: a URI or header that is a slice of hyper's read
//! buffer would keep the whole buffer alive.

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

use super::connect_error::with_code;
use super::context::{MAX_MESSAGE, SocketContext};
use super::engine::Engine;
use super::frames::Frames;
use super::payload::Payload;
use crate::limits::{FrameBudget, Verdict};
use crate::middleware::{
    DEADLINE, MAX_BODY, check_origin, client_address, collect, late_body, refuse,
};
use crate::protocol::{Code, Refusal};
use crate::server::{ConnectionHandle, count_closed};

/// Maximum packets in one POST: 64 KiB of the shortest events.
const MAX_PACKETS: u32 = 4096;
/// Maximum packets in one POST before joining.
const MAX_PACKETS_BEFORE_JOINING: u32 = 16;
/// Packets of a POST that are passed on at a time.
const PART: usize = 128;
/// Interval of checks for a client that has read some of its answers.
const BACKLOG_CHECK: Duration = Duration::from_millis(5);
/// Maximum time for which the packets of a POST wait for their budget.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of an Engine.IO session id, in bytes; actual ones are shorter.
const MAX_SID: usize = 64;
/// Message for a POST over its maximum size.
const TOO_LARGE: &str =
    "The payload is too large: at most 64 KiB, and 16 KiB before the session has joined";

/// Address of an Engine.IO session's client.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

/// Entry point for requests. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    context: Arc<SocketContext>,
    engine: Engine,
}

/// Pending poll. If the client aborts it, its Engine.IO session is closed: packets sent with an answer that nobody
/// reads would be lost.
struct PendingPoll<'a> {
    engine: &'a Engine,
    sid: Option<String>,
}

impl Drop for PendingPoll<'_> {
    fn drop(&mut self) {
        if let Some(sid) = self.sid.take() {
            let engine = self.engine.clone();
            tokio::spawn(async move { engine.close(&sid).await });
        }
    }
}

/// Handles requests for Socket.IO, and passes on all others.
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

/// Engine.IO parameters of a query, read in the same way as socketioxide does.
struct Query<'a> {
    sid: Option<&'a str>,
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
            sid: parts().find_map(|part| part.strip_prefix("sid=")),
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
        if query.sid.is_none() {
            // A new client would be disconnected again soon; after this answer it tries another replica.
            if context.closing.load(Ordering::Relaxed) {
                return Err(Refusal::new(Code::Unavailable, "This replica is stopping"));
            }
        }
        if query.sid.is_none() || query.websocket {
            context.limits.connect(address)?;
        }
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let query = Query::of(request.uri());
        if request.method() == Method::GET && query.websocket && query.protocol {
            return self.websocket(&request, upgrade, address);
        }
        match (request.method(), query.sid) {
            (&Method::POST, Some(sid)) => {
                let sid = sid.to_owned();
                self.post(request, &sid, address).await
            }
            (&Method::GET, None) => Ok(self
                .engine
                .answer(self.first_request(&request, address))
                .await),
            (&Method::GET, Some(sid)) if !query.websocket => {
                let sid = &sid.to_owned();
                let mut poll = PendingPoll {
                    engine: &self.engine,
                    sid: Some(sid.to_owned()),
                };
                let answer = self.engine.answer(request).await;
                poll.sid = None;
                if answer.status() == StatusCode::BAD_REQUEST {
                    // An unknown id is charged like a new Engine.IO session.
                    context.limits.connect(address)?;
                }
                Ok(self.with_codes(sid, answer).await)
            }
            _ => Ok(self.engine.answer(request).await),
        }
    }

    /// Completes the `connect_error` packets in a poll's answer. There are none once the client has joined.
    async fn with_codes(&self, sid: &str, answer: Response) -> Response {
        if self.context.engine_sessions.budget(sid).is_some() {
            return answer;
        }
        let (parts, body) = answer.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let bytes = with_code(&bytes).map_or(bytes, Into::into);
        Response::from_parts(parts, bytes.into())
    }

    /// Copy of the first request of an Engine.IO session, with only what the session keeps of it.
    fn first_request(&self, request: &Request, address: IpAddr) -> Request {
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
        let contains = |name: HeaderName, token: &str| {
            let values = headers.get_all(name).into_iter();
            values
                .filter_map(|value| value.to_str().ok())
                .flat_map(|list| list.split(','))
                .any(|part| part.trim().eq_ignore_ascii_case(token))
        };
        let is_handshake = contains(CONNECTION, "upgrade")
            && contains(UPGRADE, "websocket")
            && contains(SEC_WEBSOCKET_VERSION, "13");
        let key = headers.get(SEC_WEBSOCKET_KEY);
        let (Some(upgrade), Some(key), true) = (upgrade, key, is_handshake) else {
            return Err(Refusal::new(
                Code::Malformed,
                "transport=websocket requires a WebSocket handshake (Upgrade, Sec-WebSocket-Key, version 13)",
            ));
        };
        let accept = derive_accept_key(key.as_bytes());
        let accept = HeaderValue::from_str(&accept)
            .map_err(|_| Refusal::new(Code::Malformed, "Sec-WebSocket-Key: is not a valid key"))?;
        let connection = request.extensions().get::<ConnectionHandle>().cloned();
        let sid = Query::of(request.uri()).sid.map(str::to_owned);
        if let Some(sid) = &sid
            && (sid.len() > MAX_SID || self.context.engine_sessions.is_upgraded(sid))
        {
            let fault = "sid: is not an Engine.IO session that can be upgraded";
            return Err(Refusal::new(Code::Malformed, fault));
        }
        let fresh = self.first_request(request, address);
        let (mut parts, _) = fresh.into_parts();
        // The Engine.IO session begins with this connection.
        if sid.is_none()
            && let Some(connection) = &connection
        {
            parts.extensions.insert(connection.clone());
        }
        let transport = self.clone();
        tokio::spawn(async move {
            let upgraded = match upgrade.await {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => {
                    debug!(%error, "a connection was closed before its upgrade to a WebSocket");
                    return;
                }
            };
            let mut budget = parts
                .extensions
                .get::<Arc<FrameBudget>>()
                .cloned()
                .unwrap_or_else(|| Arc::new(FrameBudget::new(transport.context.limits.clone())));
            if let (Some(sid), Some(connection)) = (&sid, &connection) {
                match transport
                    .context
                    .engine_sessions
                    .upgrade(sid, connection, budget)
                {
                    Some(joined) => budget = joined,
                    None => return,
                }
            }
            let frames = Frames::new(upgraded, budget, connection);
            let fresh = axum::http::Request::from_parts(parts, ());
            let mut engine = transport.engine.0.clone();
            if let Err(error) = Service::call(&mut engine, (frames, fresh)).await {
                debug!(%error, "a WebSocket was not accepted");
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

    /// Passes on the packets of a polling client.
    async fn post(
        &self,
        request: Request,
        sid: &str,
        address: IpAddr,
    ) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let budget = self.context.engine_sessions.budget(sid);
        // Limited before the body is read, which takes memory: one at a time for a client that has joined, the
        // address's rate of new Engine.IO sessions for all others.
        let _posting = match &budget {
            Some(budget) => match budget.post() {
                Some(posting) => Some(posting),
                None => {
                    self.engine.close(sid).await;
                    let fault = "Two concurrent requests in one Engine.IO session; it was closed";
                    return Err(Refusal::new(Code::Malformed, fault));
                }
            },
            None => {
                self.context.limits.connect(address)?;
                None
            }
        };
        let max_body = match budget {
            Some(_) => MAX_MESSAGE,
            None => MAX_BODY,
        };
        let body = timeout(DEADLINE, collect(body, max_body))
            .await
            .map_err(|_| late_body())?
            .map_err(|fault| fault.refusal(TOO_LARGE))?;
        let payload = Payload::of(&body);
        let max_packets = match budget {
            Some(_) => MAX_PACKETS,
            None => MAX_PACKETS_BEFORE_JOINING,
        };
        if payload.binary {
            count_closed("binary");
            self.engine.close(sid).await;
            let fault = "Binary packets are not supported; the Engine.IO session was closed";
            return Err(Refusal::new(Code::Malformed, fault));
        }
        let mut paid = payload.packets <= max_packets && !payload.foreign;
        if paid && let Some(budget) = &budget {
            paid = pay(budget, payload.cost).await;
        }
        if !paid {
            count_closed("flood");
            self.engine.close(sid).await;
            let fault = "Too many packets; the Engine.IO session was closed";
            return Err(Refusal::new(Code::RateLimited, fault));
        }
        // In parts, so that the client can read answers in between.
        let mut answer = None;
        for part in payload.parts(&body, PART) {
            if let Some(budget) = &budget
                && !wait_for_reads(budget).await
            {
                count_closed("flood");
                self.engine.close(sid).await;
                let fault = "Acknowledgements were not read; the Engine.IO session was closed";
                return Err(Refusal::new(Code::RateLimited, fault));
            }
            let mut request = Request::new(Body::from(part));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = parts.uri.clone();
            if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
                request.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            let response = self.engine.answer(request).await;
            let success = response.status().is_success();
            answer = Some(response);
            if !success {
                break;
            }
        }
        answer.ok_or_else(|| Refusal::new(Code::Malformed, "The payload is empty"))
    }
}

/// Waits until the client has read enough of its answers. False on a timeout.
async fn wait_for_reads(budget: &FrameBudget) -> bool {
    let end = Instant::now() + TIMEOUT;
    while budget.is_behind() {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(BACKLOG_CHECK).await;
    }
    true
}

/// Waits until the packets are within the budget. False if that takes too long.
async fn pay(budget: &FrameBudget, cost: u32) -> bool {
    let end = Instant::now() + TIMEOUT;
    let mut again = false;
    loop {
        match budget.spend(cost, again) {
            Verdict::Admit => return true,
            Verdict::Wait(time) if Instant::now() + time <= end => {
                sleep_until(Instant::now() + time).await;
            }
            Verdict::Wait(_) | Verdict::End => return false,
        }
        again = true;
    }
}

/// Copy of the URI in its own memory, with only the parameters of Engine.IO.
fn copy(uri: &Uri) -> Uri {
    let query = uri.query().unwrap_or_default();
    let known = |part: &&str| {
        ["EIO=", "transport=", "sid="]
            .iter()
            .any(|name| part.starts_with(name))
    };
    let query: Vec<&str> = query.split('&').filter(known).collect();
    let text = format!("/socket.io/?{}", query.join("&"));
    // Parts of a valid URI are valid.
    text.parse().unwrap_or_default()
}
