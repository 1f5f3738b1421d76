//! From the rooms' outbound queue to the sockets. Owns that a socket which does not keep up still ends at the newest
//! state, and that it delays nobody.
//!
//! A socket's own queue is bounded. What does not fit there is not waited for: a cursor is dropped, since a
//! newer one follows. A change of a lock is kept beside the queue, the newest of each room, and tried again
//! until there is room, or until the socket has heard a newer one, left the room, or is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use socketioxide::extract::SocketRef;
use socketioxide::{BroadcastError, SendError, SocketError, SocketIo};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{debug, info_span};

use super::close::LAST_WORD;
use super::session::Session;
use crate::domain::ids::RoomId;
use crate::rooms::{Event, OutboundItem, RoomUpdate};
use crate::store::Clock;
use crate::telemetry::{self, TRACE};

/// The event that there are many of.
const UPDATE: &str = "cursor-update";
/// Between two sockets of a room that connect anew.
const BETWEEN: Duration = Duration::from_millis(5);
/// Between two attempts to hand a late socket what it missed.
const AGAIN: Duration = Duration::from_millis(100);

/// Hands what the rooms put out to the sockets, in order, until it is stopped and the outbound queue is empty.
pub async fn dispatch(
    io: SocketIo,
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
            // Before the outbound queue, which may never be empty.
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
                late.forget(&join.socket, &state.room);
                (join.let_in)(&state);
            }
            Some(OutboundItem::Change(update)) => emit(&io, &clock, &mut late, update),
            Some(OutboundItem::Cursors(room, events)) => {
                count_cursors(&cursors, &events);
                show(&io, &room, &events).await;
            }
        }
    }
}

/// Hands one change to every socket of its room.
fn emit(io: &SocketIo, clock: &Clock, late: &mut Late, update: RoomUpdate) {
    let RoomUpdate {
        room,
        events,
        span,
        decided_afar,
        anew,
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
    let sockets = io.to(room.name()).local().sockets();
    span.record("sockets", sockets.len());
    for socket in &sockets {
        late.hand(socket, &room, events.clone(), 0);
    }
    if anew {
        tokio::spawn(connect_anew(sockets));
    }
    if let Some(lag) = decided_afar.and_then(|decided| clock.since(decided)) {
        metrics::histogram!(telemetry::FANOUT_LAG).record(lag.as_secs_f64());
    }
}

/// Ends what carries these sockets, so that their clients come back by themselves and subscribe again.
async fn connect_anew(sockets: Vec<SocketRef>) {
    tokio::time::sleep(LAST_WORD).await;
    for socket in sockets {
        if let Some(session) = socket.extensions.get::<Arc<Session>>() {
            session.abort();
        }
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

async fn show(io: &SocketIo, room: &RoomId, events: &[Event]) {
    let name = room.name();
    for event in events {
        let mut to = io.to(name.clone()).local();
        if let Some(socket) = &event.except {
            to = to.except(socket.to_string());
        }
        if let Err(BroadcastError::Socket(faults)) = to.emit(event.name, &*event.payload).await {
            let full = |fault: &&SocketError| matches!(fault, SocketError::InternalChannelFull);
            let full = faults.iter().filter(full).count() as u64;
            metrics::counter!(telemetry::SOCKET_FULL).increment(full);
        }
    }
}

struct Missed {
    socket: SocketRef,
    /// For each room the newest change, and how many of its events got out.
    rooms: HashMap<RoomId, (Arc<[Event]>, usize)>,
}

/// Sockets that missed a change, by their names.
#[derive(Default)]
struct Late(HashMap<Arc<str>, Missed>);

impl Late {
    /// Hands the events of one change to a socket, from the given one on.
    fn hand(&mut self, socket: &SocketRef, room: &RoomId, events: Arc<[Event]>, from: usize) {
        let Some(session) = socket.extensions.get::<Arc<Session>>() else {
            return;
        };
        for (at, event) in events.iter().enumerate().skip(from) {
            match socket.emit(event.name, &*event.payload) {
                Ok(()) => {}
                Err(SendError::Socket(SocketError::InternalChannelFull)) => {
                    debug!(event = event.name, appointment = %room.appointment, "a socket does not keep up");
                    metrics::counter!(telemetry::SOCKET_FULL).increment(1);
                    self.0
                        .entry(session.socket.clone())
                        .or_insert_with(|| Missed {
                            socket: socket.clone(),
                            rooms: HashMap::new(),
                        })
                        .rooms
                        .insert(room.clone(), (events, at));
                    return;
                }
                Err(error) => {
                    debug!(event = event.name, %error, "a socket is gone");
                    break;
                }
            }
        }
        self.forget(&session.socket, room);
    }

    /// That socket no longer waits for that room.
    fn forget(&mut self, socket: &Arc<str>, room: &RoomId) {
        if let Some(missed) = self.0.get_mut(socket) {
            missed.rooms.remove(room);
            if missed.rooms.is_empty() {
                self.0.remove(socket);
            }
        }
    }

    /// Tries again what did not fit.
    fn again(&mut self) {
        for (name, missed) in std::mem::take(&mut self.0) {
            let session = missed.socket.extensions.get::<Arc<Session>>();
            for (room, (events, from)) in missed.rooms {
                if session.as_ref().is_some_and(|session| session.hears(&room)) {
                    self.hand(&missed.socket, &room, events, from);
                } else {
                    self.forget(&name, &room);
                }
            }
        }
    }
}
