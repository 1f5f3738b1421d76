//! The limit of open connections. Owns that no client, and no crowd of idle ones, takes every place: how many there
//! are in all and from one address, which idle connection goes when room is needed, and when this replica counts as
//! full.
//!
//! ```text
//!              admit                     a request                 its answer is flushed
//!   (accepted) ─────▶ idle, by age ──────────────────▶ busy ─────────────────────────────▶ idle …
//!       │ no room, and         │ room is needed: the longest idle goes first
//!       ▼ nobody idle          ▼
//!     refused                aborted
//! ```
//!
//! An address has a bound of its own, and makes room among its own connections first, so one client costs no other
//! one its place. Trusted proxies stand for many clients and have no such bound. A socket that has joined counts
//! for its identity, and no longer for its address: an office behind one address is not an attacker. On failure to
//! raise the limit of open files there are fewer places.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::handle::{ConnectionHandle, Slot, WeakHandle, count_closed};
use crate::limits::{Proxies, RateLimitKey};

/// Connections of clients besides those of sockets.
const REQUESTS: usize = 1000;
/// Connections of those who watch: probes, scrapes.
const WATCHERS: usize = 100;
/// Open files besides the connections of clients and to PostgreSQL: those who watch, Redis, connections that are
/// being refused, and some to spare.
const BESIDES: usize = WATCHERS + 150;
/// A replica that refused a client for want of room counts as full for this long.
const FULL_FOR: Duration = Duration::from_secs(5);

/// Why a connection was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All places of this replica are taken by connections that are in use.
    Replica,
    /// All places of that address are.
    Address,
}

/// The places of one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConnectionLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    max_per_address: usize,
    silence: Duration,
    proxies: Proxies,
    /// Whether what is closed is counted: only of clients.
    counted: bool,
    /// A std mutex: held for a few look-ups, never across an await.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The next connection's number, and the next moment's: both only count.
    next: u64,
    connections: HashMap<u64, Entry>,
    /// Idle connections, the longest idle first: moment to connection.
    idle: BTreeMap<u64, u64>,
    of: HashMap<RateLimitKey, Address>,
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    /// The address that it counts for, unless that is a proxy or the connection has an identity.
    counts_for: Option<RateLimitKey>,
    /// Since which moment it is idle.
    idle: Option<u64>,
    handle: Option<WeakHandle>,
}

#[derive(Debug, Default)]
struct Address {
    open: usize,
    idle: BTreeMap<u64, u64>,
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn set_idle(&mut self, id: u64) {
        let now = self.tick();
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        if entry.idle.is_some() {
            return;
        }
        entry.idle = Some(now);
        self.idle.insert(now, id);
        if let Some(address) = entry.counts_for.as_ref().and_then(|it| self.of.get_mut(it)) {
            address.idle.insert(now, id);
        }
    }

    fn set_busy(&mut self, id: u64) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(since) = entry.idle.take() else {
            return;
        };
        self.idle.remove(&since);
        if let Some(address) = entry.counts_for.as_ref().and_then(|it| self.of.get_mut(it)) {
            address.idle.remove(&since);
        }
    }

    fn leave_address(&mut self, id: u64) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        let Some(key) = entry.counts_for.take() else {
            return;
        };
        if let Some(address) = self.of.get_mut(&key) {
            address.open -= 1;
            if let Some(since) = entry.idle {
                address.idle.remove(&since);
            }
            if address.open == 0 {
                self.of.remove(&key);
            }
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        self.leave_address(id);
        let entry = self.connections.remove(&id)?;
        if let Some(since) = entry.idle {
            self.idle.remove(&since);
        }
        Some(entry)
    }

    /// Takes the longest idle connection out, of that address or of all.
    fn evict(&mut self, key: Option<&RateLimitKey>) -> Option<ConnectionHandle> {
        let idle = match key {
            Some(key) => &self.of.get(key)?.idle,
            None => &self.idle,
        };
        let (_, id) = idle.first_key_value()?;
        self.remove(*id)?.handle?.upgrade()
    }
}

