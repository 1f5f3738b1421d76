//! A bus that loses, duplicates and reorders: messages wait in the net until the schedule decides their fate. No
//! endpoint is notified of a loss, the worst case of Redis.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use apptlock::bus::{Bus, BusEvent, Subscribing};
use apptlock::domain::ids::RoomId;
use bytes::Bytes;
use tokio::sync::mpsc;

#[derive(Default)]
struct Wire {
    wanted: HashSet<RoomId>,
    under_way: Vec<Bytes>,
}

#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Vec<Wire>>>);

/// One replica's endpoint.
pub struct NetBus {
    net: Net,
    at: usize,
}

/// Fate of a message.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    Arrives,
    ArrivesAndStays,
    IsLost,
}

impl Net {
    pub fn join(&self) -> NetBus {
        let mut wires = self.0.lock().unwrap();
        wires.push(Wire::default());
        NetBus {
            net: self.clone(),
            at: wires.len() - 1,
        }
    }

    /// Decides the fate of one message to that endpoint: any one in flight, not the oldest.
    pub fn decide(&self, at: usize, pick: usize, fate: Fate, to: &mpsc::Sender<BusEvent>) {
        let mut wires = self.0.lock().unwrap();
        let under_way = &mut wires[at].under_way;
        if under_way.is_empty() {
            return;
        }
        let pick = pick % under_way.len();
        let message = match fate {
            Fate::ArrivesAndStays => under_way[pick].clone(),
            Fate::Arrives | Fate::IsLost => under_way.swap_remove(pick),
        };
        if !matches!(fate, Fate::IsLost) {
            to.try_send(BusEvent::Message(message)).unwrap();
        }
    }
}

impl Bus for NetBus {
    fn publish(&self, room: &RoomId, message: Bytes) {
        for (at, wire) in self.net.0.lock().unwrap().iter_mut().enumerate() {
            if at != self.at && wire.wanted.contains(room) {
                wire.under_way.push(message.clone());
            }
        }
    }

    fn subscribe(&self, room: &RoomId) -> Subscribing {
        self.net.0.lock().unwrap()[self.at]
            .wanted
            .insert(room.clone());
        Box::pin(std::future::ready(()))
    }

    fn unsubscribe(&self, room: &RoomId) {
        self.net.0.lock().unwrap()[self.at].wanted.remove(room);
    }

    fn healthy(&self) -> bool {
        true
    }

    fn take_unsent(&self) -> bool {
        false
    }

    fn close(&self) -> Subscribing {
        Box::pin(std::future::ready(()))
    }
}
