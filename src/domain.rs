//! The rules, without side effects: no clock, no socket, no database.
//!
//! Layer 0. Everything here is a pure function of its arguments; if time matters, `now` is an argument and comes from
//! PostgreSQL. The only errors are rejected values, and each error says why.

pub mod history;
pub mod ids;
pub mod lease;
pub mod transition;
