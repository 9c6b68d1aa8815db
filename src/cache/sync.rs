//! The locks of what is kept in memory: those of the standard library. In tests of races they are those of `shuttle`, which
//! runs threads one at a time, and at each lock goes on with any of them.

#[cfg(not(test))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(test)]
pub(super) use either::{Mutex, MutexGuard, in_many_orders};

#[cfg(test)]
mod either {
    use std::cell::Cell;
    use std::ops::{Deref, DerefMut};
    use std::sync::{Arc, LockResult, PoisonError};

    /// Enough to find each fault that was planted a dozen times over.
    const ORDERS: usize = 2_000;

    /// How often a thread is stopped for others at most, in orders with few such stops.
    const STOPS_MAX: usize = 3;

    thread_local! {
        /// Whether what is made on this thread is for a test of races: shuttle runs all of its threads on this one.
        static RACES: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `test` many times, each time with its threads in another order: in half of them any goes on at each lock, in the
    /// other half few are stopped, but for long.
    pub(in crate::cache) fn in_many_orders(test: impl Fn() + Send + Sync + 'static) {
        let test = Arc::new(test);
        let again = test.clone();
        let _races = Races::begin();
        shuttle::check_random(move || test(), ORDERS);
        shuttle::check_pct(move || again(), ORDERS, STOPS_MAX);
    }

    /// A test of races that runs on this thread, on which others may follow.
    struct Races;

    impl Races {
        fn begin() -> Self {
            RACES.set(true);
            Self
        }
    }

    impl Drop for Races {
        fn drop(&mut self) {
            RACES.set(false);
        }
    }

    #[derive(Debug)]
    pub(in crate::cache) enum Mutex<T> {
        Real(std::sync::Mutex<T>),
        Raced(shuttle::sync::Mutex<T>),
    }

    #[derive(Debug)]
    pub(in crate::cache) enum MutexGuard<'m, T> {
        Real(std::sync::MutexGuard<'m, T>),
        Raced(shuttle::sync::MutexGuard<'m, T>),
    }

    impl<T> Mutex<T> {
        pub(in crate::cache) fn new(value: T) -> Self {
            match RACES.get() {
                false => Self::Real(std::sync::Mutex::new(value)),
                true => Self::Raced(shuttle::sync::Mutex::new(value)),
            }
        }

        pub(in crate::cache) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            Ok(match self {
                Self::Real(lock) => MutexGuard::Real(lock.lock().unwrap_or_else(PoisonError::into_inner)),
                Self::Raced(lock) => MutexGuard::Raced(lock.lock().unwrap_or_else(PoisonError::into_inner)),
            })
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            match self {
                Self::Real(guard) => guard,
                Self::Raced(guard) => guard,
            }
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            match self {
                Self::Real(guard) => guard,
                Self::Raced(guard) => guard,
            }
        }
    }
}
