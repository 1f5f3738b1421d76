//! Metrics, traces and logs. Owns their names and their export.
//!
//! Layer 1. All three belong to the process, however many replicas run in it. Nothing here fails a request or makes
//! one wait.

mod log;
mod metrics;
mod throttle;
mod traces;

use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::warn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use log::LogFormat;
pub use metrics::*;
pub use throttle::LogThrottle;
pub use traces::{
    BadTraces, Carrier, TARGET as TRACE, Traces, goes_on, goes_on_from_headers, sent_along,
};

/// Timeout of exporting the last spans.
const LAST: Duration = Duration::from_secs(3);

/// Error of starting telemetry.
#[derive(Debug, thiserror::Error)]
pub enum BadTelemetry {
    /// The log filter is invalid.
    #[error("{0}")]
    Filter(String),
    /// The settings of traces are invalid.
    #[error(transparent)]
    Traces(#[from] BadTraces),
}

/// Handle that flushes telemetry. Stop it after everything else.
#[must_use]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Starts the log, and traces if configured. A second call in the same process changes nothing. Traces over gRPC need a
/// Tokio runtime.
///
/// # Errors
/// [`BadTelemetry`].
pub fn start(
    format: LogFormat,
    filter: &str,
    traces: Option<&Traces>,
) -> Result<Telemetry, BadTelemetry> {
    let (filter, discreet) =
        log::filters(filter, traces.is_some()).map_err(BadTelemetry::Filter)?;
    let provider = traces.map(traces::provider).transpose()?;
    let spans = provider.as_ref().map(traces::layer);
    // The only error is that logging was started before: several replicas in one process share it.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(discreet)
        .with(spans)
        .with(log::layer(format))
        .try_init();
    Ok(Telemetry { provider })
}

impl Telemetry {
    /// Exports the last spans, with a timeout.
    pub async fn stop(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // The shutdown blocks until the exporting thread has ended.
        let stopped =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST)).await;
        if let Ok(Err(error)) = stopped {
            warn!(%error, "could not export the last spans");
        }
    }
}
