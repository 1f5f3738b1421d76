//! The services that every operation on a lock uses.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::queue::Queues;
use super::quota::Quota;
use super::reads::Reads;
use crate::bus::announcer::Announcer;
use crate::rooms::Rooms;
use crate::store::Store;

pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) rooms: Arc<Rooms>,
    pub(super) announcer: Announcer,
    pub(super) ttl: Duration,
    pub(super) tasks: TaskTracker,
    pub(super) queues: Queues,
    pub(super) quota: Quota,
    pub(super) reads: Reads,
}
