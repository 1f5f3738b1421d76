//! Services and sizes shared by the socket handlers.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use metrics::Counter;
use socketioxide::SocketIo;

use super::engine::Engine;
use super::engine_sessions::EngineSessions;
use crate::auth::Auth;
use crate::cursors::Cursors;
use crate::limits::{Limits, Origins};
use crate::locks::{Activity, Locks};
use crate::rooms::Rooms;
use crate::telemetry;

/// Maximum size of a client's message, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// Services that the handlers use.
pub struct SocketContext {
    /// Lock service, for snapshots.
    pub locks: Locks,
    /// Local rooms.
    pub rooms: Arc<Rooms>,
    /// Cursor service.
    pub cursors: Arc<Cursors>,
    /// Renewal of leases by activity.
    pub activity: Activity,
    /// Authentication.
    pub(super) auth: Auth,
    /// Rate and connection limits.
    pub(super) limits: Arc<Limits>,
    /// Allowed origins.
    pub(super) origins: Origins,
    /// Counter of cursor moves, looked up once because they are frequent.
    pub(super) moves: Counter,
    /// True during a shutdown.
    pub(super) closing: AtomicBool,
    /// All sockets, once Socket.IO has started.
    pub(super) io: Arc<OnceLock<SocketIo>>,
    /// Engine.IO, once it has started.
    pub(super) engine: Arc<OnceLock<Engine>>,
    /// Engine.IO sessions that began by polling.
    pub(super) engine_sessions: Arc<EngineSessions>,
}

impl SocketContext {
    /// Creates the context of these services.
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
            engine_sessions: Arc::default(),
        }
    }
}
