//! Connections between two requests: of each server, and for each runtime its own.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::task::AbortHandle;

use super::wire::Wire;

/// How long a connection waits for the next request. Servers of the cluster give it up after 60 s of their own.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// How many connections to one server wait in one runtime. Further ones are closed: they were needed once, at a peak.
const IDLE_COUNT_MAX: usize = 128;

/// How many bodies of one server have large buffers at a time, up to two each.
const LARGE_COUNT_MAX: usize = 64;

/// So many locks there are: threads with a runtime of their own seldom meet at one.
const SHARDS: usize = 8;

/// The connections to one server for which there is no request.
#[derive(Default)]
pub(super) struct Pool {
    shards: [Mutex<Shard>; SHARDS],
    /// How many bodies have large buffers.
    large: AtomicUsize,
}

/// The right to a large buffer.
pub(super) struct Large(Arc<Pool>);

impl Drop for Large {
    fn drop(&mut self) {
        self.0.large.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Shard {
    /// In the order in which they came to rest: the last one is used first, so that those that are not needed grow old.
    resting: Vec<Resting>,
    sweeper: Option<AbortHandle>,
}

struct Resting {
    wire: Wire,
    since: Instant,
}

impl Pool {
    /// A connection of this runtime over which nothing came since it rests.
    pub(super) fn take(&self) -> Option<Wire> {
        let runtime = runtime::Handle::current().id();
        let shard = self.shard(runtime);
        loop {
            let mut resting = lock(shard);
            let place = resting.resting.iter().rposition(|resting| resting.wire.runtime == runtime)?;
            let Resting { mut wire, since } = resting.resting.remove(place);
            drop(resting);
            if since.elapsed() < IDLE_MAX && wire.is_at_rest() {
                return Some(wire);
            }
        }
    }

    /// Takes a connection whose last answer has ended.
    pub(super) fn put(self: &Arc<Self>, mut wire: Wire) {
        debug_assert!(wire.ahead.is_empty(), "what is behind an answer belongs to no request");
        wire.ahead = bytes::BytesMut::new();
        let index = index(wire.runtime);
        let mut shard = lock(&self.shards[index]);
        let count = shard.resting.iter().filter(|resting| resting.wire.runtime == wire.runtime).count();
        if count >= IDLE_COUNT_MAX {
            return;
        }
        shard.resting.push(Resting { wire, since: Instant::now() });
        if shard.sweeper.as_ref().is_none_or(AbortHandle::is_finished)
            && let Ok(runtime) = runtime::Handle::try_current()
        {
            shard.sweeper = Some(runtime.spawn(sweep(Arc::downgrade(self), index)).abort_handle());
        }
    }

    /// The right to a large buffer, if there is one left.
    pub(super) fn large(self: &Arc<Self>) -> Option<Large> {
        let takes = |count: usize| (count < LARGE_COUNT_MAX).then_some(count + 1);
        self.large.fetch_update(Ordering::Relaxed, Ordering::Relaxed, takes).ok()?;
        Some(Large(self.clone()))
    }

    fn shard(&self, runtime: runtime::Id) -> &Mutex<Shard> {
        &self.shards[index(runtime)]
    }

    /// Closes what has rested for too long; how long the oldest of the others has left.
    fn expire(&self, index: usize) -> Option<Duration> {
        let mut shard = lock(&self.shards[index]);
        let now = Instant::now();
        let expired = shard.resting.partition_point(|resting| now.duration_since(resting.since) >= IDLE_MAX);
        let expired: Vec<_> = shard.resting.drain(..expired).collect();
        let left = shard.resting.first().map(|oldest| IDLE_MAX - now.duration_since(oldest.since));
        if left.is_none() {
            shard.sweeper = None;
        }
        drop(shard);
        drop(expired);
        left
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for shard in &mut self.shards {
            let shard = shard.get_mut().unwrap_or_else(PoisonError::into_inner);
            if let Some(sweeper) = shard.sweeper.take() {
                sweeper.abort();
            }
        }
    }
}

/// Closes connections that nobody needs any more, until none is left.
async fn sweep(pool: Weak<Pool>, index: usize) {
    let mut left = Some(IDLE_MAX);
    while let Some(wait) = left {
        tokio::time::sleep(wait).await;
        left = pool.upgrade().and_then(|pool| pool.expire(index));
    }
}

fn index(runtime: runtime::Id) -> usize {
    let mut hasher = DefaultHasher::new();
    runtime.hash(&mut hasher);
    hasher.finish() as usize % SHARDS
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
