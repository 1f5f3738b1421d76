//! One replica: everything wired together, started and stopped in order.
//!
//! Layer 6. `apptlock serve` is one `App`; `apptlock dev` and tests run several in one process.
//!
//! A stop goes: unready → a while for balancers to notice → sweeping and leadership given up → sockets told and
//! closed, spread over time → requests finished → the last activity written, what was committed published →
//! bus → loops → connections. Liveness stays green throughout.

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
use crate::limits::{Hosts, Limits};
use crate::locks::{Activity, Locks};
use crate::replication::Replication;
use crate::rooms::Rooms;
use crate::server::{ConnectionLimit, Shutdown};
use crate::socket::SocketContext;
use crate::store::Store;
use crate::{audit, http, leadership, middleware, server, socket, sweeper, telemetry};

/// Between two times that metrics are tidied.
const UPKEEP: Duration = Duration::from_secs(5);
/// Between two times that PostgreSQL is asked for the installation's name.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long all that a stop does beside draining may take: longer than a request that was taken in its last
/// moment, and short enough for the usual 30 seconds. The last spans may take 3 s more, which makes 12 s.
const FINISH: Duration = Duration::from_secs(9);

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
    /// Starts a replica. Neither PostgreSQL nor Redis need be there yet: `/readyz` says when they are. Where
    /// no Redis is set, replicas of one process find each other in `neighbours`.
    ///
    /// # Errors
    /// [`StartError`] where a setting cannot be used.
    pub async fn start(config: Config, neighbours: Option<&MemoryHub>) -> Result<Self, StartError> {
        let metrics = config.metrics.then(telemetry::recorder);
        let name = config.replica.clone();
        let store = Store::new(&config.database)?;
        let connections = ConnectionLimit::of_clients(
            config.limits.sockets,
            config.limits.connections_each,
            config.database.max_connections,
            config.limits.proxies.clone(),
        );
        let listener = bind("LISTEN_ADDR", config.listen)?;
        let managing = bind("MANAGEMENT_ADDR", config.management)?;
        let (bus, events): (Arc<dyn Bus>, mpsc::Receiver<BusEvent>) = match &config.redis {
            Some(redis) => {
                let (bus, events) = RedisBus::start(redis, &name, installation(store.clone()))?;
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
        if matches!(config.auth, Auth::Trusted) {
            warn!(
                "AUTH_MODE is trusted: whoever reaches this port can act as anybody; use it only behind a back end that has checked its users, or for development"
            );
        }
        let (address, management) = (
            local(&listener, config.listen),
            local(&managing, config.management),
        );

        let announcer = Announcer::new(bus.clone(), &name);
        let (rooms, outbound) = Rooms::new(announcer.clone());
        let rooms = Arc::new(rooms);
        let (locks, reader) = Locks::new(
            store.clone(),
            rooms.clone(),
            announcer.clone(),
            config.lock_ttl,
            config.max_leases,
        );
        let cursors = Arc::new(Cursors::new(rooms.clone(), announcer.clone()));
        let limits = Limits::new(config.limits.clone());
        let activity = Activity::new(locks.clone(), rooms.clone());
        let context = Arc::new(SocketContext::new(
            locks.clone(),
            rooms.clone(),
            cursors.clone(),
            activity.clone(),
            config.auth.clone(),
            limits.clone(),
            config.origins.clone(),
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
            config.history_retention,
            term.clone(),
            resign.clone(),
        ));
        let lease_gauge = sweeper::lease_gauge(store.clone(), term.clone(), resign.clone());
        duty.spawn(lease_gauge);
        duty.close();

        let background = TaskTracker::new();
        let dispatcher = socket::dispatch(store.clock(), outbound, quit.clone());
        background.spawn(dispatcher);
        let (interval, stop) = (config.cursor_interval, quit.clone());
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
            trust_callers: config.trust_callers,
            pages: config.pages,
            demo: config.demo,
        };
        let hosts = Arc::new(config.hosts.unwrap_or(Hosts::All));
        let mut router = http::router(web, quit.clone());
        if matches!(config.auth, Auth::Trusted) {
            let origins = Arc::new(config.origins.clone());
            router = router.layer(from_fn_with_state(origins, middleware::cross_origin));
        }
        let router = router
            .layer(from_fn_with_state(transport, socket::middleware))
            .layer(middleware::cors(&config.origins))
            .layer(from_fn_with_state(hosts, middleware::allowed_hosts))
            .layer(map_response(middleware::security_headers));
        let public = server::serve(listener, router, connections, shutdown.clone());
        // Probes are answered to the end.
        let managing = server::serve(
            managing,
            ops::router(ops),
            ConnectionLimit::of_watchers(),
            Shutdown::default(),
        );
        info!(%address, %management, replica = name, "apptlock {} serves", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            address,
            management,
            name,
            drain_delay: config.drain_delay,
            drain_time: config.drain_time,
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

    /// Stops in order, and returns when everything that was under way is done or has had its time: at most
    /// the drain's delay and time, and [`FINISH`].
    pub async fn stop(self) {
        self.health.drain();
        self.shutdown.leave.cancel();
        info!(replica = self.name, "stopping: no longer ready");
        // Balancers ask every now and then: until they have noticed, requests still come.
        tokio::time::sleep(self.drain_delay).await;
        let end = Instant::now() + self.drain_time + FINISH;
        self.resign.cancel();
        within(end, "giving up the duty", self.duty.wait()).await;
        let close = socket::close(&self.io, &self.context, self.drain_time);
        within(end, "closing sockets", close).await;
        self.shutdown.finish.cancel();
        within(end, "finishing requests", self.public).await;
        within(end, "writing the last activity", self.activity.finish()).await;
        within(end, "publishing what was committed", self.locks.finish()).await;
        self.bus.close().await;
        if self.bus.take_unsent() {
            let note = self.store.note_unpublished(&self.name);
            within(end, "noting what was not published", note).await;
        }
        self.quit.cancel();
        within(end, "ending the loops", self.background.wait()).await;
        self.store.close();
        self.managing.abort();
        info!(replica = self.name, "stopped");
    }
}

/// The installation's name and key, as soon as PostgreSQL says so. That it does not is told by [`Health`].
async fn installation(store: Store) -> Installation {
    loop {
        match store.installation().await {
            Ok((name, key)) => return Installation { name, key },
            Err(error) => debug!(%error, "the installation's name and key are not known yet"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Works until it is done or the time is over; at the very least it is begun.
async fn within<T>(end: Instant, what: &str, work: impl Future<Output = T>) {
    let end = end.max(Instant::now() + Duration::from_millis(100));
    if tokio::time::timeout_at(end, work).await.is_err() {
        warn!("{what} took too long; going on without");
    }
}

/// Folds up what histograms gather, whether or not somebody scrapes them.
async fn upkeep(metrics: PrometheusHandle, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            metrics.run_upkeep();
        }
    };
    stop.run_until_cancelled(work).await;
}

/// What gauges show that are set when somebody looks.
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
        // A place is taken before a socket is quite here: what does not poll, or not yet, counts as the other.
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

/// Listens, with room for a burst of clients that connect at once: whoever finds none waits a second before the system
/// tries again.
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
            "write an address and port that are free",
        )
    })
}

fn local(listener: &TcpListener, wanted: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(wanted)
}
