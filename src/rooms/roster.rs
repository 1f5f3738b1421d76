//! Who is in a room: the subscriptions here, and the members that other replicas told of. Owns the counting: by user,
//! and by user and tab, over all replicas; and whose cursors are on the screens.
//!
//! Pure: nothing here waits, sends or reads a clock. A departure says which member is in the room on no replica any
//! more, as far as this one knows. That only proposes what follows from it: replicas may not have heard of each other
//! yet, so what depends on it is decided by SQL.
//!
//! On failure, as when a replica dies or a message is lost, entries of other replicas are too many or too few until
//! its next full roster, or until [`Replicas::gone`] names it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::subscription::Subscription;
use crate::domain::ids::{Member, UserId};

/// A replica that was not heard for this long counts as gone. A replica that lives says so several times a second.
const GONE: Duration = Duration::from_secs(3);
/// A replica that has not answered with its roster by then has nobody in the room.
const ANSWER: Duration = Duration::from_secs(2);
/// Users whose cursors one socket may show in one room, in `trusted` mode.
pub const MAX_POINTERS: usize = 64;

/// A socket that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The member, if it is the first of it on this replica: the others are to be told.
    pub first_here: Option<Member>,
}

/// A socket that left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// The member, if it was the last of it on this replica: the others are to be told.
    pub last_here: Option<Member>,
    /// The member, if no replica has it any more.
    pub last_anywhere: Option<Member>,
    /// Users whose cursors no socket here shows any more.
    pub pointers: Vec<UserId>,
}

/// Why a cursor was not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointRefused {
    /// The socket is not in the room.
    NotSubscribed,
    /// It shows the cursors of [`MAX_POINTERS`] users already.
    TooMany,
}

struct Local {
    subscription: Arc<Subscription>,
    /// Whether it has its snapshot, so that events are for it.
    admitted: bool,
    /// Requests to subscribe that are not answered yet.
    pending: usize,
    pointers: HashSet<UserId>,
}

#[derive(Default)]
struct Remote {
    /// Whether it told its whole roster since it was last asked.
    confirmed: bool,
    members: HashSet<Member>,
    pointers: HashSet<UserId>,
}

impl Remote {
    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.pointers.is_empty()
    }
}

/// Who is in one room.
#[derive(Default)]
pub struct Roster {
    here: HashMap<Arc<str>, Local>,
    /// Subscriptions here, by member.
    members: HashMap<Member, usize>,
    /// Sockets here that show a user's cursor.
    pointers: HashMap<UserId, usize>,
    elsewhere: HashMap<Arc<str>, Remote>,
    /// When the others were asked for their rosters, until those that did not answer are settled.
    asked: Option<Instant>,
    /// The subscriptions that events are for. Shared with events on their way: copied only if one is.
    audience: Arc<Vec<Arc<Subscription>>>,
}

