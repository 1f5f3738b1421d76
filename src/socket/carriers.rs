//! What carries the sessions that began by polling: the budget of their packets, and the connection that they were
//! upgraded to. Owns that both are found by a session's name, whichever came first, the join or the upgrade, and that
//! nothing is kept of sessions that are gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::FrameBudget;
use crate::server::{ConnectionHandle, WeakHandle};

/// Entries that may be there before those whose sessions and connections are gone are looked for.
const FORGET: usize = 1024;

struct Carrier {
    budget: Arc<FrameBudget>,
    connection: Option<WeakHandle>,
    joined: bool,
}

/// The carriers of all sessions that began by polling.
#[derive(Default)]
pub(super) struct Carriers(
    /// A std mutex: held for a look-up, never across an await.
    Mutex<HashMap<String, Carrier>>,
);

impl Carriers {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Carrier>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that session goes on on a connection already: a second one would hide the first.
    pub(super) fn is_upgraded(&self, name: &str) -> bool {
        self.connection(name).is_some_and(|it| !it.is_aborted())
    }

    /// That session goes on on this connection. Returns its budget: the one that it has joined with, else `new`.
    /// `None` where it goes on on another one.
    pub(super) fn upgrade(
        &self,
        name: &str,
        connection: &ConnectionHandle,
        new: Arc<FrameBudget>,
    ) -> Option<Arc<FrameBudget>> {
        let mut all = self.all();
        let before = all
            .get(name)
            .and_then(|it| it.connection.as_ref()?.upgrade());
        if before.is_some_and(|it| !it.is_aborted()) {
            return None;
        }
        if all.len() >= FORGET && all.len() == all.capacity() {
            let there = |it: &WeakHandle| it.upgrade().is_some_and(|it| !it.is_aborted());
            all.retain(|_, it| it.joined || it.connection.as_ref().is_some_and(there));
        }
        let carrier = all.entry(name.to_owned()).or_insert(Carrier {
            budget: new,
            connection: None,
            joined: false,
        });
        carrier.connection = Some(connection.downgrade());
        if carrier.joined {
            connection.leave_address();
        }
        Some(carrier.budget.clone())
    }

    /// That session joins. Returns its budget: that of the connection which it was upgraded to, else `new`.
    pub(super) fn join(&self, name: &str, new: Arc<FrameBudget>) -> Arc<FrameBudget> {
        let mut all = self.all();
        let carrier = all.entry(name.to_owned()).or_insert(Carrier {
            budget: new,
            connection: None,
            joined: false,
        });
        carrier.joined = true;
        carrier.budget.clone()
    }

    /// The budget of that session, once it has joined.
    pub(super) fn budget(&self, name: &str) -> Option<Arc<FrameBudget>> {
        let all = self.all();
        let carrier = all.get(name).filter(|carrier| carrier.joined)?;
        Some(carrier.budget.clone())
    }

    /// The connection that the session was upgraded to.
    pub(super) fn connection(&self, name: &str) -> Option<ConnectionHandle> {
        self.all().get(name)?.connection.as_ref()?.upgrade()
    }

    /// That session is gone.
    pub(super) fn forget(&self, name: &str) {
        self.all().remove(name);
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
        let carriers = Carriers::default();
        let connection = ConnectionHandle::default();
        let first = carriers.join("a", budget());
        let upgraded = carriers.upgrade("a", &connection, budget()).unwrap();
        assert!(Arc::ptr_eq(&first, &upgraded));
        let second = ConnectionHandle::default();
        assert!(carriers.upgrade("a", &second, budget()).is_none());
        connection.abort();
        assert!(carriers.upgrade("a", &second, budget()).is_some());
        let first = carriers.upgrade("b", &second, budget()).unwrap();
        assert!(carriers.budget("b").is_none(), "not joined yet");
        assert!(Arc::ptr_eq(&first, &carriers.join("b", budget())));
        assert!(Arc::ptr_eq(&first, &carriers.budget("b").unwrap()));
    }

    #[test]
    fn an_upgrade_is_found_while_its_connection_is_there_and_keeps_nothing_of_it() {
        let carriers = Carriers::default();
        let connection = ConnectionHandle::default();
        carriers.upgrade("a", &connection, budget());
        carriers.upgrade("b", &connection, budget());
        assert!(carriers.connection("a").is_some());
        drop(connection);
        assert!(
            carriers.connection("a").is_none(),
            "noted twice, it kept itself"
        );
        for n in 0..10 * FORGET {
            carriers.upgrade(&n.to_string(), &ConnectionHandle::default(), budget());
        }
        assert!(
            carriers.all().len() <= 4 * FORGET,
            "{}",
            carriers.all().len()
        );
    }
}
