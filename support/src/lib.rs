//! Code that the tests in `tests/it/` and the load generator in `load/` share. It is not part of the binary, and knows
//! only apptlock's command line.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod process;
mod proxy;

pub use proxy::Proxy;
