//! The metrics and the span of an operation: count, duration and outcome.

use std::time::Instant;

use tracing::field::Empty;
use tracing::{Span, info_span};

use super::error::LockError;
use crate::domain::ids::RoomId;
use crate::telemetry::{self, TRACE};

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
