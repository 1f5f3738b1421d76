//! A bus inside one process: for a replica that works alone, and for several replicas in one process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Bus, BusEvent, Load, Subscribing};
use crate::domain::ids::RoomId;
use crate::sync::{Guard, Ordered, Rank};

/// Messages that wait for one replica; beyond that they are lost, and the replica is told of a gap.
const QUEUE: usize = 4096;

#[derive(Default)]
struct Members {
    next: u64,
    ends: HashMap<u64, End>,
}

struct End {
    subscribed: HashSet<RoomId>,
    lost: bool,
    to: mpsc::Sender<BusEvent>,
}

/// What the replicas of one process share.
#[derive(Clone)]
pub struct Hub(Arc<Ordered<Members>>);

impl Default for Hub {
    fn default() -> Self {
        Self(Arc::new(Ordered::new(Rank::Bus, Members::default())))
    }
}

impl Hub {
    fn members(&self) -> Guard<'_, Members> {
        self.0.lock()
    }

    /// A new end, for one replica, and what it hears.
    #[must_use]
    pub fn join(&self) -> (MemoryBus, mpsc::Receiver<BusEvent>) {
        let (to, events) = mpsc::channel(QUEUE);
        let mut members = self.members();
        let id = members.next;
        members.next += 1;
        members.ends.insert(
            id,
            End {
                subscribed: HashSet::new(),
                lost: false,
                to,
            },
        );
        (
            MemoryBus {
                hub: self.clone(),
                id,
            },
            events,
        )
    }
}

/// One replica's end.
pub struct MemoryBus {
    hub: Hub,
    id: u64,
}

impl Bus for MemoryBus {
    fn publish(&self, room: &RoomId, message: Bytes) {
        for (id, end) in &mut self.hub.members().ends {
            if *id == self.id || !end.subscribed.contains(room) {
                continue;
            }
            if end.lost {
                end.lost = end.to.try_send(BusEvent::Gap).is_err();
            }
            end.lost |= end.to.try_send(BusEvent::Message(message.clone())).is_err();
        }
    }

    fn subscribe(&self, room: &RoomId) -> Subscribing {
        if let Some(end) = self.hub.members().ends.get_mut(&self.id) {
            end.subscribed.insert(room.clone());
        }
        Box::pin(std::future::ready(()))
    }

    fn unsubscribe(&self, room: &RoomId) {
        if let Some(end) = self.hub.members().ends.get_mut(&self.id) {
            end.subscribed.remove(room);
        }
    }

    fn healthy(&self) -> bool {
        true
    }

    /// What a full queue loses, its reader knows of.
    fn take_unsent(&self) -> bool {
        false
    }

    fn load(&self) -> Load {
        let members = self.hub.members();
        Load {
            subscriptions: members
                .ends
                .get(&self.id)
                .map_or(0, |end| end.subscribed.len()),
            queued: 0,
        }
    }

    fn close(&self) -> Subscribing {
        self.hub.members().ends.remove(&self.id);
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{AppointmentId, TenantId};

    fn room(name: &str) -> RoomId {
        RoomId {
            tenant: TenantId::default(),
            appointment: AppointmentId::new(name).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_message_reaches_the_others_that_want_the_room() {
        let hub = Hub::default();
        let (here, mut own) = hub.join();
        let (there, mut heard) = hub.join();
        there.subscribe(&room("a")).await;
        here.subscribe(&room("a")).await;
        here.publish(&room("b"), Bytes::from_static(b"no"));
        here.publish(&room("a"), Bytes::from_static(b"yes"));
        assert_eq!(
            heard.try_recv(),
            Ok(BusEvent::Message(Bytes::from_static(b"yes")))
        );
        assert!(heard.try_recv().is_err());
        assert!(own.try_recv().is_err(), "no echo");
        there.unsubscribe(&room("a"));
        here.publish(&room("a"), Bytes::from_static(b"late"));
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_a_full_queue_loses_is_reported_as_a_gap() {
        let hub = Hub::default();
        let (here, _own) = hub.join();
        let (there, mut heard) = hub.join();
        there.subscribe(&room("a")).await;
        for _ in 0..=QUEUE {
            here.publish(&room("a"), Bytes::from_static(b"m"));
        }
        for _ in 0..QUEUE {
            assert_eq!(
                heard.try_recv(),
                Ok(BusEvent::Message(Bytes::from_static(b"m")))
            );
        }
        here.publish(&room("a"), Bytes::from_static(b"next"));
        assert_eq!(heard.try_recv(), Ok(BusEvent::Gap));
        assert_eq!(
            heard.try_recv(),
            Ok(BusEvent::Message(Bytes::from_static(b"next")))
        );
    }
}
