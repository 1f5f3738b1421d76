//! Roster of a room: the subscriptions here, and the members on other replicas. Owns the counts by user and by tab over
//! all replicas, and the users whose cursors are on the screens.
//!
//! Pure: nothing here waits, sends or reads a clock. A departure reports a member that left its last replica, as far as
//! this replica knows. That is only a hint, because replicas may not have heard of each other yet: SQL decides.
//!
//! On failure, such as a replica that died or a lost message, the members of another replica are wrong until its next
//! full roster, or until [`Replicas::gone`] returns it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::subscription::Subscription;
use crate::domain::ids::{Member, UserId};

/// Time without a heartbeat after which a replica counts as gone. Heartbeats come several times a second.
const GONE_AFTER: Duration = Duration::from_secs(3);
/// Time to answer a request for rosters. A replica that did not answer has no members in the room.
const ROSTER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum users whose cursors one socket may send in one room, in `trusted` mode.
pub const MAX_CURSORS: usize = 64;

/// Effect of a socket that entered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The member, if this is its first socket on this replica: to be announced.
    pub first_here: Option<Member>,
}

/// Effect of a socket that left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// The member, if this was its last socket on this replica: to be announced.
    pub last_here: Option<Member>,
    /// The member, if this was its last socket on any replica.
    pub last_anywhere: Option<Member>,
    /// Users whose cursors no local socket sends any longer.
    pub cursors: Vec<UserId>,
}

/// Reason why a cursor was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorRefused {
    /// The socket is not in the room.
    NotSubscribed,
    /// The socket sends the cursors of [`MAX_CURSORS`] users already.
    TooMany,
}

struct Local {
    subscription: Arc<Subscription>,
    /// True once it has its snapshot, and gets events.
    admitted: bool,
    /// Unanswered `subscribe` requests.
    pending: usize,
    cursors: HashSet<UserId>,
}

#[derive(Default)]
struct Remote {
    /// True if it has sent its full roster since the last request.
    confirmed: bool,
    members: HashSet<Member>,
    cursors: HashSet<UserId>,
}

impl Remote {
    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.cursors.is_empty()
    }
}

/// Roster of one room.
#[derive(Default)]
pub struct Roster {
    local: HashMap<Arc<str>, Local>,
    /// Number of local subscriptions, by member.
    members: HashMap<Member, usize>,
    /// Number of local sockets that send a user's cursor.
    cursors: HashMap<UserId, usize>,
    remote: HashMap<Arc<str>, Remote>,
    /// Time of the last request for rosters, until it is settled.
    requested: Option<Instant>,
    /// Admitted subscriptions. Shared with queued events: copied on write if there are any.
    audience: Arc<Vec<Arc<Subscription>>>,
}

