//! Traces: one spans a caller's request, PostgreSQL, Redis and the sockets of another replica.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Collector, Proxy, Replica, Socket, Span, Stack, auth, fresh, servers};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Batches are exported immediately, so that tests need not wait.
fn towards(collector: &Collector) -> [(&'static str, String); 2] {
    [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.address),
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
    ]
}

/// Callers are trusted by default.
async fn traced(count: usize, settings: &[(&str, String)], extra: &[(&str, &str)]) -> Stack {
    let trusting = [("TRACE_TRUST_CALLERS", "true")];
    let settings = settings.iter().map(|(name, value)| (*name, value.as_str()));
    let all: Vec<_> = trusting
        .into_iter()
        .chain(settings)
        .chain(extra.iter().copied())
        .collect();
    Stack::start(count, &all).await
}

/// A caller's trace id, and its `traceparent`.
struct Caller {
    trace: String,
    span: String,
}

impl Caller {
    fn new() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self {
            span: id[..16].to_owned(),
            trace: id,
        }
    }

    async fn acquires(&self, replica: &Replica, id: &str, flags: &str) -> u16 {
        let path = format!("{}/api/appointments/{id}/acquire-lock", replica.url);
        let parent = format!("00-{}-{}-{flags}", self.trace, self.span);
        let request = replica.client.post(path).header("traceparent", parent);
        let reply = request.json(&crate::support::person("ann")).send().await;
        reply.unwrap().status().as_u16()
    }

    /// The one span of this trace with that name, on that replica.
    fn span<'a>(&self, spans: &'a [Span], name: &str, replica: &Replica) -> Option<&'a Span> {
        let mut found = spans.iter().filter(|span| {
            span.trace == self.trace && span.name == name && span.replica == replica.name
        });
        let first = found.next();
        assert!(found.next().is_none(), "{name} twice");
        first
    }
}

async fn watcher(replica: &Replica, id: &str) -> Socket {
    let mut socket = Socket::connect(replica, auth("watcher")).await;
    socket.subscribe(id).await;
    socket
}

/// The complete trace: each span has the right parent, kind, replica and attributes, and lies within its parent's time.
async fn goes_all_the_way(collector: &Collector, stack: &Stack) {
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("traced");
    let mut sockets = [watcher(here, &id).await, watcher(there, &id).await];
    there.compares_no_more().await;
    let caller = Caller::new();
    assert_eq!(caller.acquires(here, &id, "01").await, 201);
    for socket in &mut sockets {
        socket.expect("lock-acquired").await;
    }
    let all = collector
        .find(
            "the emit on the other replica, and what led to it",
            |spans| {
                let of = |name, replica| caller.span(spans, name, replica).cloned();
                Some([
                    of("POST /api/appointments/{id}/acquire-lock", here)?,
                    of("acquire", here)?,
                    of("postgres acquire", here)?,
                    of("emit", here)?,
                    of("publish", here)?,
                    of("receive", there)?,
                    of("emit", there)?,
                ])
            },
        )
        .await;
    let [request, acquire, sql, near, publish, receive, far] = &all;
    for (span, parent, kind) in [
        (request, caller.span.as_str(), SpanKind::Server),
        (acquire, &request.id, SpanKind::Internal),
        (sql, &acquire.id, SpanKind::Client),
        (near, &acquire.id, SpanKind::Internal),
        (publish, &acquire.id, SpanKind::Producer),
        (receive, &publish.id, SpanKind::Consumer),
        (far, &receive.id, SpanKind::Internal),
    ] {
        assert_eq!(span.parent, parent, "{span:?}");
        assert_eq!(span.kind, kind, "{span:?}");
        assert_eq!(span.service, "apptlock");
        assert!(!span.failed && span.start <= span.end, "{span:?}");
    }
    let ours = collector.spans().into_iter();
    let ours: Vec<_> = ours.filter(|span| span.trace == caller.trace).collect();
    assert_eq!(ours.len(), all.len(), "{ours:#?}");
    assert_eq!(request.attributes["http.response.status_code"], "201");
    assert_eq!(
        request.attributes["http.route"],
        "/api/appointments/{id}/acquire-lock"
    );
    assert!(!request.attributes["request_id"].is_empty());
    assert_eq!(acquire.attributes["apptlock.appointment"], id);
    assert_eq!(acquire.attributes["apptlock.outcome"], "ok");
    assert_eq!(sql.attributes["db.system.name"], "postgresql");
    assert_eq!(receive.attributes["apptlock.appointment"], id);
    assert_eq!(far.attributes["sockets"], "1");
    assert!(sql.end <= publish.start, "what is told is committed");
    assert!(publish.start <= receive.start && receive.start <= far.start);
}

