//! From the rooms' queue to the sockets. Owns that a socket which does not keep up still ends at the newest state, and
//! that it delays nobody.
//!
//! A socket's own queue is bounded. What does not fit there is not waited for: a cursor is dropped, since a newer one
//! follows. A change of a lock is kept beside the queue, the newest of each room, and tried again until there is room,
//! or until the socket has heard a newer one, left the room, or is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{debug, info_span};

use super::session::LAST_WORD;
use crate::domain::ids::RoomId;
use crate::rooms::subscription::{Sent, Subscription};
use crate::rooms::{Event, OutboundItem, Recipients, RoomUpdate};
use crate::store::Clock;
use crate::telemetry::{self, TRACE};

/// The event that there are many of.
const UPDATE: &str = "cursor-update";
/// Between two sockets of a room that reconnect.
const BETWEEN: Duration = Duration::from_millis(5);
/// Between two attempts to hand a late socket what it missed.
const AGAIN: Duration = Duration::from_millis(100);

/// Hands the entries of the rooms' queue to the sockets, in order, until it is stopped and the queue is empty.
pub async fn dispatch(
    clock: Clock,
    mut outbound: mpsc::Receiver<OutboundItem>,
    stop: CancellationToken,
) {
    let mut late = Late::default();
    let cursors = metrics::counter!(telemetry::EVENTS_OUT, "event" => UPDATE);
    let mut again = tokio::time::interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let item = tokio::select! {
            biased;
            // Before the queue, which may never be empty.
            _ = again.tick(), if !late.0.is_empty() => {
                late.again();
                continue;
            }
            item = outbound.recv() => item,
            () = stop.cancelled() => return,
        };
        match item {
            None => return,
            Some(OutboundItem::Admit(join, state)) => {
                // The snapshot is newer than anything that waits.
                late.forget(&join.subscription.socket, &state.room);
                join.subscription.sink().admitted(join.request, &state);
            }
            Some(OutboundItem::Change(update)) => deliver(&clock, &mut late, update),
            Some(OutboundItem::Cursors(recipients, events)) => {
                count_cursors(&cursors, &events);
                show(&recipients, &events);
                // A large room is many sockets: other tasks of this thread get their turn.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Hands one change to every socket of its room.
fn deliver(clock: &Clock, late: &mut Late, update: RoomUpdate) {
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
        late.hand(subscription, &room, events.clone(), 0);
    }
    if reconnect {
        tokio::spawn(reconnect_all(recipients));
    }
    if let Some(lag) = decided_remotely.and_then(|decided| clock.since(decided)) {
        metrics::histogram!(telemetry::FANOUT_LAG).record(lag.as_secs_f64());
    }
}

/// Ends the connections of these sockets, so that their clients come back by themselves and subscribe again.
async fn reconnect_all(recipients: Recipients) {
    tokio::time::sleep(LAST_WORD).await;
    for subscription in recipients.iter() {
        subscription.sink().reconnect();
        // Not all at once.
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Counts cursors, and keeps the counter at hand because there are so many.
fn count_cursors(counter: &Counter, events: &[Event]) {
    let updates = events.iter().filter(|event| event.name == UPDATE).count();
    counter.increment(updates as u64);
    for event in events.iter().filter(|event| event.name != UPDATE) {
        metrics::counter!(telemetry::EVENTS_OUT, "event" => event.name).increment(1);
    }
}

fn show(recipients: &Recipients, events: &[Event]) {
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

/// A change that did not fit: its events, and how many of them got out.
struct Missed {
    subscription: Arc<Subscription>,
    events: Arc<[Event]>,
    sent: usize,
}

/// Sockets that missed a change, by their names: for each room the newest.
#[derive(Default)]
struct Late(HashMap<Arc<str>, HashMap<RoomId, Missed>>);

impl Late {
    /// Hands the events of one change to a socket, from the given one on.
    fn hand(
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
                    debug!(event = event.name, appointment = %room.appointment, "a socket does not keep up");
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
        self.forget(&subscription.socket, room);
    }

    /// That socket no longer waits for that room.
    fn forget(&mut self, socket: &Arc<str>, room: &RoomId) {
        if let Some(of_socket) = self.0.get_mut(socket) {
            of_socket.remove(room);
            if of_socket.is_empty() {
                self.0.remove(socket);
            }
        }
    }

    /// Tries again what did not fit. A socket that left its room meanwhile is no longer late.
    fn again(&mut self) {
        for (_, rooms) in std::mem::take(&mut self.0) {
            for (room, missed) in rooms {
                self.hand(&missed.subscription, &room, missed.events, missed.sent);
            }
        }
    }
}
