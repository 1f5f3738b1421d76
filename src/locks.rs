//! Operations on a lock. Owns their order: PostgreSQL commits, then the change is published.
//!
//! ```text
//!   acquire · renew · release · force_release · take_over · sweep
//!        └──▶ Store: one statement, committed ──▶ publish ──▶ Rooms::apply_local   (this replica, first)
//!                                                        └──▶ Announcer::announce  (other replicas)
//! ```
//!
//! Layer 3. Each transition runs in a task of its own: a client that disconnects cannot prevent the publication of a
//! commit. On failure nothing is published; if the change was committed nevertheless, reconcile shows it.

mod activity;
mod detached;
mod error;
mod operations;
mod outcome;
mod permit;
mod publish;
mod queue;
mod quota;
mod reads;
mod shared;

pub use activity::Activity;
pub use error::LockError;
pub use operations::{Granted, Locks};
pub use reads::Reader;
