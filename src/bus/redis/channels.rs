//! What channels are called on Redis. Owns that they begin with the installation's name, which PostgreSQL keeps:
//! pub/sub knows no databases, and another installation on the same Redis is not to be heard here.

use std::sync::Arc;

use fred::util::redis_keyslot;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use crate::domain::ids::RoomId;

/// Partitions of the rooms over a cluster's slots.
const PARTITIONS: u16 = 256;

/// The channels, once the installation's name is known.
pub(super) type Known = Shared<BoxFuture<'static, Arc<Channels>>>;

/// The channels of one installation.
#[derive(Debug)]
pub(super) struct Channels {
    installation: String,
    alive: String,
}

impl Channels {
    /// Of the installation of that name, when it is known.
    pub(super) fn of(installation: impl Future<Output = String> + Send + 'static) -> Known {
        let channels = async { Arc::new(Self::named(installation.await)) };
        channels.boxed().shared()
    }

    fn named(installation: String) -> Self {
        let alive = format!("apptlock:{{alive}}:{installation}");
        Self {
            installation,
            alive,
        }
    }

    /// Where every replica says that it is there; one's own word coming back is the probe.
    pub(super) fn alive(&self) -> &str {
        &self.alive
    }

    /// The channel of a room. The tag in braces decides the slot on a cluster; 256 of them keep slots even.
    pub(super) fn room(&self, room: &RoomId) -> String {
        let name = room.name();
        let part = redis_keyslot(name.as_bytes()) % PARTITIONS;
        format!("apptlock:{{p{part}}}:{}:{name}", self.installation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{AppointmentId, TenantId};

    #[test]
    fn a_room_has_the_same_channel_on_every_replica_of_its_installation() {
        let room = RoomId {
            tenant: TenantId::default(),
            appointment: AppointmentId::new("a").unwrap(),
        };
        let channels = Channels::named("0f".into());
        // Another hash would split the audience of a room between two releases during an update.
        assert_eq!(channels.room(&room), "apptlock:{p202}:0f:\u{1f}a");
        assert_eq!(channels.alive(), "apptlock:{alive}:0f");
    }
}
