//! In-process bus, for a single replica and for several replicas in one process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Bus, BusEvent, Load, Subscribing};
use crate::domain::ids::RoomId;
use crate::sync::{Guard, Ordered, Rank};

/// Queue length of each endpoint; messages beyond it are dropped, and the endpoint gets a gap.
const QUEUE: usize = 4096;

#[derive(Default)]
struct Endpoints {
    next: u64,
    by_id: HashMap<u64, Endpoint>,
}

struct Endpoint {
    subscribed: HashSet<RoomId>,
    lost: bool,
    to: mpsc::Sender<BusEvent>,
}

/// Hub that connects the replicas of one process.
#[derive(Clone)]
pub struct Hub(Arc<Ordered<Endpoints>>);

impl Default for Hub {
    fn default() -> Self {
        Self(Arc::new(Ordered::new(Rank::Bus, Endpoints::default())))
    }
}

impl Hub {
    fn endpoints(&self) -> Guard<'_, Endpoints> {
        self.0.lock()
    }

    /// Adds an endpoint for one replica, and returns it with its events.
    #[must_use]
    pub fn join(&self) -> (MemoryBus, mpsc::Receiver<BusEvent>) {
        let (to, events) = mpsc::channel(QUEUE);
        let mut endpoints = self.endpoints();
        let id = endpoints.next;
        endpoints.next += 1;
        endpoints.by_id.insert(
            id,
            Endpoint {
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

/// Endpoint of one replica.
pub struct MemoryBus {
    hub: Hub,
    id: u64,
}

impl Bus for MemoryBus {
    fn publish(&self, room: &RoomId, message: Bytes) {
        for (id, endpoint) in &mut self.hub.endpoints().by_id {
            if *id == self.id || !endpoint.subscribed.contains(room) {
                continue;
            }
            if endpoint.lost {
                endpoint.lost = endpoint.to.try_send(BusEvent::Gap).is_err();
            }
            endpoint.lost |= endpoint
                .to
                .try_send(BusEvent::Message(message.clone()))
                .is_err();
        }
    }

    fn subscribe(&self, room: &RoomId) -> Subscribing {
        if let Some(endpoint) = self.hub.endpoints().by_id.get_mut(&self.id) {
            endpoint.subscribed.insert(room.clone());
        }
        Box::pin(std::future::ready(()))
    }

    fn unsubscribe(&self, room: &RoomId) {
        if let Some(endpoint) = self.hub.endpoints().by_id.get_mut(&self.id) {
            endpoint.subscribed.remove(room);
        }
    }

    fn healthy(&self) -> bool {
        true
    }

    /// Always false: if a queue is full, its own reader gets a gap.
    fn take_unsent(&self) -> bool {
        false
    }

    fn load(&self) -> Load {
        let endpoints = self.hub.endpoints();
        Load {
            subscriptions: endpoints
                .by_id
                .get(&self.id)
                .map_or(0, |endpoint| endpoint.subscribed.len()),
            queued: 0,
        }
    }

    fn close(&self) -> Subscribing {
        self.hub.endpoints().by_id.remove(&self.id);
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
