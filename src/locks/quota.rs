//! How many leases one identity may have at a time. Owns that the bound costs PostgreSQL nothing while somebody is far
//! from it: leases are counted here as they begin and end, and PostgreSQL is asked only when that says much.
//!
//! ```text
//!   estimate: + a grant, - a release      a tenth of the bound granted since, or the bound reached
//!                                         ──────────────────────────────────────────▶ counted exactly
//! ```
//!
//! PostgreSQL decides: the estimate forgets what other replicas grant and what expires, so nobody is refused by it
//! alone. It is exact to a tenth of the bound and replica. On failure of a count the estimate stays, and the next
//! grant asks again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::debug;

use super::{LockError, Shared};
use crate::domain::ids::{RoomId, TenantId, UserId};

/// Between two exact counts for one identity, while it is at its bound.
const AGAIN: Duration = Duration::from_secs(1);
/// Accounts that may be there before those which nobody has used for a while are looked for.
const FORGET: usize = 10_000;
/// An account that was not used for this long is forgotten: it starts anew.
const UNUSED: Duration = Duration::from_secs(600);

type Who = (TenantId, UserId);

#[derive(Debug)]
struct Account {
    estimate: usize,
    /// Grants since the last exact count.
    since: usize,
    counted: Option<Instant>,
    used: Instant,
}

/// The accounts of one replica.
pub(super) struct Quota {
    /// The bound; 0: none.
    max: usize,
    /// A std mutex: held for a look-up, never across an await.
    accounts: Mutex<HashMap<Who, Account>>,
    /// One exact count at a time: it looks at every lease in force.
    counting: Semaphore,
}

impl Quota {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            accounts: Mutex::default(),
            counting: Semaphore::new(1),
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Who, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease of that one began (+1) or ended (-1).
    pub(super) fn note(&self, tenant: &TenantId, user: &UserId, change: isize) {
        if self.max == 0 {
            return;
        }
        let mut accounts = self.accounts();
        if accounts.len() >= FORGET && accounts.len() == accounts.capacity() {
            accounts.retain(|_, account| account.used.elapsed() < UNUSED);
        }
        let now = Instant::now();
        let account = accounts
            .entry((tenant.clone(), user.clone()))
            .or_insert(Account {
                estimate: 0,
                since: 0,
                counted: None,
                used: now,
            });
        account.used = now;
        account.estimate = account.estimate.saturating_add_signed(change);
        if change > 0 {
            account.since += 1;
        }
    }

    /// Whether PostgreSQL is to be asked how many that one has: the estimate says many, or is old.
    fn is_due(&self, who: &Who) -> bool {
        let accounts = self.accounts();
        accounts.get(who).is_some_and(|account| {
            let much = account.since >= (self.max / 10).max(1);
            let full = account.estimate >= self.max;
            let again = account.counted.is_none_or(|at| at.elapsed() >= AGAIN);
            (much && !full) || (full && again)
        })
    }

    fn is_full(&self, who: &Who) -> bool {
        let accounts = self.accounts();
        accounts
            .get(who)
            .is_some_and(|it| it.estimate >= self.max && it.counted.is_some())
    }

    fn counted(&self, who: &Who, count: usize) {
        if let Some(account) = self.accounts().get_mut(who) {
            account.estimate = count;
            account.since = 0;
            account.counted = Some(Instant::now());
        }
    }
}

impl Shared {
    /// Lets somebody take one more lease. Whoever has as many as may be still renews those.
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
                Err(error) => debug!(%error, "the leases of an identity could not be counted"),
            }
        }
        if !quota.is_full(&who) {
            return Ok(());
        }
        // Its own lease is renewed, and another's is refused as ever, with the holder.
        match self.store.status(room).await?.live() {
            Some(_) => Ok(()),
            None => Err(LockError::TooMany(quota.max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Who {
        (TenantId::default(), UserId::new(name).unwrap())
    }

    #[test]
    fn postgresql_is_asked_seldom_and_nobody_is_full_by_an_estimate() {
        let quota = Quota::new(100);
        let ann = who("ann");
        for n in 1..=10 {
            assert!(!quota.is_due(&ann), "{n}");
            quota.note(&ann.0, &ann.1, 1);
        }
        assert!(quota.is_due(&ann), "a tenth was granted");
        quota.counted(&ann, 95);
        assert!(!quota.is_due(&ann));
        for _ in 0..5 {
            quota.note(&ann.0, &ann.1, 1);
        }
        assert!(quota.is_full(&ann));
        assert!(!quota.is_due(&ann), "counted a moment ago");
        quota.note(&ann.0, &ann.1, -1);
        assert!(!quota.is_full(&ann));
        let ben = who("ben");
        for _ in 0..200 {
            quota.note(&ben.0, &ben.1, 1);
        }
        assert!(quota.is_due(&ben) && !quota.is_full(&ben));
    }

    #[test]
    fn without_a_bound_nothing_is_kept() {
        let quota = Quota::new(0);
        quota.note(&TenantId::default(), &UserId::new("ann").unwrap(), 1);
        assert!(quota.accounts().is_empty());
    }
}
