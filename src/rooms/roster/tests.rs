//! The roster against a model that keeps whole sets and recounts each time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::Event;
use super::super::subscription::{Options, Sent, Sink};
use super::*;
use crate::domain::ids::SessionId;
use crate::domain::lease::LockState;

struct Nowhere;

impl Sink for Nowhere {
    fn send(&self, _: &Event) -> Sent {
        Sent::Gone
    }
    fn admitted(&self, _: u64, _: &LockState) {}
    fn reconnect(&self) {}
}

fn user(n: u8) -> UserId {
    UserId::new(format!("user{n}")).unwrap()
}

fn member(n: u8) -> Member {
    Member {
        user_id: user(n / 2),
        session_id: (n % 2 == 1).then(|| SessionId::new(format!("tab{n}")).unwrap()),
    }
}

fn subscription(socket: u8, of: Option<u8>) -> Arc<Subscription> {
    let sink = Box::new(Nowhere);
    let name = format!("s{socket}").into();
    let member = of.map(member);
    Arc::new(Subscription::new(name, member, Options::default(), sink))
}

#[derive(Debug, Clone)]
enum Step {
    Enter(u8, Option<u8>),
    EnterAgain(u8),
    Admit(u8),
    Fail(u8),
    Leave(u8),
    AddCursor(u8, u8),
    Joined(u8, u8),
    Left(u8, u8),
    Replace(u8, Vec<u8>),
    AddRemoteCursor(u8, u8),
    RemoveRemoteCursor(u8, u8),
    RemoveReplica(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (socket, of, replica, who) = (0..4_u8, 0..6_u8, 0..3_u8, 0..3_u8);
    let step = prop_oneof![
        3 => (socket.clone(), proptest::option::of(of.clone())).prop_map(|(s, m)| Step::Enter(s, m)),
        1 => socket.clone().prop_map(Step::EnterAgain),
        3 => socket.clone().prop_map(Step::Admit),
        1 => socket.clone().prop_map(Step::Fail),
        2 => socket.clone().prop_map(Step::Leave),
        2 => (socket, who.clone()).prop_map(|(s, u)| Step::AddCursor(s, u)),
        2 => (replica.clone(), of.clone()).prop_map(|(r, m)| Step::Joined(r, m)),
        2 => (replica.clone(), of.clone()).prop_map(|(r, m)| Step::Left(r, m)),
        1 => (replica.clone(), proptest::collection::vec(of, 0..4)).prop_map(|(r, m)| Step::Replace(r, m)),
        1 => (replica.clone(), who.clone()).prop_map(|(r, u)| Step::AddRemoteCursor(r, u)),
        1 => (replica.clone(), who).prop_map(|(r, u)| Step::RemoveRemoteCursor(r, u)),
        1 => replica.prop_map(Step::RemoveReplica),
    ];
    proptest::collection::vec(step, 1..60)
}

struct Here {
    subscription: Arc<Subscription>,
    admitted: bool,
    pending: usize,
    cursors: BTreeSet<UserId>,
}

/// Whole sets, recounted at each query.
#[derive(Default)]
struct Model {
    here: BTreeMap<u8, Here>,
    elsewhere: BTreeMap<u8, BTreeSet<Member>>,
    cursors: BTreeMap<u8, BTreeSet<UserId>>,
}

impl Model {
    fn members_here(&self) -> BTreeSet<Member> {
        let here = self.here.values();
        here.filter_map(|it| it.subscription.member.clone())
            .collect()
    }

    fn members(&self) -> BTreeSet<Member> {
        let elsewhere = self.elsewhere.values().flatten().cloned();
        self.members_here().into_iter().chain(elsewhere).collect()
    }

    fn pointers_here(&self) -> BTreeSet<UserId> {
        let here = self.here.values();
        here.flat_map(|it| it.cursors.iter().cloned()).collect()
    }

