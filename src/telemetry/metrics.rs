//! Metrics. Owns the table of their names, kinds, units and help texts, and their recorder.
//!
//! The recorder belongs to the process, however many replicas run in it. Labels have few values, all from the code and
//! none from a client. Series whose labels are known in advance exist from startup with the value 0, so that an alert
//! on an increase sees the first one.

use std::sync::OnceLock;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A value that only rises.
    Counter,
    /// A current value.
    Gauge,
    /// A distribution over these buckets.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name in Prometheus.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Unit.
    pub unit: Unit,
    /// Help text.
    pub help: &'static str,
    /// Label whose values are known in advance, and these values.
    pub known: Option<(&'static str, &'static [&'static str])>,
}

/// Buckets from a millisecond to ten seconds: requests, statements, waits.
const BRIEF: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets up to the maximum of one sweep.
const BATCHES: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];

macro_rules! metrics {
    ($($(#[$about:meta])* $id:ident: $kind:ident$(($buckets:expr))? $name:literal, $unit:ident, $help:literal
        $(, $label:literal in $values:expr)?;)*) => {
        $(#[doc = $help] pub const $id: &str = $name;)*

        /// All metrics.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind$(($buckets))?,
            unit: Unit::$unit,
            help: $help,
            known: metrics!(@known $($label, $values)?),
        }),*];
    };
    (@known) => { None };
    (@known $label:literal, $values:expr) => { Some(($label, &$values)) };
}

