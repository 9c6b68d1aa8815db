//! Files that are open, so that a hit opens none: a bounded number, the least recently used go.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many files are open at most, besides those that somebody still reads.
const FILES_MAX: usize = 1024;

/// In how many parts they are divided, so that those who look for different ones seldom meet, and the oldest of one is
/// found by looking at all of its files.
const SHARDS: usize = 32;

/// Which file: the id of the representation, and the slice.
type Name = (u64, u32);

/// Files that are open.
#[derive(Debug)]
pub(super) struct Files {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    files: HashMap<Name, Open>,
    /// Counts the uses, as a clock.
    uses: u64,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    used: u64,
}

impl Default for Files {
    fn default() -> Self {
        Self { shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect() }
    }
}

impl Files {
    /// The file, if it is open.
    pub(super) fn find(&self, name: Name) -> Option<Arc<File>> {
        let mut shard = self.shard(name);
        shard.uses += 1;
        let now = shard.uses;
        let open = shard.files.get_mut(&name)?;
        open.used = now;
        Some(open.file.clone())
    }

    /// Keeps the file open.
    pub(super) fn keep(&self, name: Name, file: Arc<File>) {
        let mut shard = self.shard(name);
        shard.uses += 1;
        let used = shard.uses;
        shard.files.insert(name, Open { file, used });
        if shard.files.len() > FILES_MAX / SHARDS {
            let oldest = shard.files.iter().min_by_key(|(_, open)| open.used).map(|(&name, _)| name);
            oldest.map(|oldest| shard.files.remove(&oldest));
        }
    }

    /// Nobody finds the file any more: the disk has its bytes back when its last reader is done.
    pub(super) fn close(&self, name: Name) {
        self.shard(name).files.remove(&name);
    }

    fn shard(&self, (id, slice): Name) -> MutexGuard<'_, Shard> {
        // Ids follow each other, and so do slices.
        let shard = id.wrapping_mul(31).wrapping_add(u64::from(slice)) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_files_are_closed() {
        let files = Files::default();
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        files.keep((1, 0), file.clone());
        for slice in 1..20_000 {
            files.keep((1, slice), file.clone());
            assert!(files.find((1, 0)).is_some(), "it is used all the time");
        }
        let open = Arc::strong_count(&file) - 1;
        assert!((FILES_MAX - SHARDS..=FILES_MAX).contains(&open), "{open} are open");
        files.close((1, 0));
        assert!(files.find((1, 0)).is_none());
    }
}
