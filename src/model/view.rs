//! What an observer knows of the cluster.

use std::collections::BTreeMap;

use super::{
    Address, Entry, EntryKey, EntryState, HybridTime, MemberState, Node, NodeId, Provider, Purge, Record, RecordError,
    RecordKey, Tariff, Version,
};

/// The members and prices of the cluster, each in the newest version heard of.
#[derive(Debug, Clone, Default)]
pub struct View {
    nodes: BTreeMap<NodeId, Node>,
    downloads: BTreeMap<NodeId, Address>,
    tariffs: BTreeMap<Provider, Tariff>,
    states: BTreeMap<NodeId, MemberState>,
    purges: BTreeMap<RecordKey, Purge>,
    versions: BTreeMap<RecordKey, Version>,
    revision: u64,
}

impl View {
    /// The registered nodes, by name.
    pub const fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// Where the downloads of `node` are listed: where an operator has set, else where the node itself says.
    pub fn download<'a>(&'a self, node: &'a Node) -> &'a Address {
        self.downloads.get(&node.id).unwrap_or(&node.download)
    }

    /// Whether the member `id` was removed: its name is spent.
    pub fn is_forgotten(&self, id: &NodeId) -> bool {
        !self.nodes.contains_key(id) && self.versions.contains_key(&RecordKey::node(id))
    }

    /// What the node `id` is for.
    pub fn state(&self, id: &NodeId) -> MemberState {
        self.states.get(id).copied().unwrap_or_default()
    }

    /// The version in which the record `key` is known, removed ones included.
    pub fn version_of(&self, key: &RecordKey) -> Option<&Version> {
        self.versions.get(key)
    }

    /// What providers charge.
    pub const fn tariffs(&self) -> &BTreeMap<Provider, Tariff> {
        &self.tariffs
    }

    /// The purge that the record `key` stands for.
    pub fn purge(&self, key: &RecordKey) -> Option<&Purge> {
        self.purges.get(key)
    }

    /// The records of purges that are older than `time`.
    pub fn purges_before(&self, time: HybridTime) -> impl Iterator<Item = &RecordKey> {
        self.purges.keys().filter(move |key| self.versions.get(*key).is_some_and(|version| version.time < time))
    }

    /// How many changes this view has taken.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes the record that `entry` carries, if it is newer than what is known; says whether the view changed.
    /// Objects and records of unknown kinds change nothing.
    ///
    /// # Errors
    /// When the record does not read; the view keeps what it had.
    pub fn merge(&mut self, entry: &Entry) -> Result<bool, RecordError> {
        let EntryKey::Record(key) = &entry.key else { return Ok(false) };
        let json = match &entry.state {
            EntryState::Record(json) => Some(json.as_str()),
            EntryState::Deleted | EntryState::Live(_) => None,
        };
        let is_known = self.versions.get(key).is_some_and(|known| *known >= entry.version);
        let Some(record) = Record::read(key, json)? else { return Ok(false) };
        match &record {
            // That a member was removed is final, whatever version the two have.
            Record::Node(id, Some(_)) if self.is_forgotten(id) => return Ok(false),
            Record::Node(id, None) if self.nodes.contains_key(id) => {}
            _ if is_known => return Ok(false),
            _ => {}
        }
        self.versions.insert(key.clone(), entry.version.clone());
        match record {
            Record::Node(id, Some(node)) => drop(self.nodes.insert(id, node)),
            Record::Node(id, None) => drop(self.nodes.remove(&id)),
            Record::Download(id, Some(address)) => drop(self.downloads.insert(id, address)),
            Record::Download(id, None) => drop(self.downloads.remove(&id)),
            Record::Price(provider, Some(tariff)) => drop(self.tariffs.insert(provider, tariff)),
            Record::Price(provider, None) => drop(self.tariffs.remove(&provider)),
            Record::State(id, Some(state)) => _ = self.states.insert(id, state),
            Record::State(id, None) => _ = self.states.remove(&id),
            Record::Purge(Some(purge)) => drop(self.purges.insert(key.clone(), purge)),
            Record::Purge(None) => drop(self.purges.remove(key)),
        }
        self.revision += 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, HybridTime, Origin};

