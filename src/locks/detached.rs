//! Execution of an operation in a task of its own, so that its change is published even if the caller is gone. Owns its
//! metrics and trace: count, duration and outcome.

use std::sync::Arc;
use std::time::Instant;

use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::{LockError, Locks, Shared};
use crate::domain::ids::RoomId;
use crate::telemetry::{self, TRACE};

impl Locks {
    pub(super) async fn run_detached<T, F>(
        &self,
        span: Span,
        operation: &'static str,
        transition: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, LockError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LockError>> + Send + 'static,
    {
        if self.0.tasks.is_closed() {
            return Err(LockError::Stopping);
        }
        let (since, work) = (Instant::now(), transition(self.0.clone()));
        // In the task, so that it counts even if the caller is gone.
        let recorded = span.clone();
        let counted = async move {
            let outcome = work.await;
            let outcome_is = count(operation, since, &outcome);
            recorded.record("apptlock.outcome", outcome_is);
            if outcome_is == "failed" {
                recorded.record("otel.status_code", "ERROR");
            }
            outcome
        };
        let task = self.0.tasks.spawn(counted.instrument(span));
        task.await.unwrap_or_else(|end| {
            let fault = Err(if end.is_panic() {
                LockError::Fault(end.to_string())
            } else {
                LockError::Stopping
            });
            count(operation, since, &fault);
            fault
        })
    }
}

/// Span of an operation.
pub(super) fn span(operation: &'static str, room: Option<&RoomId>) -> Span {
    info_span!(
        target: TRACE, "lock", otel.name = operation, apptlock.outcome = Empty, otel.status_code = Empty,
        apptlock.appointment = room.map(|room| room.appointment.as_str()),
    )
}

/// Counts the end of an operation, and returns its outcome.
pub(super) fn count<T>(
    operation: &'static str,
    since: Instant,
    outcome: &Result<T, LockError>,
) -> &'static str {
    let outcome = match outcome {
        Ok(_) => "ok",
        Err(LockError::Held(_) | LockError::HeldByYou(_)) => "conflict",
        Err(
            LockError::NotLocked
            | LockError::NotHolder(_)
            | LockError::OtherTab(_)
            | LockError::StaleToken(_)
            | LockError::TooMany(_),
        ) => "refused",
        Err(
            LockError::Store(_)
            | LockError::Read(_)
            | LockError::Queued
            | LockError::Fault(_)
            | LockError::Stopping,
        ) => "failed",
    };
    metrics::counter!(telemetry::LOCK_OPERATIONS, "operation" => operation, "outcome" => outcome)
        .increment(1);
    metrics::histogram!(telemetry::LOCK_DURATION, "operation" => operation)
        .record(since.elapsed().as_secs_f64());
    outcome
}
