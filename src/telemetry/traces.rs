//! Traces. Owns the export of spans, and the propagation of a trace over HTTP and over the bus. Names of spans are here
//! or beside the code they describe.
//!
//! ```text
//!   request ─ acquire ─┬─ postgres acquire
//!                      ├─ emit                          (to local sockets)
//!                      └─ publish ─ ─ ▶ receive ─ emit  (over Redis, to another replica's sockets)
//! ```
//!
//! Spans have the target [`TARGET`], which is disabled unless traces are exported: a disabled span costs the check of a
//! flag. Cursors are never traced: they are too frequent, and metrics count them. If the collector fails, spans are
//! dropped and counted, with one log line; only the end of the process waits for it.

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
/// Timeout of exporting a batch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Default maximum of queued spans; `OTEL_BSP_MAX_QUEUE_SIZE` overrides it.
const QUEUE: usize = 2048;
/// Header that carries a trace's context.
const TRACEPARENT: &str = "traceparent";

/// Protocol of the export to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, in protobuf.
    Http,
}

/// Settings of traces.
#[derive(Debug, Clone)]
pub struct Traces {
    /// URL of the collector; for HTTP it includes the path.
    pub endpoint: String,
    /// Protocol of the export.
    pub carrier: Carrier,
    /// Choice of the traces that are exported.
    pub sampler: Sampler,
    /// Service name; `None`: the one in `OTEL_RESOURCE_ATTRIBUTES`, else apptlock.
    pub service: Option<String>,
    /// Service instance id: this replica's name.
    pub replica: String,
}

/// Error of the settings of traces: a sentence about the invalid one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadTraces(String);

/// Creates the provider of spans, which exports them until the process ends.
pub(super) fn provider(traces: &Traces) -> Result<SdkTracerProvider, BadTraces> {
    let last_error = LastError::default();
    let exporter = match traces.carrier {
        Carrier::Grpc => Otlp::builder()
            .with_tonic()
            .with_endpoint(&traces.endpoint)
            .with_timeout(TIMEOUT)
            .build(),
        Carrier::Http => Otlp::builder()
            .with_http()
            .with_http_client(Client::new(last_error.clone()))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&traces.endpoint)
            .with_timeout(TIMEOUT)
            .build(),
    };
    let exporter = exporter.map_err(|error| BadTraces(error.to_string()))?;
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", traces.replica.clone()))
        .with_attributes(name_of(traces).map(|name| KeyValue::new("service.name", name)))
        .build();
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = LoggedExporter {
        exporter,
        last_error,
        failing: AtomicBool::new(false),
        waiting: waiting.clone(),
    };
    let max = std::env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok();
    let max = max.and_then(|max| max.parse().ok()).filter(|max| *max > 0);
    let max = max.unwrap_or(QUEUE);
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(max)
        .build();
    let batching = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(BoundedProcessor {
            batching,
            waiting,
            max,
        })
        .with_sampler(traces.sampler.clone())
        .with_resource(resource)
        .build())
}

/// Service name, unless `OTEL_RESOURCE_ATTRIBUTES` has one.
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

/// The layer that turns this crate's spans into those of a trace.
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

/// Makes a span the child of a trusted caller's span, by the headers of its request. An untrusted caller's span is only
/// linked, so that it cannot decide what is traced here. An invalid trace context is ignored.
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

/// Makes a span the child of a sender's span, by the context that it [`sent_along`].
pub fn goes_on(span: &Span, sent_along: &str) {
    let carried: HashMap<String, String> = [(TRACEPARENT.to_owned(), sent_along.to_owned())].into();
    goes_on_from(span, &carried);
}

fn goes_on_from(span: &Span, carried: &dyn Extractor) {
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(carried);
        // This fails only for a span that has begun, which these have not.
        let _ = span.set_parent(parent);
    }
}

/// The context of a span for other replicas, in the format of `traceparent`; `None` if it is not part of a trace.
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

/// Text of an error with its chain of causes.
fn why(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Exports spans to the collector, and logs when that begins to fail and when it works again.
#[derive(Debug)]
struct LoggedExporter {
    exporter: Otlp,
    last_error: LastError,
    /// True if the last export failed.
    failing: AtomicBool,
    /// Number of queued spans.
    waiting: Arc<AtomicUsize>,
}

/// Batches spans, and counts those beyond the maximum: the library drops them silently.
#[derive(Debug)]
struct BoundedProcessor {
    batching: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    max: usize,
}

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, span: &mut opentelemetry_sdk::trace::Span, context: &Context) {
        self.batching.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.max {
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

impl SpanExporter for LoggedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        let outcome = self.exporter.export(batch).await;
        match &outcome {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("the trace collector accepts spans again");
                }
            }
            Err(error) => {
                metrics::counter!(TRACES_LOST).increment(count);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let error = self.last_error.take().unwrap_or_else(|| why(error));
                    warn!(
                        error,
                        "the trace collector does not accept spans; dropping them until it does"
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

/// Error of the last batch over HTTP: the library reports only that the network failed.
#[derive(Debug, Clone, Default)]
struct LastError(
    /// A std mutex: held for a look-up, never across an await.
    Arc<Mutex<Option<String>>>,
);

impl LastError {
    fn set(&self, error: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// HTTP client of the exporter. It runs on the batching thread, which may block.
struct Client {
    agent: ureq::Agent,
    last_error: LastError,
}

impl Client {
    fn new(last_error: LastError) -> Self {
        let tls = ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls)
            .build();
        Self {
            agent: config.into(),
            last_error,
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
        let (mut answer, body) = sent.inspect_err(|error| self.last_error.set(Some(why(error))))?;
        let status = answer.status();
        self.last_error
            .set((!status.is_success()).then(|| format!("it answered {status}")));
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}
