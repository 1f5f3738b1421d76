//! What operators see: metrics, traces, logs. Owns every name, and how each gets out.
//!
//! Layer 1. All three are the process's, however many replicas run in it. Nothing here fails a request, and
//! nothing waits for who looks.

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

/// How long the last spans may take to get out.
const LAST: Duration = Duration::from_secs(3);

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum BadTelemetry {
    /// The filter of the log is none.
    #[error("{0}")]
    Filter(String),
    /// Traces cannot go out like that.
    #[error(transparent)]
    Traces(#[from] BadTraces),
}

/// What is under way to operators. Stop it when everything else has stopped.
#[must_use]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Starts the log, and traces where they are wanted. A second call in the same process changes nothing. Traces
/// over gRPC want a runtime.
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
    // The only error is that logging runs already: several replicas in one process share it.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(discreet)
        .with(spans)
        .with(log::layer(format))
        .try_init();
    Ok(Telemetry { provider })
}

impl Telemetry {
    /// Hands out the last spans, or gives up after a while.
    pub async fn stop(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // It waits for its thread.
        let stopped =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST)).await;
        if let Ok(Err(error)) = stopped {
            warn!(%error, "the last spans did not get out");
        }
    }
}
