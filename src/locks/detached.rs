//! How an operation is carried out: in a task of its own, so that what was begun is published though its caller is
//! gone; counted, timed and traced when it ends, with what came of it.

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
        // In the task, so that it counts though nobody waits for it any more.
        let told = span.clone();
        let counted = async move {
            let outcome = work.await;
            let outcome_is = count(operation, since, &outcome);
            told.record("apptlock.outcome", outcome_is);
            if outcome_is == "failed" {
                told.record("otel.status_code", "ERROR");
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

/// What an operation is in a trace.
pub(super) fn span(operation: &'static str, room: Option<&RoomId>) -> Span {
    info_span!(
        target: TRACE, "lock", otel.name = operation, apptlock.outcome = Empty, otel.status_code = Empty,
        apptlock.appointment = room.map(|room| room.appointment.as_str()),
    )
}

/// Counts how an operation ended, and says how.
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
