//! How a committed change is told. Owns that each is: the rooms here, then the bus, with the trace it is part of.

use super::{LockError, Shared};
use crate::domain::lease::{Admin, Change, LockState};
use crate::protocol::Message;
use crate::store::Acquired;
use crate::telemetry;

impl Shared {
    /// Tells of a change, where it was made.
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

    /// Tells of a grant, and before it of the lease that it found had run out.
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

    /// Local sockets first: they wait for nobody. Then the other replicas.
    pub(super) fn publish(&self, change: &Change) {
        self.rooms.apply_local(change);
        let message = Message::Change(Box::new(change.clone()));
        self.announcer.announce(&change.state.room, message);
    }
}
