//! Proves from the record of a history and the final state that promises were kept, or says which were not.
//!
//! Promised is: each key ends everywhere as its greatest version, and that is no older than any write that was
//! acknowledged and any version that was seen; what is read was written; at one node, versions rise: of its stamps in the order of
//! time, whatever the key, and of each key as that node shows it, which makes who wrote there read what was written.

use std::collections::BTreeMap;
use std::time::Duration;

use metacdn::model::{ContentHash, Version};

use super::{Contents, Did, Listed, Operation, State};

/// What a history is judged by.
pub struct Evidence<'a> {
    /// What the cluster held before it.
    pub before: &'a Contents,
    /// What was done and seen, in any order.
    pub operations: &'a [Operation],
    /// What each node held after it, when nothing happened any more.
    pub after: &'a [(&'static str, Contents)],
}

/// Every broken promise, a line each.
pub fn violations(evidence: &Evidence<'_>) -> Vec<String> {
    let writes = Writes::of(evidence);
    let mut found = Vec::new();
    for operation in evidence.operations {
        if let Did::Read(Some(seen)) = &operation.did
            && let Err(reason) = writes.explain(&operation.key, seen, operation.returned)
        {
            found.push(format!("{operation:?} saw what nobody wrote: {reason}"));
        }
    }
    found.extend(order_violations(evidence));
    found.extend(final_violations(evidence, &writes));
    found
}

/// Who wrote what under each key.
struct Writes<'a> {
    before: &'a Contents,
    by_bytes: BTreeMap<(&'a str, ContentHash), &'a Operation>,
    deletions: BTreeMap<&'a str, Vec<&'a Operation>>,
}

impl<'a> Writes<'a> {
    fn of(evidence: &Evidence<'a>) -> Self {
        let mut writes = Self { before: evidence.before, by_bytes: BTreeMap::new(), deletions: BTreeMap::new() };
        for operation in evidence.operations {
            let (Did::Wrote(state, _) | Did::MayHaveWritten(state)) = &operation.did else { continue };
            match state {
                Some(hash) => {
                    let other = writes.by_bytes.insert((&operation.key, *hash), operation);
                    assert!(other.is_none(), "all writes have bytes of their own");
                }
                None => writes.deletions.entry(&operation.key).or_default().push(operation),
            }
        }
        writes
    }

    /// Finds the write that made what was seen at `time`.
    fn explain(&self, key: &str, seen: &Listed, time: Duration) -> Result<(), String> {
        if self.before.get(key) == Some(seen) {
            return Ok(());
        }
        let made_it = |write: &&Operation| match &write.did {
            Did::Wrote(_, version) => *version == seen.version,
            _ => write.node == seen.version.origin.node.as_str(),
        };
        let found = match seen.state {
            Some(hash) => self.by_bytes.get(&(key, hash)).copied().filter(made_it),
            None => self.deletions.get(key).and_then(|all| {
                let acknowledged = all.iter().copied().find(|w| matches!(w.did, Did::Wrote(..)) && made_it(w));
                acknowledged.or_else(|| all.iter().copied().filter(made_it).min_by_key(|write| write.invoked))
            }),
        };
        match found {
            None => Err("no write of this state and version".to_owned()),
            Some(write) if write.invoked > time => Err(format!("it was written later, by {write:?}")),
            Some(_) => Ok(()),
        }
    }
}

/// What is known to be at a node at least, when an operation begins.
#[derive(Default)]
struct Floors<'a> {
    /// The greatest version it has stamped or shown.
    clock: BTreeMap<&'a str, &'a Version>,
    /// The greatest version of each key it has taken or shown.
    shown: BTreeMap<(&'a str, &'a str), &'a Version>,
}

