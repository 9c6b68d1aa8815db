//! A ledger in memory: for the simulation, and for the tests of the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use super::{BUCKETS, Debt, Ledger, bucket_of, digest_of};
use crate::model::{
    Content, ContentHash, Cursor, Entry, EntryKey, Epoch, HybridClock, HybridTime, NodeId, Origin, Version,
    VersionVector,
};

/// Something that is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The entry.
    pub entry: Entry,
    /// The peer that lists it.
    pub peer: NodeId,
    /// Its number among all debts.
    pub number: u64,
}

/// What one node has written down. A clone is what is on its disk.
#[derive(Debug, Clone)]
pub struct MemoryLedger {
    /// Who stamps its writes.
    pub origin: Origin,
    /// Its clock.
    pub clock: HybridClock,
    /// The last place of its feed.
    pub sequence: u64,
    /// The count of its own writes.
    pub origin_sequence: u64,
    /// The last number of a debt.
    pub debts: u64,
    /// What it lists, with the place of each.
    pub entries: BTreeMap<EntryKey, (u64, Entry)>,
    /// The entries whose bytes are missing.
    pub wants: Vec<Owed>,
    /// The entries whose time has not come.
    pub parked: Vec<Owed>,
    /// The entries of a backup.
    pub withheld: BTreeMap<EntryKey, Entry>,
    /// How far it read the feeds of its peers.
    pub cursors: BTreeMap<NodeId, Cursor>,
    /// What it has passed of others' writes.
    pub vector: VersionVector,
    /// The newest tombstone that was dropped.
    pub horizon: Option<Version>,
    /// The sums of the buckets in which something was listed.
    digests: BTreeMap<usize, u64>,
}

impl MemoryLedger {
    /// An empty one.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            clock: HybridClock::default(),
            sequence: 0,
            origin_sequence: 0,
            debts: 0,
            entries: BTreeMap::new(),
            wants: Vec::new(),
            parked: Vec::new(),
            withheld: BTreeMap::new(),
            cursors: BTreeMap::new(),
            vector: VersionVector::default(),
            horizon: None,
            digests: BTreeMap::new(),
        }
    }

    /// Keeps `entries` as those of a backup.
    pub fn withhold<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        self.withheld.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry.clone())));
    }

    /// What a database becomes that was brought back from a copy: a new life, in which only the members are listed.
    pub fn begin_anew(&mut self, epoch: Epoch) {
        let origin = Origin { node: self.origin.node.clone(), epoch };
        let fresh = Self { clock: self.clock, debts: self.debts, horizon: self.horizon.clone(), ..Self::new(origin) };
        let mut before = std::mem::replace(self, fresh);
        self.withheld = std::mem::take(&mut before.withheld);
        for (_, entry) in before.feed(0) {
            if matches!(&entry.key, EntryKey::Record(key) if key.is_node()) {
                self.sequence += 1;
                self.entries.insert(entry.key.clone(), (self.sequence, entry));
            } else {
                self.withheld.insert(entry.key.clone(), entry);
            }
        }
        self.recount();
    }

    /// The sum of each bucket, as it was kept.
    pub fn sums(&self) -> Vec<u64> {
        (0..BUCKETS).map(|bucket| self.digests.get(&bucket).copied().unwrap_or(0)).collect()
    }

    /// Makes the sums anew from what is listed; answers whether one was wrong.
    pub fn recount(&mut self) -> bool {
        let before = self.sums();
        self.digests.clear();
        for (_, entry) in self.entries.values() {
            add(&mut self.digests, entry, digest_of(entry));
        }
        self.sums() != before
    }

    /// What its feed tells of as its horizon: the deletions that it withholds are not in the feed either.
    pub fn told_horizon(&self) -> Option<Version> {
        let withheld = self.withheld.values().filter(|entry| entry.is_deleted()).map(|entry| &entry.version);
        withheld.max().max(self.horizon.as_ref()).cloned()
    }

    /// The hashes that something listed or withheld points at.
    pub fn references(&self) -> BTreeSet<ContentHash> {
        let listed = self.entries.values().map(|(_, entry)| entry);
        listed.chain(self.withheld.values()).filter_map(Entry::content).map(|content| content.hash).collect()
    }

    /// The feed after the place `since`.
    pub fn feed(&self, since: u64) -> Vec<(u64, Entry)> {
        let mut entries: Vec<_> = self.entries.values().filter(|(place, _)| *place > since).cloned().collect();
        entries.sort_by_key(|(place, _)| *place);
        entries
    }
}

