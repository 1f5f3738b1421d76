//! One replica. Owns the wiring of all modules, and the order of startup and shutdown.
//!
//! Layer 6. `apptlock serve` is one `App`; `apptlock dev` and tests run several in one process.
//!
//! Order of a shutdown: not ready → a delay for load balancers to notice → resign as leader → notify and close
//! sockets, spread over time → finish requests → write the last activity → publish committed changes → close the bus →
//! stop background tasks → close connections to PostgreSQL. `/livez` answers 200 throughout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::{from_fn_with_state, map_response};
use metrics_exporter_prometheus::PrometheusHandle;
use socketioxide::SocketIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::auth::{Auth, Jwks};
use crate::bus::announcer::Announcer;
use crate::bus::memory::Hub as MemoryHub;
use crate::bus::redis::RedisBus;
use crate::bus::{Bus, BusEvent, Installation};
use crate::config::{BadSetting, Config};
use crate::cursors::Cursors;
use crate::health::{Health, Status};
use crate::http::{Web, ops};
use crate::limits::Limits;
use crate::locks::{Activity, Locks};
use crate::replication::Replication;
use crate::rooms::Rooms;
use crate::server::{ConnectionLimit, Shutdown};
use crate::socket::SocketContext;
use crate::store::Store;
use crate::{audit, http, leadership, middleware, server, socket, sweeper, telemetry};

/// Interval of the upkeep of metrics.
const UPKEEP: Duration = Duration::from_secs(5);
/// Interval of attempts to read the installation's name from PostgreSQL.
const RETRY: Duration = Duration::from_millis(250);
/// Maximum time of a shutdown besides draining: longer than a request accepted at its last moment, and short enough for
/// the usual grace period of 30 seconds. The last spans may take 3 s more, 12 s in all.
const FINISH: Duration = Duration::from_secs(9);

/// Error of starting a replica.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is invalid.
    #[error(transparent)]
    Setting(#[from] BadSetting),
}

/// A running replica.
pub struct App {
    /// Address of REST, Socket.IO and the pages.
    pub address: SocketAddr,
    /// Address of metrics and probes.
    pub management: SocketAddr,
    /// Name, unique among replicas and restarts.
    pub name: String,
    drain_delay: Duration,
    drain_time: Duration,
    health: Health,
    io: SocketIo,
    context: Arc<SocketContext>,
    locks: Locks,
    activity: Activity,
    bus: Arc<dyn Bus>,
    store: Store,
    duty: TaskTracker,
    resign: CancellationToken,
    quit: CancellationToken,
    shutdown: Shutdown,
    background: TaskTracker,
    public: JoinHandle<()>,
    managing: JoinHandle<()>,
}

