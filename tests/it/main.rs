//! Integration tests of every promise, against real PostgreSQL and Redis, with replicas as separate processes.
//!
//! One binary, because each one is linked separately. `support` starts servers and replicas, and has clients for REST
//! and Socket.IO; each other file has the tests of one subject, named as sentences.
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