metrics! {
    HTTP_REQUESTS: Counter "apptlock_http_requests_total", Count,
        "Answered requests, by method, route and status";
    HTTP_DURATION: Histogram(BRIEF) "apptlock_http_request_duration_seconds", Seconds,
        "Request duration, by method and route";
    HTTP_IN_FLIGHT: Gauge "apptlock_http_requests_in_flight", Count,
        "HTTP requests in progress";

    LOCK_OPERATIONS: Counter "apptlock_lock_operations_total", Count,
        "Lock operations, by operation and outcome: ok, conflict, refused or failed";
    LOCK_DURATION: Histogram(BRIEF) "apptlock_lock_operation_duration_seconds", Seconds,
        "Duration of lock operations, by operation",
        "operation" in ["acquire", "renew", "release", "force_release", "take_over", "verify", "sweep"];
    LEASES: Gauge "apptlock_leases", Count,
        "Active leases, counted by the leader every few seconds; 0 on other replicas";
    EXPIRIES: Counter "apptlock_expiries_total", Count,
        "Expired leases, by what ended them: the sweep, or the next acquire",
        "by" in ["sweep", "acquire"];
    EXPIRY_LATENESS: Histogram(BRIEF) "apptlock_expiry_lateness_seconds", Seconds,
        "Time from a lease's deadline to its sweep";
    SWEEP_BATCH: Histogram(BATCHES) "apptlock_sweep_batch_leases", Count,
        "Leases ended per sweep";
    FORGOTTEN: Counter "apptlock_history_forgotten_total", Count,
        "History entries deleted after their retention";
    LEADER: Gauge "apptlock_leader", Count,
        "1 if this replica sweeps expired leases, else 0";
    LEADER_TERM: Gauge "apptlock_leader_term", Count,
        "Term of this replica's leadership; 0 if it does not lead";

    CONNECTIONS: Gauge "apptlock_connections", Count,
        "Open TCP connections of clients, including those of sockets";
    CONNECTIONS_LIMIT: Gauge "apptlock_connections_limit", Count,
        "Maximum client connections of this replica; beyond it idle ones are closed, or new ones refused";
    CONNECTIONS_CLOSED: Counter "apptlock_connections_closed_total", Count,
        "Connections closed by this replica, by reason: idle (evicted for a new one), full or address (refused: limit reached), silent (no request in time), slow (response not read), binary or flood (invalid or too many frames), left (its socket left)",
        "reason" in ["idle", "full", "address", "silent", "slow", "binary", "flood", "left"];
    SOCKETS: Gauge "apptlock_sockets", Count,
        "Connected sockets, by transport",
        "transport" in ["websocket", "polling"];
    SOCKETS_LIMIT: Gauge "apptlock_sockets_limit", Count,
        "Maximum sockets of this replica";
    SOCKET_CONNECTS: Counter "apptlock_socket_connects_total", Count,
        "Accepted sockets since the start";
    SOCKET_EVENTS: Counter "apptlock_socket_events_total", Count,
        "Events received from sockets, by event and outcome: ok, refused or failed (a server error)";
    SOCKET_FULL: Counter "apptlock_socket_queue_full_total", Count,
        "Packets that did not fit into a socket's queue";
    BAD_PAYLOADS: Counter "apptlock_socket_bad_payloads_total", Count,
        "Invalid payloads of socket events, by event",
        "event" in ["connect", "subscribe", "unsubscribe", "cursor-position", "refresh-token"];
    ROOMS: Gauge "apptlock_rooms", Count,
        "Rooms on this replica";
    EVENTS_OUT: Counter "apptlock_events_total", Count,
        "Events sent to local sockets of a room, by event",
        "event" in ["lock-update", "lock-acquired", "lock-released", "admin-takeover", "cursor-update", "cursor-left"];
    CURSORS_RECEIVED: Counter "apptlock_cursors_received_total", Count,
        "Cursor positions received from local sockets";
    CURSORS_COALESCED: Counter "apptlock_cursors_coalesced_total", Count,
        "Cursor positions replaced by a newer one within a tick, or beyond the maximum per tick";
    CURSORS_SENT: Counter "apptlock_cursors_sent_total", Count,
        "Cursor positions sent at a tick";
    OUTLET_DEPTH: Gauge "apptlock_outlet_depth", Count,
        "Length of the outbound queue between rooms and sockets";
    OUTLET_CAPACITY: Gauge "apptlock_outlet_capacity", Count,
        "Capacity of the outbound queue between rooms and sockets";
    OUTLET_FULL: Counter "apptlock_outlet_full_total", Count,
        "Changes and cursors that did not fit into the outbound queue; reconcile shows the newest state";

    BUS_UP: Gauge "apptlock_bus_up", Count,
        "1 if messages flow between replicas, else 0";
    BUS_PUBLISHED: Counter "apptlock_bus_published_total", Count,
        "Messages published on the bus";
    BUS_UNPUBLISHED: Counter "apptlock_bus_unpublished_total", Count,
        "Messages not published: queue full or Redis down";
    BUS_RECEIVED: Counter "apptlock_bus_received_total", Count,
        "Messages received from the bus, by outcome: shown, stale, no_room, full (outbound queue full), members (rosters of rooms), echo (its own), unreadable, or unsigned (not from this installation)",
        "outcome" in ["shown", "stale", "no_room", "full", "members", "echo", "unreadable", "unsigned"];
    BUS_GAPS: Counter "apptlock_bus_gaps_total", Count,
        "Gaps: occasions on which messages of the bus may have been lost";
    BUS_SUBSCRIPTIONS: Gauge "apptlock_bus_subscriptions", Count,
        "Rooms that this replica subscribes to on the bus";
    BUS_QUEUE_DEPTH: Gauge "apptlock_bus_queue_depth", Count,
        "Messages waiting to be published";
    FANOUT_LAG: Histogram(BRIEF) "apptlock_fanout_lag_seconds", Seconds,
        "Time from PostgreSQL's decision to another replica's sockets, by PostgreSQL's clock";
    RECONCILES: Counter "apptlock_reconcile_passes_total", Count,
        "Comparisons of all rooms with PostgreSQL";
    REPAIRS: Counter "apptlock_reconcile_repairs_total", Count,
        "Rooms found behind PostgreSQL: an upper bound of lost messages";
    RESETS: Counter "apptlock_reconcile_resets_total", Count,
        "Rooms found ahead of PostgreSQL, after a restore or lost commits; their sockets reconnect";

    DATABASE_UP: Gauge "apptlock_database_up", Count,
        "1 if PostgreSQL accepted this replica, answered and was writable at the last check, else 0";
    DATABASE_CONNECTIONS: Gauge "apptlock_database_connections", Count,
        "Connections to PostgreSQL, by state",
        "state" in ["busy", "idle"];
    DATABASE_LIMIT: Gauge "apptlock_database_connections_limit", Count,
        "Maximum connections of this replica to PostgreSQL";
    DATABASE_WAITING: Gauge "apptlock_database_connections_waiting", Count,
        "Statements waiting for a connection";
    DATABASE_WAIT: Histogram(BRIEF) "apptlock_database_connection_wait_seconds", Seconds,
        "Wait of statements for a connection, including opening one";
    DATABASE_TIMEOUTS: Counter "apptlock_database_connection_timeouts_total", Count,
        "Statements that got no connection in time";
    DATABASE_DURATION: Histogram(BRIEF) "apptlock_database_statement_duration_seconds", Seconds,
        "Duration of statements in PostgreSQL, by statement";
    READS_WAITING: Gauge "apptlock_subscription_reads_waiting", Count,
        "Subscriptions waiting for the statement that reads their appointments' states";
    ROWS_HELD: Counter "apptlock_row_waits_timed_out_total", Count,
        "Requests that timed out waiting for an appointment's row, held by another transaction, by where they waited",
        "where" in ["postgres", "queue"];
    ROWS_WAITING: Gauge "apptlock_row_waiting", Count,
        "Requests queued in this replica for an appointment's row";
    DATABASE_ERRORS: Counter "apptlock_database_errors_total", Count,
        "Statements that failed or timed out";

    RATE_LIMITED: Counter "apptlock_rate_limited_total", Count,
        "Rejections by a limit, by kind",
        "kind" in ["request", "keep", "release", "event", "cursor", "connect", "connection", "identity", "subscription", "abuse",
            "page", "frame", "token", "lease"];
    JWKS_FETCHES: Counter "apptlock_jwks_fetches_total", Count,
        "Fetches of the JWK set, by outcome",
        "outcome" in ["ok", "failed"];
    JWKS_AGE: Gauge "apptlock_jwks_age_seconds", Seconds,
        "Age of the JWK set; its keys expire after a day";
    TRACES_LOST: Counter "apptlock_spans_lost_total", Count,
        "Spans that the trace collector did not accept";
    READY: Gauge "apptlock_ready", Count,
        "1 if this replica wants traffic, else 0";
    BUILD: Gauge "apptlock_build_info", Count,
        "Release of this replica, in its label";
}

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the process's recorder, once, and returns the handle that renders it.
pub fn recorder() -> PrometheusHandle {
    RECORDER
        .get_or_init(|| {
            let handle = match builder().install_recorder() {
                Ok(handle) => handle,
                // An application that embeds this crate has installed a recorder, which is used; this one stays empty.
                Err(_) => PrometheusBuilder::new().build_recorder().handle(),
            };
            init();
            handle
        })
        .clone()
}