impl Roster {
    /// Number of local sockets, admitted or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.local.len()
    }

    /// True if there is no local socket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.local.is_empty()
    }

    /// Admitted subscriptions, the recipients of events.
    #[must_use]
    pub fn audience(&self) -> Arc<Vec<Arc<Subscription>>> {
        self.audience.clone()
    }

    /// Members on this replica.
    pub fn members_here(&self) -> impl Iterator<Item = &Member> {
        self.members.keys()
    }

    /// Members on any replica, each once.
    #[must_use]
    pub fn members(&self) -> HashSet<&Member> {
        let remote = self.remote.values().flat_map(|remote| &remote.members);
        self.members.keys().chain(remote).collect()
    }

    /// True if a socket of the user is in the room, on any replica.
    #[must_use]
    pub fn has_user(&self, user_id: &UserId) -> bool {
        self.members()
            .iter()
            .any(|member| member.user_id == *user_id)
    }

    /// True if a socket of the member is in the room, on any replica.
    #[must_use]
    pub fn has(&self, member: &Member) -> bool {
        self.members.contains_key(member) || self.is_remote(member)
    }

    fn is_remote(&self, member: &Member) -> bool {
        let mut remotes = self.remote.values();
        remotes.any(|remote| remote.members.contains(member))
    }

    /// Counts another request of a socket that is in the room. `None` if it is not.
    pub fn enter_again(&mut self, socket: &str) -> Option<Arc<Subscription>> {
        let local = self.local.get_mut(socket)?;
        local.pending += 1;
        Some(local.subscription.clone())
    }

    /// Adds a socket that is not in the room. It is counted immediately, but gets no events before [`Roster::admit`].
    pub fn enter(&mut self, subscription: Arc<Subscription>) -> Arrival {
        let mut arrival = Arrival::default();
        if let Some(member) = &subscription.member {
            let count = self.members.entry(member.clone()).or_default();
            *count += 1;
            if *count == 1 {
                arrival.first_here = Some(member.clone());
            }
        }
        let local = Local {
            subscription: subscription.clone(),
            admitted: false,
            pending: 1,
            cursors: HashSet::new(),
        };
        let before = self.local.insert(subscription.socket.clone(), local);
        debug_assert!(before.is_none(), "a socket enters a room once");
        arrival
    }

    /// A request was answered with a snapshot: the socket gets events from now on, if it has not left.
    pub fn admit(&mut self, subscription: &Arc<Subscription>) {
        let Some(local) = self.current(subscription) else {
            return;
        };
        local.pending = local.pending.saturating_sub(1);
        if !local.admitted {
            local.admitted = true;
            Arc::make_mut(&mut self.audience).push(subscription.clone());
        }
    }

    /// A request failed. A socket that was never admitted, and has no other request, leaves.
    pub fn fail(&mut self, subscription: &Arc<Subscription>) -> Option<Departure> {
        let local = self.current(subscription)?;
        local.pending = local.pending.saturating_sub(1);
        if local.admitted || local.pending > 0 {
            return None;
        }
        self.leave(&subscription.socket)
    }

    /// Entry of exactly that subscription: the socket may have left and entered again.
    fn current(&mut self, subscription: &Arc<Subscription>) -> Option<&mut Local> {
        let local = self.local.get_mut(&subscription.socket)?;
        Arc::ptr_eq(&local.subscription, subscription).then_some(local)
    }

    /// Removes a socket. `None` if it is not in the room.
    pub fn leave(&mut self, socket: &str) -> Option<Departure> {
        let local = self.local.remove(socket)?;
        local.subscription.end();
        if local.admitted {
            Arc::make_mut(&mut self.audience).retain(|other| *other.socket != *socket);
        }
        let mut departure = Departure::default();
        for user_id in local.cursors {
            if let Some(count) = self.cursors.get_mut(&user_id) {
                *count -= 1;
                if *count == 0 {
                    self.cursors.remove(&user_id);
                    departure.cursors.push(user_id);
                }
            }
        }
        if let Some(member) = &local.subscription.member
            && let Some(count) = self.members.get_mut(member)
        {
            *count -= 1;
            if *count == 0 {
                self.members.remove(member);
                departure.last_here = Some(member.clone());
                if !self.is_remote(member) {
                    departure.last_anywhere = Some(member.clone());
                }
            }
        }
        Some(departure)
    }

    /// Records that a socket sends that user's cursor.
    ///
    /// # Errors
    /// [`CursorRefused`].
    pub fn add_cursor(&mut self, socket: &str, user_id: &UserId) -> Result<(), CursorRefused> {
        let Some(local) = self.local.get_mut(socket) else {
            return Err(CursorRefused::NotSubscribed);
        };
        if local.cursors.contains(user_id) {
            return Ok(());
        }
        if local.cursors.len() >= MAX_CURSORS {
            return Err(CursorRefused::TooMany);
        }
        local.cursors.insert(user_id.clone());
        *self.cursors.entry(user_id.clone()).or_default() += 1;
        Ok(())
    }

    fn remote_mut(&mut self, replica: &str) -> &mut Remote {
        if !self.remote.contains_key(replica) {
            self.remote.insert(replica.into(), Remote::default());
        }
        self.remote
            .get_mut(replica)
            .expect("it was inserted above if it was missing")
    }

    /// A member's first socket joined on another replica.
    pub fn joined(&mut self, replica: &str, member: Member) {
        self.remote_mut(replica).members.insert(member);
    }

    /// A member's last socket left on another replica. Returns the member if no replica has it any longer.
    pub fn left(&mut self, replica: &str, member: &Member) -> Option<Member> {
        let remote = self.remote.get_mut(replica)?;
        let was_present = remote.members.remove(member);
        self.prune(replica);
        (was_present && !self.has(member)).then(|| member.clone())
    }

    /// Another replica sent its full roster. Returns the members that no replica has any longer.
    pub fn replace(&mut self, replica: &str, members: HashSet<Member>) -> Vec<Member> {
        let remote = self.remote_mut(replica);
        remote.confirmed = true;
        let before = std::mem::replace(&mut remote.members, members);
        self.prune(replica);
        before.into_iter().filter(|it| !self.has(it)).collect()
    }

    /// Records a request for the other replicas' rosters, after possibly missed messages.
    pub fn request(&mut self, now: Instant) {
        self.requested = Some(now);
        for remote in self.remote.values_mut() {
            remote.confirmed = false;
        }
    }

    /// Removes the members of replicas that did not answer the request in time. Returns the members that no replica has
    /// any longer.
    pub fn settle(&mut self, now: Instant) -> Vec<Member> {
        let due = |requested: Instant| now.saturating_duration_since(requested) >= ROSTER_TIMEOUT;
        if !self.requested.is_some_and(due) {
            return Vec::new();
        }
        self.requested = None;
        let silent = self.remote.values_mut().filter(|remote| !remote.confirmed);
        let mut gone: HashSet<Member> = silent
            .flat_map(|remote| std::mem::take(&mut remote.members))
            .collect();
        self.remote.retain(|_, remote| !remote.is_empty());
        gone.retain(|member| !self.has(member));
        gone.into_iter().collect()
    }

    /// True if a socket sends that user's cursor, on any replica.
    #[must_use]
    pub fn has_cursor(&self, user_id: &UserId) -> bool {
        let mut remotes = self.remote.values();
        self.cursors.contains_key(user_id) || remotes.any(|it| it.cursors.contains(user_id))
    }

    /// Another replica sent cursors of these users.
    pub fn add_remote_cursors<'a>(
        &mut self,
        replica: &str,
        users: impl Iterator<Item = &'a UserId>,
    ) {
        let remote = self.remote_mut(replica);
        for user_id in users {
            if !remote.cursors.contains(user_id) {
                remote.cursors.insert(user_id.clone());
            }
        }
    }

    /// A user's cursor left on another replica.
    pub fn remove_remote_cursor(&mut self, replica: &str, user_id: &UserId) {
        if let Some(remote) = self.remote.get_mut(replica) {
            remote.cursors.remove(user_id);
        }
        self.prune(replica);
    }

    /// Removes a replica with its members and cursors. Returns the users whose cursors it had sent.
    pub fn remove_replica(&mut self, replica: &str) -> Vec<UserId> {
        let remote = self.remote.remove(replica);
        remote.map_or_else(Vec::new, |remote| remote.cursors.into_iter().collect())
    }

    /// Removes the entry of a replica that has nothing left.
    fn prune(&mut self, replica: &str) {
        if self.remote.get(replica).is_some_and(Remote::is_empty) {
            self.remote.remove(replica);
        }
    }
}

/// Other replicas, and the time of the last message of each.
#[derive(Default)]
pub struct Replicas(HashMap<Arc<str>, Instant>);

impl Replicas {
    /// Records a message of a replica.
    pub fn heard(&mut self, replica: &str, now: Instant) {
        match self.0.get_mut(replica) {
            Some(heard) => *heard = now,
            None => {
                self.0.insert(replica.into(), now);
            }
        }
    }

    /// Removes and returns the replicas that have been silent for too long.
    pub fn gone(&mut self, now: Instant) -> Vec<Arc<str>> {
        let gone = |heard: &Instant| now.saturating_duration_since(*heard) >= GONE_AFTER;
        let names: Vec<Arc<str>> = self
            .0
            .iter()
            .filter(|(_, heard)| gone(heard))
            .map(|(name, _)| name.clone())
            .collect();
        self.0.retain(|_, heard| !gone(heard));
        names
    }
}

#[cfg(test)]
mod tests;
