//! Channel names on Redis, and the signature of messages. Owns the separation of installations: channel names begin
//! with the installation's name and messages are signed with its key, both stored in PostgreSQL. Redis pub/sub is not
//! scoped to a database, and neither another installation on the same Redis nor any other client of it is trusted.

use std::sync::Arc;

use fred::util::redis_keyslot;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use super::signature::Signer;
use crate::bus::Installation;
use crate::domain::ids::RoomId;

/// Partitions of rooms over a cluster's slots.
const PARTITIONS: u16 = 256;

/// Channels, once the installation is known.
pub(super) type Known = Shared<BoxFuture<'static, Arc<Channels>>>;

/// Channels of one installation.
#[derive(Debug)]
pub(super) struct Channels {
    installation: String,
    alive: String,
    signer: Signer,
}

impl Channels {
    /// Channels of an installation, once it is known.
    pub(super) fn of(installation: impl Future<Output = Installation> + Send + 'static) -> Known {
        let channels = async { Arc::new(Self::new(installation.await)) };
        channels.boxed().shared()
    }

    fn new(installation: Installation) -> Self {
        let name = installation.name;
        Self {
            alive: format!("apptlock:{{alive}}:{name}"),
            signer: Signer::new(&installation.key),
            installation: name,
        }
    }

    /// Signer and verifier of messages.
    pub(super) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Channel of heartbeats. A replica's own heartbeat coming back is its probe.
    pub(super) fn alive(&self) -> &str {
        &self.alive
    }

    /// Channel of a room. The tag in braces decides the slot on a cluster; 256 tags spread rooms evenly.
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
        let channels = Channels::new(Installation {
            name: "0f".into(),
            key: vec![0; 32],
        });
        // Another hash would split the audience of a room between two releases during an update.
        assert_eq!(channels.room(&room), "apptlock:{p202}:0f:\u{1f}a");
        assert_eq!(channels.alive(), "apptlock:{alive}:0f");
    }
}
