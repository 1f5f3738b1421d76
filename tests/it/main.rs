//! Everything that is promised, against real PostgreSQL and Redis, with replicas as processes of their own.
//!
//! One binary, because each would be linked anew. `support` starts servers and replicas and speaks REST and
//! Socket.IO; each other file holds the tests of one matter, named as sentences.
#![allow(clippy::unwrap_used, missing_docs)]

mod attackers;
mod audit;
mod bad_input;
mod balancers;
mod beside;
mod bus;
mod clocks;
mod connections;
mod crossing;
mod demo;
mod events;
mod expiry;
mod faults;
mod house;
mod identity;
mod lifecycle;
mod limits;
mod metrics;
mod parsers;
mod pooler;
mod rest;
mod rolling;
mod rooms;
mod save_check;
mod scrape;
mod simulation;
mod storms;
mod support;
mod tls;
mod traces;
mod wire;
