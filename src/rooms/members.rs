//! The members of rooms, as replicas tell each other of them. Owns that a replica that missed something asks, at a
//! bounded rate, and that members and cursors of a replica that is gone do not stay.

use std::time::Instant;

use tracing::debug;

use super::event::Event;
use super::{LINGER, Room, Rooms};
use crate::domain::ids::{Member, RoomId};
use crate::protocol::Message;

impl Rooms {
    /// Another replica is there.
    pub fn heard(&self, replica: &str) {
        self.inner().replicas.heard(replica, Instant::now());
    }

    /// Another replica told of a member's first socket there.
    pub fn member_joined(&self, replica: &str, id: &RoomId, member: Member) {
        if let Some(room) = self.inner().rooms.get_mut(id) {
            room.roster.joined(replica, member);
        }
    }

    /// Another replica told that a member's last socket there left.
    pub fn member_left(&self, replica: &str, id: &RoomId, member: &Member) {
        if let Some(room) = self.inner().rooms.get_mut(id) {
            let gone = room.roster.left(replica, member);
            note_gone(id, gone);
        }
    }

    /// Another replica told of all its members.
    pub fn members_are(&self, replica: &str, id: &RoomId, members: Vec<Member>) {
        if let Some(room) = self.inner().rooms.get_mut(id) {
            let gone = room.roster.replace(replica, members.into_iter().collect());
            note_gone(id, gone);
        }
    }

    /// Another replica asks for the members here.
    pub fn tell_members(&self, id: &RoomId) {
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

    /// Messages may have been lost: every room is to ask for the others' members.
    pub fn unsure(&self) {
        for room in self.inner().rooms.values_mut() {
            room.unsure = true;
        }
    }

    pub(super) fn ask_others(&self, id: &RoomId, room: &mut Room, now: Instant) {
        if std::mem::take(&mut room.unsure) {
            room.roster.ask(now);
            let message = Message::RosterWanted { room: id.clone() };
            self.announcer.announce(id, message);
        }
    }

    /// Asks for the others' members, at most that often at once, for rooms that are not sure of them.
    pub fn ask_rosters(&self, most: usize) {
        let now = Instant::now();
        let mut inner = self.inner();
        let unsure = inner.rooms.iter_mut().filter(|(_, room)| room.unsure);
        for (id, room) in unsure.take(most) {
            self.ask_others(id, room, now);
        }
    }

    /// Once a second: takes the cursors of replicas that are gone off the screens, forgets their members, and drops rooms
    /// that have been empty for a while. Returns whether a replica is gone.
    pub fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut inner = self.inner();
        let gone = inner.replicas.gone(now);
        inner.rooms.retain(|id, room| {
            for replica in &gone {
                for user_id in room.roster.forget(replica) {
                    let left = Event::cursor_left(&id.appointment, &user_id);
                    self.put_cursors(room.roster.audience(), vec![left]);
                }
            }
            note_gone(id, room.roster.settle(now));
            let keep = room.emptied.is_none_or(|since| since.elapsed() < LINGER);
            if !keep {
                self.announcer.bus().unsubscribe(id);
            }
            keep
        });
        !gone.is_empty()
    }
}

fn note_gone(id: &RoomId, gone: impl IntoIterator<Item = Member>) {
    for member in gone {
        debug!(appointment = %id.appointment, user = %member.user_id, "no replica has this member any more");
    }
}
