//! Dispatcher from the rooms' queue to the sockets. Owns the delivery to slow sockets: they get the newest state in the
//! end and delay nobody.
//!
//! A socket's queue is bounded, and nothing waits for it. A cursor that does not fit is dropped, since a newer one
//! follows. A change of a lock is kept aside, the newest of each room, and retried until it fits, or until the socket
//! got a newer one, left the room, or was closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{debug, info_span};

use super::client::FLUSH_DELAY;
use crate::domain::ids::RoomId;
use crate::rooms::subscription::{Sent, Subscription};
use crate::rooms::{Event, OutboundItem, Recipients, RoomUpdate};
use crate::store::Clock;
use crate::telemetry::{self, TRACE};

/// The most frequent event.
const CURSOR_UPDATE: &str = "cursor-update";
/// Pause between reconnections of the sockets of a room.
const RECONNECT_PAUSE: Duration = Duration::from_millis(5);
/// Interval between attempts to send missed changes.
const RETRY: Duration = Duration::from_millis(100);

/// Delivers the items of the rooms' queue in order, until stopped with an empty queue.
pub async fn dispatch(
    clock: Clock,
    mut outbound: mpsc::Receiver<OutboundItem>,
    stop: CancellationToken,
) {
    let mut late = Late::default();
    let cursors = metrics::counter!(telemetry::EVENTS_OUT, "event" => CURSOR_UPDATE);
    let mut retry = tokio::time::interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let item = tokio::select! {
            biased;
            // First, because the queue may never be empty.
            _ = retry.tick(), if !late.0.is_empty() => {
                late.retry();
                continue;
            }
            item = outbound.recv() => item,
            () = stop.cancelled() => return,
        };
        match item {
            None => return,
            Some(OutboundItem::Admit(join, state)) => {
                // The snapshot is newer than any missed change.
                late.remove(&join.subscription.socket, &state.room);
                join.subscription.sink().admitted(join.request, &state);
            }
            Some(OutboundItem::Change(update)) => deliver_change(&clock, &mut late, update),
            Some(OutboundItem::Cursors(recipients, events)) => {
                count_cursors(&cursors, &events);
                deliver_cursors(&recipients, &events);
                // A large room takes long: let other tasks of this thread run.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Sends one change to every socket of its room.
fn deliver_change(clock: &Clock, late: &mut Late, update: RoomUpdate) {
    let RoomUpdate {
        room,
        recipients,
        events,
        span,
        decided_remotely,
        reconnect,
    } = update;
    let span = if span.is_disabled() {
        span
    } else {
        info_span!(target: TRACE, parent: &span, "emit", sockets = Empty)
    };
    let _within = span.enter();
    let events: Arc<[Event]> = events.into();
    for event in events.iter() {
        metrics::counter!(telemetry::EVENTS_OUT, "event" => event.name).increment(1);
    }
    span.record("sockets", recipients.len());
    for subscription in recipients.iter() {
        late.send(subscription, &room, events.clone(), 0);
    }
    if reconnect {
        tokio::spawn(reconnect_all(recipients));
    }
    if let Some(lag) = decided_remotely.and_then(|decided| clock.since(decided)) {
        metrics::histogram!(telemetry::FANOUT_LAG).record(lag.as_secs_f64());
    }
}

/// Closes the connections of these sockets, so that their clients reconnect and subscribe again.
async fn reconnect_all(recipients: Recipients) {
    tokio::time::sleep(FLUSH_DELAY).await;
    for subscription in recipients.iter() {
        subscription.sink().reconnect();
        // Staggered.
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Counts cursor events, with a counter that was looked up once because they are frequent.
fn count_cursors(counter: &Counter, events: &[Event]) {
    let updates = events
        .iter()
        .filter(|event| event.name == CURSOR_UPDATE)
        .count();
    counter.increment(updates as u64);
    for event in events.iter().filter(|event| event.name != CURSOR_UPDATE) {
        metrics::counter!(telemetry::EVENTS_OUT, "event" => event.name).increment(1);
    }
}

fn deliver_cursors(recipients: &Recipients, events: &[Event]) {
    let mut full = 0;
    for subscription in recipients.iter().filter(|it| it.is_current()) {
        for event in events {
            if subscription.is_in(&event.audience) {
                full += u64::from(subscription.sink().send(event) == Sent::Full);
            }
        }
    }
    metrics::counter!(telemetry::SOCKET_FULL).increment(full);
}

/// Change that did not fit into a socket's queue: its events, and the number that were sent.
struct Missed {
    subscription: Arc<Subscription>,
    events: Arc<[Event]>,
    sent: usize,
}

/// Newest missed change of each room, by socket.
#[derive(Default)]
struct Late(HashMap<Arc<str>, HashMap<RoomId, Missed>>);

impl Late {
    /// Sends the events of one change to a socket, starting at `from`.
    fn send(
        &mut self,
        subscription: &Arc<Subscription>,
        room: &RoomId,
        events: Arc<[Event]>,
        from: usize,
    ) {
        if !subscription.is_current() {
            return;
        }
        for (at, event) in events.iter().enumerate().skip(from) {
            if !subscription.is_in(&event.audience) {
                continue;
            }
            match subscription.sink().send(event) {
                Sent::Queued => {}
                Sent::Full => {
                    debug!(event = event.name, appointment = %room.appointment, "a socket is slow");
                    metrics::counter!(telemetry::SOCKET_FULL).increment(1);
                    let missed = Missed {
                        subscription: subscription.clone(),
                        events,
                        sent: at,
                    };
                    let of_socket = self.0.entry(subscription.socket.clone()).or_default();
                    of_socket.insert(room.clone(), missed);
                    return;
                }
                Sent::Gone => break,
            }
        }
        self.remove(&subscription.socket, room);
    }

    /// Removes the missed change of a room.
    fn remove(&mut self, socket: &Arc<str>, room: &RoomId) {
        if let Some(of_socket) = self.0.get_mut(socket) {
            of_socket.remove(room);
            if of_socket.is_empty() {
                self.0.remove(socket);
            }
        }
    }

    /// Retries all missed changes. Sockets that left the room meanwhile are dropped.
    fn retry(&mut self) {
        for (_, rooms) in std::mem::take(&mut self.0) {
            for (room, missed) in rooms {
                self.send(&missed.subscription, &room, missed.events, missed.sent);
            }
        }
    }
}
