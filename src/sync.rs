//! Mutexes with a lock order. Owns freedom from deadlocks: a thread that holds a mutex locks only mutexes of a later
//! [`Rank`]. Debug builds check each lock and panic at a violation.
//!
//! All are std mutexes: held to change a map or to send into a queue, never across an await. Poisoning is ignored: each
//! change is complete before anything can panic.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(debug_assertions)]
use std::cell::RefCell;

/// Mutexes that are held together, in lock order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Order of cursors that are sent or removed.
    CursorsOutgoing,
    /// Cursors collected for the next tick.
    CursorsGathered,
    /// Rooms and their rosters.
    Rooms,
    /// Desired subscriptions of the bus, of one replica or of several in one process.
    Bus,
}

#[cfg(debug_assertions)]
thread_local! {
    static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
}

/// Mutex with a rank.
#[derive(Debug)]
pub struct Ordered<T> {
    rank: Rank,
    mutex: Mutex<T>,
}

/// Access to the value until dropped.
pub struct Guard<'a, T> {
    #[cfg(debug_assertions)]
    rank: Rank,
    guard: MutexGuard<'a, T>,
}

impl<T> Ordered<T> {
    /// Creates a mutex of that rank.
    pub fn new(rank: Rank, value: T) -> Self {
        let mutex = Mutex::new(value);
        Self { rank, mutex }
    }

    /// Locks the mutex.
    ///
    /// # Panics
    /// In debug builds, if this thread holds a mutex of this rank or a later one.
    pub fn lock(&self) -> Guard<'_, T> {
        #[cfg(debug_assertions)]
        HELD.with_borrow_mut(|held| {
            let last = held.last().copied();
            assert!(
                last.is_none_or(|last| last < self.rank),
                "{:?} is locked while {last:?} is held",
                self.rank
            );
            held.push(self.rank);
        });
        Guard {
            #[cfg(debug_assertions)]
            rank: self.rank,
            guard: self.mutex.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| {
            // Guards may be dropped in any order.
            if let Some(at) = held.iter().rposition(|rank| *rank == self.rank) {
                held.remove(at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_they_are_taken_and_taken_again() {
        let (first, second) = (Ordered::new(Rank::Rooms, 1), Ordered::new(Rank::Bus, 2));
        let held = first.lock();
        assert_eq!(*second.lock() + *held, 3);
        drop(held);
        *second.lock() = 5;
        assert_eq!(*first.lock(), 1);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "Rooms is locked while Some(Bus) is held")]
    fn out_of_order_is_caught() {
        let (first, second) = (Ordered::new(Rank::Rooms, ()), Ordered::new(Rank::Bus, ()));
        let _held = second.lock();
        let _wrong = first.lock();
    }
}