    /// Expected departure, by comparing the sets before and after.
    fn leave(&mut self, socket: u8) -> Departure {
        let (here, all, cursors) = (self.members_here(), self.members(), self.pointers_here());
        self.here.remove(&socket);
        let (here_after, all_after) = (self.members_here(), self.members());
        Departure {
            last_here: here.difference(&here_after).next().cloned(),
            last_anywhere: all.difference(&all_after).next().cloned(),
            cursors: cursors.difference(&self.pointers_here()).cloned().collect(),
        }
    }
}

fn sorted(mut departure: Departure) -> Departure {
    departure.cursors.sort();
    departure
}

fn name(replica: u8) -> String {
    format!("replica{replica}")
}

fn apply(step: Step, roster: &mut Roster, model: &mut Model) {
    match step {
        Step::Enter(socket, of) => {
            if model.here.contains_key(&socket) {
                return;
            }
            let subscription = subscription(socket, of);
            let before = model.members_here();
            let entry = Here {
                subscription: subscription.clone(),
                admitted: false,
                pending: 1,
                cursors: BTreeSet::new(),
            };
            model.here.insert(socket, entry);
            let first_here = model.members_here().difference(&before).next().cloned();
            assert_eq!(roster.enter(subscription), Arrival { first_here });
        }
        Step::EnterAgain(socket) => {
            let known = roster.enter_again(&format!("s{socket}"));
            let expected = model.here.get_mut(&socket);
            assert_eq!(known.is_some(), expected.is_some());
            if let Some(here) = expected {
                here.pending += 1;
            }
        }
        Step::Admit(socket) => {
            if let Some(here) = model.here.get_mut(&socket).filter(|it| it.pending > 0) {
                here.pending -= 1;
                here.admitted = true;
                roster.admit(&here.subscription);
            }
        }
        Step::Fail(socket) => {
            let Some(here) = model.here.get_mut(&socket).filter(|it| it.pending > 0) else {
                return;
            };
            here.pending -= 1;
            let (leaves, failed) = (
                !here.admitted && here.pending == 0,
                here.subscription.clone(),
            );
            let departure = roster.fail(&failed).map(sorted);
            assert_eq!(departure, leaves.then(|| model.leave(socket)));
        }
        Step::Leave(socket) => {
            let departure = roster.leave(&format!("s{socket}")).map(sorted);
            let known = model.here.get(&socket).map(|it| it.subscription.clone());
            assert_eq!(departure, known.is_some().then(|| model.leave(socket)));
            assert!(known.is_none_or(|it| !it.is_current()));
        }
        Step::AddCursor(socket, who) => {
            let done = roster.add_cursor(&format!("s{socket}"), &user(who));
            match model.here.get_mut(&socket) {
                Some(here) => {
                    here.cursors.insert(user(who));
                    assert_eq!(done, Ok(()));
                }
                None => assert_eq!(done, Err(CursorRefused::NotSubscribed)),
            }
        }
        Step::Joined(replica, of) => {
            roster.joined(&name(replica), member(of));
            model
                .elsewhere
                .entry(replica)
                .or_default()
                .insert(member(of));
        }
        Step::Left(replica, of) => {
            let before = model.members();
            if let Some(there) = model.elsewhere.get_mut(&replica) {
                there.remove(&member(of));
            }
            let gone = before.difference(&model.members()).next().cloned();
            assert_eq!(roster.left(&name(replica), &member(of)), gone);
        }
        Step::Replace(replica, of) => {
            let before = model.members();
            let members: BTreeSet<Member> = of.into_iter().map(member).collect();
            model.elsewhere.insert(replica, members.clone());
            let gone: BTreeSet<Member> = before.difference(&model.members()).cloned().collect();
            let told = roster.replace(&name(replica), members.into_iter().collect());
            assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), gone);
        }
        Step::AddRemoteCursor(replica, who) => {
            roster.add_remote_cursors(&name(replica), [user(who)].iter());
            model.cursors.entry(replica).or_default().insert(user(who));
        }
        Step::RemoveRemoteCursor(replica, who) => {
            roster.remove_remote_cursor(&name(replica), &user(who));
            if let Some(there) = model.cursors.get_mut(&replica) {
                there.remove(&user(who));
            }
        }
        Step::RemoveReplica(replica) => {
            let told: BTreeSet<UserId> =
                roster.remove_replica(&name(replica)).into_iter().collect();
            model.elsewhere.remove(&replica);
            assert_eq!(told, model.cursors.remove(&replica).unwrap_or_default());
        }
    }
}

