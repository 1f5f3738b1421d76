//! Rate limits and the maximum number of sockets. Owns every budget but that of HTTP requests: events and cursors of
//! sockets, connections, frames, failures; and the key that a budget belongs to.
//!
//! Layer 1. A budget belongs to an identity, or without one to a client's address. Each replica keeps its own budgets.
//! Nothing waits: a caller that exceeds a budget is rejected, counted and answered. HTTP requests have the same rates,
//! in the middleware.

mod address;
mod budgets;
mod failures;
mod frames;
mod hosts;
mod key;
mod origins;

pub use address::Proxies;
pub use budgets::{LimitConfig, Limits, SocketPermit};
pub use frames::{FrameBudget, Pending, Verdict};
pub use hosts::Hosts;
pub use key::{Rate, RateLimitKey, count_rejection};
pub use origins::Origins;