impl Ledger for MemoryLedger {
    type Error = Infallible;

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn listed(&self, key: &EntryKey) -> Result<Option<Entry>, Infallible> {
        Ok(self.entries.get(key).map(|(_, entry)| entry.clone()))
    }

    fn owes(&self, entry: &Entry) -> Result<bool, Infallible> {
        Ok(self.wants.iter().chain(&self.parked).any(|owed| is_same(&owed.entry, entry)))
    }

    fn holds(&self, content: &Content) -> Result<bool, Infallible> {
        Ok(self.references().contains(&content.hash))
    }

    fn stamp(&mut self, now_unix_ms: u64) -> Version {
        self.origin_sequence += 1;
        let time = self.clock.stamp(now_unix_ms);
        Version { time, origin: self.origin.clone(), sequence: self.origin_sequence }
    }

    fn list(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.clock.observe(entry.version.time);
        self.sequence += 1;
        let before = self.entries.insert(entry.key.clone(), (self.sequence, entry.clone()));
        if let Some((_, before)) = before {
            add(&mut self.digests, &before, digest_of(&before).wrapping_neg());
        }
        add(&mut self.digests, entry, digest_of(entry));
        let stays = |owed: &Owed| owed.entry.key != entry.key || owed.entry.supersedes(entry);
        self.wants.retain(stays);
        self.parked.retain(stays);
        Ok(())
    }

    fn want(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), Infallible> {
        self.clock.observe(entry.version.time);
        self.debts += 1;
        self.wants.push(Owed { entry: entry.clone(), peer: peer.clone(), number: self.debts });
        Ok(())
    }

    fn listed_by(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), Infallible> {
        let owed = self.wants.iter_mut().chain(&mut self.parked);
        owed.filter(|owed| is_same(&owed.entry, entry)).for_each(|owed| owed.peer = peer.clone());
        Ok(())
    }

    fn lister(&self, entry: &Entry) -> Result<Option<NodeId>, Infallible> {
        Ok(self.wants.iter().find(|owed| is_same(&owed.entry, entry)).map(|owed| owed.peer.clone()))
    }

    fn forget_lister(&mut self, peer: &NodeId) -> Result<(), Infallible> {
        let own = &self.origin.node;
        let owed = self.wants.iter_mut().chain(&mut self.parked);
        owed.filter(|owed| owed.peer == *peer).for_each(|owed| owed.peer = own.clone());
        Ok(())
    }

    fn forget_want(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.wants.retain(|owed| !is_same(&owed.entry, entry));
        Ok(())
    }

    fn park(&mut self, entry: &Entry, peer: &NodeId) -> Result<(), Infallible> {
        self.debts += 1;
        self.parked.push(Owed { entry: entry.clone(), peer: peer.clone(), number: self.debts });
        Ok(())
    }

    fn parked(&self, time: HybridTime, limit: usize) -> Result<Vec<Entry>, Infallible> {
        let mut due: Vec<_> = self.parked.iter().filter(|owed| owed.entry.version.time <= time).collect();
        due.sort_by_key(|owed| owed.entry.version.time);
        Ok(due.into_iter().take(limit).map(|owed| owed.entry.clone()).collect())
    }

    fn want_parked(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.clock.observe(entry.version.time);
        self.wants.extend(self.parked.extract_if(.., |owed| is_same(&owed.entry, entry)));
        Ok(())
    }

