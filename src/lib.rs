//! `apptlock`: edit locks on records, with live cursors.
//!
//! Two people open the same appointment and both save: one loses work. A client of this service acquires a
//! *lease* on the appointment first; everybody who looks at it learns so at once; and a save that carries the
//! lease's *fencing token* can be checked.
//!
//! # The map
//!
//! A layer imports only from those above it; `tests/it/house.rs` holds it so.
//!
//! ```text
//!   L0  domain         rules: names, leases, what a newer version means
//!       secret         what is never shown
//!   L1  protocol       every wire shape            auth   who asks
//!       telemetry      metrics, traces, logs       config settings
//!       limits         who may ask how often
//!   L2  store          PostgreSQL, which decides   bus    Redis, which only tells
//!       rooms          who watches what; the only path to the sockets
//!   L3  locks          transitions: commit, then publish
//!       cursors        gathered per room and tick
//!   L4  replication    receive, watch, reconcile   leadership, sweeper, audit
//!       server         clients' TCP connections     health  what probes hear
//!   L5  middleware     what http and socket share: origins, hosts, deadlines, rate limits, request log
//!       http           REST and pages              socket  Socket.IO, the dispatcher
//!   L6  app            wiring, start, stop         dev     own PostgreSQL and Redis
//! ```
//!
//! # What holds, always
//!
//! 1. PostgreSQL decides: one statement on one row is one transition, and its clock is the only clock.
//! 2. What is sent over the bus is whole in itself, and carries a version; what is not newer is dropped.
//! 3. Everything that sockets hear goes through [`rooms::Rooms`], so that they hear versions in order.
//! 4. Nothing needs the sweeper, Redis or a cursor to be right.

pub mod app;
pub mod audit;
pub mod auth;
pub mod bus;
pub mod config;
pub mod cursors;
pub mod dev;
pub mod domain;
pub mod health;
pub mod http;
pub mod leadership;
pub mod limits;
pub mod locks;
pub mod middleware;
pub mod protocol;
pub mod replication;
pub mod rooms;
pub mod secret;
pub mod server;
pub mod socket;
pub mod store;
pub mod sweeper;
pub mod sync;
pub mod telemetry;
