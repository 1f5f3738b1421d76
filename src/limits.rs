//! Budgets: how often a caller may ask, and how many sockets it may have. Owns every budget that is not a request's:
//! events and cursors of sockets, connections, frames, failures; and the key that a budget belongs to.
//!
//! Layer 1. A budget belongs to an identity, else to a client's address. Each replica keeps budgets for itself. Nothing
//! waits: a caller that is over a budget is refused, counted and answered. HTTP requests have the same rates, in the
//! middleware.

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