impl App {
    /// Starts a replica. PostgreSQL and Redis need not be reachable yet: `/readyz` reports when PostgreSQL is. Without
    /// a `REDIS_URL`, replicas of one process exchange messages through `neighbours`.
    ///
    /// # Errors
    /// [`StartError`] if a setting is invalid.
    pub async fn start(config: Config, neighbours: Option<&MemoryHub>) -> Result<Self, StartError> {
        let metrics = config.telemetry.metrics.then(telemetry::recorder);
        let name = config.replica.clone();
        let store = Store::new(&config.database)?;
        let connections = ConnectionLimit::of_clients(
            config.limits.max_sockets,
            config.limits.max_connections_per_address,
            config.database.max_connections,
            config.limits.trusted_proxies.clone().unwrap_or_default(),
        );
        let listener = bind("LISTEN_ADDR", config.settings.listen_addr)?;
        let managing = bind("MANAGEMENT_ADDR", config.settings.management_addr)?;
        let (bus, events): (Arc<dyn Bus>, mpsc::Receiver<BusEvent>) = match &config.redis {
            Some(redis) => {
                let (bus, events) = RedisBus::start(redis, &name, installation(store.clone()))?;
                (Arc::new(bus), events)
            }
            None => {
                if neighbours.is_none() {
                    warn!(
                        "REDIS_URL is not set: this replica works alone; a second one would see its changes late"
                    );
                }
                let (bus, events) = neighbours.cloned().unwrap_or_default().join();
                (Arc::new(bus), events)
            }
        };
        if matches!(config.auth, Auth::Trusted) {
            warn!(
                "AUTH_MODE is trusted: anyone who can reach this port can act as any user; use it only behind a back end that authenticates its users, or for development"
            );
        }
        let (address, management) = (
            local(&listener, config.settings.listen_addr),
            local(&managing, config.settings.management_addr),
        );

        let announcer = Announcer::new(bus.clone(), &name);
        let (rooms, outbound) = Rooms::new(announcer.clone());
        let rooms = Arc::new(rooms);
        let (locks, reader) = Locks::new(
            store.clone(),
            rooms.clone(),
            announcer.clone(),
            config.settings.lock_ttl,
            config.limits.max_leases_per_identity,
        );
        let cursors = Arc::new(Cursors::new(rooms.clone(), announcer.clone()));
        let limits = Limits::new(config.limits.config());
        let origins = config.limits.cors_allowed_origins.unwrap_or_default();
        let activity = Activity::new(locks.clone(), rooms.clone());
        let context = Arc::new(SocketContext::new(
            locks.clone(),
            rooms.clone(),
            cursors.clone(),
            activity.clone(),
            config.auth.clone(),
            limits.clone(),
            origins.clone(),
        ));
        let (transport, io) = socket::start(context.clone());
        let (resign, quit) = (CancellationToken::new(), CancellationToken::new());
        let shutdown = Shutdown::default();

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
            term.clone(),
            resign.clone(),
        ));
        duty.spawn(audit::forget(
            store.clone(),
            name.clone(),
            config.settings.history_retention,
            term.clone(),
            resign.clone(),
        ));
        let lease_gauge = sweeper::lease_gauge(store.clone(), term.clone(), resign.clone());
        duty.spawn(lease_gauge);
        duty.close();

        let background = TaskTracker::new();
        let dispatcher = socket::dispatch(store.clock(), outbound, quit.clone());
        background.spawn(dispatcher);
        let (interval, stop) = (config.settings.cursor_interval, quit.clone());
        background.spawn(async move { cursors.run(interval, stop).await });
        background.spawn(reader.run(quit.clone()));
        let replication = Arc::new(Replication::new(rooms.clone(), store.clone(), announcer));
        let (receiver, stop) = (replication.clone(), quit.clone());
        background.spawn(async move { receiver.receive(events, stop).await });
        let (watcher, stop) = (replication.clone(), quit.clone());
        background.spawn(async move { watcher.watch(stop).await });
        let stop = quit.clone();
        background.spawn(async move { replication.reconcile(stop).await });
        if let Some(metrics) = &metrics {
            background.spawn(upkeep(metrics.clone(), quit.clone()));
        }
        let keys = config.auth.key_set().cloned();
        if let Some(keys) = keys.clone() {
            let stop = quit.clone();
            background.spawn(async move { keys.keep_fresh(stop).await });
        }
        let health = Health::new(keys.clone(), connections.clone());
        background.spawn(health.clone().watch(store.clone(), quit.clone()));
        background.close();

        let gauges = Gauges {
            locks: locks.clone(),
            store: store.clone(),
            rooms,
            bus: bus.clone(),
            limits: limits.clone(),
            health: health.clone(),
            io: io.clone(),
            connections: connections.clone(),
            keys,
        };
        let ops = ops::Ops {
            health: health.clone(),
            metrics,
            set_gauges: Arc::new(move || gauges.set()),
        };
        let web = Web {
            locks: locks.clone(),
            store: store.clone(),
            auth: config.auth.clone(),
            limits,
            trust_callers: config.telemetry.trace_trust_callers,
            pages: config.settings.pages,
            demo: config.demo,
        };
        let hosts = Arc::new(config.limits.allowed_hosts.unwrap_or_default());
        let mut router = http::router(web, quit.clone());
        if matches!(config.auth, Auth::Trusted) {
            let origins = Arc::new(origins.clone());
            router = router.layer(from_fn_with_state(origins, middleware::cross_origin));
        }
        let router = router
            .layer(from_fn_with_state(transport, socket::middleware))
            .layer(middleware::cors(&origins))
            .layer(from_fn_with_state(hosts, middleware::allowed_hosts))
            .layer(map_response(middleware::security_headers));
        let public = server::serve(listener, router, connections, shutdown.clone());
        // Probes are answered until the end.
        let managing = server::serve(
            managing,
            ops::router(ops),
            ConnectionLimit::of_management(),
            Shutdown::default(),
        );
        info!(%address, %management, replica = name, "apptlock {} serves", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            address,
            management,
            name,
            drain_delay: config.settings.drain_delay,
            drain_time: config.settings.drain_time,
            health,
            io,
            context,
            locks,
            activity,
            bus,
            store,
            duty,
            resign,
            quit,
            shutdown,
            background,
            public,
            managing,
        })
    }

    /// Shuts down in order. Returns when all work in progress is done or has timed out: after at most the drain delay
    /// plus the drain time plus [`FINISH`].
    pub async fn stop(self) {
        self.health.drain();
        self.shutdown.leave.cancel();
        info!(replica = self.name, "stopping: no longer ready");
        // Load balancers probe periodically: until they notice, requests still arrive.
        tokio::time::sleep(self.drain_delay).await;
        let end = Instant::now() + self.drain_time + FINISH;
        self.resign.cancel();
        within(end, "resigning as leader", self.duty.wait()).await;
        let close = socket::close(&self.io, &self.context, self.drain_time);
        within(end, "closing sockets", close).await;
        self.shutdown.finish.cancel();
        within(end, "finishing requests", self.public).await;
        within(end, "writing the last activity", self.activity.finish()).await;
        within(end, "publishing committed changes", self.locks.finish()).await;
        self.bus.close().await;
        if self.bus.take_unsent() {
            let note = self.store.note_unpublished(&self.name);
            within(end, "recording unpublished changes", note).await;
        }
        self.quit.cancel();
        within(end, "stopping background tasks", self.background.wait()).await;
        self.store.close();
        self.managing.abort();
        info!(replica = self.name, "stopped");
    }
}

