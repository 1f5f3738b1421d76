//! A collector of traces: accepts OTLP over HTTP or gRPC, and keeps the spans for inspection.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::PATIENCE;

/// A span, reduced to what tests inspect.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty where it has none.
    pub parent: String,
    /// Its replica.
    pub replica: String,
    pub service: String,
    pub attributes: HashMap<String, String>,
    pub failed: bool,
    pub start: u64,
    pub end: u64,
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    more: Notify,
}

/// The collector, stopped when dropped.
pub struct Collector {
    pub address: SocketAddr,
    kept: Arc<Kept>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Collector {
    /// A collector of OTLP over HTTP.
    pub async fn over_http(address: &str) -> Self {
        Self::start(address, false).await
    }

    /// A collector of OTLP over gRPC.
    pub async fn over_grpc(address: &str) -> Self {
        Self::start(address, true).await
    }

    async fn start(address: &str, grpc: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::new(Kept::default());
        let keep = kept.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (stream, keep) = (TokioIo::new(stream), keep.clone());
                tokio::spawn(async move {
                    // The test ignores how a connection ends.
                    if grpc {
                        let answer = service_fn(|request| over_grpc(keep.clone(), request));
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(stream, answer)
                            .await;
                    } else {
                        let answer = service_fn(|request| over_http(keep.clone(), request));
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(stream, answer)
                            .await;
                    }
                });
            }
        });
        Self {
            address,
            kept,
            serving,
        }
    }

    /// First result of `wanted` on all spans so far, once there is one.
    pub async fn find<T>(&self, what: &str, wanted: impl Fn(&[Span]) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            let more = self.kept.more.notified();
            if let Some(found) = wanted(&self.kept.spans.lock().unwrap()) {
                return found;
            }
            let left = PATIENCE.saturating_sub(since.elapsed());
            if tokio::time::timeout(left, more).await.is_err() {
                let spans = self.kept.spans.lock().unwrap();
                panic!("{what} did not come; there are {spans:#?}");
            }
        }
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.spans.lock().unwrap().clone()
    }
}

async fn over_http(
    kept: Arc<Kept>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    keep(
        &kept,
        &request.into_body().collect().await.unwrap().to_bytes(),
    );
    Ok(Response::new(Full::default()))
}

type Frames = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn over_grpc(
    kept: Arc<Kept>,
    request: Request<Incoming>,
) -> Result<Response<Frames>, Infallible> {
    assert_eq!(
        request.uri().path(),
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    let body = request.into_body().collect().await.unwrap().to_bytes();
    // A message begins with a flag and its length.
    keep(&kept, &body[5..]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = vec![
        Ok(Frame::data(Bytes::from_static(&[0; 5]))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    let kind = "application/grpc".parse().unwrap();
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

fn texts(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        _ => None,
    };
    attributes
        .iter()
        .filter_map(|pair| Some((pair.key.clone(), text(pair)?)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn keep(kept: &Kept, body: &[u8]) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = kept.spans.lock().unwrap();
    for of in request.resource_spans {
        let resource = texts(&of.resource.unwrap_or_default().attributes);
        for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                kind: span.kind(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                replica: resource["service.instance.id"].clone(),
                service: resource["service.name"].clone(),
                attributes: texts(&span.attributes),
                failed: span.status.is_some_and(|status| status.code == 2),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                name: span.name,
            });
        }
    }
    drop(spans);
    kept.more.notify_waiters();
}
