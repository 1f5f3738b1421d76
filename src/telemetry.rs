//! What operators see: logs and metrics. Owns every metric's name, unit and help, and the log format.
//!
//! Layer 1. Metrics are kept for the process, however many replicas run in it. Nothing here fails a request.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Lock operations, by `operation` and `outcome`.
pub const LOCK_OPERATIONS: &str = "apptlock_lock_operations_total";
/// Seconds between a lease's deadline and its sweep.
pub const EXPIRY_LATENESS: &str = "apptlock_expiry_lateness_seconds";
/// Entries of the history that were forgotten because they were old.
pub const FORGOTTEN: &str = "apptlock_history_forgotten_total";
/// Whether this replica sweeps: 1 or 0.
pub const LEADER: &str = "apptlock_leader";
/// Events handed to local sockets, by `event`.
pub const EVENTS_OUT: &str = "apptlock_events_total";
/// Changes and cursors that did not fit into the outlet.
pub const OUTLET_FULL: &str = "apptlock_outlet_full_total";
/// Packets that did not fit into a socket's own queue.
pub const SOCKET_FULL: &str = "apptlock_socket_queue_full_total";
/// Payloads of socket events that were not what they should be, by `event`.
pub const BAD_PAYLOADS: &str = "apptlock_socket_bad_payloads_total";
/// What was over a limit, by `kind`: request, keep, event, cursor, connection, subscription, abuse.
pub const RATE_LIMITED: &str = "apptlock_rate_limited_total";
/// Sockets connected now.
pub const SOCKETS: &str = "apptlock_sockets";
/// Rooms with a local audience now.
pub const ROOMS: &str = "apptlock_rooms";
/// Messages published on the bus.
pub const BUS_PUBLISHED: &str = "apptlock_bus_published_total";
/// Messages not published, because the queue was full or Redis away.
pub const BUS_UNPUBLISHED: &str = "apptlock_bus_unpublished_total";
/// Messages received from other replicas, by `outcome`: shown, stale, echo (our own) or
/// unreadable.
pub const BUS_RECEIVED: &str = "apptlock_bus_received_total";
/// Times that messages may have been lost.
pub const BUS_GAPS: &str = "apptlock_bus_gaps_total";
/// Whether the bus is up: 1 or 0.
pub const BUS_UP: &str = "apptlock_bus_up";
/// Comparisons of all rooms with PostgreSQL.
pub const RECONCILES: &str = "apptlock_reconcile_passes_total";
/// Rooms that reconcile found behind: an upper bound of the messages lost.
pub const REPAIRS: &str = "apptlock_reconcile_repairs_total";

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the process's metrics recorder, once, and returns the handle that renders it.
pub fn metrics() -> PrometheusHandle {
    RECORDER
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets_for_metric(
                    Matcher::Full(EXPIRY_LATENESS.into()),
                    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0],
                )
                .unwrap_or_else(|_| PrometheusBuilder::new());
            let handle = match builder.install_recorder() {
                Ok(handle) => handle,
                // Somebody who embeds the crate has installed a recorder; theirs is used, this one shows nothing.
                Err(_) => PrometheusBuilder::new().build_recorder().handle(),
            };
            describe();
            handle
        })
        .clone()
}

fn describe() {
    describe_counter!(LOCK_OPERATIONS, "Lock operations by kind and outcome");
    describe_histogram!(
        EXPIRY_LATENESS,
        Unit::Seconds,
        "Time between a lease's deadline and its sweep"
    );
    describe_counter!(FORGOTTEN, "Entries of the history that were forgotten");
    describe_gauge!(LEADER, "Whether this replica sweeps expired leases");
    describe_counter!(EVENTS_OUT, "Events handed to local sockets, by event");
    describe_counter!(
        OUTLET_FULL,
        "Events that did not fit into the outlet; reconcile shows the newest state"
    );
    describe_counter!(
        SOCKET_FULL,
        "Packets that did not fit into a socket's own queue"
    );
    describe_counter!(BAD_PAYLOADS, "Socket payloads that were refused, by event");
    describe_counter!(RATE_LIMITED, "What was over a limit, by kind");
    describe_gauge!(SOCKETS, "Sockets connected");
    describe_gauge!(ROOMS, "Rooms with a local audience");
    describe_counter!(BUS_PUBLISHED, "Messages published on the bus");
    describe_counter!(BUS_UNPUBLISHED, "Messages that could not be published");
    describe_counter!(BUS_RECEIVED, "Messages from other replicas, by outcome");
    describe_counter!(BUS_GAPS, "Times that messages may have been lost");
    describe_gauge!(BUS_UP, "Whether the bus is up");
    describe_counter!(RECONCILES, "Comparisons of all rooms with PostgreSQL");
    describe_counter!(REPAIRS, "Rooms that reconcile found behind PostgreSQL");
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people, with colours where a terminal is.
    Pretty,
}

/// Starts logging to standard error. A second call in the same process changes nothing.
///
/// # Errors
/// A sentence about the filter, where it is not one.
pub fn log(format: LogFormat, filter: &str) -> Result<(), String> {
    // fred's warnings repeat what is said here, and sqlx tells unknown parameters of DATABASE_URL with their
    // values. Whoever names them gets them.
    let quiet = ["fred=error", "sqlx_postgres::options=off"]
        .into_iter()
        .filter(|directive| {
            !filter.contains(directive.split(['=', ':']).next().unwrap_or_default())
        });
    let filter = quiet.fold(filter.to_owned(), |all, directive| {
        format!("{directive},{all}")
    });
    let filter = EnvFilter::try_new(filter).map_err(|fault| fault.to_string())?;
    // These show what clients send, tokens too, below info: no filter lets that out.
    let discreet = filter_fn(|line| {
        let shows = [
            "socketioxide",
            "engineioxide",
            "tungstenite",
            "tokio_tungstenite",
            "hyper",
        ];
        let library = line.target().split("::").next().unwrap_or_default();
        *line.level() <= Level::INFO || !shows.contains(&library)
    });
    let lines = fmt::layer().with_writer(std::io::stderr);
    let start = Registry::default().with(filter).with(discreet);
    // The only error is that logging runs already: several replicas in one process share it.
    let _ = match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            start.with(lines).try_init()
        }
        LogFormat::Pretty => {
            let colours = std::io::stderr().is_terminal();
            start
                .with(lines.with_target(false).with_ansi(colours))
                .try_init()
        }
    };
    Ok(())
}
