//! Publication of messages to other replicas. Owns the envelope: the sender's name and the trace context.

use std::sync::Arc;

use bytes::Bytes;
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::Bus;
use crate::domain::ids::RoomId;
use crate::protocol::{Envelope, Message};
use crate::telemetry::{self, TRACE};

/// Publisher of one replica's messages.
#[derive(Clone)]
pub struct Announcer {
    bus: Arc<dyn Bus>,
    replica: Arc<str>,
}

impl Announcer {
    /// Creates an announcer for a replica on a bus.
    pub fn new(bus: Arc<dyn Bus>, replica: &str) -> Self {
        Self {
            bus,
            replica: replica.into(),
        }
    }

    /// Name of this replica.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.replica
    }

    /// The underlying bus.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// Sends a message that can also be sent later, if the bus has room: a burst of them must not displace changes of
    /// locks. False if it was not sent.
    #[must_use]
    pub fn announce_if_idle(&self, room: &RoomId, message: Message) -> bool {
        let idle = self.bus.has_room();
        if idle {
            self.announce(room, message);
        }
        idle
    }

    /// Sends a message to every replica subscribed to the room. Never waits.
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
        debug_assert!(
            !bytes.is_empty(),
            "unknown messages are only received, never sent"
        );
        span.in_scope(|| self.bus.publish(room, bytes));
    }
}
