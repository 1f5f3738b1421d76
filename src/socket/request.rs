//! Common steps of all event handlers: parsing the payload, naming the room, counting and answering the outcome.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::debug;

use super::ack::Ack;
use super::client::Client;
use crate::domain::ids::{AppointmentId, RoomId};
use crate::protocol::{Refusal, ack, from_value};
use crate::telemetry;

/// Parses an event's payload. An invalid or missing one is null, which no event accepts.
pub(super) fn payload<T: DeserializeOwned>(
    event: &'static str,
    data: Option<Value>,
) -> Result<T, Refusal> {
    from_value(data.unwrap_or(Value::Null)).map_err(|fault| {
        metrics::counter!(telemetry::BAD_PAYLOADS, "event" => event).increment(1);
        fault.of_a("payload").into()
    })
}

/// Counts the outcome of an event and answers it.
pub(super) fn answer(
    event: &'static str,
    client: &Arc<Client>,
    sender: Ack,
    outcome: Result<&str, Refusal>,
) {
    let label = match &outcome {
        Ok(_) => "ok",
        Err(refusal) if refusal.code.status() >= 500 => "failed",
        Err(_) => "refused",
    };
    metrics::counter!(telemetry::SOCKET_EVENTS, "event" => event, "outcome" => label).increment(1);
    if let Err(refusal) = &outcome {
        debug!(event, code = ?refusal.code, "an event was refused: {}", refusal.message);
    }
    client.answer(sender, &ack(outcome));
}

/// Room of an appointment in the client's tenant.
pub(super) fn room_of(client: &Client, appointment: AppointmentId) -> RoomId {
    RoomId {
        tenant: client.info.principal.tenant.clone(),
        appointment,
    }
}
