//! The operations, one after the other: each decides by one statement, then publishes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;

use super::error::{LockError, refuse};
use super::outcome::{count, span};
use super::queue::Queues;
use super::quota::Quota;
use super::reads::{Reader, Reads};
use super::shared::Shared;
use crate::auth::display_info;
use crate::bus::announcer::Announcer;
use crate::domain::ids::{Note, RoomId, SessionId, UserId};
use crate::domain::lease::{Admin, Change, LockState, Person, Position};
use crate::rooms::Rooms;
use crate::store::{Rejected, Store};
use crate::telemetry;

/// Maximum number of leases that one sweep ends, so that no statement holds many rows for long.
const SWEEP_BATCH: i64 = 200;

/// Result of `acquire`.
#[derive(Debug)]
pub struct Granted {
    /// The state now.
    pub state: LockState,
    /// True for a new grant; else the holder's own lease was renewed.
    pub new: bool,
}

/// The lock operations of one replica.
#[derive(Clone)]
pub struct Locks(pub(super) Arc<Shared>);

impl Locks {
    /// Lock operations on `store`, which publish to `rooms` and to the other replicas. `max_leases` is the maximum per
    /// identity, 0 for no limit. The reader must run: without it [`Locks::status_in_turn`] waits.
    pub fn new(
        store: Store,
        rooms: Arc<Rooms>,
        announcer: Announcer,
        ttl: Duration,
        max_leases: usize,
    ) -> (Self, Reader) {
        let (reads, reader) = Reads::new(store.clone());
        let locks = Self(Arc::new(Shared {
            store,
            rooms,
            announcer,
            ttl,
            tasks: TaskTracker::new(),
            queues: Queues::default(),
            quota: Quota::new(max_leases),
            reads,
        }));
        (locks, reader)
    }

    /// Duration of a lease without activity.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Waits until every transition in progress is published. New ones are rejected.
    pub async fn finish(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Number of requests that wait for an appointment's row.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.queues.waiting()
    }

    /// Current state.
    ///
    /// # Errors
    /// [`LockError::Store`].
    pub async fn status(&self, room: &RoomId) -> Result<LockState, LockError> {
        Ok(self.0.store.status(room).await?)
    }

    /// Current state, read by one statement for all callers that wait: a burst of subscriptions waits instead of failing.
    ///
    /// # Errors
    /// [`LockError::Read`].
    pub async fn status_in_turn(&self, room: &RoomId) -> Result<LockState, LockError> {
        self.0.reads.read(room.clone()).await
    }

    /// Number of calls of [`Locks::status_in_turn`] that wait in the queue.
    #[must_use]
    pub fn reads_waiting(&self) -> usize {
        self.0.reads.waiting()
    }

    /// Takes a free lock, or renews the same holder's lease.
    ///
    /// # Errors
    /// [`LockError::Held`], [`LockError::HeldByYou`], or the store's.
    pub async fn acquire(
        &self,
        room: RoomId,
        person: Person,
        session: Option<SessionId>,
        transfer: bool,
    ) -> Result<Granted, LockError> {
        self.run_detached(
            span("acquire", Some(&room)),
            "acquire",
            |locks| async move {
                locks.within_quota(&room, &person.user_id).await?;
                let permit = locks.permit_or_loss(&room, &person.user_id).await?;
                let taken = locks
                    .store
                    .acquire(&room, &person, session.as_ref(), locks.ttl, transfer)
                    .await?;
                permit.decided(match &taken {
                    Ok(acquired) => &acquired.state,
                    Err(Rejected(state)) => state,
                });
                match taken {
                    Ok(acquired) => {
                        let new =
                            acquired.state.reason != Some(crate::domain::lease::Reason::Renewed);
                        if new {
                            locks.quota.note(&room.tenant, &person.user_id, 1);
                        }
                        Ok(Granted {
                            state: locks.publish_taken(acquired, None),
                            new,
                        })
                    }
                    Err(Rejected(state)) => {
                        let own = state
                            .live()
                            .is_some_and(|lease| lease.user_id == person.user_id);
                        Err(if own {
                            LockError::HeldByYou(state.into())
                        } else {
                            LockError::Held(state.into())
                        })
                    }
                }
            },
        )
        .await
    }

    /// Renews the user's lease, as of an activity `ago`.
    ///
    /// # Errors
    /// [`LockError::NotLocked`], [`LockError::NotHolder`], or the store's.
    pub async fn renew(
        &self,
        room: RoomId,
        user: UserId,
        position: Option<Position>,
        ago: Duration,
    ) -> Result<LockState, LockError> {
        self.run_detached(span("renew", Some(&room)), "renew", |locks| async move {
            let _permit = locks.permit(&room).await?;
            let done = locks
                .store
                .renew(&room, &user, position, locks.ttl, ago)
                .await?;
            locks.changed(
                done.map_err(|Rejected(state)| refuse(state, Some(&user), None)),
                None,
            )
        })
        .await
    }

