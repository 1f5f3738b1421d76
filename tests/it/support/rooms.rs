//! Sockets of a test that uses the rooms directly.

use std::sync::Arc;

use apptlock::bus::Bus;
use apptlock::bus::announcer::Announcer;
use apptlock::domain::ids::{Member, RoomId};
use apptlock::domain::lease::LockState;
use apptlock::rooms::subscription::{Options, Sent, Sink, Subscription};
use apptlock::rooms::{Event, Join, Rooms};

/// A socket that passes its snapshot to the test and accepts every event.
struct Told<F>(F);

impl<F: Fn(&LockState) + Send + Sync + 'static> Sink for Told<F> {
    fn send(&self, _: &Event) -> Sent {
        Sent::Queued
    }

    fn admitted(&self, _: u64, state: &LockState) {
        self.0(state);
    }

    fn reconnect(&self) {}
}

/// A replica's announcer on that bus.
pub fn announcer(bus: &Arc<dyn Bus>, replica: &str) -> Announcer {
    Announcer::new(bus.clone(), replica)
}

/// Subscribes a socket with that id, and waits for the bus; the result is to be admitted.
pub async fn subscribe(
    rooms: &Rooms,
    room: &RoomId,
    socket: &str,
    snapshot: impl Fn(&LockState) + Send + Sync + 'static,
) -> Join {
    subscribe_as(rooms, room, socket, None, snapshot).await
}

/// The same of a socket with an identity.
pub async fn subscribe_as(
    rooms: &Rooms,
    room: &RoomId,
    socket: &str,
    member: Option<Member>,
    snapshot: impl Fn(&LockState) + Send + Sync + 'static,
) -> Join {
    let socket: Arc<str> = socket.into();
    rooms.connect(&socket);
    let sink = Box::new(Told(snapshot));
    let subscription = Subscription::new(socket, member, Options::default(), sink);
    let subscribed = rooms.subscribe(room, subscription);
    let Ok(subscribed) = subscribed else {
        panic!("refused")
    };
    if let Some(subscribing) = subscribed.subscribing {
        subscribing.await;
    }
    Join {
        subscription: subscribed.subscription,
        request: 1,
    }
}
