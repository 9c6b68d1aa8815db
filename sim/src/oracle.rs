//! What must never happen. The oracle sees all nodes at once, which no node does, and remembers what each has listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{Entry, EntryKey, Epoch, HybridTime, NodeId, Origin, Version};
use crate::node::{BLOBS, SimNode, Status};
use crate::replicate::{AHEAD_MAX_MS, Ledger as _};

/// A promise of metacdn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// When troubles end, all nodes list the same, and nothing is owed.
    Converges,
    /// What was answered is on all nodes at the end, or something newer for its key; and no row vanishes that is no
    /// deletion.
    AcknowledgedSurvives,
    /// Nothing that is older than a forgotten deletion is listed, while one node that forgot it has its disk.
    DeletedStays,
    /// What a node listed before a place that a follower has read to, the follower lists or owes, or something newer.
    CursorsCover,
    /// What a vector says to be passed is listed, or something newer, or was deleted and forgotten.
    VectorsCover,
    /// What is listed is held, whole, also after a crash that comes now.
    ListedIsHeld,
    /// What one node stamps later is later, whatever its clock does.
    StampsRise,
    /// What a node lists under a key only becomes newer.
    VersionsAdvance,
    /// What is more than a minute ahead is not listed.
    FutureWaits,
    /// A write that was answered with so many copies is durable on so many nodes.
    CopiesAreDurable,
    /// The places of a feed are taken in the order of commits, each once.
    PlacesFollowCommits,
    /// A deletion is forgotten only when nobody can bring back what was deleted.
    ForgettingIsSafe,
    /// What nothing names is not held for ever.
    UnnamedGoes,
    /// A deletion is not remembered for ever.
    DeletionsEnd,
    /// Nothing in the rules panics.
    NothingPanics,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A promise that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// How.
    pub detail: String,
}

/// What is remembered of a write that a client was told of.
#[derive(Debug, Clone)]
struct Acknowledged {
    key: EntryKey,
    version: Version,
    /// The nodes that have it.
    holders: Vec<Holder>,
}

/// A node, and how often it was brought back from a copy by then.
type Holder = (usize, u32);

/// Whether a node has the disk that it had then.
fn has_its_disk(nodes: &[SimNode], (node, restores): Holder) -> bool {
    nodes[node].status != Status::Gone && nodes[node].restores == restores
}

/// What decides which of two entries of a key wins: that a member was removed is final, then the later version does.
type Rank = (bool, Version);

fn rank(entry: &Entry) -> Rank {
    let is_final = entry.is_deleted() && matches!(&entry.key, EntryKey::Record(key) if key.is_node());
    (is_final, entry.version.clone())
}

/// What was listed under a key.
#[derive(Debug, Clone)]
struct Row {
    place: u64,
    rank: Rank,
    is_deleted: bool,
}

impl Row {
    fn all_of(node: &SimNode) -> BTreeMap<EntryKey, Self> {
        let row = |place, entry: &Entry| Self { place, rank: rank(entry), is_deleted: entry.is_deleted() };
        let entries = node.catalog.ledger.entries.iter();
        entries.map(|(key, (place, entry))| (key.clone(), row(*place, entry))).collect()
    }
}

/// What one node was seen to have.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// What it lists.
    rows: BTreeMap<EntryKey, Row>,
    /// The newest version of each key that it ever listed, in this life of its database.
    newest: BTreeMap<EntryKey, Rank>,
    /// The last place of its feed.
    head: u64,
    /// The number and time of its last write.
    stamp: Option<(u64, HybridTime)>,
    /// The versions of what it wants or withholds.
    wants: BTreeSet<Version>,
    /// Up to where its vector was looked at.
    vector: BTreeMap<Origin, u64>,
}

/// The writes of one origin by their number.
type Writes = BTreeMap<u64, (EntryKey, Rank)>;