    /// Ends the lease at the request of its holder.
    ///
    /// # Errors
    /// [`LockError::NotLocked`], [`LockError::NotHolder`], [`LockError::StaleToken`], or the store's.
    pub async fn release(
        &self,
        room: RoomId,
        user: UserId,
        session: Option<SessionId>,
        token: Option<i64>,
    ) -> Result<LockState, LockError> {
        self.run_detached(
            span("release", Some(&room)),
            "release",
            |locks| async move {
                let _permit = locks.permit(&room).await?;
                let done = locks
                    .store
                    .release(&room, &user, session.as_ref(), token)
                    .await?;
                if done.is_ok() {
                    locks.quota.note(&room.tenant, &user, -1);
                }
                locks.changed(
                    done.map_err(|Rejected(state)| refuse(state, Some(&user), token)),
                    None,
                )
            },
        )
        .await
    }

    /// Ends the lease at the request of an admin, whoever holds it.
    ///
    /// # Errors
    /// [`LockError::NotLocked`], [`LockError::StaleToken`], or the store's.
    pub async fn force_release(
        &self,
        room: RoomId,
        admin: Admin,
        why: Option<Note>,
        token: Option<i64>,
    ) -> Result<LockState, LockError> {
        self.run_detached(
            span("force_release", Some(&room)),
            "force_release",
            |locks| async move {
                let _permit = locks.permit(&room).await?;
                let done = locks
                    .store
                    .force_release(&room, &admin, why.as_ref(), token)
                    .await?;
                locks.changed(
                    done.map_err(|Rejected(state)| refuse(state, None, token)),
                    Some(admin),
                )
            },
        )
        .await
    }

    /// Gives the lease to an admin, without the lock becoming free in between. A free lock is taken too.
    ///
    /// # Errors
    /// [`LockError::StaleToken`] if a token was named that is not in force, or the store's.
    pub async fn take_over(
        &self,
        room: RoomId,
        admin: Admin,
        why: Option<Note>,
        token: Option<i64>,
    ) -> Result<LockState, LockError> {
        self.run_detached(
            span("take_over", Some(&room)),
            "take_over",
            |locks| async move {
                let display_info = display_info(&admin);
                let _permit = locks.permit(&room).await?;
                let taken = locks
                    .store
                    .take_over(&room, &admin, &display_info, why.as_ref(), token, locks.ttl)
                    .await?;
                match taken {
                    Ok(acquired) => Ok(locks.publish_taken(acquired, Some(admin))),
                    Err(Rejected(state)) => Err(LockError::StaleToken(state.into())),
                }
            },
        )
        .await
    }

    /// Checks that the lease with that token is in force, and held by that user if one is named, for a back end about to
    /// save.
    ///
    /// # Errors
    /// [`LockError::StaleToken`], [`LockError::NotHolder`], or the store's.
    pub async fn verify(
        &self,
        room: &RoomId,
        token: i64,
        user: Option<&UserId>,
    ) -> Result<LockState, LockError> {
        let since = Instant::now();
        let read = self.0.store.status(room).await;
        let outcome = read
            .map_err(LockError::from)
            .and_then(|state| match state.live() {
                Some(lease) if lease.fencing_token == token => {
                    if user.is_none_or(|user| *user == lease.user_id) {
                        Ok(state)
                    } else {
                        Err(LockError::NotHolder(state.into()))
                    }
                }
                _ => Err(LockError::StaleToken(state.into())),
            });
        count("verify", since, &outcome);
        outcome
    }

    /// Ends expired leases, at most one batch, and publishes that. Returns their number.
    ///
    /// # Errors
    /// [`LockError::Store`].
    pub async fn sweep(&self, leader: &str, term: i64) -> Result<usize, LockError> {
        let leader = leader.to_owned();
        self.run_detached(span("sweep", None), "sweep", |locks| async move {
            let swept = locks.store.sweep(&leader, term, SWEEP_BATCH).await?;
            let count = swept.len();
            metrics::histogram!(telemetry::SWEEP_BATCH).record(count as f64);
            metrics::counter!(telemetry::EXPIRIES, "by" => "sweep").increment(count as u64);
            for lease in swept {
                metrics::histogram!(telemetry::EXPIRY_LATENESS).record(lease.late.as_secs_f64());
                locks.publish(&Change::from(lease.state));
            }
            Ok(count)
        })
        .await
    }

    /// True if due leases may remain after a sweep that ended `count`.
    #[must_use]
    pub fn is_full_batch(count: usize) -> bool {
        i64::try_from(count).is_ok_and(|count| count >= SWEEP_BATCH)
    }

    /// Time until the next lease expires; `None` if none is held.
    ///
    /// # Errors
    /// [`LockError::Store`].
    pub async fn next_expiry(&self) -> Result<Option<Duration>, LockError> {
        Ok(self.0.store.next_expiry().await?)
    }
}
