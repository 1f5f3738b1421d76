//! The limit of open connections. Owns the maximum per replica and per address, the choice of the idle connection that
//! is closed for a new one, and the state in which this replica counts as full. Neither one client nor many idle ones
//! can use up the limit.
//!
//! ```text
//!              admit                     a request                 its response is flushed
//!   (accepted) ─────▶ idle, by age ──────────────────▶ busy ─────────────────────────────▶ idle …
//!       │ limit reached,       │ evicted for a new connection, longest idle first
//!       ▼ none is idle         ▼
//!     refused                aborted
//! ```
//!
//! An address has its own maximum and evicts among its own connections first, so one client does not evict another's.
//! Trusted proxies stand for many clients and have no such maximum. A socket that has joined counts for its identity,
//! and no longer for its address: an office behind one address is not an attacker. If the limit of open files cannot
//! be raised, the maximum is lower.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::handle::{ConnectionHandle, Slot, WeakHandle, count_closed};
use crate::limits::{Proxies, RateLimitKey};

/// Maximum connections of clients in addition to sockets.
const REQUESTS: usize = 1000;
/// Maximum connections to the management port: probes, scrapes.
const MANAGEMENT: usize = 100;
/// Open files besides the connections of clients and to PostgreSQL: the management port, Redis, connections that are
/// being refused, and a reserve.
const BESIDES: usize = MANAGEMENT + 150;
/// Time for which a replica counts as full after it refused a client.
const FULL_FOR: Duration = Duration::from_secs(5);

/// The limit that a refused connection would have exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The maximum of this replica; all connections are busy.
    Replica,
    /// The maximum of the client's address; all its connections are busy.
    Address,
}