proptest! {
    #[test]
    fn it_counts_as_whole_sets_do(steps in steps()) {
        let (mut roster, mut model) = (Roster::default(), Model::default());
        for step in steps {
            apply(step, &mut roster, &mut model);
            let members: BTreeSet<Member> = roster.members().into_iter().cloned().collect();
            prop_assert_eq!(&members, &model.members());
            let here: BTreeSet<Member> = roster.members_here().cloned().collect();
            prop_assert_eq!(here, model.members_here());
            for n in 0..3 {
                let there = members.iter().any(|member| member.user_id == user(n));
                prop_assert_eq!(roster.has_user(&user(n)), there);
                let mut elsewhere = model.cursors.values().flatten();
                let shown = model.pointers_here().contains(&user(n)) || elsewhere.any(|it| *it == user(n));
                prop_assert_eq!(roster.has_cursor(&user(n)), shown);
            }
            let audience: BTreeSet<Arc<str>> =
                roster.audience().iter().map(|it| it.socket.clone()).collect();
            let admitted: BTreeSet<Arc<str>> = model
                .here
                .values()
                .filter(|it| it.admitted)
                .map(|it| it.subscription.socket.clone())
                .collect();
            prop_assert_eq!(roster.audience().len(), admitted.len(), "each once");
            prop_assert_eq!(audience, admitted);
            prop_assert_eq!(roster.len(), model.here.len());
        }
    }
}

#[test]
fn a_socket_that_left_and_came_back_is_not_admitted_by_its_first_request() {
    let mut roster = Roster::default();
    let (first, second) = (subscription(0, Some(0)), subscription(0, Some(0)));
    roster.enter(first.clone());
    roster.leave("s0");
    roster.enter(second.clone());
    roster.admit(&first);
    assert!(
        roster.audience().is_empty(),
        "its snapshot is still on its way"
    );
    assert_eq!(roster.fail(&first), None);
    roster.admit(&second);
    assert_eq!(roster.audience().len(), 1);
}

#[test]
fn an_audience_on_its_way_does_not_change() {
    let mut roster = Roster::default();
    let (one, two) = (subscription(0, None), subscription(1, None));
    roster.enter(one.clone());
    roster.admit(&one);
    let sent = roster.audience();
    roster.enter(two.clone());
    roster.admit(&two);
    roster.leave("s0");
    assert_eq!(sent.len(), 1);
    assert!(
        !sent[0].is_current(),
        "it is not delivered to a socket that left"
    );
    assert_eq!(roster.audience()[0].socket, two.socket);
}

#[test]
fn a_socket_shows_a_bounded_number_of_cursors() {
    let mut roster = Roster::default();
    roster.enter(subscription(0, None));
    for n in 0..MAX_CURSORS {
        let user_id = UserId::new(format!("p{n}")).unwrap();
        assert_eq!(roster.add_cursor("s0", &user_id), Ok(()));
    }
    assert_eq!(
        roster.add_cursor("s0", &user(0)),
        Err(CursorRefused::TooMany)
    );
}

#[test]
fn a_replica_that_is_silent_is_named_once() {
    let mut replicas = Replicas::default();
    let begin = Instant::now();
    replicas.heard("a", begin);
    replicas.heard("b", begin + GONE_AFTER / 2);
    assert!(replicas.gone(begin + GONE_AFTER / 2).is_empty());
    assert_eq!(replicas.gone(begin + GONE_AFTER), vec![Arc::from("a")]);
    replicas.heard("b", begin + GONE_AFTER);
    assert!(replicas.gone(begin + GONE_AFTER).is_empty());
    assert_eq!(replicas.gone(begin + GONE_AFTER * 2), vec![Arc::from("b")]);
}

#[test]
fn who_was_asked_and_does_not_answer_has_nobody_in_the_room() {
    let mut roster = Roster::default();
    let begin = Instant::now();
    roster.joined("a", member(0));
    roster.joined("b", member(0));
    roster.joined("b", member(2));
    roster.request(begin);
    assert!(
        roster.settle(begin + ROSTER_TIMEOUT / 2).is_empty(),
        "too early"
    );
    assert!(roster.replace("a", [member(0)].into()).is_empty());
    assert_eq!(roster.settle(begin + ROSTER_TIMEOUT), vec![member(2)]);
    assert!(roster.has(&member(0)), "a still has it");
    assert!(roster.settle(begin + ROSTER_TIMEOUT * 2).is_empty());
    assert!(roster.has(&member(0)), "no further request was made");
}
