//! Publication of committed changes. Owns that each reaches the rooms here, then the bus, within its trace.

use super::error::LockError;
use super::shared::Shared;
use crate::domain::lease::{Admin, Change, LockState};
use crate::protocol::Message;
use crate::store::Acquired;
use crate::telemetry;

impl Shared {
    /// Publishes a change, if it was made.
    pub(super) fn changed(
        &self,
        done: Result<LockState, LockError>,
        admin: Option<Admin>,
    ) -> Result<LockState, LockError> {
        let change = Change {
            state: done?,
            admin,
        };
        self.publish(&change);
        Ok(change.state)
    }

    /// Publishes a grant, and before it the end of the expired lease that it replaced.
    pub(super) fn publish_taken(&self, taken: Acquired, admin: Option<Admin>) -> LockState {
        if let Some(ended) = taken.ended {
            metrics::counter!(telemetry::EXPIRIES, "by" => "acquire").increment(1);
            self.publish(&Change::from(ended));
        }
        let change = Change {
            state: taken.state,
            admin,
        };
        self.publish(&change);
        change.state
    }

    /// Local sockets first, since they need no network. Then the other replicas.
    pub(super) fn publish(&self, change: &Change) {
        self.rooms.apply_local(change);
        let message = Message::Change(Box::new(change.clone()));
        self.announcer.announce(&change.state.room, message);
    }
}
