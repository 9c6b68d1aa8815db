//! The start: what the index has is loaded, and files are compared with it, folder by folder.

use std::sync::{Arc, PoisonError};

use super::entry::Entry;
use super::folder::{FOLDERS, folder_of};
use super::index::{IndexError, Row};
use super::slice::Slice;
use super::tier::{Evicted, Purged, Stage, Tier};
use super::writer::{Gone, Writer};

/// How many rows are read at a time.
const ROWS: u32 = 1024;

/// So much is let go at a time, where there is more than the capacity.
const EVICTED_BYTES: u64 = 64 << 20;

impl Writer {
    /// Loads what the index has, and lets go what is more than the capacity.
    pub(super) fn load(&mut self) -> Result<(), IndexError> {
        let loaded = self.load_rows();
        let mut purged = self.tier.purged.lock().unwrap_or_else(PoisonError::into_inner);
        *purged = Purged::Loaded;
        drop(purged);
        loaded?;
        while self.tier.used_bytes() > self.tier.capacity_bytes {
            let over = self.tier.used_bytes() - self.tier.capacity_bytes;
            let evicted = self.tier.evict(over.min(EVICTED_BYTES));
            if evicted.is_empty() {
                break;
            }
            for Evicted { entry, slice, whole } in evicted {
                self.tier.folder.delete(entry.id, slice);
                self.undone.push(if whole { Gone::Whole(entry.id) } else { Gone::Slice(entry.id, slice) });
            }
            self.work(Vec::new());
        }
        Ok(())
    }

    fn load_rows(&mut self) -> Result<(), IndexError> {
        let Some(index) = &self.index else { return Ok(()) };
        let mut after = 0;
        while !self.tier.queue.is_closing() {
            let rows = index.rows(after, ROWS)?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            // Held meanwhile: what is purged from now on is found among the entries, or here.
            let purged = self.tier.purged.lock().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                let (id, key_hash, selector) = (row.id, row.key_hash, row.selector);
                match entry_of(&self.tier, row) {
                    Some(entry) if !purged.has(key_hash, selector) => self.tier.adopt(entry),
                    _ => self.undone.push(Gone::Whole(id)),
                }
            }
        }
        Ok(())
    }
}

/// The entry of a row; `None` if nothing of its body is there.
fn entry_of(tier: &Tier, row: Row) -> Option<Entry> {
    let Row { id, key_hash, size, cost, row_bytes, selector, site, slices } = row;
    let entry = Entry::new(id, key_hash, size, cost, tier.slices_of(size)?).of_site(site);
    let mut entry = entry.listed(row_bytes).selected(selector);
    if tier.is_inline(&entry) {
        entry.add_left(0);
        return Some(entry);
    }
    let mut left = false;
    for slice in slices {
        left |= entry.add_left(slice);
    }
    left.then_some(entry)
}

/// A look at all folders, one after another.
#[derive(Debug)]
pub(super) struct Scan {
    /// Those that had files when it began, by folders and ids, the last folder first.
    entries: Vec<Arc<Entry>>,
    folder: u32,
}

impl Scan {
    pub(super) fn new(tier: &Tier) -> Self {
        let mut entries = tier.entries.all();
        entries.retain(|entry| !tier.is_inline(entry) && !tier.marks.has_given(entry.id));
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse((folder_of(entry.id), entry.id)));
        Self { entries, folder: 0 }
    }

    /// Looks at the next folder: files that no entry knows are deleted, slices without a file are lost. Nobody else creates
    /// or deletes files meanwhile. False once there is nothing left to do.
    pub(super) fn step(&mut self, tier: &Tier, undone: &mut Vec<Gone>) -> bool {
        if *tier.stage.borrow() != Stage::Scanning {
            return false;
        }
        if self.folder == FOLDERS {
            return tier.folder.delete_discarded();
        }
        let first = self.entries.partition_point(|entry| folder_of(entry.id) > self.folder);
        let mut here = self.entries.split_off(first);
        here.reverse();
        // A folder that cannot be listed is one whose slices cannot be opened either.
        if let Ok(files) = tier.folder.list(self.folder) {
            let find = |id: u64| here.binary_search_by_key(&id, |entry| entry.id).ok().map(|place| &here[place]);
            for &(id, slice) in files.iter().filter(|(id, _)| !tier.marks.has_given(*id)) {
                let state = find(id).and_then(|entry| entry.slice(slice));
                if !state.is_some_and(|state| state.sight().may_have_file()) {
                    tier.folder.delete(id, slice);
                    undone.push(Gone::Slice(id, slice));
                }
            }
            for entry in &here {
                for slice in 0..entry.slices() {
                    let seen = entry.slice(slice).map(Slice::sight).filter(|seen| seen.is_present());
                    if let Some(seen) = seen.filter(|_| !files.contains(&(entry.id, slice))) {
                        tier.lose(entry, slice, seen);
                    }
                }
            }
        }
        self.folder += 1;
        true
    }
}