    fn price(at_ms: u64, json: Option<&str>) -> Entry {
        record(RecordKey::price(&"AWS".parse().expect("a name")), at_ms, json)
    }

    fn record(key: RecordKey, at_ms: u64, json: Option<&str>) -> Entry {
        let origin = Origin { node: "A".parse().expect("a name"), epoch: Epoch::from_bits(1) };
        Entry {
            key: key.into(),
            version: Version { time: HybridTime::from_unix_ms(at_ms), origin, sequence: at_ms },
            state: json.map_or(EntryState::Deleted, |json| EntryState::Record(json.to_owned())),
        }
    }

    #[test]
    fn the_newest_version_wins_in_whatever_order_it_comes() {
        let cheap = price(1, Some(r#"{"instance_hour":1,"network_hour":1}"#));
        let dear = price(2, Some(r#"{"instance_hour":2,"network_hour":1}"#));
        let gone = price(3, None);
        let mut view = View::default();
        assert_eq!(view.merge(&dear), Ok(true));
        assert_eq!(view.merge(&cheap), Ok(false));
        assert_eq!(view.tariffs().values().next().map(|t| t.instance_hour.get()), Some(2));
        assert_eq!(view.merge(&gone), Ok(true));
        assert_eq!(view.merge(&dear), Ok(false));
        assert!(view.tariffs().is_empty());
        assert_eq!(view.revision(), 2);
    }

    #[test]
    fn what_an_operator_says_of_downloads_outlasts_what_the_node_says() {
        let id: NodeId = "GC".parse().expect("a name");
        let node = |at_ms, port: u16| {
            let json = format!(r#"{{"id":"GC","provider":"GC","address":"h:1","download":"h:{port}"}}"#);
            record(RecordKey::node(&id), at_ms, Some(&json))
        };
        let shown = |view: &View| view.download(&view.nodes()[&id]).to_string();
        let mut view = View::default();
        let set = record(RecordKey::download(&id), 2, Some(r#""other:9""#));
        for entry in [node(1, 2), set.clone()] {
            assert_eq!(view.merge(&entry), Ok(true));
        }
        assert_eq!(view.version_of(&RecordKey::download(&id)), Some(&set.version));
        assert_eq!(shown(&view), "other:9");
        assert_eq!(view.merge(&node(3, 3)), Ok(true));
        assert_eq!(shown(&view), "other:9");
        assert_eq!(view.merge(&record(RecordKey::download(&id), 4, None)), Ok(true));
        assert_eq!(shown(&view), "h:3");
    }

    #[test]
    fn a_node_is_for_everything_until_an_operator_says_otherwise() {
        let id: NodeId = "GC".parse().expect("a name");
        let mut view = View::default();
        for (at_ms, json, state) in [
            (1, Some(r#""maintenance""#), MemberState::Maintenance),
            (2, Some(r#""draining""#), MemberState::Draining),
            (3, None, MemberState::Active),
        ] {
            assert_eq!(view.merge(&record(RecordKey::state(&id), at_ms, json)), Ok(true));
            assert_eq!(view.state(&id), state);
        }
        assert!(view.merge(&record(RecordKey::state(&id), 4, Some(r#""asleep""#))).is_err());
    }

    #[test]
    fn that_a_member_was_removed_is_final() {
        let id: NodeId = "GC".parse().expect("a name");
        let json = r#"{"id":"GC","provider":"GC","address":"h:1","download":"h:2"}"#;
        let (early, late) = (record(RecordKey::node(&id), 1, Some(json)), record(RecordKey::node(&id), 9, Some(json)));
        let gone = record(RecordKey::node(&id), 5, None);
        assert!(gone.supersedes(&late) && !late.supersedes(&gone) && gone.supersedes(&early));
        let mut view = View::default();
        assert_eq!((view.merge(&late), view.is_forgotten(&id)), (Ok(true), false));
        assert_eq!((view.merge(&gone), view.is_forgotten(&id)), (Ok(true), true));
        assert_eq!((view.merge(&late), view.merge(&gone), view.nodes().len()), (Ok(false), Ok(false), 0));
    }

    #[test]
    fn a_record_that_does_not_read_changes_nothing() {
        let mut view = View::default();
        assert!(view.merge(&price(1, Some("{"))).is_err());
        assert_eq!(view.revision(), 0);
    }
}
