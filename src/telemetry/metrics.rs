//! Every metric: its name, kind, unit and help, in one table; and the recorder that keeps them.
//!
//! The recorder is the process's, however many replicas run in it. Labels have few values, all known here or in
//! the code: none comes from a client. What can be known at the start is there with 0 from the start, so that
//! an alert on a rise sees the first one.

use std::sync::OnceLock;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// How a metric counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Is what it is now.
    Gauge,
    /// A distribution, in these buckets.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As Prometheus sees it.
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// Of what.
    pub unit: Unit,
    /// What it says.
    pub help: &'static str,
    /// The label whose values are known beforehand, and those values.
    pub known: Option<(&'static str, &'static [&'static str])>,
}

/// From a millisecond to ten seconds: requests, statements, waits.
const BRIEF: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Up to one sweep's most.
const BATCHES: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];

macro_rules! metrics {
    ($($(#[$about:meta])* $id:ident: $kind:ident$(($buckets:expr))? $name:literal, $unit:ident, $help:literal
        $(, $label:literal in $values:expr)?;)*) => {
        $(#[doc = $help] pub const $id: &str = $name;)*

        /// All of them.
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
        "Requests answered, by method, route and status";
    HTTP_DURATION: Histogram(BRIEF) "apptlock_http_request_duration_seconds", Seconds,
        "How long requests took, by method and route";
    HTTP_IN_FLIGHT: Gauge "apptlock_http_requests_in_flight", Count,
        "Requests being answered";

    LOCK_OPERATIONS: Counter "apptlock_lock_operations_total", Count,
        "Lock operations, by operation and outcome: ok, conflict, refused or failed";
    LOCK_DURATION: Histogram(BRIEF) "apptlock_lock_operation_duration_seconds", Seconds,
        "How long lock operations took, by operation",
        "operation" in ["acquire", "renew", "release", "force_release", "take_over", "verify", "sweep"];
    LEASES: Gauge "apptlock_leases", Count,
        "Leases in force, counted by the leader every few seconds; 0 on other replicas";
    EXPIRIES: Counter "apptlock_expiries_total", Count,
        "Leases that ran out, by what ended them: the sweep, or the next acquire",
        "by" in ["sweep", "acquire"];
    EXPIRY_LATENESS: Histogram(BRIEF) "apptlock_expiry_lateness_seconds", Seconds,
        "Time between a lease's deadline and its sweep";
    SWEEP_BATCH: Histogram(BATCHES) "apptlock_sweep_batch_leases", Count,
        "Leases that one sweep ended";
    FORGOTTEN: Counter "apptlock_history_forgotten_total", Count,
        "Entries of the history that were forgotten because they were old";
    LEADER: Gauge "apptlock_leader", Count,
        "Whether this replica sweeps expired leases: 1 or 0";
    LEADER_TERM: Gauge "apptlock_leader_term", Count,
        "The term in which this replica sweeps; 0 where it does not";

    CONNECTIONS: Gauge "apptlock_connections", Count,
        "Open TCP connections of clients, those of sockets among them";
    CONNECTIONS_LIMIT: Gauge "apptlock_connections_limit", Count,
        "Maximum connections of clients on this replica; idle ones are closed for new ones, else new ones are refused";
    CONNECTIONS_CLOSED: Counter "apptlock_connections_closed_total", Count,
        "Connections closed by this replica, by reason: idle (to make room), full or address (refused: no place), silent (asked nothing), slow (did not take an answer), binary or flood (frames that are no events), left (its socket left)",
        "reason" in ["idle", "full", "address", "silent", "slow", "binary", "flood", "left"];
    SOCKETS: Gauge "apptlock_sockets", Count,
        "Sockets connected, by transport",
        "transport" in ["websocket", "polling"];
    SOCKETS_LIMIT: Gauge "apptlock_sockets_limit", Count,
        "Sockets that this replica takes at most";
    SOCKET_CONNECTS: Counter "apptlock_socket_connects_total", Count,
        "Sockets that were let in";
    SOCKET_EVENTS: Counter "apptlock_socket_events_total", Count,
        "Events that sockets sent, by event and outcome: ok, refused or failed (our fault)";
    SOCKET_FULL: Counter "apptlock_socket_queue_full_total", Count,
        "Packets that did not fit into a socket's own queue";
    BAD_PAYLOADS: Counter "apptlock_socket_bad_payloads_total", Count,
        "Payloads of socket events that were not what they should be, by event",
        "event" in ["connect", "subscribe", "unsubscribe", "cursor-position", "refresh-token"];
    ROOMS: Gauge "apptlock_rooms", Count,
        "Rooms that this replica keeps";
    EVENTS_OUT: Counter "apptlock_events_total", Count,
        "Events handed to the local sockets of a room, by event",
        "event" in ["lock-update", "lock-acquired", "lock-released", "admin-takeover", "cursor-update", "cursor-left"];
    CURSORS_RECEIVED: Counter "apptlock_cursors_received_total", Count,
        "Positions that local sockets sent";
    CURSORS_COALESCED: Counter "apptlock_cursors_coalesced_total", Count,
        "Positions that a newer one replaced within a tick, or that were one too many in it";
    CURSORS_SENT: Counter "apptlock_cursors_sent_total", Count,
        "Positions that went out at a tick";
    OUTLET_DEPTH: Gauge "apptlock_outlet_depth", Count,
        "What waits between the rooms and the sockets";
    OUTLET_CAPACITY: Gauge "apptlock_outlet_capacity", Count,
        "How much may wait between the rooms and the sockets";
    OUTLET_FULL: Counter "apptlock_outlet_full_total", Count,
        "Changes and cursors that did not fit between the rooms and the sockets; reconcile shows the newest state";

    BUS_UP: Gauge "apptlock_bus_up", Count,
        "Whether messages flow between replicas: 1 or 0";
    BUS_PUBLISHED: Counter "apptlock_bus_published_total", Count,
        "Messages published on the bus";
    BUS_UNPUBLISHED: Counter "apptlock_bus_unpublished_total", Count,
        "Messages not published, because the queue was full or Redis away";
    BUS_RECEIVED: Counter "apptlock_bus_received_total", Count,
        "Messages of the bus, by outcome: shown, stale, no_room, full (no place left), members (who is in a room), echo (our own), unreadable, or unsigned (not by this installation)",
        "outcome" in ["shown", "stale", "no_room", "full", "members", "echo", "unreadable", "unsigned"];
    BUS_GAPS: Counter "apptlock_bus_gaps_total", Count,
        "Times that messages of the bus may have been lost";
    BUS_SUBSCRIPTIONS: Gauge "apptlock_bus_subscriptions", Count,
        "Rooms whose messages this replica wants from the bus";
    BUS_QUEUE_DEPTH: Gauge "apptlock_bus_queue_depth", Count,
        "Messages that wait to be published";
    FANOUT_LAG: Histogram(BRIEF) "apptlock_fanout_lag_seconds", Seconds,
        "From PostgreSQL's decision on one replica to the sockets of another, by PostgreSQL's clock";
    RECONCILES: Counter "apptlock_reconcile_passes_total", Count,
        "Comparisons of all rooms with PostgreSQL";
    REPAIRS: Counter "apptlock_reconcile_repairs_total", Count,
        "Rooms that reconcile found behind PostgreSQL: an upper bound of the messages lost";
    RESETS: Counter "apptlock_reconcile_resets_total", Count,
        "Rooms that reconcile found ahead of PostgreSQL, which was restored or has lost commits; their sockets connect anew";

    DATABASE_UP: Gauge "apptlock_database_up", Count,
        "Whether PostgreSQL let this replica in, answered, and can be written to, at the last look: 1 or 0";
    DATABASE_CONNECTIONS: Gauge "apptlock_database_connections", Count,
        "Connections to PostgreSQL, by state",
        "state" in ["busy", "idle"];
    DATABASE_LIMIT: Gauge "apptlock_database_connections_limit", Count,
        "Connections to PostgreSQL that this replica keeps at most";
    DATABASE_WAITING: Gauge "apptlock_database_connections_waiting", Count,
        "Statements that wait for a connection";
    DATABASE_WAIT: Histogram(BRIEF) "apptlock_database_connection_wait_seconds", Seconds,
        "How long statements waited for a connection, opening one included";
    DATABASE_TIMEOUTS: Counter "apptlock_database_connection_timeouts_total", Count,
        "Statements that got no connection in time";
    DATABASE_DURATION: Histogram(BRIEF) "apptlock_database_statement_duration_seconds", Seconds,
        "How long PostgreSQL took, by statement";
    READS_WAITING: Gauge "apptlock_subscription_reads_waiting", Count,
        "Subscriptions that wait for the statement that reads their appointments' states";
    ROWS_HELD: Counter "apptlock_row_waits_timed_out_total", Count,
        "Requests that gave up waiting for an appointment's row, which another transaction holds, by where they waited",
        "where" in ["postgres", "queue"];
    ROWS_WAITING: Gauge "apptlock_row_waiting", Count,
        "Requests that wait for an appointment's row, in this replica's queues";
    DATABASE_ERRORS: Counter "apptlock_database_errors_total", Count,
        "Statements that failed, or were not answered in time";

    RATE_LIMITED: Counter "apptlock_rate_limited_total", Count,
        "What was over a limit, by kind",
        "kind" in ["request", "keep", "release", "event", "cursor", "connect", "connection", "identity", "subscription", "abuse",
            "page", "frame", "token", "lease"];
    JWKS_FETCHES: Counter "apptlock_jwks_fetches_total", Count,
        "Fetches of the JWK set, by outcome",
        "outcome" in ["ok", "failed"];
    JWKS_AGE: Gauge "apptlock_jwks_age_seconds", Seconds,
        "Time since the JWK set was fetched last; after a day its keys are no longer used";
    TRACES_LOST: Counter "apptlock_spans_lost_total", Count,
        "Spans that the collector of traces did not take";
    READY: Gauge "apptlock_ready", Count,
        "Whether this replica wants traffic: 1 or 0";
    BUILD: Gauge "apptlock_build_info", Count,
        "Which release this is, in its label";
}

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the process's recorder, once, and returns the handle that renders it.
pub fn recorder() -> PrometheusHandle {
    RECORDER
        .get_or_init(|| {
            let handle = match builder().install_recorder() {
                Ok(handle) => handle,
                // Somebody who embeds the crate has installed a recorder; theirs is used, this one shows nothing.
                Err(_) => PrometheusBuilder::new().build_recorder().handle(),
            };
            begin();
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
                    .expect("the only fault is no bucket at all, and the table has some"),
                Kind::Counter | Kind::Gauge => builder,
            }
        })
}

/// Describes everything, and puts at 0 what is known to exist.
fn begin() {
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
                // Those have more labels than one, which come with what happens.
                if ![HTTP_REQUESTS, LOCK_OPERATIONS, SOCKET_EVENTS].contains(&name) {
                    labels
                        .into_iter()
                        .for_each(|labels| metrics::counter!(name, labels).absolute(0));
                }
            }
            Kind::Gauge => {
                metrics::describe_gauge!(name, unit, help);
                // Without a Redis there is none that could be up, and without a JWK set none that has an age.
                if ![BUILD, BUS_UP, JWKS_AGE].contains(&name) {
                    labels
                        .into_iter()
                        .for_each(|labels| metrics::gauge!(name, labels).set(0.0));
                }
            }
            Kind::Histogram(_) => {
                metrics::describe_histogram!(name, unit, help);
                // Those have labels whose values come with what happens.
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
    fn names_say_what_prometheus_expects_of_them() {
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
