//! The handle to one connection: in the extensions of each of its requests, so that whoever has one can see whether the
//! connection is busy, and abort it.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::telemetry;

/// The place that a connection has among all, until it is closed.
pub(super) trait Slot: Debug + Send + Sync {
    /// The handle by which the connection can be aborted; it is idle from now on.
    fn begin(&self, handle: WeakHandle);
    /// No request is under way.
    fn idle(&self);
    /// A request is.
    fn busy(&self);
    /// It counts for an identity from now on, and no longer for its address.
    fn leave_address(&self);
    /// It is free for another. Doing it twice does no harm.
    fn release(&self);
}

#[derive(Debug, Default)]
struct Inner {
    aborted: CancellationToken,
    /// Requests that are being answered; a WebSocket is one for ever.
    under_way: AtomicUsize,
    /// Requests that have begun.
    begun: AtomicUsize,
    /// Whether nothing is asked, as far as its slot knows.
    idle: AtomicBool,
    slot: Option<Box<dyn Slot>>,
}

/// A handle to one connection; it is in the extensions of each of its requests.
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

    /// Ends it: its reader sees the end at once, what was written before still goes out.
    pub fn abort(&self) {
        self.0.aborted.cancel();
    }

    /// Whether it was ended, or has ended.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.0.aborted.is_cancelled()
    }

    /// Resolves when it was ended, or has ended.
    pub fn aborted(&self) -> WaitForCancellationFutureOwned {
        self.0.aborted.clone().cancelled_owned()
    }

    /// It carries a socket with an identity of its own, and no longer counts for its address.
    pub fn leave_address(&self) {
        if let Some(slot) = &self.0.slot {
            slot.leave_address();
        }
    }

    /// A handle that does not keep it in memory.
    pub fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        if self.0.idle.swap(false, Ordering::Relaxed)
            && let Some(slot) = &self.0.slot
        {
            slot.busy();
        }
    }

    /// A request has its answer. The connection is idle when that is flushed.
    pub(super) fn finish(&self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether this is not its first request.
    pub(super) fn has_asked_before(&self) -> bool {
        self.begun() > 1
    }

    /// Requests that have begun.
    pub(super) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// Whether requests are under way.
    pub(super) fn is_busy(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) > 0
    }

    /// Takes the connection's slot, and gives it the handle.
    pub(super) fn open(slot: Option<Box<dyn Slot>>) -> Self {
        let handle = Self::new(slot);
        if let Some(slot) = &handle.0.slot {
            slot.begin(handle.downgrade());
        }
        handle
    }

    /// The connection is closed: its slot is free.
    pub(super) fn release(&self) {
        if let Some(slot) = &self.0.slot {
            slot.release();
        }
    }

    pub(super) fn flushed(&self) {
        if !self.is_busy()
            && !self.0.idle.swap(true, Ordering::Relaxed)
            && let Some(slot) = &self.0.slot
        {
            slot.idle();
        }
    }
}

/// A handle to a connection that may be gone.
#[derive(Debug, Clone)]
pub struct WeakHandle(Weak<Inner>);

impl WeakHandle {
    /// The connection, where it is still there.
    pub fn upgrade(&self) -> Option<ConnectionHandle> {
        self.0.upgrade().map(ConnectionHandle)
    }
}

/// Counts a connection that this replica closed or refused.
pub fn count_closed(reason: &'static str) {
    metrics::counter!(telemetry::CONNECTIONS_CLOSED, "reason" => reason).increment(1);
}