/// The feed of one node in one life of its database: of each key the versions, with their places.
type Feed = BTreeMap<EntryKey, Vec<(u64, Rank)>>;

/// The oracle.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    seen: Vec<Seen>,
    feeds: BTreeMap<(NodeId, Epoch), Feed>,
    writes: BTreeMap<Origin, Writes>,
    /// The newest deletion of each key that was forgotten.
    forgotten: BTreeMap<EntryKey, Version>,
    /// Who forgot it.
    forgetters: BTreeMap<EntryKey, Vec<Holder>>,
    acknowledged: Vec<Acknowledged>,
    /// Keys of which a trouble took a row somewhere: only comparing brings it back, so until the end nothing is promised.
    lost: BTreeSet<EntryKey>,
}

impl Oracle {
    /// Notes that `invariant` is broken, unless one was before.
    pub fn broken(&mut self, invariant: Invariant, detail: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, detail: detail() });
        }
    }

    /// Gets to know node `index`, or what it is after it was brought back.
    pub fn meet(&mut self, index: usize, node: &SimNode) {
        if self.seen.len() <= index {
            self.seen.resize_with(index + 1, Seen::default);
        }
        let ledger = &node.catalog.ledger;
        let rows = Row::all_of(node);
        let feed = self.feeds.entry((node.id.clone(), ledger.origin.epoch)).or_default();
        for (key, row) in &rows {
            feed.entry(key.clone()).or_default().push((row.place, row.rank.clone()));
        }
        let newest = rows.iter().map(|(key, row)| (key.clone(), row.rank.clone())).collect();
        // What a backup has was taken in when its time had come.
        let wants = ledger.withheld.values().map(|entry| entry.version.clone()).collect();
        self.seen[index] = Seen { rows, newest, wants, head: ledger.sequence, ..Seen::default() };
    }

    /// Notes that a trouble takes the row of `key` from node `index`.
    pub fn lose(&mut self, index: usize, key: &EntryKey) {
        let seen = &mut self.seen[index];
        seen.rows.remove(key);
        seen.newest.remove(key);
        self.lost.insert(key.clone());
    }

    /// Looks at node `index` after a commit, at which its clock showed `now_unix_ms`.
    pub fn committed(&mut self, index: usize, nodes: &[SimNode], now_unix_ms: u64) {
        let node = &nodes[index];
        let ledger = &node.catalog.ledger;
        let before = std::mem::take(&mut self.seen[index].rows);
        for (key, row) in before.iter().filter(|(key, _)| !ledger.entries.contains_key(*key)) {
            self.vanished(index, nodes, key, row);
        }
        let mut fresh: Vec<_> = ledger.entries.values().filter(|(place, _)| *place > self.seen[index].head).collect();
        fresh.sort_by_key(|(place, _)| *place);
        for (place, entry) in fresh {
            let row = before.get(&entry.key).map(|row| &row.rank);
            self.listed(index, node, (*place, entry), row, now_unix_ms);
            self.check_deleted(node, nodes, entry);
        }
        let wanted = ledger.wants.iter().map(|owed| &owed.entry);
        let wants: BTreeSet<_> = wanted.chain(ledger.withheld.values()).map(|entry| entry.version.clone()).collect();
        let early = wants.difference(&self.seen[index].wants).find(|version| is_ahead(version, now_unix_ms)).cloned();
        self.seen[index].wants = wants;
        if let Some(version) = early {
            self.broken(Invariant::FutureWaits, || format!("{} wants {version} at {now_unix_ms}", node.id));
        }
        let mut places: Vec<_> = ledger.entries.values().map(|(place, _)| *place).collect();
        places.sort_unstable();
        if places.windows(2).any(|pair| pair[0] == pair[1]) || places.last().is_some_and(|last| *last > ledger.sequence)
        {
            self.broken(Invariant::PlacesFollowCommits, || format!("{} has the places {places:?}", node.id));
        }
        self.seen[index].head = ledger.sequence;
        self.seen[index].rows = Row::all_of(node);
        self.check_cursors(index, nodes);
        self.check_vector(index, node);
    }

    fn listed(
        &mut self,
        index: usize,
        node: &SimNode,
        (place, entry): (u64, &Entry),
        before_row: Option<&Rank>,
        now_unix_ms: u64,
    ) {
        let Entry { key, version, .. } = entry;
        let id = &node.id;
        let seen = &mut self.seen[index];
        let own = version.origin == node.catalog.ledger.origin;
        let rank = rank(entry);
        let newest = seen.newest.get(key).cloned();
        seen.newest.insert(key.clone(), newest.clone().max(Some(rank.clone())).unwrap_or_else(|| rank.clone()));
        let before = seen.stamp;
        // What was wanted in time stays so when the clock goes back.
        let was_wanted = seen.wants.contains(version);
        if own {
            seen.stamp = before.max(Some((version.sequence, version.time)));
            self.writes
                .entry(version.origin.clone())
                .or_default()
                .insert(version.sequence, (key.clone(), rank.clone()));
        }
        let is_stamped_before = |(sequence, time)| sequence < version.sequence && time >= version.time;
        if own && before.is_some_and(is_stamped_before) {
            self.broken(Invariant::StampsRise, || format!("{id} stamps {version} after {before:?}"));
        }
        if !own && !was_wanted && is_ahead(version, now_unix_ms) {
            self.broken(Invariant::FutureWaits, || format!("{id} lists {key} {version} at {now_unix_ms}"));
        }
        // An old deletion that comes back from a backup deletes nothing, when a newer one was forgotten before.
        let is_replaced = before_row.is_some_and(|row| *row > rank);
        if is_replaced || !entry.is_deleted() && newest.as_ref().is_some_and(|newest| *newest > rank) {
            self.broken(Invariant::VersionsAdvance, || format!("{id} lists {key} {version} after {newest:?}"));
        }
        self.check_held(node, entry);
        let feed = self.feeds.entry((id.clone(), node.catalog.ledger.origin.epoch)).or_default();
        feed.entry(key.clone()).or_default().push((place, rank));
    }

    /// Checks that `entry`, which `node` lists now, is not older than a forgotten deletion. If all that forgot it were brought
    /// back from copies since, nobody can know of it.
    fn check_deleted(&mut self, node: &SimNode, nodes: &[SimNode], entry: &Entry) {
        let Some(forgotten) = self.forgotten.get(&entry.key).filter(|forgotten| entry.version < **forgotten) else {
            return;
        };
        let forgetters = &self.forgetters[&entry.key];
        if entry.content().is_some() && forgetters.iter().any(|forgetter| has_its_disk(nodes, *forgetter)) {
            let (id, Entry { key, version, .. }) = (&node.id, entry);
            let detail = format!("{id} lists {key} {version}, which was deleted as {forgotten}");
            self.broken(Invariant::DeletedStays, || detail);
        }
    }

    /// A row has gone from node `index`, which only a deletion may, and not that of a member.
    fn vanished(&mut self, index: usize, nodes: &[SimNode], key: &EntryKey, row: &Row) {
        let (who, (is_final, version)) = (&nodes[index].id, &row.rank);
        if !row.is_deleted {
            self.broken(Invariant::AcknowledgedSurvives, || {
                format!("{who} drops {key} {version}, which is no deletion")
            });
        } else if *is_final {
            self.broken(Invariant::ForgettingIsSafe, || format!("{who} forgets that {key} was removed as {version}"));
        } else {
            self.forgot(index, nodes, key, version);
        }
    }

    /// A row of the deletion `version` has gone from node `index`.
    fn forgot(&mut self, index: usize, nodes: &[SimNode], key: &EntryKey, version: &Version) {
        let older = |entry: &Entry| entry.key == *key && entry.version < *version && entry.content().is_some();
        for node in nodes.iter().filter(|node| node.status != Status::Gone) {
            let ledger = &node.catalog.ledger;
            let owed = ledger.wants.iter().chain(&ledger.parked).map(|owed| &owed.entry);
            let listed = ledger.entries.get(key).map(|(_, entry)| entry);
            if let Some(entry) = listed.into_iter().chain(owed).find(|entry| older(entry)) {
                let (who, other, old) = (&nodes[index].id, &node.id, &entry.version);
                let detail = format!("{who} forgets that {key} was deleted as {version}, while {other} has {old}");
                self.broken(Invariant::ForgettingIsSafe, || detail);
            }
        }
        let forgetters = self.forgetters.entry(key.clone()).or_default();
        let before = self.forgotten.get(key);
        if before.is_none_or(|before| before < version) {
            forgetters.clear();
            self.forgotten.insert(key.clone(), version.clone());
        }
        if self.forgotten[key] == *version {
            forgetters.push((index, nodes[index].restores));
        }
    }

    /// Whether node `index` lists `version` of `key`, or has listed something newer, or may have missed it because it was
    /// deleted and forgotten.
    fn has_passed(&self, index: usize, key: &EntryKey, rank: &Rank) -> bool {
        let newest = self.seen[index].newest.get(key);
        let forgotten = self.forgotten.get(key);
        newest.is_some_and(|newest| *newest >= *rank)
            || forgotten.is_some_and(|forgotten| *forgotten >= rank.1)
            || self.lost.contains(key)
    }

    fn check_cursors(&mut self, index: usize, nodes: &[SimNode]) {
        let node = &nodes[index];
        let ledger = &node.catalog.ledger;
        for (peer, cursor) in &ledger.cursors {
            // What only a database has listed that is no more may be gone with it.
            let lives =
                |node: &SimNode| node.status != Status::Gone && node.catalog.ledger.origin.epoch == cursor.epoch;
            if !nodes.iter().any(|node| node.id == *peer && lives(node)) {
                continue;
            }
            let Some(feed) = self.feeds.get(&(peer.clone(), cursor.epoch)) else { continue };
            for (key, versions) in feed {
                // What was listed anew since is still to be read, at its new place.
                let Some((_, listed)) = versions.last().filter(|(place, _)| *place <= cursor.since) else { continue };
                let owed = || {
                    let mut owed = ledger.wants.iter().chain(&ledger.parked).map(|owed| &owed.entry);
                    owed.any(|entry| entry.key == *key && rank(entry) >= *listed)
                };
                if !self.has_passed(index, key, listed) && !owed() {
                    let detail =
                        format!("{} has read {peer} to {} and has no {key} {}", node.id, cursor.since, listed.1);
                    return self.broken(Invariant::CursorsCover, || detail);
                }
            }
        }
    }

    fn check_vector(&mut self, index: usize, node: &SimNode) {
        let Ok(vector) = node.catalog.ledger.vector();
        for (origin, passed) in vector.iter() {
            let from = self.seen[index].vector.insert(origin.clone(), passed).unwrap_or(0);
            if from >= passed {
                continue;
            }
            let Some(writes) = self.writes.get(origin) else { continue };
            let missing = writes.range(from + 1..=passed).find(|(_, (key, rank))| !self.has_passed(index, key, rank));
            if let Some((_, (key, (_, version)))) = missing {
                let detail = format!("{} says it has passed {passed} of {origin:?}: {key} {version}", node.id);
                return self.broken(Invariant::VectorsCover, || detail);
            }
        }
    }

    /// Checks that the bytes of what is listed would be there after a crash.
    pub fn check_held(&mut self, node: &SimNode, entry: &Entry) {
        let Some(content) = entry.content() else { return };
        let hash = content.hash;
        let path = format!("{BLOBS}/{:02x}/{hash}", hash.as_bytes()[0]);
        if !node.catalog.rows.contains_key(&hash) && !node.disk.would_survive(&path) {
            let detail = format!("{} lists {} {}, whose bytes it may lose", node.id, entry.key, entry.version);
            self.broken(Invariant::ListedIsHeld, || detail);
        }
    }

    /// Notes that the client who wrote `version` of `key` was told that these `holders` have it.
    pub fn acknowledged(&mut self, nodes: &[SimNode], key: &EntryKey, version: &Version, holders: &[Holder]) {
        for holder in holders.iter().filter(|holder| has_its_disk(nodes, **holder)) {
            if !self.has_passed(holder.0, key, &(false, version.clone())) {
                let node = &nodes[holder.0];
                let detail = format!("{} is counted as a holder of {key} {version}", node.id);
                self.broken(Invariant::CopiesAreDurable, || detail);
            }
        }
        let (key, version, holders) = (key.clone(), version.clone(), holders.to_vec());
        self.acknowledged.push(Acknowledged { key, version, holders });
    }

    /// Checks what must be so when all troubles are over and nothing moves any more: deletions of before `forgotten_by` had
    /// time enough to be forgotten.
    pub fn at_rest(&mut self, nodes: &[SimNode], forgotten_by: HybridTime) {
        let live: Vec<_> = (0..nodes.len()).filter(|index| nodes[*index].status == Status::Up).collect();
        for Acknowledged { key, version, holders } in self.acknowledged.clone() {
            if self.lost.contains(&key) || !holders.iter().any(|holder| has_its_disk(nodes, *holder)) {
                continue;
            }
            for index in &live {
                // An old deletion from a backup may be listed after a newer one was forgotten: it deletes nothing.
                let row = nodes[*index].catalog.ledger.entries.get(&key).map(|(_, entry)| entry);
                let forgotten = self.forgotten.get(&key).filter(|_| row.is_none_or(Entry::is_deleted));
                let newest = row.map(|entry| &entry.version).max(forgotten);
                if newest.is_none_or(|newest| *newest < version) {
                    let detail =
                        format!("{} has {newest:?} of {key}, of which {version} was answered", nodes[*index].id);
                    return self.broken(Invariant::AcknowledgedSurvives, || detail);
                }
            }
        }
        for index in live {
            self.check_leftovers(&nodes[index], nodes, forgotten_by);
        }
    }

    /// Checks that `node` has what it should have at the end, and nothing else.
    fn check_leftovers(&mut self, node: &SimNode, nodes: &[SimNode], forgotten_by: HybridTime) {
        let id = &node.id;
        for (_, entry) in node.catalog.ledger.entries.values() {
            self.check_held(node, entry);
            let is_old = entry.is_deleted() && !rank(entry).0 && entry.version.time < forgotten_by;
            if is_old && will_be_passed(nodes, &entry.version) {
                let detail = format!("{id} still remembers that {} was deleted as {}", entry.key, entry.version);
                self.broken(Invariant::DeletionsEnd, || detail);
            }
        }
        if let Some(hash) = node.unnamed().first() {
            self.broken(Invariant::UnnamedGoes, || format!("{id} holds {hash}, which nothing names"));
        }
    }
}

/// Whether all can say that they have passed `version`: of a database that is no more they may never, for only who has read
/// it to its end knows that nothing of it is missing. Newcomers that are left alone wait for a cluster, and forget nothing.
fn will_be_passed(nodes: &[SimNode], version: &Version) -> bool {
    if !nodes.iter().any(|node| node.status == Status::Up && node.catalog.belongs) {
        return false;
    }
    let mut live = nodes.iter().filter(|node| node.status == Status::Up).map(|node| &node.catalog.ledger);
    live.clone().any(|ledger| ledger.origin == version.origin)
        || live.all(|ledger| ledger.vector().is_ok_and(|vector| vector.has_passed(version)))
}

fn is_ahead(version: &Version, now_unix_ms: u64) -> bool {
    version.time.unix_ms() > now_unix_ms + AHEAD_MAX_MS
}
