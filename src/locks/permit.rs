//! Permission for an operation to go to PostgreSQL: within the identity's quota, and one at a time for each row.

use tracing::debug;

use super::error::LockError;
use super::queue::{RowPermit, Waited};
use super::shared::Shared;
use crate::domain::ids::{RoomId, UserId};
use crate::domain::lease::LockState;
use crate::telemetry;

impl Shared {
    /// The row permit of an acquire, or its rejection: requests that wait while another one gets the lock have lost, and
    /// one decision answers all of them.
    pub(super) async fn permit_or_loss<'a>(
        &'a self,
        room: &'a RoomId,
        user: &UserId,
    ) -> Result<RowPermit<'a>, LockError> {
        let lost = |state: &LockState| state.live().is_some_and(|it| it.user_id != *user);
        match self.queues.permit_unless(room, lost).await {
            Waited::Permit(permit) => Ok(permit),
            Waited::Decided(state) => Err(LockError::Held(state.into())),
            Waited::TimedOut => {
                metrics::counter!(telemetry::ROWS_HELD, "where" => "queue").increment(1);
                // A read waits for no lock.
                let state = self.store.status(room).await?;
                Err(match lost(&state) {
                    true => LockError::Held(state.into()),
                    false => LockError::Queued,
                })
            }
        }
    }

    pub(super) async fn permit<'a>(&'a self, room: &'a RoomId) -> Result<RowPermit<'a>, LockError> {
        self.queues.permit(room).await.ok_or_else(|| {
            metrics::counter!(telemetry::ROWS_HELD, "where" => "queue").increment(1);
            LockError::Queued
        })
    }

    /// Checks that the user may have one more lease. At the limit, existing leases can still be renewed.
    pub(super) async fn within_quota(&self, room: &RoomId, user: &UserId) -> Result<(), LockError> {
        let quota = &self.quota;
        if quota.max == 0 {
            return Ok(());
        }
        let who = (room.tenant.clone(), user.clone());
        if quota.is_due(&who)
            && let Ok(_one) = quota.counting.try_acquire()
        {
            match self.store.leases_of(&room.tenant, user, quota.max).await {
                Ok(count) => quota.counted(&who, count),
                Err(error) => debug!(%error, "could not count the leases of an identity"),
            }
        }
        if !quota.is_full(&who) {
            return Ok(());
        }
        // Its own lease is renewed, and another's is rejected as usual, with the holder.
        match self.store.status(room).await?.live() {
            Some(_) => Ok(()),
            None => Err(LockError::TooMany(quota.max)),
        }
    }
}