    fn unpark(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.parked.retain(|owed| !is_same(&owed.entry, entry));
        Ok(())
    }

    fn cursor(&self, peer: &NodeId) -> Result<Option<Cursor>, Infallible> {
        Ok(self.cursors.get(peer).copied())
    }

    fn set_cursor(&mut self, peer: &NodeId, cursor: Cursor) -> Result<(), Infallible> {
        self.cursors.insert(peer.clone(), cursor);
        Ok(())
    }

    fn debt(&self) -> Result<Debt, Infallible> {
        let oldest = self.wants.iter().chain(&self.parked).map(|owed| owed.number).min();
        Ok(Debt { last: self.debts, oldest })
    }

    fn vector(&self) -> Result<VersionVector, Infallible> {
        let mut vector = self.vector.clone();
        vector.raise(&self.origin, self.origin_sequence);
        Ok(vector)
    }

    fn cover(&mut self, vector: &VersionVector) -> Result<(), Infallible> {
        self.vector.merge(vector);
        Ok(())
    }

    fn tombstones(
        &self,
        time: HybridTime,
        after: Option<(HybridTime, EntryKey)>,
        limit: usize,
    ) -> Result<Vec<Entry>, Infallible> {
        let place = |entry: &Entry| (entry.version.time, entry.key.clone());
        let mut old: Vec<_> =
            self.entries.values().map(|(_, entry)| entry).filter(|entry| entry.is_deleted()).collect();
        old.retain(|entry| entry.version.time < time && after.as_ref().is_none_or(|after| place(entry) > *after));
        old.sort_by_key(|entry| place(entry));
        Ok(old.into_iter().take(limit).cloned().collect())
    }

    fn drop_tombstone(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.entries.remove(&entry.key);
        add(&mut self.digests, entry, digest_of(entry).wrapping_neg());
        Ok(())
    }

    fn horizon(&self) -> Result<Option<Version>, Infallible> {
        Ok(self.horizon.clone())
    }

    fn raise_horizon(&mut self, version: &Version) -> Result<(), Infallible> {
        self.horizon = self.horizon.take().max(Some(version.clone()));
        Ok(())
    }

    fn withheld(&self, after: Option<&EntryKey>, limit: usize) -> Result<Vec<Entry>, Infallible> {
        let after = |key: &EntryKey| after.is_none_or(|after| key > after);
        Ok(self.withheld.iter().filter(|(key, _)| after(key)).map(|(_, entry)| entry.clone()).take(limit).collect())
    }

    fn forget_withheld(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.withheld.remove(&entry.key);
        Ok(())
    }
}

/// Adds `digest` to the sum of the bucket of `entry`.
fn add(digests: &mut BTreeMap<usize, u64>, entry: &Entry, digest: u64) {
    let sum = digests.entry(bucket_of(&entry.key)).or_default();
    *sum = sum.wrapping_add(digest);
}

fn is_same(one: &Entry, other: &Entry) -> bool {
    one.key == other.key && one.version == other.version
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{EntryState, Epoch};

    pub(in super::super) fn node(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    pub(in super::super) fn replica(name: &str) -> MemoryLedger {
        MemoryLedger::new(Origin { node: node(name), epoch: Epoch::from_bits(1) })
    }

    /// An entry of `key` that is `text`, in no version of use.
    pub(in super::super) fn live(key: &str, text: &str) -> Entry {
        let content = Content {
            hash: ContentHash::of(text.as_bytes()),
            size: text.len() as u64,
            media_type: "text/plain".parse().expect("a value"),
            cache_control: "no-cache".parse().expect("a value"),
        };
        let origin = Origin { node: node("nobody"), epoch: Epoch::from_bits(0) };
        let version = Version { time: HybridTime::default(), origin, sequence: 0 };
        Entry { key: key.parse().expect("a key"), version, state: EntryState::Live(content) }
    }
}
