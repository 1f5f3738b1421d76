//! How many connections may be open. Owns that files are left for probes and for PostgreSQL, however many clients
//! come: further ones wait at the listener. On failure to raise the limit of open files there are fewer places.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// Clients' connections besides those of sockets.
const REQUESTS: usize = 1000;
/// Connections of those who watch: probes, scrapes.
const WATCHERS: usize = 100;
/// Open files besides the connections of clients and to PostgreSQL: those who watch, Redis, and some to spare.
const BESIDES: usize = WATCHERS + 100;

/// The places that connections take, and how long one may keep its place without having asked anything.
#[derive(Debug, Clone)]
pub struct Places {
    pub(super) free: Arc<Semaphore>,
    taken: Arc<AtomicUsize>,
    pub(super) most: usize,
    pub(super) silence: Duration,
}

impl Places {
    /// For clients: so many that files are left for so many connections to PostgreSQL, and for probes. Whoever opens
    /// connections and says nothing must not make this replica look dead.
    #[must_use]
    pub fn of_clients(sockets: usize, database: u32) -> Self {
        let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rest = limit.saturating_sub(BESIDES + database as usize);
        Self::new(
            (sockets + REQUESTS).min(rest).max(1),
            Duration::from_secs(10),
        )
    }

    /// For those who watch.
    #[must_use]
    pub fn of_watchers() -> Self {
        Self::new(WATCHERS, Duration::from_secs(5))
    }

    pub(super) fn new(most: usize, silence: Duration) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            taken: Arc::default(),
            most,
            silence,
        }
    }

    /// How many are taken, and how many there are.
    #[must_use]
    pub fn taken(&self) -> (usize, usize) {
        (self.taken.load(Ordering::Relaxed), self.most)
    }

    pub(super) fn take(&self, free: Option<OwnedSemaphorePermit>) -> Place {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Place {
            taken: self.taken.clone(),
            _free: free,
        }
    }
}

/// The place of one connection, until it is dropped.
pub(super) struct Place {
    taken: Arc<AtomicUsize>,
    _free: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sees to it that so many sockets can be open at once: raises the limit of open files that this process was
/// started with, which is 1024 in many containers, as far as the system lets it. Says so where that is not far enough.
pub fn make_room_for(sockets: usize, database: u32) {
    let wanted = (sockets + REQUESTS + BESIDES) as u64 + u64::from(database);
    let limit = rlimit::increase_nofile_limit(wanted);
    if !limit.as_ref().is_ok_and(|limit| *limit >= wanted) {
        let limit = limit.map_or_else(|error| error.to_string(), |limit| limit.to_string());
        warn!(
            limit,
            wanted,
            "this process may not open as many files as MAX_SOCKETS asks for: raise the hard limit (LimitNOFILE=, ulimit -Hn, the container runtime's), or lower MAX_SOCKETS"
        );
    }
}
