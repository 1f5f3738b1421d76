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
        if let Some(room) = self.inner().rooms.get_mut(id)
            && !room.roster.is_empty()
        {
            self.send_roster(id, room);
        }
    }

    /// Sends the members here, now or with the next [`Rooms::exchange_rosters`].
    fn send_roster(&self, id: &RoomId, room: &mut Room) {
        let message = Message::Roster {
            room: id.clone(),
            members: room.roster.members_here().cloned().collect(),
        };
        room.roster_owed = !self.announcer.announce_if_idle(id, message);
    }

    /// Marks the rosters of all rooms as stale, because messages may have been lost.
    pub fn mark_rosters_stale(&self) {
        for room in self.inner().rooms.values_mut() {
            room.roster_stale = true;
        }
    }

    pub(super) fn request_stale(&self, id: &RoomId, room: &mut Room, now: Instant) {
        if room.roster_stale {
            let message = Message::RosterWanted { room: id.clone() };
            if self.announcer.announce_if_idle(id, message) {
                room.roster_stale = false;
                room.roster.request(now);
            }
        }
    }

    /// Requests the other replicas' rosters of rooms with a stale one, and sends those that are owed: of at most `max`
    /// rooms.
    pub fn exchange_rosters(&self, max: usize) {
        let now = Instant::now();
        let mut inner = self.inner();
        let open = |room: &Room| room.roster_stale || room.roster_owed;
        let due = inner.rooms.iter_mut().filter(|(_, room)| open(room));
        for (id, room) in due.take(max) {
            self.request_stale(id, room, now);
            if room.roster_owed {
                self.send_roster(id, room);
            }
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
                    if !room.roster.has_cursor(&user_id) {
                        let left = Event::cursor_left(&id.appointment, &user_id);
                        self.enqueue_cursors(room.roster.audience(), vec![left]);
                    }
                }
            }
            log_gone(id, room.roster.settle(now));
            // First announces that no member is left, if possible.
            let kept_for = if room.roster_owed { LINGER * 6 } else { LINGER };
            let keep = room.emptied.is_none_or(|since| since.elapsed() < kept_for);
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
