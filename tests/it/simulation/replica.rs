//! A replica of the simulation: the real rooms, locks and replication, over the real store, with a small outbound queue
//! that is drained when the schedule says so, and one socket in each room that checks its events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apptlock::bus::{Bus, BusEvent};
use apptlock::domain::ids::RoomId;
use apptlock::locks::Locks;
use apptlock::replication::Replication;
use apptlock::rooms::{OutboundItem, RoomUpdate, Rooms};
use apptlock::store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::net::Net;
use crate::support::rooms::{announcer, subscribe};

/// Capacity of the outbound queue: small, so that schedules fill it.
const OUTBOUND_QUEUE: usize = 3;
pub const TTL: Duration = Duration::from_secs(3600);

/// Last version shown to the socket in each room.
type Shown = Arc<Mutex<HashMap<RoomId, i64>>>;

pub struct Replica {
    pub name: String,
    pub locks: Locks,
    pub rooms: Arc<Rooms>,
    pub replication: Arc<Replication>,
    pub to: mpsc::Sender<BusEvent>,
    pub term: i64,
    outbound: mpsc::Receiver<OutboundItem>,
    shown: Shown,
    stop: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Replica {
    pub fn start(n: usize, store: &Store, net: &Net) -> Self {
        let name = format!("replica-{n}");
        let bus: Arc<dyn Bus> = Arc::new(net.join());
        let announcer = announcer(&bus, &name);
        let (rooms, outbound) = Rooms::with_queue(announcer.clone(), OUTBOUND_QUEUE);
        let rooms = Arc::new(rooms);
        let (locks, _) = Locks::new(store.clone(), rooms.clone(), announcer.clone(), TTL, 0);
        let replication = Arc::new(Replication::new(rooms.clone(), store.clone(), announcer));
        let (to, events) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let (receiver, end) = (replication.clone(), stop.clone());
        tokio::spawn(async move { receiver.receive(events, end).await });
        Self {
            name,
            locks,
            rooms,
            replication,
            to,
            term: 0,
            outbound,
            shown: Arc::default(),
            stop,
        }
    }

    /// Subscribes a socket like `socket` does: channel, state, admission. Does nothing if there is one already.
    pub async fn join(&mut self, room: &RoomId) {
        if self.shown.lock().unwrap().contains_key(room) {
            return;
        }
        let (shown, id) = (self.shown.clone(), room.clone());
        let join = subscribe(&self.rooms, room, "socket", move |state| {
            shown.lock().unwrap().insert(id.clone(), state.version);
        })
        .await;
        let state = self.locks.status(room).await.unwrap();
        // Admission waits for a slot in the outbound queue, which the dispatcher frees.
        self.drain(usize::MAX);
        self.rooms.admit(state, join).await;
        self.drain(usize::MAX);
    }

    pub fn leave(&mut self, room: &RoomId) {
        // Events still queued for the socket are not delivered.
        self.drain(usize::MAX);
        if self.shown.lock().unwrap().remove(room).is_some() {
            self.rooms.unsubscribe(room, "socket");
        }
    }

    /// Shows all messages from the bus before anything else happens.
    pub async fn receive(&self) {
        while self.to.capacity() < self.to.max_capacity() {
            tokio::task::yield_now().await;
        }
    }

    /// Dispatches at most so many items, and asserts that versions only rise.
    pub fn drain(&mut self, most: usize) {
        for _ in 0..most {
            let Ok(item) = self.outbound.try_recv() else {
                return;
            };
            match item {
                OutboundItem::Admit(join, state) => {
                    join.subscription.sink().admitted(join.request, &state);
                }
                OutboundItem::Cursors(..) => {}
                OutboundItem::Change(RoomUpdate { room, events, .. }) => {
                    let mut shown = self.shown.lock().unwrap();
                    let Some(last) = shown.get_mut(&room) else {
                        continue;
                    };
                    let update = events
                        .iter()
                        .find(|event| event.name == "lock-update")
                        .expect("every change has its lock-update");
                    let update: serde_json::Value =
                        serde_json::from_str(update.payload.get()).unwrap();
                    let version = update["version"].as_i64().unwrap();
                    assert!(
                        version > *last,
                        "{}: version {version} was shown after {last}",
                        self.name
                    );
                    *last = version;
                }
            }
        }
    }

    /// Reconciles until no room is behind, and returns the state that each socket has seen.
    pub async fn settle(&mut self) -> HashMap<RoomId, i64> {
        self.receive().await;
        // Each pass shows at least one room that is behind, however small the outbound queue.
        for _ in 0..8 {
            self.drain(usize::MAX);
            self.replication.pass(false).await.unwrap();
        }
        self.drain(usize::MAX);
        self.shown.lock().unwrap().clone()
    }
}