impl Roster {
    /// Sockets here, admitted or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.here.len()
    }

    /// Whether no socket is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.here.is_empty()
    }

    /// The subscriptions that events are for.
    #[must_use]
    pub fn audience(&self) -> Arc<Vec<Arc<Subscription>>> {
        self.audience.clone()
    }

    /// The members on this replica.
    pub fn members_here(&self) -> impl Iterator<Item = &Member> {
        self.members.keys()
    }

    /// The members on any replica, each once.
    #[must_use]
    pub fn members(&self) -> HashSet<&Member> {
        let elsewhere = self.elsewhere.values().flat_map(|remote| &remote.members);
        self.members.keys().chain(elsewhere).collect()
    }

    /// Whether any socket of the user is in the room, on whichever replica.
    #[must_use]
    pub fn has_user(&self, user_id: &UserId) -> bool {
        self.members()
            .iter()
            .any(|member| member.user_id == *user_id)
    }

    /// Whether any socket of the member is in the room, on whichever replica.
    #[must_use]
    pub fn has(&self, member: &Member) -> bool {
        self.members.contains_key(member) || self.is_elsewhere(member)
    }

    fn is_elsewhere(&self, member: &Member) -> bool {
        let mut remotes = self.elsewhere.values();
        remotes.any(|remote| remote.members.contains(member))
    }

    /// One more request of a socket that is in the room already. `None` if it is not.
    pub fn ask_again(&mut self, socket: &str) -> Option<Arc<Subscription>> {
        let local = self.here.get_mut(socket)?;
        local.pending += 1;
        Some(local.subscription.clone())
    }

    /// A socket that is not in the room asks to be. It is counted at once, and hears nothing before
    /// [`Roster::admit`].
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
            pointers: HashSet::new(),
        };
        let before = self.here.insert(subscription.socket.clone(), local);
        debug_assert!(before.is_none(), "a socket enters a room once");
        arrival
    }

    /// A request was answered with a snapshot: events are for the socket from now on, if it has not left.
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

    /// The entry of exactly that subscription: the socket may have left and entered anew.
    fn current(&mut self, subscription: &Arc<Subscription>) -> Option<&mut Local> {
        let local = self.here.get_mut(&subscription.socket)?;
        Arc::ptr_eq(&local.subscription, subscription).then_some(local)
    }

    /// A socket leaves. `None` if it is not in the room.
    pub fn leave(&mut self, socket: &str) -> Option<Departure> {
        let local = self.here.remove(socket)?;
        local.subscription.end();
        if local.admitted {
            Arc::make_mut(&mut self.audience).retain(|other| *other.socket != *socket);
        }
        let mut departure = Departure::default();
        for user_id in local.pointers {
            if let Some(count) = self.pointers.get_mut(&user_id) {
                *count -= 1;
                if *count == 0 {
                    self.pointers.remove(&user_id);
                    departure.pointers.push(user_id);
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
                if !self.is_elsewhere(member) {
                    departure.last_anywhere = Some(member.clone());
                }
            }
        }
        Some(departure)
    }

    /// A socket shows that user's cursor.
    ///
    /// # Errors
    /// [`PointRefused`].
    pub fn point(&mut self, socket: &str, user_id: &UserId) -> Result<(), PointRefused> {
        let Some(local) = self.here.get_mut(socket) else {
            return Err(PointRefused::NotSubscribed);
        };
        if local.pointers.contains(user_id) {
            return Ok(());
        }
        if local.pointers.len() >= MAX_POINTERS {
            return Err(PointRefused::TooMany);
        }
        local.pointers.insert(user_id.clone());
        *self.pointers.entry(user_id.clone()).or_default() += 1;
        Ok(())
    }

    fn remote(&mut self, replica: &str) -> &mut Remote {
        if !self.elsewhere.contains_key(replica) {
            self.elsewhere.insert(replica.into(), Remote::default());
        }
        self.elsewhere
            .get_mut(replica)
            .expect("it was put in if it was not there")
    }

    /// Another replica told of its first socket of that member.
    pub fn joined(&mut self, replica: &str, member: Member) {
        self.remote(replica).members.insert(member);
    }

    /// Another replica told that its last socket of that member left. Returns the member if no replica has it now.
    pub fn left(&mut self, replica: &str, member: &Member) -> Option<Member> {
        let remote = self.elsewhere.get_mut(replica)?;
        let was_there = remote.members.remove(member);
        self.tidy(replica);
        (was_there && !self.has(member)).then(|| member.clone())
    }

    /// Another replica told of all its members. Returns those that no replica has now.
    pub fn replace(&mut self, replica: &str, members: HashSet<Member>) -> Vec<Member> {
        let remote = self.remote(replica);
        remote.confirmed = true;
        let before = std::mem::replace(&mut remote.members, members);
        self.tidy(replica);
        before.into_iter().filter(|it| !self.has(it)).collect()
    }

    /// The others are asked for their rosters, since some of what they told may have been missed.
    pub fn ask(&mut self, now: Instant) {
        self.asked = Some(now);
        for remote in self.elsewhere.values_mut() {
            remote.confirmed = false;
        }
    }

    /// Forgets the members of replicas that were asked and did not answer in time. Returns those that no replica has
    /// now.
    pub fn settle(&mut self, now: Instant) -> Vec<Member> {
        let late = |asked: Instant| now.saturating_duration_since(asked) >= ANSWER;
        if !self.asked.is_some_and(late) {
            return Vec::new();
        }
        self.asked = None;
        let silent = self
            .elsewhere
            .values_mut()
            .filter(|remote| !remote.confirmed);
        let mut gone: HashSet<Member> = silent
            .flat_map(|remote| std::mem::take(&mut remote.members))
            .collect();
        self.elsewhere.retain(|_, remote| !remote.is_empty());
        gone.retain(|member| !self.has(member));
        gone.into_iter().collect()
    }

    /// Another replica told of cursors of these users.
    pub fn pointed<'a>(&mut self, replica: &str, users: impl Iterator<Item = &'a UserId>) {
        let remote = self.remote(replica);
        for user_id in users {
            if !remote.pointers.contains(user_id) {
                remote.pointers.insert(user_id.clone());
            }
        }
    }

    /// Another replica told that a user's cursor left there.
    pub fn pointer_left(&mut self, replica: &str, user_id: &UserId) {
        if let Some(remote) = self.elsewhere.get_mut(replica) {
            remote.pointers.remove(user_id);
        }
        self.tidy(replica);
    }

    /// A replica is gone, with its members and cursors. Returns the users whose cursors it told of.
    pub fn forget(&mut self, replica: &str) -> Vec<UserId> {
        let remote = self.elsewhere.remove(replica);
        remote.map_or_else(Vec::new, |remote| remote.pointers.into_iter().collect())
    }

    fn tidy(&mut self, replica: &str) {
        if self.elsewhere.get(replica).is_some_and(Remote::is_empty) {
            self.elsewhere.remove(replica);
        }
    }
}

/// The other replicas, and when each was last heard.
#[derive(Default)]
pub struct Replicas(HashMap<Arc<str>, Instant>);

impl Replicas {
    /// It said something.
    pub fn heard(&mut self, replica: &str, now: Instant) {
        match self.0.get_mut(replica) {
            Some(heard) => *heard = now,
            None => {
                self.0.insert(replica.into(), now);
            }
        }
    }

    /// Forgets those that were not heard for a while, and names them.
    pub fn gone(&mut self, now: Instant) -> Vec<Arc<str>> {
        let gone = |heard: &Instant| now.saturating_duration_since(*heard) >= GONE;
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
