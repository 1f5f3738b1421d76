//! Random schedules over simulated replicas: each step is an operation, a message that is delivered, duplicated or
//! lost, an outbound queue that is drained or not, or an expiry. A model of a few lines computes the expected answers;
//! PostgreSQL is real.
//!
//! Checked after each step: one live lease, versions and tokens only rise, each answer is the model's. Checked at the
//! end: every room converges, and the history agrees. A failure prints the shortest schedule that reproduces it, and
//! the seed, which is kept in `proptest-regressions/` and tried first from then on. `PROPTEST_CASES` is the number of
//! schedules.

mod net;
mod replica;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use apptlock::domain::ids::{AppointmentId, RoomId, TenantId};
use apptlock::domain::lease::{Admin, Person};
use apptlock::locks::LockError;
use apptlock::protocol::{AcquireBody, from_value};
use apptlock::store::{Candidate, Store};
use sqlx::PgPool;

use crate::support::{Stack, fresh, person};
use net::{Fate, Net};
use replica::{Replica, TTL};

const REPLICAS: usize = 3;
const ROOMS: usize = 2;
const USERS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Acquire { at: usize, user: usize, room: usize },
    Renew { at: usize, user: usize, room: usize },
    Release { at: usize, user: usize, room: usize },
    ReleaseStale { at: usize, user: usize, room: usize },
    TakeOver { at: usize, user: usize, room: usize },
    Force { at: usize, room: usize },
    RunOut { room: usize },
    Campaign { at: usize },
    Depose,
    Sweep { at: usize },
    Join { at: usize, room: usize },
    Leave { at: usize, room: usize },
    Message { at: usize, pick: usize, fate: Fate },
    Drain { at: usize, most: usize },
    Reconcile { at: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (at, user, room) = (0..REPLICAS, 0..USERS, 0..ROOMS);
    let all = (at.clone(), user, room.clone());
    let fate = prop_oneof![
        Just(Fate::Arrives),
        Just(Fate::ArrivesAndStays),
        Just(Fate::IsLost)
    ];
    prop_oneof![
        4 => all.clone().prop_map(|(at, user, room)| Step::Acquire { at, user, room }),
        2 => all.clone().prop_map(|(at, user, room)| Step::Renew { at, user, room }),
        3 => all.clone().prop_map(|(at, user, room)| Step::Release { at, user, room }),
        1 => all.clone().prop_map(|(at, user, room)| Step::ReleaseStale { at, user, room }),
        1 => all.prop_map(|(at, user, room)| Step::TakeOver { at, user, room }),
        1 => (at.clone(), room.clone()).prop_map(|(at, room)| Step::Force { at, room }),
        2 => room.clone().prop_map(|room| Step::RunOut { room }),
        1 => at.clone().prop_map(|at| Step::Campaign { at }),
        1 => Just(Step::Depose),
        2 => at.clone().prop_map(|at| Step::Sweep { at }),
        4 => (at.clone(), room.clone()).prop_map(|(at, room)| Step::Join { at, room }),
        1 => (at.clone(), room).prop_map(|(at, room)| Step::Leave { at, room }),
        8 => (at.clone(), any::<usize>(), fate)
            .prop_map(|(at, pick, fate)| Step::Message { at, pick, fate }),
        3 => (at.clone(), 0..4_usize).prop_map(|(at, most)| Step::Drain { at, most }),
        1 => at.prop_map(|at| Step::Reconcile { at }),
    ]
}

/// Expected state of one lock.
#[derive(Debug, Default, Clone)]
struct Model {
    version: i64,
    token: i64,
    /// Holder in the row; with `ran_out` the lock is free nevertheless.
    holder: Option<usize>,
    ran_out: bool,
    history: usize,
}

impl Model {
    fn live(&self) -> Option<usize> {
        self.holder.filter(|_| !self.ran_out)
    }

    fn grant(&mut self, user: usize) {
        let ended = self.holder.is_some() && self.ran_out;
        self.version += 1 + i64::from(ended);
        self.history += 1 + usize::from(ended);
        self.token += 1;
        self.holder = Some(user);
        self.ran_out = false;
    }

    fn end(&mut self) {
        self.version += 1;
        self.history += 1;
        self.holder = None;
        self.ran_out = false;
    }
}

struct World {
    pool: PgPool,
    store: Store,
    net: Net,
    replicas: Vec<Replica>,
    rooms: Vec<RoomId>,
    models: Vec<Model>,
}