#[tokio::test]
async fn a_trace_goes_from_a_request_over_redis_to_the_sockets_elsewhere() {
    let collector = Collector::over_http("127.0.0.1:0").await;
    let stack = traced(2, &towards(&collector), &[]).await;
    goes_all_the_way(&collector, &stack).await;
}

#[tokio::test]
async fn the_same_over_grpc() {
    let collector = Collector::over_grpc("127.0.0.1:0").await;
    let grpc = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    let stack = traced(2, &towards(&collector), &grpc).await;
    goes_all_the_way(&collector, &stack).await;
}

#[tokio::test]
async fn what_is_not_sampled_and_what_is_a_cursor_goes_nowhere() {
    let collector = Collector::over_http("127.0.0.1:0").await;
    let sampler = [("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
    let stack = traced(2, &towards(&collector), &sampler).await;
    let (here, there) = (&stack.replicas[0], &stack.replicas[1]);
    let id = fresh("unsampled");
    let mut near = watcher(here, &id).await;
    let mut far = watcher(there, &id).await;
    there.compares_no_more().await;
    let (not, nobody, last) = (Caller::new(), "ben", Caller::new());
    assert_eq!(not.acquires(here, &id, "00").await, 201);
    assert_eq!(here.acquire(&id, nobody).await.status, 409);
    let at = json!({ "appointmentId": id, "position": { "x": 1, "y": 2 } });
    near.ask("cursor-position", &at).await;
    far.expect("cursor-update").await;
    // Spans are exported in the order of their ends: once this one has arrived, so have all earlier ones.
    assert_eq!(last.acquires(here, &id, "01").await, 200);
    for (name, replica) in [("emit", there), ("acquire", here)] {
        collector
            .find(name, |spans| last.span(spans, name, replica).map(|_| ()))
            .await;
    }
    let spans = collector.spans();
    assert!(
        spans.iter().all(|span| span.trace == last.trace),
        "{spans:#?}"
    );
}

#[tokio::test]
async fn a_failure_is_marked_in_its_trace_and_its_log_line_names_the_trace() {
    let collector = Collector::over_http("127.0.0.1:0").await;
    let named = [("OTEL_SERVICE_NAME", "the locks of a clinic")];
    let stack = traced(1, &towards(&collector), &named).await;
    let replica = &stack.replicas[0];
    let broken = "alter table appointment_lock rename to elsewhere";
    sqlx::query(broken).execute(&stack.pool).await.unwrap();
    let caller = Caller::new();
    assert_eq!(caller.acquires(replica, &fresh("broken"), "01").await, 503);
    let line = replica.await_record("the failure, with its trace", |line| {
        line["trace_id"] == caller.trace.as_str()
    });
    assert_eq!(line["status"], 503, "{line}");
    assert!(line["request_id"].is_string(), "{line}");
    let route = "POST /api/appointments/{id}/acquire-lock";
    let request = collector
        .find("the request", |spans| {
            caller.span(spans, route, replica).cloned()
        })
        .await;
    assert!(request.failed);
    assert_eq!(line["span_id"], Value::from(request.id));
    assert_eq!(request.service, "the locks of a clinic");
    let spans = collector.spans();
    let sql = caller.span(&spans, "postgres acquire", replica);
    assert!(sql.is_some_and(|span| span.failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_nothing_but_spans() {
    let port = apptlock::dev::free_port().unwrap();
    let address = format!("127.0.0.1:{port}");
    let endpoint = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
    ];
    let mut stack = traced(1, &endpoint, &[]).await;
    let replica = &stack.replicas[0];
    let id = fresh("away");
    assert_eq!(replica.acquire(&id, "ann").await.status, 201);
    replica.await_line("the trace collector does not accept spans");
    // The request, its operation, and its statement.
    replica
        .metric_becomes("apptlock_spans_lost_total", |lost| lost >= 3.0)
        .await;
    assert_eq!(replica.acquire(&id, "ann").await.status, 200);
    let collector = Collector::over_http(&address).await;
    let caller = Caller::new();
    assert_eq!(caller.acquires(replica, &id, "01").await, 200);
    collector
        .find("a span", |spans| {
            caller.span(spans, "acquire", replica).map(|_| ())
        })
        .await;
    replica.await_line("the trace collector accepts spans again");
    let complaints = replica.log().matches("does not accept spans").count();
    assert_eq!(complaints, 1, "said once");

    // The last spans are exported before the process ends.
    let last = Caller::new();
    assert_eq!(last.acquires(replica, &id, "01").await, 200);
    replica.signal("TERM");
    let status = stack.replicas[0].await_end(crate::support::PATIENCE);
    assert_eq!(status.code(), Some(0));
    let spans = collector.spans();
    let replica = &stack.replicas[0];
    let last = last.span(&spans, "acquire", replica);
    assert!(last.is_some(), "{}\n{spans:#?}", replica.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_counts_as_that_until_redis_has_taken_it_however_slow_it_is() {
    // Round trip: longer than the interval between two probes.
    let slow = Duration::from_millis(200);
    let redis = (Ipv4Addr::LOCALHOST, servers().redis.port);
    let proxy = Proxy::start(redis).await.unwrap();
    let through = format!("redis://127.0.0.1:{}", proxy.port());
    let collector = Collector::over_http("127.0.0.1:0").await;
    let stack = traced(1, &towards(&collector), &[("REDIS_URL", &through)]).await;
    proxy.delay(slow);
    let caller = Caller::new();
    let replica = &stack.replicas[0];
    assert_eq!(caller.acquires(replica, &fresh("slow"), "01").await, 201);
    let publish = collector
        .find("the publishing", |spans| {
            caller.span(spans, "publish", replica).cloned()
        })
        .await;
    let took = Duration::from_nanos(publish.end - publish.start);
    assert!(took >= slow, "{took:?}");
}

/// A collector that accepts connections and never answers: spans that do not fit into the queue are counted too, a stop
/// does not wait forever, and the exported data stays out of the log at every level.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_spans_that_are_counted_and_holds_up_no_stop() {
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", hangs.local_addr().unwrap());
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20geheim".to_owned(),
        ),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "16".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
    ];
    let mut stack = traced(1, &settings, &[("RUST_LOG", "trace")]).await;
    let replica = &stack.replicas[0];
    let id = fresh("hangs");
    for _ in 0..60 {
        replica.acquire(&id, "ann").await;
    }
    let mut socket = Socket::connect(replica, auth("ann")).await;
    socket.ask("subscribe", &json!({})).await;
    // Four spans each; at most 16 are queued, and a batch is being sent.
    assert!(replica.metric("apptlock_spans_lost_total").await > 60.0);
    let since = std::time::Instant::now();
    replica.signal("TERM");
    let status = stack.replicas[0].await_end(crate::support::PATIENCE);
    assert_eq!(status.code(), Some(0));
    assert!(
        since.elapsed() < Duration::from_secs(9),
        "{:?}",
        since.elapsed()
    );
    let log = stack.replicas[0].log();
    assert!(log.contains("an event was refused"), "no line below info");
    for secret in ["geheim", "67656865696d"] {
        assert!(!log.contains(secret));
    }
}

/// Otherwise any client could have everything traced with a header, at the operator's cost.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_not_trusted_does_not_decide_what_is_traced() {
    let collector = Collector::over_http("127.0.0.1:0").await;
    let never = [
        ("TRACE_TRUST_CALLERS", ""),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ];
    let stack = traced(1, &towards(&collector), &never).await;
    for _ in 0..20 {
        let caller = Caller::new();
        let status = caller
            .acquires(&stack.replicas[0], &fresh("free"), "01")
            .await;
        assert_eq!(status, 201);
    }
    let always = [("TRACE_TRUST_CALLERS", "")];
    let sampled = traced(1, &towards(&collector), &always).await;
    let caller = Caller::new();
    let replica = &sampled.replicas[0];
    assert_eq!(caller.acquires(replica, &fresh("own"), "01").await, 201);
    // The first span on the replica that samples by itself has a trace of its own.
    let first = collector
        .find("a span of its own", |spans| spans.first().cloned())
        .await;
    assert_eq!(first.replica, replica.name);
    assert!(
        caller
            .span(&collector.spans(), "acquire", replica)
            .is_none()
    );
}