/// The connection limit of one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConnectionLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    max_per_address: usize,
    silence: Duration,
    proxies: Proxies,
    /// True if closed connections are counted in metrics, as on the public port.
    counted: bool,
    /// A std mutex: held for a few look-ups, never across an await.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Last value of the counter that numbers both connections and points in time.
    next: u64,
    connections: HashMap<u64, Entry>,
    /// Idle connections, longest idle first: point in time to connection.
    idle: BTreeMap<u64, u64>,
    addresses: HashMap<RateLimitKey, Address>,
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    /// Address that it counts for; `None` for proxies and connections with an identity.
    counts_for: Option<RateLimitKey>,
    /// Point in time since which it is idle.
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
        if let Some(address) = entry
            .counts_for
            .as_ref()
            .and_then(|it| self.addresses.get_mut(it))
        {
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
        if let Some(address) = entry
            .counts_for
            .as_ref()
            .and_then(|it| self.addresses.get_mut(it))
        {
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
        if let Some(address) = self.addresses.get_mut(&key) {
            address.open -= 1;
            if let Some(since) = entry.idle {
                address.idle.remove(&since);
            }
            if address.open == 0 {
                self.addresses.remove(&key);
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

    /// Removes the longest idle connection, of that address or of all.
    fn evict(&mut self, key: Option<&RateLimitKey>) -> Option<ConnectionHandle> {
        let idle = match key {
            Some(key) => &self.addresses.get(key)?.idle,
            None => &self.idle,
        };
        let (_, id) = idle.first_key_value()?;
        self.remove(*id)?.handle?.upgrade()
    }
}

impl ConnectionLimit {
    /// The limit of the public port: at most `sockets` plus some for requests, and few enough that files are left for
    /// `database` connections to PostgreSQL and for the management port.
    #[must_use]
    pub fn of_clients(sockets: usize, per_address: usize, database: u32, proxies: Proxies) -> Self {
        let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rest = limit.saturating_sub(BESIDES + database as usize);
        let max = (sockets + REQUESTS).min(rest).max(1);
        // However low the maximum, half of it is beyond one client's reach.
        let per_address = per_address.min(max.div_ceil(2));
        Self::new(max, per_address, Duration::from_secs(10), proxies)
    }

    /// The limit of the management port.
    #[must_use]
    pub fn of_management() -> Self {
        let none = Proxies::default();
        Self::with(
            MANAGEMENT,
            MANAGEMENT / 2,
            Duration::from_secs(5),
            none,
            false,
        )
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

    /// Counts a connection that this replica closed or refused.
    pub(super) fn count(&self, reason: &'static str) {
        if self.0.counted {
            count_closed(reason);
        }
    }

    /// Timeout of the first request on a connection.
    pub(super) fn silence(&self) -> Duration {
        self.0.silence
    }

    /// Admits a connection of that peer, which is idle until its first request. If the limit is reached, the longest
    /// idle connection is aborted for it.
    ///
    /// # Errors
    /// [`Full`] if every connection that could be evicted is busy.
    pub(super) fn admit(&self, peer: IpAddr) -> Result<Permit, Full> {
        let shared = &self.0;
        let key = (!shared.proxies.trusts(peer)).then(|| RateLimitKey::address(peer));
        let mut evicted = Vec::new();
        let mut table = self.table();
        let full = |open: usize, max: usize| open >= max;
        let admitted = 'admitted: {
            if let Some(key) = &key {
                let open = table.addresses.get(key).map_or(0, |address| address.open);
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
                table.addresses.entry(key.clone()).or_default().open += 1;
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

    /// Admits a connection beyond the limit: one that the system has already accepted.
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

    /// Number of open connections, and the maximum.
    #[must_use]
    pub fn open(&self) -> (usize, usize) {
        (self.table().connections.len(), self.0.max)
    }

    /// True if a client was refused a moment ago, so that load balancers should choose another replica.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let refused = self.table().refused;
        refused.is_some_and(|at| at.elapsed() < FULL_FOR)
    }
}

/// Permit of one connection, until it is released.
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

/// Raises this process's soft limit of open files, 1024 in many containers, to the number that `sockets` and `database`
/// connections need. Warns if the hard limit is lower.
pub fn raise_file_limit(sockets: usize, database: u32) {
    let wanted = (sockets + REQUESTS + BESIDES) as u64 + u64::from(database);
    let limit = rlimit::increase_nofile_limit(wanted);
    if !limit.as_ref().is_ok_and(|limit| *limit >= wanted) {
        let limit = limit.map_or_else(|error| error.to_string(), |limit| limit.to_string());
        warn!(
            limit,
            wanted,
            "the limit of open files is too low for MAX_SOCKETS: raise the hard limit (LimitNOFILE=, ulimit -Hn, the container runtime's setting), or lower MAX_SOCKETS"
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
    fn the_longest_idle_connection_is_evicted_and_a_busy_one_is_not() {
        let limit = limit(3, 3, "");
        let first = connect(&limit, "192.0.2.1").unwrap();
        let second = connect(&limit, "192.0.2.2").unwrap();
        let third = connect(&limit, "192.0.2.3").unwrap();
        first.0.busy();
        let fourth = connect(&limit, "192.0.2.4").unwrap();
        assert!(second.1.is_aborted() && !first.1.is_aborted() && !third.1.is_aborted());
        assert_eq!(limit.open(), (3, 3));
        second.0.release();
        assert_eq!(limit.open(), (3, 3), "its slot was already another's");
        third.0.busy();
        fourth.0.busy();
        assert_eq!(connect(&limit, "192.0.2.5").unwrap_err(), Full::Replica);
        assert!(limit.is_full());
        first.0.idle();
        assert!(connect(&limit, "192.0.2.5").is_ok() && first.1.is_aborted());
    }

    #[test]
    fn an_address_evicts_among_its_own_connections_and_a_proxy_has_no_maximum() {
        let limit = limit(9, 2, "10.0.0.0/8");
        let ours = connect(&limit, "192.0.2.1").unwrap();
        let first = connect(&limit, "192.0.2.9").unwrap();
        let second = connect(&limit, "192.0.2.9").unwrap();
        let third = connect(&limit, "192.0.2.9").unwrap();
        assert!(first.1.is_aborted() && !ours.1.is_aborted());
        second.0.busy();
        third.0.busy();
        assert_eq!(connect(&limit, "192.0.2.9").unwrap_err(), Full::Address);
        assert!(!limit.is_full(), "others are still admitted");
        third.0.leave_address();
        let known = connect(&limit, "192.0.2.9").unwrap();
        known.0.busy();
        for _ in 0..3 {
            connect(&limit, "10.1.2.3").unwrap().0.busy();
        }
    }

    #[test]
    fn a_released_permit_leaves_nothing_behind() {
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
        assert!(
            table.connections.is_empty() && table.idle.is_empty() && table.addresses.is_empty()
        );
    }
}
