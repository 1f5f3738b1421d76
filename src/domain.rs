//! The rules, without anything that moves: no clock, no socket, no database.
//!
//! Layer 0. Everything here is a pure function of its arguments; where time matters, `now` is an argument
//! and comes from PostgreSQL. Nothing here can fail but by refusing a value, and the refusal says why.

pub mod history;
pub mod ids;
pub mod lease;
pub mod transition;
