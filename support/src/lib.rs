//! Code that the tests in `tests/it/` and the load generator in `load/` share. It is no part of the binary, and knows
//! nothing of apptlock but its command line.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod process;
mod proxy;

pub use proxy::Proxy;