fn builder() -> PrometheusBuilder {
    ALL.iter()
        .fold(PrometheusBuilder::new(), |builder, metric| {
            match metric.kind {
                Kind::Histogram(buckets) => builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)
                    .expect("an empty list of buckets is the only error, and the table has none"),
                Kind::Counter | Kind::Gauge => builder,
            }
        })
}

/// Describes all metrics, and sets series that are known in advance to 0.
fn init() {
    for metric in ALL {
        let (name, unit, help) = (metric.name, metric.unit, metric.help);
        let labels: Vec<Vec<metrics::Label>> = match metric.known {
            None => vec![Vec::new()],
            Some((label, values)) => values
                .iter()
                .map(|value| vec![metrics::Label::new(label, *value)])
                .collect(),
        };
        match metric.kind {
            Kind::Counter => {
                metrics::describe_counter!(name, unit, help);
                // These have several labels, some of whose values appear only with traffic.
                if ![HTTP_REQUESTS, LOCK_OPERATIONS, SOCKET_EVENTS].contains(&name) {
                    labels
                        .into_iter()
                        .for_each(|labels| metrics::counter!(name, labels).absolute(0));
                }
            }
            Kind::Gauge => {
                metrics::describe_gauge!(name, unit, help);
                // Without Redis there is no bus that could be up, and before a JWK set is fetched it has no age.
                if ![BUILD, BUS_UP, JWKS_AGE].contains(&name) {
                    labels
                        .into_iter()
                        .for_each(|labels| metrics::gauge!(name, labels).set(0.0));
                }
            }
            Kind::Histogram(_) => {
                metrics::describe_histogram!(name, unit, help);
                // These have labels whose values appear only with traffic.
                if ![HTTP_DURATION, DATABASE_DURATION].contains(&name) {
                    labels
                        .into_iter()
                        .for_each(|labels| drop(metrics::histogram!(name, labels)));
                }
            }
        }
    }
    for operation in [
        "acquire",
        "renew",
        "release",
        "force_release",
        "take_over",
        "verify",
        "sweep",
    ] {
        for outcome in ["ok", "conflict", "refused", "failed"] {
            metrics::counter!(LOCK_OPERATIONS, "operation" => operation, "outcome" => outcome)
                .absolute(0);
        }
    }
    for event in [
        "subscribe",
        "unsubscribe",
        "cursor-position",
        "refresh-token",
    ] {
        for outcome in ["ok", "refused", "failed"] {
            metrics::counter!(SOCKET_EVENTS, "event" => event, "outcome" => outcome).absolute(0);
        }
    }
    metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics_process::Collector::default().describe();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("apptlock_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            let seconds = metric.unit == Unit::Seconds;
            assert_eq!(name.ends_with("_seconds"), seconds, "{name}");
            assert!(
                !metric.help.ends_with('.') && metric.help.len() > 20,
                "{name}"
            );
            let again = ALL.iter().filter(|other| other.name == name).count();
            assert_eq!(again, 1, "{name}");
        }
    }
}
