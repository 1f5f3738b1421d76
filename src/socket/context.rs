//! The services that the handlers of sockets share, and the sizes that they agree on.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use metrics::Counter;
use socketioxide::SocketIo;

use super::carriers::Carriers;
use super::engine::Engine;
use crate::auth::Auth;
use crate::cursors::Cursors;
use crate::limits::{Limits, Origins};
use crate::locks::{Activity, Locks};
use crate::rooms::Rooms;
use crate::telemetry;

/// The largest message of a socket, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// What the handlers need.
pub struct SocketContext {
    /// Snapshots.
    pub locks: Locks,
    /// Who watches what.
    pub rooms: Arc<Rooms>,
    /// Where people point.
    pub cursors: Arc<Cursors>,
    /// What renews a lease.
    pub activity: Activity,
    /// Who asks.
    pub(super) auth: Auth,
    /// How often, and how many.
    pub(super) limits: Arc<Limits>,
    /// From which pages.
    pub(super) origins: Origins,
    /// Cursors that moved: kept at hand, because there are so many.
    pub(super) moves: Counter,
    /// Whether sockets are being closed.
    pub(super) closing: AtomicBool,
    /// Where all sockets are, once there is one.
    pub(super) io: Arc<OnceLock<SocketIo>>,
    /// Their sessions, once there are some.
    pub(super) engine: Arc<OnceLock<Engine>>,
    /// What carries sessions that began by polling.
    pub(super) carriers: Arc<Carriers>,
}

impl SocketContext {
    /// What the handlers need.
    pub fn new(
        locks: Locks,
        rooms: Arc<Rooms>,
        cursors: Arc<Cursors>,
        activity: Activity,
        auth: Auth,
        limits: Arc<Limits>,
        origins: Origins,
    ) -> Self {
        Self {
            locks,
            rooms,
            cursors,
            activity,
            auth,
            limits,
            origins,
            moves: metrics::counter!(
                telemetry::SOCKET_EVENTS, "event" => "cursor-position", "outcome" => "ok"
            ),
            closing: AtomicBool::new(false),
            io: Arc::default(),
            engine: Arc::default(),
            carriers: Arc::default(),
        }
    }
}
