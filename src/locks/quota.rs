//! Maximum leases per identity. Owns that the limit costs PostgreSQL nothing far below it: leases are counted here as
//! they begin and end, and PostgreSQL is asked only when that estimate is high or old.
//!
//! ```text
//!   estimate: + a grant, - a release      a tenth of the limit granted since, or the limit reached
//!                                         ──────────────────────────────────────────▶ counted exactly
//! ```
//!
//! PostgreSQL decides: the estimate ignores grants of other replicas and expiries, so it alone rejects nobody. Its error
//! is at most a tenth of the limit per replica. If a count fails, the estimate stays, and the next grant counts again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::domain::ids::{TenantId, UserId};

/// Interval between two exact counts for one identity, while it is at its limit.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Number of accounts from which unused ones are removed.
const CLEANUP_THRESHOLD: usize = 10_000;
/// Time without use after which an account may be removed.
const UNUSED: Duration = Duration::from_secs(600);

type Identity = (TenantId, UserId);

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
    /// The limit; 0: none.
    pub(super) max: usize,
    /// A std mutex: never held across an await.
    accounts: Mutex<HashMap<Identity, Account>>,
    /// One exact count at a time: it reads every lease in force.
    pub(super) counting: Semaphore,
}

impl Quota {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            accounts: Mutex::default(),
            counting: Semaphore::new(1),
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Identity, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a lease of the identity that began (+1) or ended (-1).
    pub(super) fn note(&self, tenant: &TenantId, user: &UserId, change: isize) {
        if self.max == 0 {
            return;
        }
        let mut accounts = self.accounts();
        if accounts.len() >= CLEANUP_THRESHOLD && accounts.len() == accounts.capacity() {
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

    /// True if the leases must be counted in PostgreSQL: the estimate is high, or old.
    pub(super) fn is_due(&self, who: &Identity) -> bool {
        let accounts = self.accounts();
        accounts.get(who).is_some_and(|account| {
            let much = account.since >= (self.max / 10).max(1);
            let full = account.estimate >= self.max;
            let again = account
                .counted
                .is_none_or(|at| at.elapsed() >= COUNT_INTERVAL);
            (much && !full) || (full && again)
        })
    }

    pub(super) fn is_full(&self, who: &Identity) -> bool {
        let accounts = self.accounts();
        accounts
            .get(who)
            .is_some_and(|it| it.estimate >= self.max && it.counted.is_some())
    }

    pub(super) fn counted(&self, who: &Identity, count: usize) {
        if let Some(account) = self.accounts().get_mut(who) {
            account.estimate = count;
            account.since = 0;
            account.counted = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Identity {
        (TenantId::default(), UserId::new(name).unwrap())
    }

    #[test]
    fn counts_are_rare_and_an_estimate_alone_rejects_nobody() {
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
    fn without_a_limit_nothing_is_kept() {
        let quota = Quota::new(0);
        quota.note(&TenantId::default(), &UserId::new("ann").unwrap(), 1);
        assert!(quota.accounts().is_empty());
    }
}