/// Reads the installation's name and key, retrying until PostgreSQL answers. [`Health`] reports that it does not.
async fn installation(store: Store) -> Installation {
    loop {
        match store.installation().await {
            Ok((name, key)) => return Installation { name, key },
            Err(error) => debug!(%error, "the installation's name and key are not known yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Runs a step of the shutdown until `end`, but for at least 100 ms, so that every step is begun.
async fn within<T>(end: Instant, what: &str, work: impl Future<Output = T>) {
    let end = end.max(Instant::now() + Duration::from_millis(100));
    if tokio::time::timeout_at(end, work).await.is_err() {
        warn!("{what} took too long; continuing without it");
    }
}

/// Merges the samples of histograms periodically, so that they do not accumulate if nothing scrapes them.
async fn upkeep(metrics: PrometheusHandle, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            metrics.run_upkeep();
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Sources of the gauges that are set at each scrape.
struct Gauges {
    locks: Locks,
    store: Store,
    rooms: Arc<Rooms>,
    bus: Arc<dyn Bus>,
    limits: Arc<Limits>,
    health: Health,
    io: SocketIo,
    connections: ConnectionLimit,
    keys: Option<Arc<Jwks>>,
}

impl Gauges {
    fn set(&self) {
        let set = |name: &'static str, value: usize| metrics::gauge!(name).set(value as f64);
        // A permit is taken before the socket is connected, so a socket that does not poll yet counts as a WebSocket.
        let (all, polling) = (self.limits.sockets_now(), socket::polling(&self.io));
        let websocket = all.saturating_sub(polling);
        for (transport, count) in [("polling", polling), ("websocket", websocket)] {
            metrics::gauge!(telemetry::SOCKETS, "transport" => transport).set(count as f64);
        }
        set(telemetry::SOCKETS_LIMIT, self.limits.config().sockets);
        let (open, max) = self.connections.open();
        set(telemetry::CONNECTIONS, open);
        set(telemetry::CONNECTIONS_LIMIT, max);
        if let Some(age) = self.keys.as_ref().and_then(|keys| keys.age()) {
            metrics::gauge!(telemetry::JWKS_AGE).set(age.as_secs_f64());
        }
        set(telemetry::ROOMS, self.rooms.count());
        let (depth, capacity) = self.rooms.outbound();
        set(telemetry::OUTLET_DEPTH, depth);
        set(telemetry::OUTLET_CAPACITY, capacity);
        let load = self.bus.load();
        set(telemetry::BUS_SUBSCRIPTIONS, load.subscriptions);
        set(telemetry::BUS_QUEUE_DEPTH, load.queued);
        set(telemetry::ROWS_WAITING, self.locks.waiting());
        set(telemetry::READS_WAITING, self.locks.reads_waiting());
        let pool = self.store.pool();
        for (state, count) in [("busy", pool.busy), ("idle", pool.idle)] {
            metrics::gauge!(telemetry::DATABASE_CONNECTIONS, "state" => state).set(count as f64);
        }
        set(telemetry::DATABASE_WAITING, pool.waiting);
        set(telemetry::DATABASE_LIMIT, pool.limit);
        let ready = self.health.status().0 == Status::Ok;
        set(telemetry::READY, usize::from(ready));
        metrics_process::Collector::default().collect();
    }
}

/// Listens with a backlog for a burst of clients: one that does not fit waits a second until its system retries.
fn bind(variable: &'static str, address: SocketAddr) -> Result<TcpListener, BadSetting> {
    let listen = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(server::BACKLOG)
    };
    listen().map_err(|error| {
        BadSetting::new(
            variable,
            format!("cannot listen on {address}: {error}"),
            "write a free address and port",
        )
    })
}

fn local(listener: &TcpListener, wanted: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(wanted)
}
