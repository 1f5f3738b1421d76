//! The handle to one connection. Owns its state, busy or idle, and its abort. Each request carries the handle in its
//! extensions.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::telemetry;

/// The slot of a connection within the limit, until it is released.
pub(super) trait Slot: Debug + Send + Sync {
    /// Takes the handle that aborts the connection, which is idle from now on.
    fn begin(&self, handle: WeakHandle);
    /// Marks the connection as idle: no request is in progress.
    fn idle(&self);
    /// Marks the connection as busy: a request is in progress.
    fn busy(&self);
    /// Stops counting the connection for its address: it has an identity.
    fn leave_address(&self);
    /// Frees the slot for another connection. Idempotent.
    fn release(&self);
}

#[derive(Debug, Default)]
struct Inner {
    aborted: CancellationToken,
    /// Number of requests in progress; a WebSocket is one until it closes.
    in_progress: AtomicUsize,
    /// Number of requests that have begun.
    begun: AtomicUsize,
    /// True if the slot counts the connection as idle.
    idle: AtomicBool,
    slot: Option<Box<dyn Slot>>,
}

/// Handle to one connection; each of its requests carries it in its extensions.
#[derive(Debug, Clone, Default)]
pub struct ConnectionHandle(Arc<Inner>);

impl ConnectionHandle {
    fn new(slot: Option<Box<dyn Slot>>) -> Self {
        Self(Arc::new(Inner {
            idle: AtomicBool::new(true),
            slot,
            ..Inner::default()
        }))
    }

    /// Aborts the connection: reads end at once, data written before is still sent.
    pub fn abort(&self) {
        self.0.aborted.cancel();
    }

    /// True if the connection was aborted or has closed.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.0.aborted.is_cancelled()
    }

    /// Resolves once the connection was aborted or has closed.
    pub fn aborted(&self) -> WaitForCancellationFutureOwned {
        self.0.aborted.clone().cancelled_owned()
    }

    /// Stops counting the connection for its address: it carries a socket that counts for its identity.
    pub fn leave_address(&self) {
        if let Some(slot) = &self.0.slot {
            slot.leave_address();
        }
    }

    /// Returns a handle that does not keep the connection's state in memory.
    pub fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    /// Counts a request that begins.
    pub(super) fn begin(&self) {
        self.0.in_progress.fetch_add(1, Ordering::Relaxed);
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        if self.0.idle.swap(false, Ordering::Relaxed)
            && let Some(slot) = &self.0.slot
        {
            slot.busy();
        }
    }

    /// Counts a request as answered. The connection is idle once the response is flushed.
    pub(super) fn finish(&self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }

    /// True from the second request on.
    pub(super) fn is_follow_up(&self) -> bool {
        self.begun() > 1
    }

    /// Number of requests that have begun.
    pub(super) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// True while requests are in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.0.in_progress.load(Ordering::Relaxed) > 0
    }

    /// Creates the handle of a connection, and passes it to its slot.
    pub(super) fn open(slot: Option<Box<dyn Slot>>) -> Self {
        let handle = Self::new(slot);
        if let Some(slot) = &handle.0.slot {
            slot.begin(handle.downgrade());
        }
        handle
    }

    /// Releases the slot of a closed connection.
    pub(super) fn release(&self) {
        if let Some(slot) = &self.0.slot {
            slot.release();
        }
    }

    /// Marks the connection as idle after a flush, unless requests are in progress.
    pub(super) fn flushed(&self) {
        if !self.is_busy()
            && !self.0.idle.swap(true, Ordering::Relaxed)
            && let Some(slot) = &self.0.slot
        {
            slot.idle();
        }
    }
}

/// Handle to a connection that may have closed.
#[derive(Debug, Clone)]
pub struct WeakHandle(Weak<Inner>);

impl WeakHandle {
    /// The handle, if the connection still exists.
    pub fn upgrade(&self) -> Option<ConnectionHandle> {
        self.0.upgrade().map(ConnectionHandle)
    }
}

/// Counts a connection that this replica closed or refused.
pub fn count_closed(reason: &'static str) {
    metrics::counter!(telemetry::CONNECTIONS_CLOSED, "reason" => reason).increment(1);
}