/// At each node what happens after something else is not older than that.
fn order_violations(evidence: &Evidence<'_>) -> Vec<String> {
    let (mut begins, mut ends): (Vec<_>, Vec<_>) =
        (evidence.operations.iter().collect(), evidence.operations.iter().collect());
    begins.sort_by_key(|operation: &&Operation| operation.invoked);
    ends.sort_by_key(|operation: &&Operation| operation.returned);
    let mut ends = ends.into_iter().peekable();
    let mut floors = Floors::default();
    let mut found = Vec::new();
    for operation in begins {
        while let Some(ended) = ends.next_if(|ended| ended.returned <= operation.invoked) {
            floors.raise(ended);
        }
        let Operation { node, key, did, .. } = operation;
        let clock = floors.clock.get(node).copied();
        let before = evidence.before.get(key).map(|listed| &listed.version);
        let shown = floors.shown.get(&(*node, key.as_str())).copied().max(before);
        match did {
            Did::Wrote(_, version) if clock.is_some_and(|clock| version <= clock) => {
                found.push(format!("{operation:?} was stamped no later than {clock:?}, which {node} knew before"));
            }
            Did::Read(Some(seen)) if shown.is_some_and(|shown| seen.version < *shown) => {
                found.push(format!("{operation:?} saw something older than {shown:?}, which {node} had before"));
            }
            Did::Read(None) if shown.is_some() => {
                found.push(format!("{operation:?} saw nothing after {shown:?}, which {node} had before"));
            }
            _ => {}
        }
    }
    found
}

impl<'a> Floors<'a> {
    fn raise(&mut self, operation: &'a Operation) {
        let (Did::Wrote(_, version) | Did::Read(Some(Listed { version, .. }))) = &operation.did else { return };
        let Operation { node, key, .. } = operation;
        self.clock.entry(node).and_modify(|floor| *floor = version.max(*floor)).or_insert(version);
        self.shown.entry((node, key)).and_modify(|floor| *floor = version.max(*floor)).or_insert(version);
    }
}

/// All nodes end alike, with the greatest version that is known of each key.
fn final_violations(evidence: &Evidence<'_>, writes: &Writes<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let Some(((first, contents), others)) = evidence.after.split_first() else {
        return vec!["no node was read at the end".to_owned()];
    };
    for (other, theirs) in others {
        for key in contents.keys().chain(theirs.keys()) {
            let (here, there) = (contents.get(key), theirs.get(key));
            if here != there {
                found.push(format!("{key} ends as {here:?} at {first} and as {there:?} at {other}"));
            }
        }
    }
    let before = evidence.before.iter().map(|(key, listed)| (key.as_str(), &listed.version));
    let known = evidence.operations.iter().filter_map(|operation| match &operation.did {
        Did::Wrote(_, version) | Did::Read(Some(Listed { version, .. })) => Some((operation.key.as_str(), version)),
        Did::MayHaveWritten(_) | Did::Read(None) => None,
    });
    let mut greatest: BTreeMap<&str, &Version> = BTreeMap::new();
    for (key, version) in before.chain(known) {
        greatest.entry(key).and_modify(|floor| *floor = version.max(*floor)).or_insert(version);
    }
    for (key, floor) in greatest {
        match contents.get(key) {
            Some(ended) if ended.version >= *floor => {}
            ended => found.push(format!("{key} ends as {ended:?}, but was {floor} before")),
        }
    }
    for (key, ended) in contents {
        if let Err(reason) = writes.explain(key, ended, Duration::MAX) {
            found.push(format!("{key} ends as {ended:?}, which nobody wrote: {reason}"));
        }
    }
    found
}

/// Reads at the end, when nothing happens any more, show what the nodes list.
pub fn late_read_violations(after: &Contents, reads: &[(&'static str, String, State)]) -> Vec<String> {
    let wrong = |(node, key, seen): &(&'static str, String, State)| {
        let expected = after.get(key).and_then(|listed| listed.state);
        (*seen != expected).then(|| format!("{key} ends as {expected:?}, but {node} answers with {seen:?}"))
    };
    reads.iter().filter_map(wrong).collect()
}
