//! Why a wish was not granted, and how that is told. Owns how a refusal is read off the state that stood in the
//! way.

use std::sync::Arc;

use crate::domain::ids::UserId;
use crate::domain::lease::LockState;
use crate::limits::count_rejection;
use crate::protocol::{Code, Lock, Refusal, held_by};
use crate::store::StoreError;

/// Why a wish was not granted.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds the lock.
    #[error("held by somebody else")]
    Held(Box<LockState>),
    /// The same user holds it in another tab.
    #[error("held by the same user in another session")]
    HeldByYou(Box<LockState>),
    /// Nobody holds it.
    #[error("not locked")]
    NotLocked,
    /// Somebody else holds it, so the one who asks cannot release or renew it.
    #[error("not the holder")]
    NotHolder(Box<LockState>),
    /// The same user holds it, in another tab than the one that asks.
    #[error("not the holding tab")]
    OtherTab(Box<LockState>),
    /// The token is not that of the lease in force.
    #[error("stale token")]
    StaleToken(Box<LockState>),
    /// PostgreSQL did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same, of a statement that many waited for.
    #[error(transparent)]
    Read(Arc<StoreError>),
    /// Others wait for this appointment's row, and the permit did not come in time.
    #[error("others wait for this appointment's row, which somebody holds")]
    Queued,
    /// Whoever asks has as many leases as one may have.
    #[error("as many leases as one identity may have")]
    TooMany(usize),
    /// A bug of ours: the transition panicked. Whether it was committed, reconcile shows.
    #[error("a transition panicked: {0}")]
    Fault(String),
    /// The replica is stopping.
    #[error("the replica is stopping")]
    Stopping,
}

impl From<LockError> for Refusal {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held(state) => {
                let lock = Lock::of(&state);
                let message = match &lock {
                    Some(lock) => held_by(&lock.user_info),
                    // It came free while it was asked for, again and again.
                    None => "Appointment is contended; try again".into(),
                };
                Self::conflict(Code::LockHeld, message, lock)
            }
            LockError::HeldByYou(state) => {
                let lock = Lock::of(&state);
                let held = lock.as_ref().map(|lock| held_by(&lock.user_info));
                let held = held.unwrap_or_else(|| "Appointment is contended".into());
                let mend = "in another tab of yours; send transfer: true to move it here";
                Self::conflict(Code::HeldByYou, format!("{held}, {mend}"), lock)
            }
            LockError::NotLocked => Self::new(Code::NotLocked, "Appointment is not locked"),
            LockError::OtherTab(state) => Self::conflict(
                Code::NotHolder,
                "You hold this lock in another tab; only that tab can release it",
                Lock::of(&state),
            ),
            LockError::NotHolder(state) => {
                let lock = Lock::of(&state);
                let message = match &lock {
                    Some(lock) => held_by(&lock.user_info),
                    None => "Appointment is not locked by you".into(),
                };
                Self::conflict(Code::NotHolder, message, lock)
            }
            LockError::StaleToken(state) => Self::conflict(
                Code::StaleToken,
                "The fencing token is not that of the lease in force; acquire again before you save",
                Lock::of(&state),
            ),
            LockError::Store(error) => of_store(&error),
            LockError::Read(error) => of_store(&error),
            LockError::Queued => of_store(&StoreError::RowHeld),
            LockError::Fault(_) => {
                Self::new(Code::Internal, "Something went wrong here; it was logged")
            }
            LockError::TooMany(max) => {
                count_rejection("lease");
                Self::new(
                    Code::LimitExceeded,
                    format!("You hold {max} locks already; release one (MAX_LEASES_PER_IDENTITY)"),
                )
            }
            LockError::Stopping => {
                Self::new(Code::Unavailable, "This replica is stopping; try again")
            }
        }
    }
}

/// A failure of the store as a refusal.
fn of_store(error: &StoreError) -> Refusal {
    match error {
        StoreError::RowHeld => Refusal::new(
            Code::Unavailable,
            "Another transaction holds this appointment's row, a save in progress for example; try again shortly",
        ),
        StoreError::BadStatement(_) => {
            Refusal::new(Code::Internal, "Something went wrong here; it was logged")
        }
        _ => Refusal::new(
            Code::Unavailable,
            "The database is not available; try again shortly",
        ),
    }
}

/// Reads a refusal off the state that stood in the way: first whether it is locked, then by whom, then the token.
pub(super) fn refuse(state: LockState, user: Option<&UserId>, token: Option<i64>) -> LockError {
    match state.live() {
        None => LockError::NotLocked,
        Some(lease) if user.is_some_and(|user| *user != lease.user_id) => {
            LockError::NotHolder(state.into())
        }
        Some(lease) if token.is_some_and(|token| token != lease.fencing_token) => {
            LockError::StaleToken(state.into())
        }
        // The right user with the right token, or none: what differed was the tab.
        Some(_) => LockError::OtherTab(state.into()),
    }
}
