//! What all events of sockets have in common: the payload is read, the room is named, the outcome is counted and answered.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::debug;

use super::ack::Ack;
use super::session::Session;
use crate::domain::ids::{AppointmentId, RoomId};
use crate::protocol::{Refusal, ack, from_value};
use crate::telemetry;

/// Reads an event's payload. One that is no JSON, or missing, is null, which no event takes.
pub(super) fn payload<T: DeserializeOwned>(
    event: &'static str,
    data: Option<Value>,
) -> Result<T, Refusal> {
    from_value(data.unwrap_or(Value::Null)).map_err(|fault| {
        metrics::counter!(telemetry::BAD_PAYLOADS, "event" => event).increment(1);
        fault.of_a("payload").into()
    })
}

pub(super) fn answer(
    event: &'static str,
    session: &Arc<Session>,
    sender: Ack,
    outcome: Result<&str, Refusal>,
) {
    let came_to = match &outcome {
        Ok(_) => "ok",
        Err(refusal) if refusal.code.status() >= 500 => "failed",
        Err(_) => "refused",
    };
    metrics::counter!(telemetry::SOCKET_EVENTS, "event" => event, "outcome" => came_to)
        .increment(1);
    if let Err(refusal) = &outcome {
        debug!(event, code = ?refusal.code, "an event was refused: {}", refusal.message);
    }
    session.answer(sender, &ack(outcome));
}

pub(super) fn room_of(session: &Session, appointment: AppointmentId) -> RoomId {
    RoomId {
        tenant: session.who.principal.tenant.clone(),
        appointment,
    }
}
