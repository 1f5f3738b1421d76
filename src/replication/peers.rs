//! The other replicas, as far as their cursors go. Owns that no cursor stays on a screen when the replica that
//! told of it is gone: it says several times a second that it is there, and what it told of is taken off the
//! screens when it has not for a while, or cannot be heard. The next move brings a cursor back.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::domain::ids::{RoomId, UserId};
use crate::protocol::CursorFrame;
use crate::rooms::Rooms;

/// After this long without a word a replica counts as gone.
const GONE: Duration = Duration::from_secs(3);

struct Peer {
    heard: Instant,
    /// Whose cursors it told of, in rooms with an audience here.
    shown: HashMap<RoomId, HashSet<UserId>>,
}

/// The other replicas.
#[derive(Default)]
pub(super) struct Peers(HashMap<String, Peer>);

impl Peers {
    fn peer(&mut self, replica: &str) -> &mut Peer {
        self.0.entry(replica.to_owned()).or_insert_with(|| Peer {
            heard: Instant::now(),
            shown: HashMap::new(),
        })
    }

    /// It is there.
    pub(super) fn heard(&mut self, replica: &str) {
        self.peer(replica).heard = Instant::now();
    }

    /// It told of these cursors.
    pub(super) fn point(&mut self, replica: &str, room: &RoomId, frames: &[CursorFrame]) {
        let peer = self.peer(replica);
        peer.heard = Instant::now();
        let shown = peer.shown.entry(room.clone()).or_default();
        for frame in frames {
            if !shown.contains(&frame.user_id) {
                shown.insert(frame.user_id.clone());
            }
        }
    }

    /// It told that this one left.
    pub(super) fn left(&mut self, replica: &str, room: &RoomId, user: &UserId) {
        let peer = self.peer(replica);
        peer.heard = Instant::now();
        if let Some(shown) = peer.shown.get_mut(room) {
            shown.remove(user);
            if shown.is_empty() {
                peer.shown.remove(room);
            }
        }
    }

    /// Takes the cursors of those who are gone off the screens, and forgets rooms that nobody watches here.
    /// Returns whether anybody is gone.
    pub(super) fn sweep(&mut self, rooms: &Rooms) -> bool {
        let before = self.0.len();
        self.0.retain(|_, peer| {
            if peer.heard.elapsed() < GONE {
                peer.shown.retain(|room, _| rooms.has(room));
                return true;
            }
            for (room, users) in &peer.shown {
                for user in users {
                    rooms.show_cursor_left(room, user);
                }
            }
            false
        });
        self.0.len() < before
    }
}