impl ConnectionLimit {
    /// For clients: so many that files are left for so many connections to PostgreSQL, and for probes.
    #[must_use]
    pub fn of_clients(sockets: usize, per_address: usize, database: u32, proxies: Proxies) -> Self {
        let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rest = limit.saturating_sub(BESIDES + database as usize);
        let max = (sockets + REQUESTS).min(rest).max(1);
        // However few places there are, half of them are beyond one client's reach.
        let per_address = per_address.min(max.div_ceil(2));
        Self::new(max, per_address, Duration::from_secs(10), proxies)
    }

    /// For those who watch.
    #[must_use]
    pub fn of_watchers() -> Self {
        let none = Proxies::default();
        Self::with(WATCHERS, WATCHERS / 2, Duration::from_secs(5), none, false)
    }

    pub(super) fn new(
        max: usize,
        max_per_address: usize,
        silence: Duration,
        proxies: Proxies,
    ) -> Self {
        Self::with(max, max_per_address, silence, proxies, true)
    }

    fn with(
        max: usize,
        max_per_address: usize,
        silence: Duration,
        proxies: Proxies,
        counted: bool,
    ) -> Self {
        Self(Arc::new(Shared {
            max,
            max_per_address,
            silence,
            proxies,
            counted,
            table: Mutex::default(),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that was closed or refused here.
    pub(super) fn count(&self, reason: &'static str) {
        if self.0.counted {
            count_closed(reason);
        }
    }

    /// How long a connection may stay without having asked anything.
    pub(super) fn silence(&self) -> Duration {
        self.0.silence
    }

    /// A place for a connection of that peer, which is idle until it asks. Where there is none, the longest idle
    /// connection is aborted for it.
    ///
    /// # Errors
    /// [`Full`] where every connection that could make room is in use.
    pub(super) fn admit(&self, peer: IpAddr) -> Result<Permit, Full> {
        let shared = &self.0;
        let key = (!shared.proxies.trusts(peer)).then(|| RateLimitKey::address(peer));
        let mut evicted = Vec::new();
        let mut table = self.table();
        let full = |open: usize, max: usize| open >= max;
        let admitted = 'admitted: {
            if let Some(key) = &key {
                let open = table.of.get(key).map_or(0, |address| address.open);
                if full(open, shared.max_per_address) {
                    match table.evict(Some(key)) {
                        Some(handle) => evicted.push(handle),
                        None => break 'admitted Err(Full::Address),
                    }
                }
            }
            if full(table.connections.len(), shared.max) {
                match table.evict(None) {
                    Some(handle) => evicted.push(handle),
                    None => {
                        table.refused = Some(Instant::now());
                        break 'admitted Err(Full::Replica);
                    }
                }
            }
            let id = table.tick();
            if let Some(key) = &key {
                table.of.entry(key.clone()).or_default().open += 1;
            }
            table.connections.insert(
                id,
                Entry {
                    counts_for: key,
                    idle: None,
                    handle: None,
                },
            );
            Ok(Permit {
                limit: self.clone(),
                id,
            })
        };
        drop(table);
        for handle in evicted {
            self.count("idle");
            handle.abort();
        }
        if let Err(full) = admitted {
            self.count(match full {
                Full::Replica => "full",
                Full::Address => "address",
            });
        }
        admitted
    }

    /// A place beyond the limit, for a connection that the system has accepted already.
    pub(super) fn admit_over(&self) -> Permit {
        let mut table = self.table();
        let id = table.tick();
        let entry = Entry {
            counts_for: None,
            idle: None,
            handle: None,
        };
        table.connections.insert(id, entry);
        Permit {
            limit: self.clone(),
            id,
        }
    }

    /// Connections that are open, and the maximum.
    #[must_use]
    pub fn open(&self) -> (usize, usize) {
        (self.table().connections.len(), self.0.max)
    }

    /// Whether a client found no place a moment ago: another replica is the better choice then.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let refused = self.table().refused;
        refused.is_some_and(|at| at.elapsed() < FULL_FOR)
    }
}

/// The place of one connection, until it is released.
#[derive(Debug)]
pub(super) struct Permit {
    limit: ConnectionLimit,
    id: u64,
}

impl Slot for Permit {
    fn begin(&self, handle: WeakHandle) {
        let mut table = self.limit.table();
        if let Some(entry) = table.connections.get_mut(&self.id) {
            entry.handle = Some(handle);
        }
        table.set_idle(self.id);
    }

    fn idle(&self) {
        self.limit.table().set_idle(self.id);
    }

    fn busy(&self) {
        self.limit.table().set_busy(self.id);
    }

    fn leave_address(&self) {
        self.limit.table().leave_address(self.id);
    }

    fn release(&self) {
        self.limit.table().remove(self.id);
    }
}

/// Raises the limit of open files that this process was started with, which is 1024 in many containers, as far as
/// the system lets it, so that so many sockets can be open at once. Warns where that is not far enough.
pub fn raise_file_limit(sockets: usize, database: u32) {
    let wanted = (sockets + REQUESTS + BESIDES) as u64 + u64::from(database);
    let limit = rlimit::increase_nofile_limit(wanted);
    if !limit.as_ref().is_ok_and(|limit| *limit >= wanted) {
        let limit = limit.map_or_else(|error| error.to_string(), |limit| limit.to_string());
        warn!(
            limit,
            wanted,
            "the limit of open files is below what MAX_SOCKETS needs: raise the hard limit (LimitNOFILE=, ulimit -Hn, the container runtime's), or lower MAX_SOCKETS"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: usize, per_address: usize, proxies: &str) -> ConnectionLimit {
        let proxies = Proxies::parse(proxies).unwrap();
        ConnectionLimit::new(max, per_address, Duration::from_secs(1), proxies)
    }

    fn connect(limit: &ConnectionLimit, peer: &str) -> Result<(Permit, ConnectionHandle), Full> {
        let permit = limit.admit(peer.parse().unwrap())?;
        let handle = ConnectionHandle::default();
        permit.begin(handle.downgrade());
        Ok((permit, handle))
    }

    #[test]
    fn the_longest_idle_connection_makes_room_and_a_busy_one_does_not() {
        let limit = limit(3, 3, "");
        let first = connect(&limit, "192.0.2.1").unwrap();
        let second = connect(&limit, "192.0.2.2").unwrap();
        let third = connect(&limit, "192.0.2.3").unwrap();
        first.0.busy();
        let fourth = connect(&limit, "192.0.2.4").unwrap();
        assert!(second.1.is_aborted() && !first.1.is_aborted() && !third.1.is_aborted());
        assert_eq!(limit.open(), (3, 3));
        second.0.release();
        assert_eq!(limit.open(), (3, 3), "its place was another's already");
        third.0.busy();
        fourth.0.busy();
        assert_eq!(connect(&limit, "192.0.2.5").unwrap_err(), Full::Replica);
        assert!(limit.is_full());
        first.0.idle();
        assert!(connect(&limit, "192.0.2.5").is_ok() && first.1.is_aborted());
    }

    #[test]
    fn an_address_makes_room_among_its_own_and_a_proxy_has_no_bound() {
        let limit = limit(9, 2, "10.0.0.0/8");
        let ours = connect(&limit, "192.0.2.1").unwrap();
        let first = connect(&limit, "192.0.2.9").unwrap();
        let second = connect(&limit, "192.0.2.9").unwrap();
        let third = connect(&limit, "192.0.2.9").unwrap();
        assert!(first.1.is_aborted() && !ours.1.is_aborted());
        second.0.busy();
        third.0.busy();
        assert_eq!(connect(&limit, "192.0.2.9").unwrap_err(), Full::Address);
        assert!(!limit.is_full(), "others still find a place");
        third.0.leave_address();
        let known = connect(&limit, "192.0.2.9").unwrap();
        known.0.busy();
        for _ in 0..3 {
            connect(&limit, "10.1.2.3").unwrap().0.busy();
        }
    }

    #[test]
    fn what_is_released_leaves_nothing_behind() {
        let limit = limit(9, 9, "");
        for _ in 0..3 {
            let (permit, _handle) = connect(&limit, "192.0.2.1").unwrap();
            permit.busy();
            permit.idle();
            permit.leave_address();
            permit.release();
            permit.idle();
        }
        let table = limit.table();
        assert!(table.connections.is_empty() && table.idle.is_empty() && table.of.is_empty());
    }
}
