//! Members of rooms, as replicas announce them to each other. Owns the rate-limited requests for rosters after missed
//! messages, and the removal of members and cursors of replicas that are gone.

use std::time::Instant;

use tracing::debug;

use super::event::Event;
use super::{LINGER, Room, Rooms};
use crate::domain::ids::{Member, RoomId};
use crate::protocol::Message;

impl Rooms {
    /// Records the heartbeat of another replica.
    pub fn heard(&self, replica: &str) {
        self.inner().replicas.heard(replica, Instant::now());
    }

    /// A member's first socket joined on another replica.
    pub fn member_joined(&self, replica: &str, id: &RoomId, member: Member) {
        if let Some(room) = self.inner().rooms.get_mut(id) {
            room.roster.joined(replica, member);
        }
    }

    /// A member's last socket left on another replica.
    pub fn member_left(&self, replica: &str, id: &RoomId, member: &Member) {
        if let Some(room) = self.inner().rooms.get_mut(id) {
            let gone = room.roster.left(replica, member);
            log_gone(id, gone);
        }
    }

    /// Another replica sent its full roster.
    pub fn replace_members(&self, replica: &str, id: &RoomId, members: Vec<Member>) {
        if let Some(room) = self.inner().rooms.get_mut(id) {
            let gone = room.roster.replace(replica, members.into_iter().collect());
            log_gone(id, gone);
        }
    }

    /// Another replica requests the roster of this one.
    pub fn send_members(&self, id: &RoomId) {
        let inner = self.inner();
        let Some(room) = inner.rooms.get(id) else {
            return;
        };
        let members: Vec<Member> = room.roster.members_here().cloned().collect();
        if !members.is_empty() {
            let room = id.clone();
            let message = Message::Roster { room, members };
            self.announcer.announce(id, message);
        }
    }

    /// Marks the rosters of all rooms as stale, because messages may have been lost.
    pub fn mark_rosters_stale(&self) {
        for room in self.inner().rooms.values_mut() {
            room.roster_stale = true;
        }
    }

    pub(super) fn request_stale(&self, id: &RoomId, room: &mut Room, now: Instant) {
        if std::mem::take(&mut room.roster_stale) {
            room.roster.request(now);
            let message = Message::RosterWanted { room: id.clone() };
            self.announcer.announce(id, message);
        }
    }

    /// Requests the other replicas' rosters of at most `max` rooms with a stale one.
    pub fn request_rosters(&self, max: usize) {
        let now = Instant::now();
        let mut inner = self.inner();
        let stale = inner.rooms.iter_mut().filter(|(_, room)| room.roster_stale);
        for (id, room) in stale.take(max) {
            self.request_stale(id, room, now);
        }
    }

    /// Called once a second: removes the cursors and members of replicas that are gone, and drops rooms that have been
    /// empty for a while. True if a replica is gone.
    pub fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut inner = self.inner();
        let gone = inner.replicas.gone(now);
        inner.rooms.retain(|id, room| {
            for replica in &gone {
                for user_id in room.roster.remove_replica(replica) {
                    let left = Event::cursor_left(&id.appointment, &user_id);
                    self.enqueue_cursors(room.roster.audience(), vec![left]);
                }
            }
            log_gone(id, room.roster.settle(now));
            let keep = room.emptied.is_none_or(|since| since.elapsed() < LINGER);
            if !keep {
                self.announcer.bus().unsubscribe(id);
            }
            keep
        });
        !gone.is_empty()
    }
}

fn log_gone(id: &RoomId, gone: impl IntoIterator<Item = Member>) {
    for member in gone {
        debug!(appointment = %id.appointment, user = %member.user_id, "a member left its last replica");
    }
}
