//! The one place that turns a message into bytes on the bus: who sent it, and the trace that it is a part of.

use std::sync::Arc;

use bytes::Bytes;
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::Bus;
use crate::domain::ids::RoomId;
use crate::protocol::{Envelope, Message};
use crate::telemetry::{self, TRACE};

/// One replica's voice.
#[derive(Clone)]
pub struct Announcer {
    bus: Arc<dyn Bus>,
    replica: Arc<str>,
}

impl Announcer {
    /// Speaks on that bus in the name of that replica.
    pub fn new(bus: Arc<dyn Bus>, replica: &str) -> Self {
        Self {
            bus,
            replica: replica.into(),
        }
    }

    /// The name that this replica signs with.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.replica
    }

    /// The bus itself.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// Sends a message to every replica that has the room. Never waits.
    pub fn announce(&self, room: &RoomId, message: Message) {
        let span = if Span::current().is_disabled() {
            Span::none()
        } else {
            info_span!(
                target: TRACE, "publish", otel.kind = "producer", messaging.system = "redis",
                apptlock.version = Empty,
            )
        };
        if let Message::Change(change) = &message {
            span.record("apptlock.version", change.state.version);
        }
        let envelope = Envelope {
            from: self.replica.to_string(),
            traceparent: telemetry::sent_along(&span),
            message,
        };
        let bytes = Bytes::from(envelope.encode());
        debug_assert!(!bytes.is_empty(), "an unknown message is only received");
        span.in_scope(|| self.bus.publish(room, bytes));
    }
}
