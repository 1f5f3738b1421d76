//! Errors of lock operations, and the refusals that clients get. Owns the reading of a refusal from the state that the
//! transition was rejected for.

use std::sync::Arc;

use crate::domain::ids::UserId;
use crate::domain::lease::LockState;
use crate::limits::count_rejection;
use crate::protocol::{Code, Lock, Refusal, held_by};
use crate::store::StoreError;

/// Failure of a lock operation.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another user holds the lock.
    #[error("held by another user")]
    Held(Box<LockState>),
    /// The same user holds it in another tab.
    #[error("held by the same user in another session")]
    HeldByYou(Box<LockState>),
    /// Nobody holds it.
    #[error("not locked")]
    NotLocked,
    /// Another user holds it, so the caller cannot release or renew it.
    #[error("not the holder")]
    NotHolder(Box<LockState>),
    /// The same user holds it, in another tab than the caller's.
    #[error("not the holding tab")]
    OtherTab(Box<LockState>),
    /// The token is not that of the lease in force.
    #[error("stale token")]
    StaleToken(Box<LockState>),
    /// Failure of PostgreSQL.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Failure of a statement that many callers waited for.
    #[error(transparent)]
    Read(Arc<StoreError>),
    /// Timeout of the wait for a row permit, while other requests wait for the appointment's row too.
    #[error("others wait for this appointment's row, which somebody holds")]
    Queued,
    /// The identity has the maximum number of leases.
    #[error("as many leases as one identity may have")]
    TooMany(usize),
    /// A bug of ours: the transition panicked. If it was committed, reconcile shows it.
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
                    // It became free during the request, again and again.
                    None => "Appointment is contended; try again".into(),
                };
                Self::conflict(Code::LockHeld, message, lock)
            }
            LockError::HeldByYou(state) => {
                let lock = Lock::of(&state);
                let held = lock.as_ref().map(|lock| held_by(&lock.user_info));
                let held = held.unwrap_or_else(|| "Appointment is contended".into());
                let fix = "in another tab of yours; send transfer: true to move it here";
                Self::conflict(Code::HeldByYou, format!("{held}, {fix}"), lock)
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

/// Reads a refusal from the state: is it locked, by this user, with this token?
pub(super) fn refuse(state: LockState, user: Option<&UserId>, token: Option<i64>) -> LockError {
    match state.live() {
        None => LockError::NotLocked,
        Some(lease) if user.is_some_and(|user| *user != lease.user_id) => {
            LockError::NotHolder(state.into())
        }
        Some(lease) if token.is_some_and(|token| token != lease.fencing_token) => {
            LockError::StaleToken(state.into())
        }
        // The right user with the right token, or none: the tab differs.
        Some(_) => LockError::OtherTab(state.into()),
    }
}
