//! The process around a command: its log, and the signals that stop it.

use apptlock::config::{BadSetting, LogArgs};
use apptlock::telemetry::{self, BadTelemetry, Telemetry, Traces};

/// Starts the log and, if there is a collector, traces.
pub fn start_log(logs: &LogArgs, traces: Option<&Traces>) -> Result<Telemetry, BadSetting> {
    telemetry::start(logs.log_format, &logs.rust_log, traces).map_err(|bad| match bad {
        BadTelemetry::Filter(fault) => BadSetting::new(
            "RUST_LOG",
            fault,
            "write a level such as info, or a filter such as info,apptlock=debug",
        ),
        BadTelemetry::Traces(fault) => BadSetting::new(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            fault,
            "write one such as http://collector:4318",
        ),
    })
}

/// Resolves at the first SIGTERM or Ctrl-C. A second one ends the process at once.
pub fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let (first, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            match first.take() {
                // The receiver goes only with the process.
                Some(first) => drop(first.send(())),
                None => std::process::exit(130),
            }
        }
    });
    Ok(async move {
        let _ = stopped.await;
    })
}
