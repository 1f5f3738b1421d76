//! Traces: the spans' names are here or beside the code they are about; how they go out, and how a trace goes
//! on over HTTP and over the bus, is here alone.
//!
//! ```text
//!   request ─ acquire ─┬─ postgres acquire
//!                      ├─ emit                          (to the sockets here)
//!                      └─ publish ─ ─ ▶ receive ─ emit  (over Redis, to the sockets there)
//! ```
//!
//! Spans are made with the target [`TARGET`], which is off unless traces go out: then a span costs a look at a
//! flag. Cursors are never traced: they are too many, and each is worth little; metrics count them. On failure
//! of the collector spans are dropped, counted, and said so once; nobody waits for it but the end of the process.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
    SpanProcessor,
};
use tracing::{Span, Subscriber, info, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::metrics::TRACES_LOST;

/// The target of every span that is part of a trace.
pub const TARGET: &str = "apptlock::trace";
/// How long the collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// Spans that wait for the collector, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise.
const QUEUE: usize = 2048;
/// The name under which a trace goes on, over HTTP and in tests.
const TRACEPARENT: &str = "traceparent";

/// How spans get to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, in protobuf.
    Http,
}

/// Where traces go, and which.
#[derive(Debug, Clone)]
pub struct Traces {
    /// The collector: with its path, where spans go over HTTP.
    pub endpoint: String,
    /// How.
    pub carrier: Carrier,
    /// Which.
    pub sampler: Sampler,
    /// What this service is called there; `None`: what `OTEL_RESOURCE_ATTRIBUTES` says, else apptlock.
    pub service: Option<String>,
    /// What this replica is called there.
    pub replica: String,
}

/// Why traces cannot go out: a sentence about the setting.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadTraces(String);

/// What makes spans, until the process ends.
pub(super) fn provider(traces: &Traces) -> Result<SdkTracerProvider, BadTraces> {
    let fault = Fault::default();
    let exporter = match traces.carrier {
        Carrier::Grpc => Otlp::builder()
            .with_tonic()
            .with_endpoint(&traces.endpoint)
            .with_timeout(PATIENCE)
            .build(),
        Carrier::Http => Otlp::builder()
            .with_http()
            .with_http_client(Client::new(fault.clone()))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&traces.endpoint)
            .with_timeout(PATIENCE)
            .build(),
    };
    let exporter = exporter.map_err(|fault| BadTraces(fault.to_string()))?;
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", traces.replica.clone()))
        .with_attributes(name_of(traces).map(|name| KeyValue::new("service.name", name)))
        .build();
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = Telling {
        exporter,
        fault,
        away: AtomicBool::new(false),
        waiting: waiting.clone(),
    };
    let most = std::env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok();
    let most = most
        .and_then(|most| most.parse().ok())
        .filter(|most| *most > 0);
    let most = most.unwrap_or(QUEUE);
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(most)
        .build();
    let batching = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(Bounded {
            batching,
            waiting,
            most,
        })
        .with_sampler(traces.sampler.clone())
        .with_resource(resource)
        .build())
}

/// What the service is called, where that is not said in `OTEL_RESOURCE_ATTRIBUTES`.
fn name_of(traces: &Traces) -> Option<String> {
    let said = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let elsewhere = said
        .split(',')
        .any(|pair| pair.trim_start().starts_with("service.name="));
    traces
        .service
        .clone()
        .or_else(|| (!elsewhere).then(|| "apptlock".to_owned()))
}

/// The layer that makes spans of a trace from those of this crate.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("apptlock"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
}

/// Makes a span the child of a caller's, by the headers of its request, where callers are trusted; else links it,
/// so that a caller cannot decide what is traced here. What is no trace context is as none.
pub fn goes_on_from_headers(span: &Span, headers: &HeaderMap, trusted: bool) {
    if trusted {
        goes_on_from(span, &HeaderExtractor(headers));
    } else if !span.is_disabled() {
        let caller = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        let caller = caller.span().span_context().clone();
        if caller.is_valid() {
            span.add_link(caller);
        }
    }
}

/// Makes a span the child of a sender's, by what that one [`sent_along`].
pub fn goes_on(span: &Span, sent_along: &str) {
    let carried: HashMap<String, String> = [(TRACEPARENT.to_owned(), sent_along.to_owned())].into();
    goes_on_from(span, &carried);
}

fn goes_on_from(span: &Span, carried: &dyn Extractor) {
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(carried);
        // Where the span began already it keeps its parent; ours have not.
        let _ = span.set_parent(parent);
    }
}

/// What to send along, so that others can go on from a span; `None` where it is no part of a trace.
pub fn sent_along(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let here = context.span().span_context().clone();
    here.is_valid().then(|| {
        let (trace, span, flags) = (here.trace_id(), here.span_id(), here.trace_flags().to_u8());
        format!("00-{trace}-{span}-{flags:02x}")
    })
}

/// An error with all that led to it.
fn why(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Hands spans to the collector, and tells when it is gone and when it is back.
#[derive(Debug)]
struct Telling {
    exporter: Otlp,
    fault: Fault,
    away: AtomicBool,
    /// Spans that wait for their batch.
    waiting: Arc<AtomicUsize>,
}

/// Gathers batches, and counts what there is no room for: the library drops it without a word.
#[derive(Debug)]
struct Bounded {
    batching: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut opentelemetry_sdk::trace::Span, context: &Context) {
        self.batching.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            metrics::counter!(TRACES_LOST).increment(1);
            return;
        }
        self.batching.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batching.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batching.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batching.set_resource(resource);
    }
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        let outcome = self.exporter.export(batch).await;
        match &outcome {
            Ok(()) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    info!("the collector of traces takes spans again");
                }
            }
            Err(error) => {
                metrics::counter!(TRACES_LOST).increment(count);
                if !self.away.swap(true, Ordering::Relaxed) {
                    let error = self.fault.take().unwrap_or_else(|| why(error));
                    warn!(
                        error,
                        "the collector of traces does not take spans; dropping them until it does"
                    );
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Why the last batch did not get out over HTTP: the library says no more of it than that the network failed.
#[derive(Debug, Clone, Default)]
struct Fault(
    /// A std mutex: held for a look.
    Arc<Mutex<Option<String>>>,
);

impl Fault {
    fn set(&self, fault: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Sends a batch over HTTP, on the thread that gathers batches, which may wait.
struct Client {
    agent: ureq::Agent,
    fault: Fault,
}

impl Client {
    fn new(fault: Fault) -> Self {
        let tls = ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls)
            .build();
        Self {
            agent: config.into(),
            fault,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.to_vec());
        let sent = self.agent.run(request).and_then(|mut answer| {
            let body = answer.body_mut().read_to_vec()?;
            Ok((answer, body))
        });
        let (mut answer, body) = sent.inspect_err(|fault| self.fault.set(Some(why(fault))))?;
        let status = answer.status();
        self.fault
            .set((!status.is_success()).then(|| format!("it answered {status}")));
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}
