//! One replica: everything wired together, started and stopped in order.
//!
//! Layer 6. `apptlock serve` is one `App`; `apptlock dev` and tests run several in one process.
//!
//! A stop goes: unready → sweeping and leadership given up → sockets told and closed → requests finished →
//! what was committed is announced → bus → pool. Liveness stays green throughout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use socketioxide::SocketIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::auth::AuthMode;
use crate::bus::memory::Hub as MemoryHub;
use crate::bus::redis::RedisBus;
use crate::bus::{Bus, BusEvent};
use crate::config::{BadSetting, Config};
use crate::cursors::Cursors;
use crate::http::{Web, ops};
use crate::locks::{Activity, Locks};
use crate::replication::Replication;
use crate::rooms::Rooms;
use crate::socket::Hub;
use crate::store::Store;
use crate::{http, leadership, socket, sweeper, telemetry};

/// How long requests under way may take at a stop.
const FINISH: Duration = Duration::from_secs(6);
/// A peer that does not take what was sent for this long is gone: a client that stopped reading would keep its
/// socket's writer waiting for ever.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] BadSetting),
}

/// A replica that runs.
pub struct App {
    /// Where REST, Socket.IO and the pages are.
    pub address: SocketAddr,
    /// Where metrics and probes are.
    pub management: SocketAddr,
    /// Its name, unique among replicas and starts.
    pub name: String,
    draining: Arc<AtomicBool>,
    io: SocketIo,
    hub: Arc<Hub>,
    locks: Locks,
    bus: Arc<dyn Bus>,
    store: Store,
    duty: TaskTracker,
    resign: CancellationToken,
    quit: CancellationToken,
    finish: CancellationToken,
    background: TaskTracker,
    public: JoinHandle<()>,
    managing: JoinHandle<()>,
}

impl App {
    /// Starts a replica. Neither PostgreSQL nor Redis need be there yet: `/readyz` says when they are. Where
    /// no Redis is set, replicas of one process find each other in `neighbours`.
    ///
    /// # Errors
    /// [`StartError`] where a setting cannot be used.
    pub async fn start(config: Config, neighbours: Option<&MemoryHub>) -> Result<Self, StartError> {
        let metrics = telemetry::metrics();
        let store = Store::new(&config.database)?;
        let (bus, events): (Arc<dyn Bus>, mpsc::Receiver<BusEvent>) = match &config.redis {
            Some(url) => {
                let (bus, events) = RedisBus::start(url)?;
                (Arc::new(bus), events)
            }
            None => {
                if neighbours.is_none() {
                    warn!(
                        "REDIS_URL is not set: this replica works alone; a second one would not hear of its locks at once"
                    );
                }
                let (bus, events) = neighbours.cloned().unwrap_or_default().join();
                (Arc::new(bus), events)
            }
        };
        if config.auth == AuthMode::Trusted {
            warn!(
                "AUTH_MODE is trusted: whoever reaches this port can act as anybody; use it only behind a back end that has checked its users, or for development"
            );
        }
        let listener = bind("LISTEN_ADDR", config.listen).await?;
        let managing = bind("MANAGEMENT_ADDR", config.management).await?;
        let (address, management) = (
            local(&listener, config.listen),
            local(&managing, config.management),
        );

        let name = format!("{}-{}", host(), uuid::Uuid::new_v4().simple());
        let (rooms, outlet) = Rooms::new(bus.clone());
        let rooms = Arc::new(rooms);
        let locks = Locks::new(
            store.clone(),
            rooms.clone(),
            bus.clone(),
            name.clone(),
            config.lock_ttl,
        );
        let cursors = Arc::new(Cursors::new(rooms.clone(), bus.clone(), name.clone()));
        let hub = Arc::new(Hub {
            locks: locks.clone(),
            rooms: rooms.clone(),
            cursors: cursors.clone(),
            activity: Activity::new(locks.clone(), rooms.clone()),
        });
        let (layer, io) = socket::layer(hub.clone());
        let (resign, quit, finish) = (
            CancellationToken::new(),
            CancellationToken::new(),
            CancellationToken::new(),
        );

        let duty = TaskTracker::new();
        let (elected, term) = watch::channel(None);
        duty.spawn(leadership::campaign(
            store.clone(),
            name.clone(),
            elected,
            resign.clone(),
        ));
        duty.spawn(sweeper::run(
            locks.clone(),
            name.clone(),
            term,
            resign.clone(),
        ));
        duty.close();

        let background = TaskTracker::new();
        background.spawn(socket::pump(io.clone(), outlet));
        let (interval, stop) = (config.cursor_interval, quit.clone());
        background.spawn(async move { cursors.run(interval, stop).await });
        let replication = Arc::new(Replication {
            rooms,
            store: store.clone(),
            bus: bus.clone(),
            replica: name.clone(),
            gap: Notify::new(),
        });
        let (receiver, stop) = (replication.clone(), quit.clone());
        background.spawn(async move { receiver.receive(events, stop).await });
        let stop = quit.clone();
        background.spawn(async move { replication.reconcile(stop).await });
        background.close();

        let draining = Arc::new(AtomicBool::new(false));
        let ops = ops::Ops {
            store: store.clone(),
            draining: draining.clone(),
            metrics,
        };
        let router = http::router(Web {
            locks: locks.clone(),
            demo: config.demo,
        })
        .layer(layer);
        let public = serve(listener, router, finish.clone());
        let managing = serve(managing, ops::router(ops), finish.clone());
        info!(%address, %management, replica = name, "apptlock {} serves", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            address,
            management,
            name,
            draining,
            io,
            hub,
            locks,
            bus,
            store,
            duty,
            resign,
            quit,
            finish,
            background,
            public,
            managing,
        })
    }

    /// Stops in order, and returns when everything that was under way is done or has had its time.
    pub async fn stop(self) {
        info!(replica = self.name, "stopping: no longer ready");
        self.draining.store(true, Ordering::Relaxed);
        self.resign.cancel();
        within("giving up the sweeper's duty", self.duty.wait()).await;
        socket::close(&self.io, &self.hub).await;
        self.finish.cancel();
        within("finishing requests", self.public).await;
        within("announcing what was committed", self.locks.finish()).await;
        self.bus.close().await;
        self.quit.cancel();
        within("closing the database's connections", self.store.close()).await;
        self.managing.abort();
        drop((self.hub, self.io, self.locks));
        self.background.close();
        info!(replica = self.name, "stopped");
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) {
    if tokio::time::timeout(FINISH, work).await.is_err() {
        warn!("{what} took too long; going on without");
    }
}

async fn bind(variable: &'static str, address: SocketAddr) -> Result<TcpListener, BadSetting> {
    TcpListener::bind(address).await.map_err(|error| {
        BadSetting::new(
            variable,
            format!("cannot listen on {address}: {error}"),
            "write an address and port that are free",
        )
    })
}

fn local(listener: &TcpListener, wanted: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(wanted)
}

fn host() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "replica".into())
}

fn serve(listener: TcpListener, router: Router, finish: CancellationToken) -> JoinHandle<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(|stream| tune(stream));
    tokio::spawn(async move {
        let serving =
            axum::serve(listener, service).with_graceful_shutdown(finish.cancelled_owned());
        if let Err(error) = serving.await {
            warn!(%error, "the listener ended");
        }
    })
}

/// Small packets at once, and no waiting for the dead.
fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let tuned = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    let tuned = tuned.and(socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = tuned {
        debug!(%error, "a connection could not be tuned; it was gone already");
    }
}
