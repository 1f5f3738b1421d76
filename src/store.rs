//! PostgreSQL, the authority on every lock. Owns the pool, the schema and every SQL text; the only place with sqlx.
//!
//! Layer 2. One statement per transition, in its own transaction: a reported success is on disk, and a failure left
//! nothing behind. If a connection is lost between the commit and the answer, the outcome is unknown: the caller
//! reads the state again, and reconcile shows it to all.
//!
//! Every statement reads `clock_timestamp()` after it holds the row, never `now()`, which is the start of the
//! transaction, before the wait for the row.

mod audit;
mod clock;
mod connections;
mod database;
mod demo;
mod error;
mod leadership;
mod locks;
mod reconcile;
mod row;
pub mod sql;
mod statement;
mod url;

pub use clock::Clock;
pub use connections::Pool;
pub use database::Store;
pub use demo::{LeaseNotInForce, Saved};
pub use error::{StoreError, Unready};
pub use leadership::Candidate;
pub use locks::{Acquired, Rejected, Swept};