fn someone(user: usize) -> Person {
    let body: AcquireBody = from_value(person(&format!("user-{user}"))).unwrap();
    Person {
        user_id: body.user_id.unwrap(),
        user_info: body.user_info.unwrap().into(),
    }
}

impl World {
    async fn new(stack: &Stack, store: &Store) -> Self {
        // Otherwise this schedule would sweep the leases of the previous one.
        sqlx::raw_sql("delete from leader_lease; delete from appointment_lock")
            .execute(&stack.pool)
            .await
            .unwrap();
        let net = Net::default();
        let room = |n| RoomId {
            tenant: TenantId::default(),
            appointment: AppointmentId::new(fresh(&format!("room-{n}"))).unwrap(),
        };
        Self {
            pool: stack.pool.clone(),
            store: store.clone(),
            replicas: (0..REPLICAS)
                .map(|n| Replica::start(n, store, &net))
                .collect(),
            net,
            rooms: (0..ROOMS).map(room).collect(),
            models: vec![Model::default(); ROOMS],
        }
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Acquire { at, user, room } => {
                let (id, model) = (self.rooms[room].clone(), &mut self.models[room]);
                let done = self.replicas[at]
                    .locks
                    .acquire(id, someone(user), None, false)
                    .await;
                match (model.live(), done) {
                    (Some(holder), Ok(granted)) if holder == user => {
                        assert!(!granted.new, "one's own lease is no new grant");
                        model.version += 1;
                    }
                    (Some(holder), Err(LockError::Held(_))) if holder != user => {}
                    (None, Ok(granted)) => {
                        assert!(granted.new);
                        model.grant(user);
                        let lease = granted.state.live().expect("granted");
                        assert_eq!(lease.fencing_token, model.token);
                    }
                    (live, done) => panic!("live: {live:?}, answer: {done:?}"),
                }
            }
            Step::Renew { at, user, room } => {
                let (id, model) = (self.rooms[room].clone(), &mut self.models[room]);
                let person = someone(user).user_id;
                let done = self.replicas[at]
                    .locks
                    .renew(id, person, None, std::time::Duration::ZERO)
                    .await;
                match (model.live(), done) {
                    (Some(holder), Ok(_)) if holder == user => model.version += 1,
                    (Some(holder), Err(LockError::NotHolder(_))) if holder != user => {}
                    (None, Err(LockError::NotLocked)) => {}
                    (live, done) => panic!("live: {live:?}, answer: {done:?}"),
                }
            }
            Step::Release { at, user, room } => {
                let (id, model) = (self.rooms[room].clone(), &mut self.models[room]);
                let person = someone(user).user_id;
                let done = self.replicas[at]
                    .locks
                    .release(id, person, None, None)
                    .await;
                match (model.live(), done) {
                    (Some(holder), Ok(_)) if holder == user => model.end(),
                    (Some(holder), Err(LockError::NotHolder(_))) if holder != user => {}
                    (None, Err(LockError::NotLocked)) => {}
                    (live, done) => panic!("live: {live:?}, answer: {done:?}"),
                }
            }
            Step::ReleaseStale { at, user, room } => {
                let (id, model) = (self.rooms[room].clone(), &self.models[room]);
                let (person, stale) = (someone(user).user_id, Some(model.token - 1));
                let done = self.replicas[at]
                    .locks
                    .release(id.clone(), person, None, stale)
                    .await;
                assert!(done.is_err(), "an old token released: {done:?}");
                let checked = self.replicas[at].locks.verify(&id, model.token, None).await;
                assert_eq!(checked.is_ok(), model.live().is_some(), "{checked:?}");
                assert!(
                    self.replicas[at]
                        .locks
                        .verify(&id, model.token - 1, None)
                        .await
                        .is_err()
                );
            }
            Step::TakeOver { at, user, room } => {
                let admin = Admin {
                    admin_id: someone(user).user_id,
                    admin_info: None,
                };
                let id = self.rooms[room].clone();
                self.replicas[at]
                    .locks
                    .take_over(id, admin, None, None)
                    .await
                    .unwrap();
                self.models[room].grant(user);
            }
            Step::Force { at, room } => {
                let admin = Admin {
                    admin_id: someone(0).user_id,
                    admin_info: None,
                };
                let (id, model) = (self.rooms[room].clone(), &mut self.models[room]);
                let done = self.replicas[at]
                    .locks
                    .force_release(id, admin, None, None)
                    .await;
                match (model.live(), done) {
                    (Some(_), Ok(_)) => model.end(),
                    (None, Err(LockError::NotLocked)) => {}
                    (live, done) => panic!("live: {live:?}, answer: {done:?}"),
                }
            }
            Step::RunOut { room } => {
                sqlx::query(
                    "update appointment_lock set expires_at = clock_timestamp()
                     where appointment_id = $1 and user_id is not null",
                )
                .bind(self.rooms[room].appointment.as_str())
                .execute(&self.pool)
                .await
                .unwrap();
                self.models[room].ran_out = self.models[room].holder.is_some();
            }
            Step::Campaign { at } => {
                let replica = &mut self.replicas[at];
                let candidate = Candidate {
                    name: &replica.name,
                    ttl: TTL,
                };
                if let Some(term) = self.store.campaign(&candidate).await.unwrap() {
                    replica.term = term;
                }
            }
            Step::Depose => {
                sqlx::query("update leader_lease set expires_at = clock_timestamp()")
                    .execute(&self.pool)
                    .await
                    .unwrap();
            }
            Step::Sweep { at } => {
                let leader: Option<(String, i64)> = sqlx::query_as(
                    "select holder, term from leader_lease where expires_at > clock_timestamp()",
                )
                .fetch_optional(&self.pool)
                .await
                .unwrap();
                let replica = &self.replicas[at];
                let leads = leader == Some((replica.name.clone(), replica.term));
                let swept = replica
                    .locks
                    .sweep(&replica.name, replica.term)
                    .await
                    .unwrap();
                let due = self.models.iter().filter(|model| model.ran_out).count();
                assert_eq!(swept, if leads { due } else { 0 }, "leads: {leads}");
                for model in self
                    .models
                    .iter_mut()
                    .filter(|model| leads && model.ran_out)
                {
                    model.end();
                }
            }
            Step::Join { at, room } => self.replicas[at].join(&self.rooms[room]).await,
            Step::Leave { at, room } => self.replicas[at].leave(&self.rooms[room]),
            Step::Message { at, pick, fate } => {
                self.net.decide(at, pick, fate, &self.replicas[at].to);
                self.replicas[at].receive().await;
            }
            Step::Drain { at, most } => self.replicas[at].drain(most),
            Step::Reconcile { at } => self.replicas[at].replication.pass(false).await.unwrap(),
        }
    }

    /// Asserts that PostgreSQL and the model agree on each lock and its history.
    async fn check(&self) {
        for (id, model) in self.rooms.iter().zip(&self.models) {
            let row: Option<(i64, i64, Option<String>)> = sqlx::query_as(
                "select version, fencing_token, user_id from appointment_lock where appointment_id = $1",
            )
            .bind(id.appointment.as_str())
            .fetch_optional(&self.pool)
            .await
            .unwrap();
            let (version, token, holder) = row.unwrap_or_default();
            assert_eq!(
                (version, token, holder),
                (
                    model.version,
                    model.token,
                    model.holder.map(|user| format!("user-{user}"))
                )
            );
        }
    }

    async fn end(mut self) {
        for at in 0..REPLICAS {
            let shown = self.replicas[at].settle().await;
            for (id, version) in shown {
                let room = self.rooms.iter().position(|room| *room == id).unwrap();
                assert_eq!(
                    version, self.models[room].version,
                    "replica {at} ends at an old state of room {room}"
                );
            }
        }
        for (id, model) in self.rooms.iter().zip(&self.models) {
            let entries: i64 =
                sqlx::query_scalar("select count(*) from lock_history where appointment_id = $1")
                    .bind(id.appointment.as_str())
                    .fetch_one(&self.pool)
                    .await
                    .unwrap();
            assert_eq!(usize::try_from(entries).unwrap(), model.history);
        }
    }
}

#[test]
fn whatever_the_schedule_one_lease_lives_versions_rise_and_every_room_converges() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stack = runtime.block_on(Stack::empty(&[]));
    let store = {
        let _inside = runtime.enter();
        stack.store(4)
    };
    let defaults = Config::default();
    let mut runner = TestRunner::new(Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            defaults.cases
        } else {
            40
        },
        max_shrink_iters: 300,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/simulation.txt",
        ))),
        ..defaults
    });
    runner
        .run(&prop::collection::vec(step(), 20..80), |schedule| {
            runtime.block_on(async {
                let mut world = World::new(&stack, &store).await;
                for step in &schedule {
                    world.take(step).await;
                    world.check().await;
                }
                world.end().await;
            });
            Ok(())
        })
        .unwrap();
}
