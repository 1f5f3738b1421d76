//! Engine.IO sessions that began by polling: the budget of their packets, and the connection that they were upgraded
//! to. Owns the look-up of both by id, whether the join or the upgrade came first, and the removal of those that are
//! gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::FrameBudget;
use crate::server::{ConnectionHandle, WeakHandle};

/// Number of entries from which on dead ones are removed.
const PRUNE_AT: usize = 1024;

struct EngineSession {
    budget: Arc<FrameBudget>,
    connection: Option<WeakHandle>,
    joined: bool,
}

/// All Engine.IO sessions that began by polling, by id.
#[derive(Default)]
pub(super) struct EngineSessions(
    /// A std mutex: held for a look-up, never across an await.
    Mutex<HashMap<String, EngineSession>>,
);

impl EngineSessions {
    fn all(&self) -> MutexGuard<'_, HashMap<String, EngineSession>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the Engine.IO session was upgraded to a connection that is still open: a second one would replace it.
    pub(super) fn is_upgraded(&self, sid: &str) -> bool {
        self.connection(sid).is_some_and(|it| !it.is_aborted())
    }

    /// Upgrades the Engine.IO session to this connection. Returns its budget: the one it joined with, else `new`.
    /// `None` if it was upgraded to another connection already.
    pub(super) fn upgrade(
        &self,
        sid: &str,
        connection: &ConnectionHandle,
        new: Arc<FrameBudget>,
    ) -> Option<Arc<FrameBudget>> {
        let mut all = self.all();
        let before = all
            .get(sid)
            .and_then(|it| it.connection.as_ref()?.upgrade());
        if before.is_some_and(|it| !it.is_aborted()) {
            return None;
        }
        if all.len() >= PRUNE_AT && all.len() == all.capacity() {
            let open = |it: &WeakHandle| it.upgrade().is_some_and(|it| !it.is_aborted());
            all.retain(|_, it| it.joined || it.connection.as_ref().is_some_and(open));
        }
        let entry = all.entry(sid.to_owned()).or_insert(EngineSession {
            budget: new,
            connection: None,
            joined: false,
        });
        entry.connection = Some(connection.downgrade());
        if entry.joined {
            connection.leave_address();
        }
        Some(entry.budget.clone())
    }

    /// The Engine.IO session's socket joins. Returns its budget: that of the connection it was upgraded to, else `new`.
    pub(super) fn join(&self, sid: &str, new: Arc<FrameBudget>) -> Arc<FrameBudget> {
        let mut all = self.all();
        let entry = all.entry(sid.to_owned()).or_insert(EngineSession {
            budget: new,
            connection: None,
            joined: false,
        });
        entry.joined = true;
        entry.budget.clone()
    }

    /// Budget of the Engine.IO session, once it has joined.
    pub(super) fn budget(&self, sid: &str) -> Option<Arc<FrameBudget>> {
        let all = self.all();
        let entry = all.get(sid).filter(|entry| entry.joined)?;
        Some(entry.budget.clone())
    }

    /// Connection that the Engine.IO session was upgraded to.
    pub(super) fn connection(&self, sid: &str) -> Option<ConnectionHandle> {
        self.all().get(sid)?.connection.as_ref()?.upgrade()
    }

    /// Removes an Engine.IO session that is gone.
    pub(super) fn remove(&self, sid: &str) {
        self.all().remove(sid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LimitConfig, Limits, Proxies};

    fn budget() -> Arc<FrameBudget> {
        Arc::new(FrameBudget::new(Limits::new(LimitConfig {
            rate: None,
            sockets: 9,
            sockets_each: 9,
            connections_each: 9,
            proxies: Proxies::default(),
        })))
    }

    #[test]
    fn whichever_comes_first_the_join_and_the_upgrade_share_a_budget() {
        let sessions = EngineSessions::default();
        let connection = ConnectionHandle::default();
        let first = sessions.join("a", budget());
        let upgraded = sessions.upgrade("a", &connection, budget()).unwrap();
        assert!(Arc::ptr_eq(&first, &upgraded));
        let second = ConnectionHandle::default();
        assert!(sessions.upgrade("a", &second, budget()).is_none());
        connection.abort();
        assert!(sessions.upgrade("a", &second, budget()).is_some());
        let first = sessions.upgrade("b", &second, budget()).unwrap();
        assert!(sessions.budget("b").is_none(), "not joined yet");
        assert!(Arc::ptr_eq(&first, &sessions.join("b", budget())));
        assert!(Arc::ptr_eq(&first, &sessions.budget("b").unwrap()));
    }

    #[test]
    fn an_upgrade_is_found_while_its_connection_is_there_and_keeps_nothing_of_it() {
        let sessions = EngineSessions::default();
        let connection = ConnectionHandle::default();
        sessions.upgrade("a", &connection, budget());
        sessions.upgrade("b", &connection, budget());
        assert!(sessions.connection("a").is_some());
        drop(connection);
        assert!(
            sessions.connection("a").is_none(),
            "recorded twice, it must not keep itself alive"
        );
        for n in 0..10 * PRUNE_AT {
            sessions.upgrade(&n.to_string(), &ConnectionHandle::default(), budget());
        }
        assert!(
            sessions.all().len() <= 4 * PRUNE_AT,
            "{}",
            sessions.all().len()
        );
    }
}
