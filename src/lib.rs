//! `apptlock`: edit locks on records, with live cursors.
//!
//! Two people open the same appointment and both save: one loses work. With this service a client first acquires a
//! *lease* on the appointment; everyone who has it open sees that immediately; and a save that carries the lease's
//! *fencing token* can be checked.
//!
//! # Layers
//!
//! A layer imports only from those above it in this list; `tests/it/house.rs` checks that.
//!
//! ```text
//!   L0  domain         rules: names, leases, order of versions
//!       secret         values that are never displayed
//!   L1  protocol       all wire formats            auth    authentication
//!       telemetry      metrics, traces, logs       config  settings
//!       limits         rate limits, maximum sockets
//!   L2  store          PostgreSQL, which decides   bus     Redis, which only carries messages
//!       rooms          subscriptions; the only path to the sockets
//!   L3  locks          transitions: commit, then publish
//!       cursors        coalesced per room and tick
//!   L4  replication    receive, watch, reconcile   leadership, sweeper, audit
//!       server         TCP connections of clients  health  readiness
//!   L5  middleware     shared by http and socket: origins, hosts, deadlines, rate limits, request log
//!       http           REST and pages              socket  Socket.IO, the dispatcher
//!   L6  app            wiring, startup, shutdown   dev     its own PostgreSQL and Redis
//! ```
//!
//! # Invariants
//!
//! 1. PostgreSQL decides: one statement on one row is one transition, and its clock is the only clock.
//! 2. A message on the bus is self-contained and carries a version; messages that are not newer are dropped.
//! 3. All events to sockets go through [`rooms::Rooms`], so that sockets receive versions in order.
//! 4. Correctness never depends on the sweeper, Redis or a cursor.

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
