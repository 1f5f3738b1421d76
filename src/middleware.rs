//! Middleware of the public interface, one concern per file, for `http` and `socket` alike.
//!
//! Layer 5. Knows no routes, no handlers and no sessions: what it decides about is a request and its response. A
//! middleware that refuses a request answers it with an [`ApiError`], in the envelope of every other answer.
//!
//! ```text
//!   all requests       security_headers ─▶ hosts ─▶ cors ─┬─▶ Socket.IO
//!                                                         └─▶ cross_origin ─▶ routes
//!   routes             request_id ─▶ request_log ─▶ deadline ─▶ API routes, open routes
//!   API routes         identity ─▶ rate_limit ─▶ handler
//!   open routes        rate_limit (by address) ─▶ handler
//! ```
//!
//! To add one: a file here, and a line where its scope is assembled: `app.rs` for all requests, `http.rs` for all
//! routes, `http/routes.rs` for the routes of the API.

mod api_error;
mod body;
mod client_address;
mod cors;
mod cross_origin;
mod deadline;
mod hosts;
mod identity;
mod rate_limit;
mod request_id;
mod request_log;
mod security_headers;

pub use api_error::{ApiError, panicked, refuse};
pub use body::{MAX_BODY, ParsedBody, Unread, collect, collect_rest_body};
pub use client_address::client_address;
pub use cors::cors;
pub use cross_origin::{check_origin, cross_origin};
pub use deadline::{DEADLINE, deadline, late_body};
pub use hosts::allowed_hosts;
pub use identity::{Caller, Identification, identify};
pub use rate_limit::{RateLimit, limit_by_address};
pub use request_id::discard_invalid_request_id;
pub use request_log::{RequestLog, request_log};
pub use security_headers::security_headers;
